"""A finished trial's network again: to label new images with it, or to give it to other programs.

Owns: how kept weights and the trial's config become a network, how images reach it as they did in training, export with its
check. Knows nothing of sweeps, ensembles and tables.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cifar_hpc.config import catalog
from cifar_hpc.config.registry import CLASSIFIERS
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.data.batches import batches_for
from cifar_hpc.data.dataset import Split, unlabelled
from cifar_hpc.data.images import Fit
from cifar_hpc.errors import CifarHpcError, UnknownNameError
from cifar_hpc.models.blocks import BlockModel
from cifar_hpc.models.loading import fit_weights, pack_state, read_weights
from cifar_hpc.models.zoo import build_model, in_channels, network_to_fill, normalisation
from cifar_hpc.records.layout import TrialFiles
from cifar_hpc.records.store import write_atomic
from cifar_hpc.records.ties import check_classes, gone_since, own_weights, read_valid
from cifar_hpc.train.device import choose_device

BATCH_SIZE = 500
TOLERANCE = 1e-4  # of exported logits, relative to the largest: other libraries sum in another order


@dataclass(frozen=True)
class TrainedTrial:
    """The network of a trial at its best epoch, in eval mode, and the names of its classes. config: with the kept weights."""

    config: TrialConfig
    classes: tuple[str, ...]
    model: BlockModel
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int

    @property
    def side(self) -> int:
        """Pixels of a side of what the network sees."""
        assert self.config.image_size is not None  # a spec fills it in
        return self.config.image_size

    @property
    def fit(self) -> Fit:
        """How an image becomes what the trial's data set holds."""
        gray = len(self.mean) == 1
        native = self.config.dataset.side or catalog.dataset(self.config.dataset.name).size
        if native is not None:  # nothing is cut off, as the set comes at this size
            return Fit(native, "squash", gray=gray)
        return Fit(self.side, self.config.resize, self.config.crop_frac, gray)

    @torch.no_grad()
    def logits(self, split: Split) -> NDArray[np.float32]:
        """Logits N x K of a split whose images are as `fit` says, float32 throughout."""
        parts = [self.model(x_NCHW).cpu() for x_NCHW in self.batches(split)]
        return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)

    @torch.no_grad()
    def features(self, layer: str | int, split: Split) -> NDArray[np.float32]:
        """What a block puts out, N x C x h x w or N x D. layer: its name, or its number from 1. Raises UnknownNameError."""
        names = self.model.names
        if isinstance(layer, int) and 1 <= layer <= len(names):
            stop = layer
        elif layer in names:
            stop = names.index(str(layer)) + 1
        else:
            raise UnknownNameError("layer", layer, names)
        parts = [self.model.forward_blocks(x_NCHW, 0, stop).float().cpu() for x_NCHW in self.batches(split)]
        return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)

    def split_of(self, images_NCHW: NDArray[np.uint8]) -> Split:
        """Images in memory. Raises CifarHpcError on another type or shape than the trial's data set has."""
        channels, side = len(self.mean), self.fit.side
        if images_NCHW.dtype != np.uint8 or images_NCHW.ndim != 4 or images_NCHW.shape[1:] != (channels, side, side):
            raise CifarHpcError(
                f"images: {images_NCHW.dtype} {'x'.join(map(str, images_NCHW.shape))}; uint8 N x {channels} x {side} x {side} "
                "is needed, or the path of an image or a folder"
            )
        return unlabelled(torch.from_numpy(np.ascontiguousarray(images_NCHW)))

    def batches(self, split: Split) -> Iterator[Tensor]:
        """The images of the split as the network takes them, some at once, on the device where the network is from now on."""
        device = choose_device(None)
        batches = batches_for(
            self.config,
            split,
            classes_n=len(self.classes),
            channels=self.channels,
            normalisation=(self.mean, self.std),
            device=device,
        )
        self.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for index_B in torch.split(torch.arange(len(split.labels_N)), BATCH_SIZE):
            yield batches.eval_batch(index_B)[0]


