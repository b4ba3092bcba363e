"""Runs a finished trial again, apart from the pool, and compares its numbers with the record."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cifar_hpc.config.registry import CLASSIFIERS
from cifar_hpc.config.words import plural
from cifar_hpc.errors import CifarHpcError, RecordError
from cifar_hpc.executors.base import run_on_node
from cifar_hpc.planning.lineage import parent_of
from cifar_hpc.planning.plan import Cohort, Job, Resources
from cifar_hpc.records.layout import Layout, TrialFiles
from cifar_hpc.records.schema import EpochRecord, ErrorRecord, PlanRecord, SplitMetrics, TrialResult, epochs_in
from cifar_hpc.records.store import read_record, write_atomic, write_record
from cifar_hpc.records.ties import read_valid
from cifar_hpc.status.words import about_text


@dataclass(frozen=True, slots=True)
class Repeated:
    """differences: a sentence each, none where all numbers are the same to the last bit; weights: the file, where they were
    not kept before and are now."""

    recorded: TrialResult
    differences: tuple[str, ...]
    weights: Path | None

    @property
    def extent(self) -> str:
        """How far it was trained: '6 epochs', '2 of 6 epochs, as far as its newest record goes (REASON)', 'fitted again'."""
        done, epochs = len(self.recorded.curves), epochs_in(self.recorded.config)
        if not epochs:
            return "fitted again"
        if not self.recorded.outcome.is_from_outside:
            return plural(done, "epoch")
        return f"{done} of {plural(epochs, 'epoch')}, as far as its newest record goes ({self.recorded.reason})"


def lacking_text(layout: Layout, plan: PlanRecord) -> str:
    """Of a plan whose trials all keep their networks: which finished without, and what bringing them back costs. Empty where
    none did."""
    lacking, seconds = [], 0.0
    for trial in plan.trials:
        files = layout.trial(trial.trial_id)
        if trial.config.get("keep") == "weights" and files.result.exists() and not files.weights.exists():
            with contextlib.suppress(OSError, RecordError):
                result, _ = read_valid(files, trial.trial_id)
                if CLASSIFIERS[str(result.config.get("classifier", "linear"))].keeps_weights and result.best_epoch is not None:
                    lacking.append(trial.trial_id)
                    seconds += result.train_s
    if not lacking:
        return ""
    some = ", ".join(lacking[:4]) + ", ..." * (len(lacking) > 4)
    return (
        f"{plural(len(lacking), 'finished trial')} kept no weights ({some}): `cifar-hpc reproduce ID` trains one again and "
        f"keeps them; all take {about_text(seconds)}"
    )


def reproduce_trial(layout: Layout, trial_id: str) -> Repeated:
    """Trains it as far as its record goes, and no limit of time ends it before. Raises CifarHpcError where the trial has not
    finished. Weights are kept where no number differs."""
    files = layout.trial(trial_id)
    try:
        recorded, config = read_valid(files, trial_id)
    except FileNotFoundError:
        raise CifarHpcError(f"trial {trial_id} has not finished: there is nothing to compare with") from None
    config = dataclasses.replace(config, keep="weights", stop=dataclasses.replace(config.stop, max_minutes=None))
    resources = Resources(cpus_per_gpu=recorded.hardware.threads)
    with tempfile.TemporaryDirectory(prefix="cifar-hpc-reproduce-") as place:
        again = Layout(Path(place))
        parent = parent_of(config)
        if parent is not None:
            again.pool.mkdir()
            again.trial(parent).folder.symlink_to(layout.trial(parent).folder)
        job = Job(sweep="reproduce", job_id="job-0001", cohorts=(Cohort(trials=(config,)),), resources=resources)
        files_again = again.trial(config.trial_id)  # of another id where that counts a limit of time
        run_on_node(job, again, executor="inline", on_epoch=_until_end_of(recorded))
        try:
            repeated = _ended_alike(recorded, read_valid(files_again, config.trial_id)[0])
        except FileNotFoundError:
            return Repeated(recorded, (f"it failed this time: {_why(files_again)}",), None)
        differences = compare_results(recorded, repeated)
        if not differences and None is not recorded.kept_sha256 != repeated.kept_sha256:
            differences = ["its numbers are the same and the bytes of its network are not"]
        kept, weights = files_again.weights, None
        if not differences and kept.exists() and not files.weights.exists():
            weights = files.weights
            with kept.open("rb") as source:
                write_atomic(weights, lambda stream: shutil.copyfileobj(source, stream))
            if recorded.kept_sha256 is None:  # what ties the network to the trial
                write_record(files.result, dataclasses.replace(recorded, kept_sha256=repeated.kept_sha256))
    return Repeated(recorded, tuple(differences), weights)


def _until_end_of(recorded: TrialResult) -> Callable[[str, EpochRecord], bool | str] | None:
    """What ends the repetition where the record was ended from outside; None: it ends by itself."""
    if not recorded.outcome.is_from_outside:
        return None
    return lambda trial_id, epoch: epoch.epoch < len(recorded.curves) or recorded.reason


def _ended_alike(recorded: TrialResult, repeated: TrialResult) -> TrialResult:
    """The repetition with the record's word for being ended from outside."""
    ended = repeated.outcome.is_from_outside and recorded.outcome.is_from_outside
    return dataclasses.replace(repeated, outcome=recorded.outcome) if ended else repeated


def _why(files: TrialFiles) -> str:
    try:
        error = read_record(files.error, ErrorRecord)
    except (OSError, RecordError) as unread:
        return str(unread)
    return f"{error.kind}: {error.message}"


def compare_results(recorded: TrialResult, repeated: TrialResult) -> list[str]:
    """A sentence for each number that differs, then one for each circumstance that does; empty where no number differs."""
    lines = []
    for name in ("lr", "train_loss", "train_acc", "val_loss", "val_acc"):
        pairs = [(getattr(a, name), getattr(b, name)) for a, b in zip(recorded.curves, repeated.curves, strict=False)]
        wrong = [(n, a, b) for n, (a, b) in enumerate(pairs, 1) if a != b]
        if wrong:
            epoch, one, other = wrong[0]
            lines.append(f"{name} differs first in epoch {epoch}: {one} recorded, {other} now")
    for name in ("best_epoch", "outcome", "val", "test"):
        one, other = getattr(recorded, name), getattr(repeated, name)
        if isinstance(one, SplitMetrics) and isinstance(other, SplitMetrics):  # a record of before has fewer of the metrics
            both = sorted(one.more.keys() & other.more.keys())
            one, other = (dataclasses.replace(found, more={key: found.more[key] for key in both}) for found in (one, other))
        if one != other:
            lines.append(f"{name} differs: {one} recorded, {other} now")
    if len(recorded.curves) != len(repeated.curves):
        lines.append(f"epochs differ: {len(recorded.curves)} recorded, {len(repeated.curves)} now")
    if not lines:
        return []
    for part in ("hardware", "provenance"):
        one, other = getattr(recorded, part), getattr(repeated, part)
        names = [field.name for field in dataclasses.fields(one) if field.name not in ("host", "peak_memory_gb")]
        lines += [
            f"{n}: {getattr(one, n)} then, {getattr(other, n)} now" for n in names if getattr(one, n) != getattr(other, n)
        ]
    if _version(recorded) != _version(repeated):
        lines.append("the record is of another version of this program or of a library, which may round differently")
    return lines


def _version(result: TrialResult) -> tuple[str | None, ...]:
    """What decides on how a trial's numbers are rounded, beside the machine."""
    code = result.provenance
    return code.cifar_hpc, code.commit, code.diff_sha256, code.torch, code.torchvision, code.timm
