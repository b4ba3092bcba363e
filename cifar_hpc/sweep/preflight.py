"""What must be here before anything starts: data, weights, parents, packages. Everything that is missing is told at once."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cifar_hpc.config.data_notes import DataNotes, joined, whose
from cifar_hpc.config.packages import augment_missing
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.config.words import plural
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.planning.lineage import parent_missing, parent_of
from cifar_hpc.records.ancestry import Ancestry
from cifar_hpc.records.layout import Layout
from cifar_hpc.spec.sweep import SweepSpec
from cifar_hpc.sweep.inputs import judge_inputs, known_inputs
from cifar_hpc.sweep.listener import Listener


def check_there(
    layout: Layout, configs: Sequence[TrialConfig], awaiting: Collection[str] = (), *, by_this_python: bool = True
) -> DataNotes:
    """What is worth knowing of the images and the weights files. Raises CifarHpcError with all that is missing or cannot be
    used, and the fetch lines.

    awaiting: ids of those whose parent trains first; by_this_python: whether the trials run with the packages that are here.
    """
    from cifar_hpc.data.files import data_root, why_missing
    from cifar_hpc.models.weights import weights_missing

    root = data_root()
    problems = [why_missing(dataset, root) for dataset in dict.fromkeys(config.dataset for config in configs)]
    problems += [parent_missing(config, layout) for config in configs if config.trial_id not in awaiting]
    plain = dict.fromkeys((config.arch, config.weights) for config in configs if parent_of(config) is None)
    problems += [weights_missing(*pair) for pair in plain]
    problems += map(augment_missing, dict.fromkeys(config.augment for config in configs if by_this_python))
    missing = list(dict.fromkeys(problem for problem in problems if problem))
    if missing:
        raise CifarHpcError("\n".join(missing))
    return judge_inputs(configs)


def seen_before(layout: Layout, spec: SweepSpec) -> list[str]:
    """A warning for each stage, or for the sweep, of which trials may validate with images that a network before them trained
    on."""
    if not any(map(parent_of, spec.configs)):
        return []
    groups: dict[str | None, list[TrialConfig]] = {}
    for trial in spec.trials:
        groups.setdefault(trial.axes.get("stage"), []).append(trial.config)
    if spec.search:
        groups.setdefault(None, []).extend(spec.search.corners)
    ancestry = Ancestry(layout, {config.trial_id: config.to_json() for config in spec.configs})
    warnings = []
    for stage, configs in groups.items():
        seen = sum(parent_of(config) is not None and ancestry.may_have_seen(config.trial_id) for config in configs)
        if not seen:
            continue
        whose = f"stage {stage}: " if stage is not None else ""
        how_many = "trials" if spec.search else f"{seen} of {plural(len(configs), 'trial')}"
        warnings.append(
            f"{whose}{how_many} may validate with images that a parent trained on, which flatters them: the data set is the"
            " same, its split another (train_size, val_frac, split_seed, classes or folds)"
        )
    return warnings


def findings_of(before: DataNotes, configs: Sequence[TrialConfig], notes: DataNotes, listener: Listener) -> DataNotes:
    """What the report shall say of the images and weights of the trials. before: what the spec told; notes: what was just
    found, which the listener is told, too."""
    for note in whose(notes, [config.dataset for config in configs]):
        listener.note(f"warning: {note}")
    return joined(before, known_inputs(configs)[0], notes)


def inputs_lines(configs: Sequence[TrialConfig]) -> list[str]:
    """What is known of the images before the sweep, and which of them nobody has looked into."""
    notes, unseen = known_inputs(configs)
    lines = [f"  inputs    {note}" for note in whose(notes, [config.dataset for config in configs])]
    if unseen:
        more = f" and {len(unseen) - 2} more" if len(unseen) > 2 else ""
        lines.append(
            f"  inputs    not looked into yet: {', '.join(unseen[:2])}{more}; `cifar-hpc data SPEC` does, and the sweep first"
        )
    return lines
