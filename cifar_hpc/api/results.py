"""Results from Python: leaderboards and curves as pandas frames, and the network that was best. Reading them needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cifar_hpc.collect.leaderboard import Row
from cifar_hpc.collect.names import find_named
from cifar_hpc.collect.predictions import SplitPredictions, read_predictions
from cifar_hpc.collect.sections import Section, chosen_sections
from cifar_hpc.collect.trials import CURVES, Trial
from cifar_hpc.config.registry import CLASSIFIERS
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.executors.slurm.queue import SlurmQueue
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.ties import files_of
from cifar_hpc.status.names import parse_words

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from cifar_hpc.api.predictor import Members
    from cifar_hpc.data.dataset import Split
    from cifar_hpc.deploy.trained import TrainedTrial

Images = str | Path | NDArray[np.uint8]


def read_results(folder: str | Path | None = None) -> Results:
    """The results in that folder; None: $CIFAR_HPC_RESULTS, or results/ in the working directory. Reads nothing yet."""
    return Results(Layout(results_root() if folder is None else Path(folder).absolute()))


class Results:
    """One folder of results. Every call reads what is there now, also while trials train.

    In all calls `words` are names of sweeps and a filter, as of `cifar-hpc report`: ("freeze_depth", "lr>1e-3"), or the row of
    a leaderboard: "freeze_depth#3"; none: every trial. Of a sweep with stages they mean what answers its question, as `report`
    does; "stage=NAME" asks for the trials of another. `best` takes every name that the commands take. They raise
    CifarHpcError where nothing is meant.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def __repr__(self) -> str:
        return f"Results({str(self._layout.root)!r}: {', '.join(self.sweeps) or 'no sweep'})"

    @property
    def sweeps(self) -> tuple[str, ...]:
        """Names of the sweeps, sorted."""
        return tuple(sweep.name for sweep in self._layout.sweeps())

    def leaderboard(self, *words: str) -> pd.DataFrame:
        """A row for each configuration, the best by validation first: # (SWEEP#3 names its third row), id (the beginning of
        point_id), place (absent with fewer than three seeds), point_id, the swept keys that differ here, val_acc and test_acc
        as fractions (mean over seeds, _sd, and the 95 % interval _low, _high; so too another objective that ranks), losses,
        seeds, times in seconds (train_s, and before_s of the trials that it started from), and the ids of its trials. Of
        several data sets or splits `images` names each, and nothing is ranked across them."""
        import pandas as pd

        from cifar_hpc.report.tables import section_records

        return pd.DataFrame(section_records(self._sections(words)))

    def curves(self, *words: str) -> pd.DataFrame:
        """The learning curves in long form: a row for each trial and epoch, with trial_id, point_id, seed, fold if any,
        the swept keys, epoch (from 1), train_loss, train_acc, val_loss, val_acc (fractions; NaN: not measured)."""
        import pandas as pd

        sections = self._sections(words)
        axes = tuple(dict.fromkeys(axis for found in sections for axis in found.pool.planned_axes or found.board.axes))
        in_folds = any(trial.fold is not None for found in sections for trial in found.pool.trials)
        frames = []
        for pool, row, trial in ((found.pool, row, trial) for found in sections for row, trial in enumerate(found.pool.trials)):
            values = {name: pool.curves.of(name, row) for name in CURVES}
            about: dict[str, Any] = {"trial_id": trial.trial_id, "point_id": trial.point_id, "seed": trial.seed}
            about |= {"fold": trial.fold} if in_folds else {}
            about |= {axis: trial.config.get(axis) for axis in axes}
            epochs = np.arange(1, trial.epochs + 1)
            frames.append(
                pd.DataFrame({**{key: [value] * len(epochs) for key, value in about.items()}, "epoch": epochs, **values})
            )
        columns = ["trial_id", "point_id", "seed", *(["fold"] if in_folds else []), *axes, "epoch", *CURVES]
        return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)

    def report(self, *words: str) -> Path:
        """Writes the page that `cifar-hpc report` writes, with its figures and tables, and returns its folder: index.html,
        leaderboard.csv, figures/, tables/. Of a configuration that is named ("mysweep#3") the page of its best trial, with
        figures/ and tables/ alone beside it."""
        from cifar_hpc.report.asked import asked_report

        return asked_report(self._layout, words, SlurmQueue(self._layout.queue)).write().parent

    def best(self, *words: str) -> Best:
        """The configuration that is best on validation, or the one that is named: "mysweep#3", the beginning of an id. Raises
        CifarHpcError where none was measured, and where the words mean several data sets or splits, which nothing ranks
        together."""
        row = find_named(self._layout, words, SlurmQueue(self._layout.queue)).row
        if not row.trials:
            raise CifarHpcError(f"no trial of {' '.join(words) or 'these results'} has a result that counts")
        return Best(self._layout, row)

    def _sections(self, words: tuple[str, ...]) -> list[Section]:
        asked, queue = parse_words(words), SlurmQueue(self._layout.queue)
        sections = chosen_sections(self._layout, asked.names, asked.terms, queue)
        if asked.number is None:
            return sections
        wanted = find_named(self._layout, words, queue).row.point_id
        return [section.of_point(wanted) for section in sections if any(row.point_id == wanted for row in section.board.rows)]


