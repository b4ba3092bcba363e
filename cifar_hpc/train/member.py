"""One trial inside a cohort: its own suffix of the network, optimiser, curves and best epoch.

A member knows nothing of the members beside it. Its state is plain tensors and numbers, so that a checkpoint of it alone is
enough to go on alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cifar_hpc.config.plugins import objective_of
from cifar_hpc.config.schedule import LrSchedule
from cifar_hpc.config.seeds import stream_seed
from cifar_hpc.config.trained import LORA, depths, ever_trained, first_trained, part_of, rank_of, trained_in, trunk_depth
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.data.pixels import move
from cifar_hpc.distributed.norms import see_global_batch
from cifar_hpc.distributed.world import World
from cifar_hpc.models.blocks import BlockModel
from cifar_hpc.models.freezing import choose_trained
from cifar_hpc.models.lora import add_low_rank
from cifar_hpc.records.schema import EpochRecord
from cifar_hpc.train.anchor import Anchor
from cifar_hpc.train.average import Average
from cifar_hpc.train.early_stopping import EarlyStopping
from cifar_hpc.train.features import Trunk
from cifar_hpc.train.measure import losses_and_accuracies, objective_value
from cifar_hpc.train.micro_batches import MicroBatches
from cifar_hpc.train.optimizers import build_optimizer, load_optimizer, put_rates
from cifar_hpc.train.portions import Portions
from cifar_hpc.train.progress import Progress, Sums, clear
from cifar_hpc.train.stack import guesses_of

_BY_CHANCE = "the classifier, which the weights do not hold for these classes, stays as it was drawn by chance"


class Member:
    """A trial's trainable suffix and all that changes while it trains. Its frozen blocks are the trunk's own, held once."""

    def __init__(self, config: TrialConfig, start: BlockModel, trunk: Trunk, steps_per_epoch: int) -> None:
        """start: the model as this trial begins, from which the suffix is copied; trunk: the cohort's, with equal weights."""
        self.config = config
        self.steps_per_epoch = steps_per_epoch
        self.precision = trunk.precision
        self.frozen = trunk_depth(config, start.names)
        self.part = part_of(config)
        self.suffix = BlockModel(start.names[self.frozen :], copy.deepcopy(list(start.blocks)[self.frozen :]))
        ever = ever_trained(config, start.names)
        if self.part == LORA:
            add_low_rank(self.suffix, ever[self.frozen :], rank_of(config), stream_seed(config.seed, "lora"))
        drawn = (_BY_CHANCE,) if start.drawn_classifier and not ever[-1] else ()
        blocks = [*list(trunk.model.blocks)[: self.frozen], *self.suffix.blocks]
        self.model = BlockModel(start.names, blocks, (*start.warnings, *drawn))
        self._trained: tuple[bool, ...] = ()  # what of the suffix was chosen to train
        self._choose(ever[self.frozen :])
        self.optimizer = build_optimizer(config, list(self.suffix.blocks))
        self.anchor = Anchor(self.optimizer, config.anchor) if config.anchor is not None else None
        self.average = Average(self.suffix, config.ema) if config.ema is not None else None
        self.micro_batches = MicroBatches(config, self.model, self.suffix.parameters(), self.precision)
        self.best: dict[str, Tensor] = {}
        self.best_val_logits: Tensor | None = None
        self.progress = Progress()
        self.device = next(self.model.parameters()).device
        self.world = World()
        self.portions = Portions()
        self.sums = Sums(self.device)
        self.draws = False  # whether a step was seen to draw from the device's generator
        self.objective = objective_of(config)
        self._stopping = EarlyStopping(config)

    def join(self, world: World) -> None:
        """From here on trains beside the same member in the other processes of the world."""
        self.world = self.micro_batches.world = world
        see_global_batch(self.suffix, world, self.config.ghost_batches)
        self._trained = ()  # there are new layers

    def weigh_classes(self, weight_K: Tensor | None) -> None:
        """As weights_of_classes gives them."""
        self.micro_batches.class_weight_K = None if weight_K is None else weight_K.to(self.device)

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
        """Blocks before the first that the present epoch trains."""
        return first_trained(self.config, self.model.names, self.progress.epoch)

    @property
    def depths(self) -> set[int]:
        """Every depth that this member may have in some epoch."""
        return depths(self.config, self.model.names)

    def begin_epoch(self) -> None:
        """Sets which blocks train in this epoch; the others are in eval mode, statistics included, the trunk's always."""
        chosen = self._choose(trained_in(self.config, self.model.names, self.progress.epoch)[self.frozen :])
        if chosen or not self.suffix.training:
            self.suffix.train()

    def _choose(self, trained: tuple[bool, ...]) -> bool:
        """Whether that was a change."""
        if trained == self._trained:
            return False
        choose_trained(self.suffix, trained, self.part)
        self._trained = trained
        return True

    def train_step(self, tap: Tensor, target: Tensor) -> None:
        """One optimiser step from the trunk's output at this member's depth, with the numbers that are set. target: N classes,
        or NK shares."""
        self.seed_draws(self.progress.step)
        self.compute(tap, target, self.progress.step)
        self.draws = self.draws or self._drew()
        self.count(len(target))

    @property
    def numbers_n(self) -> int:
        return len(self.optimizer.param_groups) + (self.average is not None)

    def numbers_of(self, steps: Sequence[int]) -> Tensor:
        """What steps of this epoch take from the schedule, float64: for each a rate for every group of the optimiser, and the
        average's share."""
        schedule, rows = self.schedule, []
        for total in (self.steps_before + step for step in steps):
            row = [schedule.rate(total, group["height"]) for group in self.optimizer.param_groups]
            rows.append(row if self.average is None else [*row, self.average.share_of(total)])
        return torch.tensor(rows, dtype=torch.float64)

    def set_numbers(self, numbers: Tensor) -> None:
        """numbers: a row of `numbers_of`, on the member's device, float32 on a GPU."""
        values: Tensor | list[float] = numbers if self.device.type == "cuda" else numbers.tolist()
        groups_n = len(self.optimizer.param_groups)
        put_rates(self.optimizer, values[:groups_n])
        if self.average is not None:
            self.average.put_share(values[groups_n])

    def seed_draws(self, step: int, generator: torch.Generator | None = None) -> None:
        """Seeds what the step of this epoch draws from: the device's own generator, or the given one."""
        (generator or self.generator).manual_seed(stream_seed(self.config.draw_seed, "dropout", self.progress.epoch, step))

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
        reseed = None if step is None else partial(self.seed_draws, step)
        loss, logits_NK = self.micro_batches.backward(tap, target, self.depth, reseed)
        if self.anchor is not None:
            self.anchor.pull()
        if self.config.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.suffix.parameters(), self.config.grad_clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.update()
        with torch.no_grad():
            labels_N = target if target.ndim == 1 else target.argmax(1)
            self.sums.add(loss, len(target), guesses_of(logits_NK), labels_N)

    def count(self, images_n: int) -> None:
        """A step was taken, or asked for."""
        self.sums.seen_n += images_n
        self.progress.step += 1

    def measured_step(self, tap: Tensor, target: Tensor) -> float:
        """A train_step, and its loss over the global batch."""
        self.sums.clear()
        numbers = self.numbers_of([self.progress.step])[0]
        self.set_numbers(move(numbers.float(), self.device) if self.device.type == "cuda" else numbers)
        self.train_step(tap, target)
        self.sums.add_up(self.world)
        return self.sums.loss.item() / self.sums.seen_n

    def eval_logits(self, tap: Tensor) -> Tensor:
        """Logits NK, float32, of the weights that are evaluated: the average's where there is one."""
        suffix = self._evaluated()
        start, stop = self.depth - self.frozen, len(suffix.blocks)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not torch.float32):
            return self.portions(lambda x: {0: suffix.forward_blocks(x, start, stop).float()}, tap)[0]

    def eval_mode(self) -> None:
        self.suffix.eval()
        self._evaluated().eval()

    def end_epoch(self, sums: Sequence[float], val_logits_NK: Tensor, val_labels_N: Tensor, val_s: float) -> bool:
        """Writes the epoch's record and decides whether the trial is over. sums: of `epoch_sums`. Returns whether the epoch is
        the best so far, for `keep_best`; without validation images the last one is taken for it."""
        progress = self.progress
        loss_sum, hits, seen_n, *val = sums
        measured = bool(val)
        record = EpochRecord(
            epoch=progress.epoch,
            lr=self.last_rate,
            train_loss=_finite(loss_sum / seen_n),
            train_acc=None if math.isnan(loss_sum) else hits / seen_n,  # of logits that are NaN no class is guessed
            val_loss=_finite(val[0]) if measured else None,
            val_acc=val[1] if measured else None,
            train_s=round(progress.epoch_s, 4),
            val_s=round(val_s, 4),
            objective=objective_value(self.objective, val_logits_NK, val_labels_N) if measured else None,
        )
        progress.curves.append(record)
        progress.seconds += progress.epoch_s + val_s
        better = self._stopping.judge(progress, record)
        progress.epoch, progress.step, progress.epoch_s = progress.epoch + 1, 0, 0.0
        return better

    @torch.no_grad()
    def average_statistics(self) -> None:
        """BatchNorm's running statistics, where each process has had those of its own parts, become the means of all."""
        if self.world.size == 1 or self.config.ghost_batches is None:
            return
        nets = [self.suffix, *([self.average.net] if self.average is not None else [])]
        layers = [m for net in nets for m in net.modules() if isinstance(m, _BatchNorm)]
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
            self.sums.add_up(self.world)
            if not self.world.leads:
                self.sums.clear()

    def load_best(self) -> None:
        """Puts the best epoch's weights in place, for the one measurement of the test split."""
        self._evaluated().load_state_dict(self.best)

    def evaluated_model(self) -> BlockModel:
        """The whole network with the weights that are evaluated."""
        return BlockModel(self.model.names, [*list(self.model.blocks)[: self.frozen], *self._evaluated().blocks])

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on bit for bit: tensors, numbers and strings only."""
        sums = self.sums
        return {
            "trial_id": self.config.trial_id,
            "suffix": self.suffix.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.average.net.state_dict() if self.average is not None else None,
            "best": None if self._is_best else self.best,
            "best_val_logits": self.best_val_logits,
            "sums": (sums.loss, sums.hits, sums.seen_n),
            "progress": {**self.progress.state_dict(), "micro_batch": self.micro_batches.size},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError where the state is another trial's."""
        if state["trial_id"] != self.config.trial_id:
            raise ValueError(f"checkpoint of trial {state['trial_id']}, not of {self.config.trial_id}")
        self.suffix.load_state_dict(state["suffix"])
        load_optimizer(self.optimizer, state["optimizer"])
        if self.average is not None:
            self.average.net.load_state_dict(state["ema"])
        best = self._evaluated().state_dict() if state["best"] is None else state["best"]
        self.best = {key: tensor.detach().to(self.device, copy=True) for key, tensor in best.items()}
        self.best_val_logits = None if state["best_val_logits"] is None else state["best_val_logits"].to(self.device)
        self.sums.put(*state["sums"])
        if not self.world.leads:  # the checkpoint's sums are those of all processes
            self.sums.clear()
        saved = dict(state["progress"])
        self.micro_batches.size = saved.pop("micro_batch")
        self.progress = Progress.of(saved)

    @property
    def _is_best(self) -> bool:
        """Whether the weights as they stand are those of the best epoch."""
        return self.progress.step == 0 and self.progress.best_epoch == self.progress.epoch - 1

    def _evaluated(self) -> BlockModel:
        return self.suffix if self.average is None else self.average.net


