"""predictions.npz: the logits that a trial left for each image. Knows one trial's file; compares nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from cifar_hpc.config.metrics import right_of
from cifar_hpc.config.registry import OBJECTIVES, ObjectiveInfo, load
from cifar_hpc.errors import RecordError
from cifar_hpc.records.layout import TrialFiles
from cifar_hpc.records.schema import SplitMetrics
from cifar_hpc.records.store import open_regular
from cifar_hpc.records.ties import CLASSES, of_classes

_TOLERANCE = 0.005  # of a share of the images


class ContradictionError(RecordError):
    """Predictions that do not give the images, the accuracy or the loss which the trial's result.json says."""


@dataclass(frozen=True, slots=True)
class SplitPredictions:
    """One split: logits N x K (float32), labels N; index N: each image's place in the official split (None for test); fold N:
    which fold held it out, of several joined; counts N: what each counts for the trial's objective, where that is one of the
    user's own or takes more than rounded logits tell."""

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    index: NDArray[np.int64] | None
    fold: NDArray[np.int64] | None = None
    counts: NDArray[np.float32] | None = None

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether the image was classified rightly, N; see metrics.taken_of."""
        return right_of(self.logits, self.labels)

    @property
    def all_told(self) -> bool:
        """Whether no logit is NaN: one would make a mean over networks, or over images, say nothing either."""
        return not np.isnan(self.logits.min(initial=0.0))

    @property
    def undecided(self) -> NDArray[np.bool_]:
        """Whether several classes share the image's largest logit, or none has it, N: float16 rounds logits and cuts them
        off, so that nobody can tell any more which of these classes the trial took."""
        found: NDArray[np.bool_] = (self.logits == self.logits.max(1, keepdims=True)).sum(1) != 1
        return found

    @property
    def cut_off(self) -> bool:
        """Whether a logit was too large for its float16 and lies at the end of it, as a diverged trial's may: at the lower end
        a step above the last, where train/measure.halved puts it."""
        end = np.nextafter(np.finfo(np.float16).max, np.float16(0))
        return not np.abs(self.logits).max(initial=0.0) < end  # NaN is not below either

    @property
    def loss(self) -> float | None:
        """The mean cross-entropy; None where logits are cut off."""
        if self.cut_off:
            return None
        logits = self.logits.astype(np.float64)
        return float(np.mean(logsumexp(logits, axis=1) - logits[np.arange(len(logits)), self.labels]))

    def between(self, info: ObjectiveInfo) -> tuple[float, float] | None:
        """The least and the largest that the objective may have been before float16 rounded the logits, where rounding changes
        it; None where it does not, or where it is not defined."""
        if info.between is None:
            return None
        found: tuple[float, float] | None = load(info.between)(self.logits, self.labels, 2.0**-11 * np.abs(self.logits).max(1))
        return found

    def same_images(self, other: SplitPredictions) -> bool:
        """Whether both are of the same images in the same order."""
        if self.index is not None and other.index is not None and not np.array_equal(self.index, other.index):
            return False
        return np.array_equal(self.labels, other.labels)


def join_folds(parts: Sequence[tuple[int, SplitPredictions]]) -> SplitPredictions:
    """The validation predictions of folds, with their numbers, as one split in the order of its images. Raises RecordError
    where an image stands in two."""
    index = np.concatenate([np.zeros(0, np.int64) if found.index is None else found.index for _, found in parts])
    if len(np.unique(index)) < len(index):
        raise RecordError("two folds of one round hold out the same image")
    order = np.argsort(index)
    logits, labels = (np.concatenate([getattr(found, name) for _, found in parts])[order] for name in ("logits", "labels"))
    fold = np.concatenate([np.full(len(found.labels), number) for number, found in parts])[order]
    told = [found.counts for _, found in parts if found.counts is not None]
    counts = np.concatenate(told)[order] if len(told) == len(parts) else None
    return SplitPredictions(logits, labels, index[order], fold, counts)


def read_predictions(
    files: TrialFiles, split: str, told: SplitMetrics | None = None, classes: tuple[str, ...] | None = None
) -> SplitPredictions | None:
    """The predictions of 'val' or 'test'; None where there is no such split, and the record tells of none.

    Raises RecordError where there is no such file, it is corrupt or lacks what the record tells of, ContradictionError where it
    does not give what the record has told of the split, or is of other classes.
    """
    try:
        with open_regular(files.predictions) as stream, np.load(stream, allow_pickle=False) as arrays:
            if f"{split}_logits" not in arrays:
                if told is None:
                    return None
                raise RecordError(f"{files.predictions}: has no predictions of the {split} images that result.json tells of")
            logits = arrays[f"{split}_logits"].astype(np.float32)
            labels = arrays[f"{split}_labels"].astype(np.int64)
            index = arrays["val_index"].astype(np.int64) if split == "val" else None
            counts = arrays[f"{split}_counts"].astype(np.float32) if f"{split}_counts" in arrays else None
            names = tuple(map(str, arrays[CLASSES])) if classes is not None and CLASSES in arrays else classes
    except FileNotFoundError:
        raise RecordError(f"{files.predictions}: there is none") from None
    except RecordError:
        raise
    except Exception as error:  # whatever a stranger's file makes of numpy
        raise RecordError(f"{files.predictions}: corrupt, or no file of ours: {error}") from error
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or (index is not None and index.shape != labels.shape):
        raise RecordError(f"{files.predictions}: {split} has logits {logits.shape} for labels {labels.shape}")
    if counts is not None and counts.shape != labels.shape:
        raise RecordError(f"{files.predictions}: {split} has counts {counts.shape} for labels {labels.shape}")
    found = SplitPredictions(logits, labels, index, counts=counts)
    if names != classes:
        raise ContradictionError(f"{files.predictions}: {of_classes(names, classes)}")
    if told is not None:
        _check(found, told, f"{files.predictions}: gives {split}")
    return found


def _check(found: SplitPredictions, told: SplitMetrics, gives: str) -> None:
    if len(found.labels) != told.n:
        raise ContradictionError(f"{gives} images {len(found.labels)}, result.json says {told.n}")
    undecided_N = found.undecided
    truth_N = found.logits[np.arange(len(found.labels)), found.labels]
    perhaps_N = undecided_N & ~(truth_N < found.logits.max(1))
    least, most = float((found.right & ~undecided_N).mean()), float(((found.right & ~undecided_N) | perhaps_N).mean())
    if not least - _TOLERANCE <= told.acc <= most + _TOLERANCE:
        raise ContradictionError(f"{gives} accuracy {float(found.right.mean()):.4f}, result.json says {told.acc:.4f}")
    rounding = 0.01 + 0.002 * float(np.abs(found.logits).max(initial=0.0))  # as the logits are rounded
    if told.loss is not None and found.loss is not None and abs(found.loss - told.loss) > rounding:
        raise ContradictionError(f"{gives} loss {found.loss:.4f}, result.json says {told.loss:.4f}")
    images_K = np.bincount(found.labels)
    moved = 4 * float(undecided_N.sum()) / float(images_K[images_K > 0].min(initial=1))  # by classes that cannot be told
    for name, value in told.more.items():
        measured = _measured(found, name)
        if measured is None:
            continue
        least, most = found.between(OBJECTIVES[name]) or (measured, measured)
        if not least - _TOLERANCE - moved <= value <= most + _TOLERANCE + moved:
            raise ContradictionError(f"{gives} {OBJECTIVES[name].noun} {measured:.4f}, result.json says {value:.4f}")


def _measured(found: SplitPredictions, name: str) -> float | None:
    """An objective beside accuracy and loss; None of one of the user's own, whose code is not executed here."""
    info = OBJECTIVES.get(name)
    if info is None or info.measure is None or info.sha256 is not None:
        return None
    value = load(info.measure)(found.logits.astype(np.float64), found.labels)
    return None if value is None else float(value)