def load_trained(files: TrialFiles, weights: Path | None = None) -> TrainedTrial:
    """weights: others than its own for its network. Raises CifarHpcError where it is not finished or kept no weights."""
    name = files.folder.name
    own, weights = weights is None, weights or files.weights
    try:
        result, config = read_valid(files, name)
    except FileNotFoundError as error:
        raise CifarHpcError(f"trial {name} has no result: it is not finished") from error
    check_classes(files, result.classes)
    if not CLASSIFIERS[config.classifier].keeps_weights:
        raise CifarHpcError(f"trial {name}: classifier {config.classifier} keeps no weights; choose linear, logreg or svm")
    if result.best_epoch is None:
        raise CifarHpcError(f"trial {name} has no network: {result.reason}")
    if not weights.exists():
        if files.stopped_by is not None:
            raise CifarHpcError(gone_since(name, files.stopped_by))
        raise CifarHpcError(
            f"trial {name} did not keep its weights; `keep: weights` in the spec keeps those of trials that are still to run, "
            f"and `cifar-hpc reproduce {name}` brings back those of this one"
        )
    if own:
        own_weights(files, result)
    mean, _ = read_weights(weights).normalisation or ((), ())
    kept = dataclasses.replace(config, weights=str(weights))
    channels = in_channels(kept, len(mean))
    model = build_model(kept, len(result.classes), channels).eval().requires_grad_(False)
    found = normalisation(kept)
    assert found is not None  # pack_weights writes it
    return TrainedTrial(config=kept, classes=result.classes, model=model, mean=found[0], std=found[1], channels=channels)


def export_trained(trained: TrainedTrial, path: Path, to: str) -> float:
    """Writes the network as path (to: safetensors or onnx) and says by how much its logits differ, relative to the largest.

    Its input is float32, N x C x H x W, pixels 0..1 less mean over std, which the file's metadata tell. Raises CifarHpcError,
    and leaves no file, where they differ by more than TOLERANCE or the format's library is absent.
    """
    generator = torch.Generator().manual_seed(0)
    x_NCHW = torch.randn(4, trained.channels, trained.side, trained.side, generator=generator)
    with torch.no_grad():
        expected_NK = trained.model.cpu()(x_NCHW)
    answer = _write_safetensors(trained, path) if to == "safetensors" else _write_onnx(trained, path, x_NCHW)
    difference = float((answer(x_NCHW) - expected_NK).abs().max() / expected_NK.abs().max())
    if not difference <= TOLERANCE:
        path.unlink(missing_ok=True)
        raise CifarHpcError(f"{path}: its logits differ by {difference:.1e} of the largest from the trial's; not kept")
    return difference


def _notes(trained: TrainedTrial) -> dict[str, str]:
    return {
        "arch": trained.config.arch,
        "image_size": str(trained.side),
        "classes": json.dumps(trained.classes),
        "mean": json.dumps(trained.mean),
        "std": json.dumps(trained.std),
    }


def _write_safetensors(trained: TrainedTrial, path: Path) -> Callable[[Tensor], Tensor]:
    """torchvision's own keys, so that its network of that name and class count loads them; checked by doing that."""
    write_atomic(path, lambda stream: stream.write(pack_state(trained.model.state_dict(), _notes(trained))))
    network = network_to_fill(trained.config, len(trained.classes), trained.channels)
    fit_weights(network, read_weights(path), path.name)
    network.eval()

    @torch.no_grad()
    def answer(x_NCHW: Tensor) -> Tensor:
        logits_NK: Tensor = network(x_NCHW)
        return logits_NK

    return answer


def _write_onnx(trained: TrainedTrial, path: Path, x_NCHW: Tensor) -> Callable[[Tensor], Tensor]:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise CifarHpcError(f"export to onnx needs {', '.join(missing)}: pip install 'cifar-hpc[onnx]'")
    import onnx  # type: ignore[import-not-found, unused-ignore]
    import onnxruntime  # type: ignore[import-not-found, unused-ignore]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            trained.model,
            (x_NCHW,),
            str(path),
            input_names=["x_NCHW"],
            output_names=["logits_NK"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    written = onnx.load(path)
    onnx.helper.set_model_props(written, _notes(trained))
    onnx.save(written, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"x_NCHW": x.numpy()})[0])
