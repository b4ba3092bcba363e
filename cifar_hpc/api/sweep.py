"""A sweep from Python: the same spec, the same driver and the same records as the commands have."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cifar_hpc.collect.names import in_sweep
from cifar_hpc.config.words import plural
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.plans import read_plan
from cifar_hpc.spec.load import spec_of
from cifar_hpc.status.axes import settled_axes
from cifar_hpc.status.names import select_trials
from cifar_hpc.status.query import measured
from cifar_hpc.sweep.cancel import Cancelled, cancel_chosen
from cifar_hpc.sweep.driver import look_at, run_spec
from cifar_hpc.sweep.listener import Listener, Silent, SweepOutcome
from cifar_hpc.sweep.preflight import seen_before
from cifar_hpc.sweep.search_rounds import in_words
from cifar_hpc.sweep.specs import load_named
from cifar_hpc.sweep.where import On, Where, reader_of

if TYPE_CHECKING:
    import pandas as pd


class Sweep:
    """One question and the trials that answer it.

    spec: what a spec file says, as a dict: {"name": ..., "dataset": ..., "base": {...}, "grid": {...}}. Paths in it are
    relative to the working directory. set: keys that differ for this sweep, as `--set` of the commands has them: {"epochs": 2,
    "grid.lr": [0.1]}. results: the folder of results; None: $CIFAR_HPC_RESULTS, or results/ in the working directory.

    Raises SpecError with every problem of the spec.
    """

    def __init__(
        self, spec: Mapping[str, Any], *, set: Mapping[str, Any] | None = None, results: str | Path | None = None
    ) -> None:
        self._layout = _layout(results)
        text = json.dumps(spec, indent=1, default=_plain, ensure_ascii=False)  # JSON is YAML
        self._spec = spec_of(text, self._layout.sweep(str(spec.get("name", "sweep"))).spec, _overrides(set))

    @classmethod
    def load(cls, path: str | Path, *, set: Mapping[str, Any] | None = None, results: str | Path | None = None) -> Self:
        """The sweep of a spec file, or of a sweep's name: as it was planned. Arguments and errors as of the class."""
        made = cls.__new__(cls)
        made._layout = _layout(results)
        made._spec = load_named(made._layout, str(path), _overrides(set))
        return made

    @property
    def name(self) -> str:
        return self._spec.name

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know of the spec, a sentence each."""
        return (*self._spec.warnings, *seen_before(self._layout, self._spec))

    def __len__(self) -> int:
        """Its trials; of a search, those that it begins with."""
        return len(self._spec.trials)

    def __repr__(self) -> str:
        return f"Sweep({self.name!r}, {in_words(self._spec) if self._spec.search else plural(len(self), 'trial')})"

    def plan(self, on: str = "auto", *, profile: str | None = None, share: bool = True) -> list[str]:
        """What `run` would start and what it costs, in lines. Starts nothing. Arguments as of `run`."""
        return look_at(self._layout, self._spec, Where(On(on), profile), Silent(), share=share)

    def run(
        self,
        on: str = "auto",
        *,
        listener: Listener | None = None,
        profile: str | None = None,
        wait: bool = True,
        share: bool = True,
    ) -> SweepOutcome:
        """Trains the trials that are not finished yet, and returns once all have ended.

        on: auto, inline (in this process), ray (side by side on this machine) or slurm (job arrays, by the site's `profile`;
        with wait=False it returns once they are submitted). listener: is told how it goes on; None: a picture in the
        terminal, or in a notebook with ipywidgets, and lines elsewhere; cifar_hpc.Listener(): nothing. share: train trials
        with a common frozen trunk side by side.

        Ctrl-C, and the notebook's stop, save what trains; the outcome is `interrupted`, and the next call goes on. Raises
        CifarHpcError before anything starts where data, weights or the executor are not here.
        """
        return run_spec(self._layout, self._spec, Where(On(on), profile, wait=wait), listener or _shown(), share=share)

    def status(self, *words: str) -> pd.DataFrame:
        """Where the trials stand: a row each with trial_id, the swept keys, status, outcome, epochs_done, val_acc and test_acc
        (fractions; absent: not measured) and the reason.

        words: a filter as of `cifar-hpc status` ("lr>1e-3", "status=failed"), beginnings of ids, or "#3". Raises CifarHpcError
        where the sweep was never run.
        """
        import pandas as pd

        plan = read_plan(self._layout, self.name)
        states = reader_of(self._layout, plan).read()
        chosen, _ = select_trials(plan, states, in_sweep(self._layout, self.name, words)[1])
        axes = settled_axes(plan.trials)
        rows = [{"trial_id": t.trial_id, **axes[t.trial_id], **measured(states[t.trial_id])} for t in chosen]
        return pd.DataFrame(rows, columns=None if rows else ["trial_id", "status"])

    def cancel(self, *words: str) -> Cancelled:
        """Asks the jobs of these trials to stop, of all where no filter is given: they save their state. Another process may
        run them: that of another notebook, or a cluster's."""
        return cancel_chosen(self._layout, *in_sweep(self._layout, self.name, words))


def _layout(results: str | Path | None) -> Layout:
    return Layout(results_root() if results is None else Path(results).absolute())


def _overrides(set: Mapping[str, Any] | None) -> Sequence[str]:
    return tuple(f"{key}={json.dumps(value, default=_plain, ensure_ascii=False)}" for key, value in (set or {}).items())


def _plain(value: Any) -> Any:
    """What json does not know by itself: paths, and the numbers and arrays of numpy."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a spec holds text, numbers, lists and dicts; found {type(value).__name__}: {value!r:.60}")


def _shown() -> Listener:
    from cifar_hpc.terminal.listener import Shown

    return Shown()