@torch.no_grad()
def epoch_sums(members: Sequence[Member], val_logits_MNK: Tensor, val_labels_N: Tensor) -> list[list[float]]:
    """What `end_epoch` of each has to know of the epoch, whose sums are over by it: summed loss and hits in training, their
    number of images; mean loss and accuracy of validation where there are images for it. Of all at once: each question to a GPU
    waits for it."""
    all_sums = [member.sums for member in members]
    for member in members:
        member.sums.add_up(member.world)
    loss_M, hits_M = torch.stack([sums.loss for sums in all_sums]), torch.stack([sums.hits for sums in all_sums])
    found = [loss_M, hits_M]
    if len(val_labels_N):
        found += losses_and_accuracies(val_logits_MNK, val_labels_N)
    values = torch.stack([value_M.double() for value_M in found], 1).tolist()
    told = [[loss, hits, sums.seen_n, *val] for (loss, hits, *val), sums in zip(values, all_sums, strict=True)]
    clear(all_sums)
    return told


@torch.no_grad()
def keep_best(members: Sequence[Member], val_logits: Sequence[Tensor]) -> None:
    """Keeps the evaluated weights of these members, as they are now, as their best, and what they made of the validation
    images, NK each; in few kernels."""
    to: list[Tensor] = []
    of: list[Tensor] = []
    for member, logits_NK in zip(members, val_logits, strict=True):
        now = member._evaluated().state_dict()
        if not member.best:
            member.best = {key: torch.empty_like(tensor) for key, tensor in now.items()}
        to += [member.best[key] for key in now]
        of += now.values()
        if len(logits_NK):
            if member.best_val_logits is None:
                member.best_val_logits = torch.empty_like(logits_NK)
            to.append(member.best_val_logits)
            of.append(logits_NK)
    if to:
        torch._foreach_copy_(to, of)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
