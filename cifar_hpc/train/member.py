"""One trial inside a cohort: its own suffix of the network, optimiser, curves and best epoch.

A member knows nothing of the members beside it. Its state is plain tensors and numbers, so that a checkpoint of it alone is
enough to go on alone.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from cifar_hpc.config.registry import OBJECTIVES
from cifar_hpc.config.schedule import LrSchedule, first_trained
from cifar_hpc.config.seeds import stream_seed
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.data.pixels import move
from cifar_hpc.distributed.gradients import SharedGradients
from cifar_hpc.distributed.norms import see_global_batch
from cifar_hpc.distributed.world import World
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.models.blocks import BlockModel
from cifar_hpc.models.freezing import freeze_blocks, frozen_blocks
from cifar_hpc.records.schema import EpochRecord, Outcome
from cifar_hpc.train.optimizers import build_optimizer, load_optimizer, put_rates
from cifar_hpc.train.portions import Portions, is_out_of_memory


@dataclass
class Progress:
    """Where a member stands and what it has measured. epoch counts from 1; step counts within the epoch from 0."""

    epoch: int = 1
    step: int = 0
    seconds: float = 0.0
    epoch_s: float = 0.0
    saved_s: float | None = None  # see TrialResult; None: nothing of it was trained in steps
    curves: list[EpochRecord] = field(default_factory=list)
    best_epoch: int | None = None
    best_value: float = -math.inf  # of the objective, larger is better
    value_to_beat: float = -math.inf  # by min_delta: the value at which the count of epochs without gain began again
    epochs_without_gain: int = 0
    outcome: Outcome | None = None
    reason: str = ""
    lr_found: float | None = None  # by the range test of lr: auto
    c_found: float | None = None  # see TrialResult
    micro_batch: int | None = None  # images that fit the memory at once, where a batch does not


class Member:
    """A trial's trainable suffix and all that changes while it trains. Its frozen blocks are the trunk's own, held once."""

    def __init__(
        self, config: TrialConfig, start: BlockModel, trunk: BlockModel, steps_per_epoch: int, precision: torch.dtype
    ) -> None:
        """start: the model as this trial begins, from which the suffix is copied; trunk: the cohort's, with equal weights."""
        self.config = config
        self.steps_per_epoch = steps_per_epoch
        self.precision = precision
        self.frozen = frozen_blocks(start.names, config.freeze)
        self.suffix = BlockModel(start.names[self.frozen :], copy.deepcopy(list(start.blocks)[self.frozen :]))
        self.model = BlockModel(start.names, [*list(trunk.blocks)[: self.frozen], *self.suffix.blocks], start.warnings)
        freeze_blocks(self.model, self.frozen)
        self.optimizer = build_optimizer(config, list(self.suffix.blocks))
        self.ema = copy.deepcopy(self.suffix) if config.ema is not None else None
        self.best: dict[str, Tensor] = {}
        self.best_val_logits: Tensor | None = None
        self.progress = Progress()
        self.device = next(self.model.parameters()).device
        self.world = World()
        self.parts_batches = True  # whether a batch that does not fit the memory is taken in parts; else OutOfMemoryError
        self.portions = Portions()
        self._shared: tuple[int, SharedGradients] | None = None  # in a world of several: of which depth, and how
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.correct = torch.zeros((), dtype=torch.int64, device=self.device)
        self.seen = 0
        self.draws = False  # whether a step was seen to draw from the device's generator
        self._ema_share: float | Tensor = 0.0
        self._averaged: list[list[Tensor]] = []  # averages and what they follow; counts and what they copy

    def join(self, world: World) -> None:
        """From here on trains beside the same member in the other processes of the world."""
        self.world = world
        see_global_batch(self.suffix, world, self.config.ghost_batches)

    @property
    def active(self) -> bool:
        return self.progress.outcome is None

    @property
    def schedule(self) -> LrSchedule:
        peak = float(self.config.lr) if self.progress.lr_found is None else self.progress.lr_found
        return LrSchedule(self.config, self.steps_per_epoch, peak)

    @property
    def steps_before(self) -> int:
        """Those of the epochs before this one."""
        return (self.progress.epoch - 1) * self.steps_per_epoch

    def rate(self, height: int) -> float:
        """The learning rate of the step that comes next, for a block with so many blocks between it and the end."""
        return self.schedule.rate(self.steps_before + self.progress.step, height)

    @property
    def last_rate(self) -> float:
        """The classifier's learning rate in the last step of this epoch."""
        return self.schedule.rate(self.steps_before + self.steps_per_epoch - 1, 0)

    @property
    def depth(self) -> int:
        """Blocks not trained in the present epoch: the frozen ones, or all but the classifier before unfreeze_epoch."""
        return first_trained(self.config, self.frozen, len(self.model.blocks), self.progress.epoch)

    @property
    def depths(self) -> set[int]:
        """Every depth that this member will have in some epoch."""
        head_only = {max(self.frozen, len(self.model.blocks) - 1)} if self.config.unfreeze_epoch is not None else set()
        return {self.frozen} | head_only

    def begin_epoch(self) -> None:
        """Sets which blocks train in this epoch; the others are in eval mode, statistics included."""
        freeze_blocks(self.model, self.depth)
        self.model.train()

    def train_step(self, tap: Tensor, target: Tensor) -> None:
        """One optimiser step from the trunk's output at this member's depth. target: N classes, or NK shares."""
        numbers = self.numbers_of([self.progress.step])[0]
        self.set_numbers(move(numbers.float(), self.device) if self.device.type == "cuda" else numbers)
        self.seed_draws(self.progress.step)
        self.compute(tap, target, self.progress.step)
        self.draws = self.draws or self._drew()
        self.count(len(target))

    @property
    def numbers_n(self) -> int:
        return len(self.optimizer.param_groups) + (self.ema is not None)

    def numbers_of(self, steps: Sequence[int]) -> Tensor:
        """What steps of this epoch take from the schedule, float64: for each a rate for every group of the optimiser, and the
        average's share."""
        schedule, rows = self.schedule, []
        for total in (self.steps_before + step for step in steps):
            row = [schedule.rate(total, group["height"]) for group in self.optimizer.param_groups]
            rows.append(row if self.config.ema is None else [*row, 1 - min(self.config.ema, (1 + total) / (10 + total))])
        return torch.tensor(rows, dtype=torch.float64)

    def set_numbers(self, numbers: Tensor) -> None:
        """numbers: a row of `numbers_of`, on the member's device, float32 on a GPU."""
        values: Tensor | list[float] = numbers if self.device.type == "cuda" else numbers.tolist()
        groups_n = len(self.optimizer.param_groups)
        put_rates(self.optimizer, values[:groups_n])
        if self.ema is not None:
            self._ema_share = values[groups_n]

    def seed_draws(self, step: int, generator: torch.Generator | None = None) -> None:
        """Seeds what the step of this epoch draws from: the device's own generator, or the given one."""
        (generator or self.generator).manual_seed(stream_seed(self.config.seed, "dropout", self.progress.epoch, step))

    def _drew(self) -> bool:
        """Whether anything was drawn since the seeding; of a CPU that cannot be told cheaply."""
        return self.device.type == "cpu" or self.generator.get_offset() > 0

    @property
    def generator(self) -> torch.Generator:
        """The one that dropout draws from."""
        if self.device.type == "cuda":
            return torch.cuda.default_generators[self.device.index or 0]
        return torch.default_generator

    def compute(self, tap: Tensor, target: Tensor, step: int | None) -> None:
        """A step with the numbers set and the draws seeded, without a word to the host. step: None while it is captured, when
        nothing can be tried again."""
        loss, logits_NK = self._fitting_backward(tap, target, step)
        if self.config.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.suffix.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self._update_ema()
        with torch.no_grad():
            labels_N = target if target.ndim == 1 else target.argmax(1)
            self.loss_sum += loss.double() * len(target)
            self.correct += (logits_NK.argmax(1) == labels_N).sum()

    def count(self, images_n: int) -> None:
        """A step was taken, or asked for."""
        self.seen += images_n
        self.progress.step += 1

    def _fitting_backward(self, tap: Tensor, target: Tensor, step: int | None) -> tuple[Tensor, Tensor]:
        """`_backward` in micro-batches that fit the device's memory, found by halving. Raises CifarHpcError where none do."""
        if self.world.size == 1:
            return self._backward_that_fits(tap, target, step, None)
        if self._shared is None or self._shared[0] != self.depth:
            self._shared = None
            gc.collect()  # else what averaged the gradients of the epoch before would hear of those to come
            trained = BlockModel(self.model.names[self.depth :], list(self.model.blocks)[self.depth :])
            self._shared = self.depth, SharedGradients(trained, self.world, may_skip=":" in self.config.arch)
            if self.parts_batches and not self._has_batch_statistics():  # once averaging has begun nothing can be tried again
                self._backward_that_fits(tap, target, step, self._shared[1], rehearsal=True)
                self.seed_draws(self.progress.step)
        return self._backward(tap, target, self.progress.micro_batch or len(target), self._shared[1])

    def _backward_that_fits(
        self, tap: Tensor, target: Tensor, step: int | None, shared: SharedGradients | None, rehearsal: bool = False
    ) -> tuple[Tensor, Tensor]:
        while True:
            size = min(self.progress.micro_batch or len(target), len(target))
            try:
                return self._backward(tap, target, size, shared, rehearsal)
            except RuntimeError as error:
                if not is_out_of_memory(error) or step is None or not self.parts_batches:
                    raise
                self._refuse_smaller(size, error)
            self.optimizer.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.progress.micro_batch = (size + 1) // 2
            self.seed_draws(step)

    def _backward(
        self, tap: Tensor, target: Tensor, size: int, shared: SharedGradients | None, rehearsal: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Gradients of the mean loss of this batch, `size` images at a time; of the global one where they are shared, unless it
        is a rehearsal.

        Returns the mean loss of this process's images and the logits NK.
        """
        self.optimizer.zero_grad(set_to_none=True)
        losses, logits = [], []
        parts = list(zip(tap.split(size), target.split(size), strict=True))  # type: ignore[no-untyped-call]
        for i, (x, y) in enumerate(parts):
            last = i == len(parts) - 1 and not rehearsal
            with shared.step(last) if shared is not None else contextlib.nullcontext():
                with torch.autocast(self.device.type, self.precision, enabled=self.precision is not torch.float32):
                    logits_NK = self._forward(x) if shared is None else shared(x)
                loss = functional.cross_entropy(logits_NK.float(), y, label_smoothing=self.config.label_smoothing)
                share = len(y) / len(target)
                scale = share if shared is None else shared.scale(len(y))
                (loss if scale == 1 else loss * scale).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach() if share == 1 else loss.detach() * share)
            logits.append(logits_NK.detach())
        return (losses[0], logits[0]) if len(losses) == 1 else (torch.stack(losses).sum(), torch.cat(logits))

    def _forward(self, x: Tensor) -> Tensor:
        return self.model.forward_blocks(x, self.depth, len(self.model.blocks))

    def _has_batch_statistics(self) -> bool:
        trained = list(self.model.blocks)[self.depth :]
        return any(isinstance(module, _BatchNorm) for block in trained for module in block.modules())

    def _refuse_smaller(self, size: int, error: RuntimeError) -> None:
        if self._has_batch_statistics():
            raise CifarHpcError(
                f"out of memory with {size} images in a step; {self.config.arch} has batch statistics, so that a step cannot "
                f"be split: batch_size {size // 2} would take about half the memory, as would twice the processes, smaller "
                f"images or a larger freeze ({error})"
            ) from error
        if size == 1:
            raise CifarHpcError(f"out of memory with one image in a step: {self.config.arch} does not fit ({error})") from error

    def measured_step(self, tap: Tensor, target: Tensor) -> float:
        """A train_step, and its loss over the global batch."""
        self._zero_sums()
        self.train_step(tap, target)
        self._add_up_sums()
        return self.loss_sum.item() / self.seen

    def eval_logits(self, tap: Tensor) -> Tensor:
        """Logits NK, float32, of the weights that are evaluated: the average's where there is one."""
        suffix = self._evaluated()
        start, stop = self.depth - self.frozen, len(suffix.blocks)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not torch.float32):
            return self.portions(lambda x: {0: suffix.forward_blocks(x, start, stop).float()}, tap)[0]

    def eval_mode(self) -> None:
        self.suffix.eval()
        if self.ema is not None:
            self.ema.eval()

    def end_epoch(self, val_logits_NK: Tensor, val_labels_N: Tensor, val_s: float) -> EpochRecord:
        """Writes the epoch's record, keeps the best weights, decides whether the trial is over. Without validation images the
        last epoch is taken for the best."""
        progress = self.progress
        self._add_up_sums()
        measured = len(val_labels_N) > 0
        sums = [self.loss_sum, self.correct.double()]
        if measured:
            sums.append(functional.cross_entropy(val_logits_NK, val_labels_N).double())
            sums.append((val_logits_NK.argmax(1) == val_labels_N).double().mean())
        loss_sum, correct, *val = torch.stack(sums).tolist()  # all at once: each question to a GPU waits for it
        record = EpochRecord(
            epoch=progress.epoch,
            lr=self.last_rate,
            train_loss=_finite(loss_sum / self.seen),
            train_acc=correct / self.seen,
            val_loss=_finite(val[0]) if measured else None,
            val_acc=val[1] if measured else None,
            train_s=round(progress.epoch_s, 4),
            val_s=round(val_s, 4),
        )
        progress.curves.append(record)
        progress.seconds += progress.epoch_s + val_s
        self._judge(record, val_logits_NK)
        progress.epoch, progress.step, progress.epoch_s = progress.epoch + 1, 0, 0.0
        self._zero_sums()
        return record

    def _judge(self, record: EpochRecord, val_logits_NK: Tensor) -> None:
        progress, config = self.progress, self.config
        measured = len(val_logits_NK) > 0
        if record.train_loss is None or (measured and record.val_loss is None):
            which = "training" if record.train_loss is None else "validation"
            progress.outcome, progress.reason = Outcome.DIVERGED, f"{which} loss not finite in epoch {record.epoch}"
            return
        metric = getattr(record, config.objective) if measured else float(record.epoch)
        value = metric if not measured or OBJECTIVES[config.objective].mode == "max" else -metric
        if value - config.stop.min_delta > progress.value_to_beat:  # the rule of Keras and Lightning
            progress.epochs_without_gain, progress.value_to_beat = 0, value
        else:
            progress.epochs_without_gain += 1
        if value > progress.best_value:
            progress.best_epoch, progress.best_value = record.epoch, value
            self.best = {key: tensor.detach().clone() for key, tensor in self._evaluated().state_dict().items()}
            self.best_val_logits = val_logits_NK.detach().clone() if measured else None
        if record.epoch >= config.epochs:
            progress.outcome, progress.reason = (
                Outcome.FINISHED,
                f"all {config.epochs} epochs" if config.epochs > 1 else "its one epoch",
            )
        elif config.stop.patience is not None and progress.epochs_without_gain >= config.stop.patience:
            progress.outcome = Outcome.EARLY_STOPPED
            progress.reason = f"{config.objective} not improved for {config.stop.patience} epochs"
        elif config.stop.max_minutes is not None and progress.seconds >= config.stop.max_minutes * 60:
            progress.outcome, progress.reason = Outcome.OUT_OF_TIME, f"{config.stop.max_minutes:g} minutes of training used"

    @torch.no_grad()
    def average_statistics(self) -> None:
        """BatchNorm's running statistics, where each process has had those of its own parts, become the means of all."""
        if self.world.size == 1 or self.config.ghost_batches is None:
            return
        layers = [m for net in (self.suffix, self.ema) if net is not None for m in net.modules() if isinstance(m, _BatchNorm)]
        statistics = [buffer for layer in layers for buffer in layer.buffers() if buffer.is_floating_point()]
        if statistics:
            self.world.add_up(statistics)
            torch._foreach_div_(statistics, self.world.size)

    def gather_sums(self) -> None:
        """Brings the epoch's sums of all processes to rank 0, as they stand in a checkpoint, and leaves none elsewhere.

        Statistics of BatchNorm are linear in the batches', so that their means now change nothing in those of the epoch's end.
        """
        self.average_statistics()
        if self.world.size > 1:
            self._add_up_sums()
            if not self.world.leads:
                self.loss_sum.zero_()  # in place: a batch of probes may hold them
                self.correct.zero_()
                self.seen = 0

    def load_best(self) -> None:
        """Puts the best epoch's weights in place, for the one measurement of the test split."""
        self._evaluated().load_state_dict(self.best)

    def evaluated_model(self) -> BlockModel:
        """The whole network with the weights that are evaluated."""
        return BlockModel(self.model.names, [*list(self.model.blocks)[: self.frozen], *self._evaluated().blocks])

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on bit for bit: tensors, numbers and strings only."""
        p = self.progress
        return {
            "trial_id": self.config.trial_id,
            "suffix": self.suffix.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not None else None,
            "best": None if self._is_best else self.best,
            "best_val_logits": self.best_val_logits,
            "sums": (self.loss_sum, self.correct, self.seen),
            "progress": {**vars(p), "curves": [r.to_json() for r in p.curves], "outcome": p.outcome and p.outcome.value},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError where the state is another trial's."""
        if state["trial_id"] != self.config.trial_id:
            raise ValueError(f"checkpoint of trial {state['trial_id']}, not of {self.config.trial_id}")
        self.suffix.load_state_dict(state["suffix"])
        load_optimizer(self.optimizer, state["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        best = self._evaluated().state_dict() if state["best"] is None else state["best"]
        self.best = {key: tensor.detach().to(self.device, copy=True) for key, tensor in best.items()}
        self.best_val_logits = None if state["best_val_logits"] is None else state["best_val_logits"].to(self.device)
        loss_sum, correct, self.seen = state["sums"]
        self.loss_sum.copy_(loss_sum)
        self.correct.copy_(correct)
        saved = dict(state["progress"])
        saved["curves"] = [EpochRecord.from_json(record) for record in saved["curves"]]
        saved["outcome"] = Outcome(saved["outcome"]) if saved["outcome"] else None
        self.progress = Progress(**saved)
        if not self.world.leads:  # the checkpoint's sums are those of all processes
            self._zero_sums()

    @property
    def _is_best(self) -> bool:
        """Whether the weights as they stand are those of the best epoch."""
        return self.progress.step == 0 and self.progress.best_epoch == self.progress.epoch - 1

    def _evaluated(self) -> BlockModel:
        return self.suffix if self.ema is None else self.ema

    def _zero_sums(self) -> None:
        """In place: captured steps and stacks of probes add to these very tensors."""
        self.loss_sum.zero_()
        self.correct.zero_()
        self.seen = 0

    @torch.no_grad()
    def _add_up_sums(self) -> None:
        if self.world.size == 1:
            return
        sums = torch.stack([self.loss_sum, self.correct.double(), self.loss_sum.new_full((), self.seen)])
        self.world.add_up([sums])
        self.loss_sum.copy_(sums[0])
        self.correct.copy_(sums[1])
        self.seen = int(sums[2].item())

    @torch.no_grad()
    def _update_ema(self) -> None:
        """The decay rises to the one asked for: else a short trial were judged by the weights that it began with."""
        if self.ema is None:
            return
        if not self._averaged:
            pairs = list(zip(self.ema.state_dict().values(), self.suffix.state_dict().values(), strict=True))
            self._averaged = [
                [pair[side] for pair in pairs if pair[side].is_floating_point() is smooth]
                for smooth in (True, False)
                for side in (0, 1)
            ]
        averages, values, counts, counted = self._averaged
        if isinstance(self._ema_share, Tensor):
            steps = torch._foreach_sub(values, averages)
            torch._foreach_mul_(steps, self._ema_share)
            torch._foreach_add_(averages, steps)
        else:
            torch._foreach_lerp_(averages, values, self._ema_share)
        if counts:
            torch._foreach_copy_(counts, counted)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
