"""Which epoch of a trial is its best, and which its last. Owns: EarlyStopping. Looks at validation only; knows no network."""

from __future__ import annotations

from cifar_hpc.config.plugins import objective_of
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.config.words import plural
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.schema import EpochRecord, Outcome
from cifar_hpc.train.progress import Progress


class EarlyStopping:
    """The rules of a trial's objective, patience, time and number of epochs."""

    def __init__(self, config: TrialConfig) -> None:
        self._config, self._objective = config, objective_of(config)

    def judge(self, progress: Progress, record: EpochRecord) -> bool:
        """Writes into the progress what the epoch decides; returns whether it is the best one so far. Without validation images
        the last epoch is taken for the best."""
        measured = record.val_acc is not None
        if record.train_loss is None or (measured and record.val_loss is None):
            which = "training" if record.train_loss is None else "validation"
            progress.outcome, progress.reason = Outcome.DIVERGED, f"{which} loss not finite in epoch {record.epoch}"
            return False
        value = self._value(record) if measured else float(record.epoch)
        if value - self._config.stop.min_delta > progress.value_to_beat:  # the rule of Keras and Lightning
            progress.epochs_without_gain, progress.value_to_beat = 0, value
        else:
            progress.epochs_without_gain += 1
        best = value > progress.best_value
        if best:
            progress.best_epoch, progress.best_value = record.epoch, value
        self._end(progress, record.epoch)
        return best

    def _value(self, record: EpochRecord) -> float:
        """Of the objective, larger is better."""
        metric = record.value(self._objective.metric)
        if metric is None:
            raise CifarHpcError(f"objective {self._config.objective} is not defined on these validation images")
        return metric if self._objective.mode == "max" else -metric

    def _end(self, progress: Progress, epoch: int) -> None:
        config, stop = self._config, self._config.stop
        if epoch >= config.epochs:
            progress.outcome = Outcome.FINISHED
            one = "its one epoch" if config.trains else "fitted once"
            progress.reason = f"all {config.epochs} epochs" if config.epochs > 1 else one
        elif stop.patience is not None and progress.epochs_without_gain >= stop.patience:
            progress.outcome = Outcome.EARLY_STOPPED
            least = f" by more than {stop.min_delta:g}" if stop.min_delta else ""
            progress.reason = f"{config.objective} not improved{least} for {plural(stop.patience, 'epoch')}"
        elif stop.max_minutes is not None and progress.seconds >= stop.max_minutes * 60:
            told = "1 minute" if stop.max_minutes == 1 else f"{stop.max_minutes:g} minutes"
            progress.outcome, progress.reason = Outcome.OUT_OF_TIME, f"{told} of training used"
