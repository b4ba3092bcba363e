"""What predictions.npz tells of a trained network beyond its logits: filters, how layers part the classes, its worst errors.

Knows one trial's file; draws nothing. A trial of an older version has none of it, and every part may be absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from cifar_hpc.errors import RecordError
from cifar_hpc.records.layout import TrialFiles
from cifar_hpc.records.store import open_regular

LAYERS = {"features_middle": "about halfway through the blocks", "features_last": "before the classifier"}
_FEWEST = 50  # images that a map is made of: t-SNE of fewer shows little but its own noise


@dataclass(frozen=True, slots=True)
class WrongImage:
    """An image that was taken for another class. pixels: H x W x C uint8; row: its place in the split; confidence 0..1."""

    pixels: NDArray[np.uint8]
    row: int
    true: int
    taken: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Insight:
    """filters: F x C x h x w, None where the first layer has none; maps: layer in words -> M x 2, of images with `labels`."""

    filters: NDArray[np.float32] | None
    maps: Mapping[str, NDArray[np.float64]]
    labels: NDArray[np.int64]
    wrong: tuple[WrongImage, ...]


def read_insight(files: TrialFiles, split: str) -> Insight:
    """Of the trial; its errors on `split`. Raises RecordError where the file is corrupt or its parts do not fit one another."""
    try:
        with open_regular(files.predictions) as stream, np.load(stream, allow_pickle=False) as arrays:
            filters = arrays["filters"].astype(np.float32) if "filters" in arrays else None
            rows = arrays["features_rows"] if "features_rows" in arrays else np.zeros(0, np.int32)
            maps = {words: embed(arrays[key]) for key, words in LAYERS.items() if key in arrays and len(rows) >= _FEWEST}
            wrong = _wrong(arrays, split) if f"{split}_errors" in arrays else ()
            labels = arrays["val_labels"].astype(np.int64)[rows] if len(rows) else np.zeros(0, np.int64)
    except Exception as error:  # whatever a stranger's file makes of numpy
        raise RecordError(f"{files.predictions}: corrupt, or no file of ours: {error}") from error
    return Insight(filters, maps, labels, wrong)


def embed(features_MP: NDArray[np.floating]) -> NDArray[np.float64]:
    """t-SNE of M rows, M x 2 (van der Maaten and Hinton 2008). Deterministic."""
    from sklearn.manifold import TSNE  # slow to import, and only a trial's page needs it

    perplexity = min(30.0, (len(features_MP) - 1) / 3)
    found = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(features_MP.astype(np.float32))
    return np.asarray(found, dtype=np.float64)


def _wrong(arrays: Mapping[str, NDArray[np.generic]], split: str) -> tuple[WrongImage, ...]:
    rows = arrays[f"{split}_errors"].astype(np.int64)
    shares_EK = softmax(arrays[f"{split}_logits"][rows].astype(np.float64), axis=1)
    labels = arrays[f"{split}_labels"][rows].astype(np.int64)
    pixels = arrays[f"{split}_errors_pixels"].astype(np.uint8).transpose(0, 2, 3, 1)
    return tuple(
        WrongImage(image, int(row), int(label), int(share_K.argmax()), float(share_K.max()))
        for image, row, label, share_K in zip(pixels, rows, labels, shares_EK, strict=True)
        if not np.isnan(share_K).any()  # of older records
    )
