"""The listener of a person: prose and the picture of a sweep that runs, on stderr or in a notebook."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from cifar_hpc.config.words import plural
from cifar_hpc.records.claims import TrialState
from cifar_hpc.records.schema import PlanRecord
from cifar_hpc.sweep.listener import Begun
from cifar_hpc.terminal.harmless import make_console
from cifar_hpc.terminal.live import make_view
from cifar_hpc.terminal.prose import laid_out


class Shown:
    """The listener of the commands."""

    def __init__(self) -> None:
        self._console = make_console(stderr=True, highlight=False)
        self._view = make_view(self._console)

    def note(self, text: str) -> None:
        self._say(text)

    def begun(self, begun: Begun) -> None:
        self._say(f"{begun.sweep}: {_what(begun)}; results in {begun.root}")
        self._view.begin(begun.where)

    def progress(self, plan: PlanRecord, states: Mapping[str, TrialState]) -> None:
        self._view.show(plan, states)

    def ended(self) -> None:
        self._view.end()

    def _say(self, line: str) -> None:
        """One line of prose, above the picture where there is one."""
        self._console.print(laid_out(line, sys.stderr), markup=False, soft_wrap=True)


def _what(begun: Begun) -> str:
    """'trains 8 trials in 2 cohorts, in this process'."""
    if begun.what:
        return begun.what
    some = plural(begun.trials_n, "trial") if begun.trials_n == begun.all_n else f"{begun.trials_n} of {begun.all_n} trials"
    places = {"inline": "in this process", "ray": f"on {os.environ.get('RAY_ADDRESS', 'this machine')} through Ray Tune"}
    return f"trains {some} in {plural(begun.cohorts_n, 'cohort')}, {places.get(begun.where, 'on Slurm')}"
