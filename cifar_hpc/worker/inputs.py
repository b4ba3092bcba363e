"""What trials that train side by side have in common: data, device, precision, the network's beginning, the frozen trunk.

Owns: Inputs, the data sets that stay in a process. Knows neither attempts nor members nor records.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.data.batches import Batches, batches_for
from cifar_hpc.data.dataset import Dataset, Folds, Split, load_dataset_of, trainval_of
from cifar_hpc.data.files import data_root
from cifar_hpc.distributed.world import World
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.models.blocks import BlockModel
from cifar_hpc.models.deltas import Start, start_of
from cifar_hpc.models.summary import flops
from cifar_hpc.models.weights import weights_sha256
from cifar_hpc.models.zoo import build_model, in_channels, normalisation
from cifar_hpc.planning.lineage import parent_of, with_parents_file
from cifar_hpc.records.layout import Layout
from cifar_hpc.train.device import allow_tf32, choose_precision
from cifar_hpc.train.evaluation import EVAL_BATCH_SIZE
from cifar_hpc.train.features import Feed, Trunk
from cifar_hpc.train.inspection import glanced_at
from cifar_hpc.train.pool import Pool
from cifar_hpc.train.steps import steps_per_epoch

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
LOADED_AT_ONCE = 2  # data sets that a process keeps


@dataclass(frozen=True, slots=True)
class Room:
    """Where features may be kept, see Feed. granted_bytes: of the host's memory; None: what it has."""

    on_device: bool = True
    granted_bytes: int | None = None