@dataclass(frozen=True, slots=True)
class Best:
    """A configuration with its seeds. What asks for one network takes that of the seed which is best on validation."""

    _layout: Layout
    row: Row

    def __repr__(self) -> str:
        acc = f", val_acc {self.val_acc:.4f}" if self.val_acc is not None else ""
        return f"Best({self.row.label}{acc}, seeds {', '.join(dict.fromkeys(str(trial.seed) for trial in self.row.trials))})"

    @property
    def point_id(self) -> str:
        return self.row.point_id

    @property
    def axes(self) -> Mapping[str, Any]:
        """The swept keys and their values, also those that a filter fixes."""
        return self.row.all_axes

    @property
    def trial_ids(self) -> tuple[str, ...]:
        return tuple(trial.trial_id for trial in self.row.trials)

    @property
    def val_acc(self) -> float | None:
        """A fraction, the mean over seeds; None: not measured."""
        return self.row.val_acc.mean if self.row.val_acc else None

    @property
    def test_acc(self) -> float | None:
        """As val_acc, measured once after validation had chosen."""
        return self.row.test_acc.mean if self.row.test_acc else None

    def model(self) -> nn.Module:
        """The trained network in eval mode, on the CPU: (N, C, H, W) float32, pixels 0..1 less mean over std, to logits (N, K).

        Raises CifarHpcError where the trial did not keep its weights (`keep: weights` in the spec).
        """
        return self._trained().model.cpu()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes, in the order of the logits."""
        return self._trial.classes

    def predict(self, images: Images) -> pd.DataFrame:
        """A row for each of N images: id, label, probability (0..1) and p_CLASS for each class; the mean over its seeds,
        of which a filter in the name leaves some, as in the command; label None where a network answers NaN. Of an svm, which
        has margins, every probability is NaN.

        images: an image file, a folder with images at any depth, or uint8 N x C x H x W as the data set holds its own. Raises
        DataError where none can be read; files that are none are in the frame's attrs["left_out"], networks that are
        not in the mean in attrs["unread"], a sentence each.
        """
        import pandas as pd

        from cifar_hpc.api.predictor import labels_of, members_of_row, predict_images

        members = members_of_row(self._layout, self.row)
        left_out: tuple[str, ...] = ()
        if isinstance(images, np.ndarray):
            probabilities_NK, names = self._of_array(images, members), [str(n) for n in range(len(images))]
        else:
            found = predict_images(self._layout, members, Path(images))
            probabilities_NK, names, left_out = found.probabilities_NK, list(found.names), found.left_out
        labels = labels_of(probabilities_NK, self.classes)
        if not CLASSIFIERS[str(self.row.config.get("classifier", "linear"))].probabilistic:
            probabilities_NK = np.full_like(probabilities_NK, np.nan)
        shares = {f"p_{name}": probabilities_NK[:, k] for k, name in enumerate(self.classes)}
        frame = pd.DataFrame({"id": names, "label": labels, "probability": probabilities_NK.max(1), **shares})
        frame.attrs |= {"left_out": left_out, "unread": members.unread}
        return frame

    def test_logits(self) -> SplitPredictions:
        """logits N x K float32 and labels N of the test images, as they were measured. Needs no torch.

        Raises CifarHpcError where the data set has no labelled test images.
        """
        found = read_predictions(files_of(self._layout, self._trial), "test", self._trial.told("test"), self._trial.classes)
        if found is None:
            raise CifarHpcError(f"trial {self._trial.trial_id}: its data set has no labelled test images")
        return found

    def features(self, layer: str | int, images: Images) -> NDArray[np.float32]:
        """What the block `layer` puts out for N images: float32 N x C x h x w, or N x D. layer: a block's name or its number
        from 1, as `cifar-hpc arch NAME` lists them. images: as of `predict`. Raises CifarHpcError on an unknown layer."""
        trained = self._trained()
        return trained.features(layer, unlabelled_images(images, trained))

    @property
    def _trial(self) -> Trial:
        return self.row.best_trial

    def _trained(self) -> TrainedTrial:
        from cifar_hpc.deploy.trained import load_trained

        return load_trained(files_of(self._layout, self._trial))

    def _of_array(self, images_NCHW: NDArray[np.uint8], members: Members) -> NDArray[np.float64]:
        from cifar_hpc.collect.ensemble import calibrate
        from cifar_hpc.deploy.trained import load_trained

        shares = []
        for member in members.members:
            trained = load_trained(self._layout.trial(member.trial_id))
            shares.append(calibrate(trained.logits(unlabelled_images(images_NCHW, trained)), 1.0))
        return np.asarray(np.mean(shares, axis=0), np.float64)


def unlabelled_images(images: Images, trained: TrainedTrial) -> Split:
    """Images as the trial's data set holds its own. Raises CifarHpcError on an array of another type or shape."""
    from cifar_hpc.data.dataset import unlabelled

    if isinstance(images, np.ndarray):
        return trained.split_of(images)
    from cifar_hpc.data.folder import load_images

    return unlabelled(load_images(Path(images), trained.fit).images_NCHW)