class Inputs:
    """Loaded and built for `config`, one of the trials: what it says of all this is the same for each of them."""

    def __init__(self, config: TrialConfig, layout: Layout, device: torch.device, world: World, room: Room) -> None:
        self.device = device
        self.precision = choose_precision(config.precision, device)
        allow_tf32(config.precision == "tf32")
        self._folds = Folds(config.dataset, _load(trainval_of(config))) if config.dataset.fold is not None else None
        self._pool: Pool | None = None
        self._pooled_as: Normalisation | None = None  # the normalisation of the pool's images
        self.data = self._data_of(config)
        self._config, self._layout, self._world, self._room = config, layout, world, room
        self._files: dict[str | None, str | None] = {}  # of weights as the configs name them
        self._channels = in_channels(self._with_file(config), self.data.channels)
        self._starts: dict[float | None, BlockModel] = {}
        self.trunk = Trunk(self.starting_model(config), self.precision)

    def enter(self, config: TrialConfig) -> None:
        """Goes on to the fold of this trial, which has all else in common with those before."""
        if config.dataset.fold != self._config.dataset.fold:
            self._config, self.data = config, self._data_of(config)
            self._starts.clear()
            start = self.starting_model(config)  # what the weights do not bring each fold draws itself: the classifier, or all
            if not _alike(start.blocks[:-1], self.trunk.model.blocks[:-1]):
                self.trunk, self._pool = Trunk(start, self.precision), None

    @property
    def shared_s(self) -> float:
        """Seconds that the features which folds share have taken."""
        return self._pool.filled_s if self._pool is not None else 0.0

    def starting_model(self, config: TrialConfig) -> BlockModel:
        """The network of a trial of this fold before its first step: they start alike but for their dropout."""
        if config.dropout not in self._starts:
            model = build_model(self._with_file(config), len(self.data.classes), self._channels)
            self._starts[config.dropout] = model.to(self.device).to(memory_format=torch.channels_last)
        return self._starts[config.dropout]

    @property
    def normalisation(self) -> Normalisation:
        return self._normalisation_of_weights or (self.data.mean, self.data.std)

    @functools.cached_property
    def _normalisation_of_weights(self) -> Normalisation | None:
        """Which all trials begin with: asked once, since a file is read whole for it."""
        return normalisation(self._with_file(self._config))

    @functools.cached_property
    def start(self) -> Start | None:
        """The weights file that all begin with, from which what is kept of each may differ in little."""
        config = self._config
        return start_of(config.arch, self._with_file(config).weights, lasting=parent_of(config) is None)

    @functools.cached_property
    def weights_sha256(self) -> str | None:
        return weights_sha256(self._config.arch, self._with_file(self._config).weights)

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(self._config, len(self.data.train.labels_N))

    @functools.cached_property
    def flops(self) -> int:
        """Of the network of any of the trials: they have one architecture and one size of images."""
        if self._config.image_size is None:
            raise CifarHpcError(f"trial {self._config.trial_id} has no image_size: a spec fills it in from the data set")
        return flops(self.trunk.model, self._config.image_size, self._channels)

    def training_feed(self, depths: Collection[int]) -> Feed:
        batches = self._batches(self.data.train, augmented=True)
        size = -(-len(self.data.train.labels_N) // self.steps_per_epoch)
        source = self._source(depths, held=False)
        return self._feed(batches, depths, size, keep=self._config.augment == "none", training=True, source=source)

    def feed(self, split: Split, depths: Collection[int], *, keep: bool) -> Feed:
        """Of a split that is measured and not trained on."""
        looked_at = split is self.data.val
        source = self._source(depths, held=True) if looked_at else None
        return self._feed(
            self._batches(split), depths, EVAL_BATCH_SIZE, keep=keep, training=False, source=source, glances=looked_at
        )

    def _with_file(self, config: TrialConfig) -> TrialConfig:
        """With a parent's file in place of its id. Whether it is the parent's own is asked once: that reads it whole."""
        if config.weights not in self._files:
            self._files[config.weights] = with_parents_file(config, self._layout).weights
        return dataclasses.replace(config, weights=self._files[config.weights])

    def _data_of(self, config: TrialConfig) -> Dataset:
        return _load(config) if self._folds is None else self._folds.part(config.dataset)

    def _source(self, depths: Collection[int], *, held: bool) -> tuple[Pool, Tensor] | None:
        """Where a fold takes the features of the images that it holds out, or trains on, from; computed once for all folds."""
        if self._folds is None or self._config.augment != "none":
            return None
        if (
            self._pool is None or self._pooled_as != self.normalisation
        ):  # without published weights a fold has pixels of its own
            whole = self._folds.whole.train
            fold_n = len(whole.labels_N) - len(whole.labels_N) // (self._config.dataset.folds or 1)
            size = -(-fold_n // steps_per_epoch(self._config, fold_n))
            batches, self._pooled_as = self._batches(whole), self.normalisation
            self._pool = Pool(lambda asked: self._feed(batches, asked, size, keep=True, training=True, glances=True))
        self._pool.fill(depths)
        return self._pool, torch.from_numpy(self._folds.rows(self._config.dataset)[held])

    def _feed(
        self,
        batches: Batches,
        depths: Collection[int],
        batch_size: int,
        *,
        keep: bool,
        training: bool,
        source: tuple[Pool, Tensor] | None = None,
        glances: bool = False,
    ) -> Feed:
        return Feed(
            self.trunk,
            batches,
            depths,
            batch_size,
            keep=keep,
            training=training,
            world=self._world,
            on_device=self._room.on_device,
            granted_bytes=self._room.granted_bytes,
            source=source,
            glances=set(glanced_at(self.trunk.model).values()) if glances else (),
        )

    def _batches(self, split: Split, *, augmented: bool = False) -> Batches:
        return batches_for(
            self._config,
            split,
            classes_n=len(self.data.classes),
            channels=self._channels,
            normalisation=self.normalisation,
            device=self.device,
            augmented=augmented,
        )


def _load(config: TrialConfig) -> Dataset:
    """The trial's data set, which stays for the next trial that has the same."""
    key = (config.dataset, config.image_size, config.resize, config.crop_frac, config.source_of("dataset"))
    if key not in _loaded:
        while len(_loaded) >= LOADED_AT_ONCE:
            del _loaded[next(iter(_loaded))]
        _loaded[key] = load_dataset_of(config, data_root())
    return _loaded[key]


_loaded: dict[object, Dataset] = {}


def _alike(blocks: nn.Module, others: nn.Module) -> bool:
    """Whether all that they hold is equal."""
    return all(torch.equal(*pair) for pair in zip(_tensors(blocks), _tensors(others), strict=True))


def _tensors(blocks: nn.Module) -> Iterator[Tensor]:
    return chain(blocks.parameters(), blocks.buffers())
