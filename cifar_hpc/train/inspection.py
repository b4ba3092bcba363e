"""What a trial's page shows of a trained network: its first filters, how its layers tell images apart, its worst errors.

Owns: the small arrays of that in predictions.npz, at most about 200 kB a trial, so that a page can be drawn without network and
data. Changes nothing that is measured. Knows no files and draws nothing.

features_middle, features_last: M x P float16, the P strongest principal components (t-SNE starts from such ones too: van der
Maaten and Hinton 2008) of the activations after half of the blocks and before the classifier, averaged over positions;
features_rows: their M places in the validation split. filters: F x C x h x w float16, of the first convolution on pixels.
SPLIT_errors: places in the split of the most confident errors; SPLIT_errors_pixels: those images, E x C x h x w uint8.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cifar_hpc.data.dataset import Split
from cifar_hpc.models.blocks import BlockModel
from cifar_hpc.train.features import Feed, pooled
from cifar_hpc.train.member import Member
from cifar_hpc.train.stack import hits_of

IMAGES, COMPONENTS = 300, 32
FILTERS, FILTER_BYTES = 64, 2**16
ERRORS, THUMBNAIL_PX = 12, 48
_CHUNK = 100  # images at once
Arrays = dict[str, NDArray[np.generic]]


def glanced_at(model: BlockModel) -> dict[str, int]:
    """The depths whose activations are looked at, by the name of their array; 0: none."""
    last = len(model.blocks) - 1
    return {"features_middle": last // 2, "features_last": last}


class Insight:
    """Looks into the members of one cohort: what the frozen trunk makes of the images is computed once for all, and not at all
    where the pass that computed what is kept came by."""

    def __init__(self, val: Feed) -> None:
        self._feed, self._val = val, val.batches
        self._rows = torch.linspace(0, len(val) - 1, min(IMAGES, len(val))).round().long()
        self._of_trunk: dict[int, Tensor] = {}
        self._small_of_trunk: dict[int, NDArray[np.float16] | None] = {}

    def arrays(self, member: Member) -> Arrays:
        """The filters and the features of a member whose best weights are in place.

        Without features where the network has no layer before its classifier, their computation does not fit the memory, or
        they are not finite.
        """
        member.eval_mode()
        model = member.evaluated_model()
        found = first_filters(model)
        if not len(self._rows):  # a refit holds out no validation images
            return found
        try:
            small = self._components(member, model)
        except RuntimeError:  # memory, or a matrix that no solver likes: a picture is no reason to lose a trial
            return found
        kept: Arrays = {key: x_MP for key, x_MP in small.items() if x_MP is not None}
        return found | kept | ({"features_rows": self._rows.numpy().astype(np.int32)} if kept else {})

    def _components(self, member: Member, model: BlockModel) -> dict[str, NDArray[np.float16] | None]:
        wanted = {name: depth for name, depth in glanced_at(model).items() if depth > 0 and len(self._rows) > 1}
        shared = {depth for depth in wanted.values() if depth <= member.frozen}
        open_depths = {depth for depth in wanted.values() if depth not in shared or depth not in self._small_of_trunk}
        small = {depth: principal_components(x_MD) for depth, x_MD in self._features(member, model, open_depths).items()}
        self._small_of_trunk |= {depth: x_MP for depth, x_MP in small.items() if depth in shared}
        return {name: small[depth] if depth in small else self._small_of_trunk[depth] for name, depth in wanted.items()}

    @torch.no_grad()
    def _features(self, member: Member, model: BlockModel, depths: Collection[int]) -> dict[int, Tensor]:
        if not self._of_trunk:
            self._of_trunk |= {depth: x_ND[self._rows] for depth, x_ND in self._feed.pooled().items()}
        missing = sorted(depth for depth in depths if depth > member.frozen or depth not in self._of_trunk)
        parts: dict[int, list[Tensor]] = {depth: [] for depth in missing}
        for index_B in self._rows.split(_CHUNK) if missing else ():  # type: ignore[no-untyped-call]
            x, reached = self._val.eval_batch(index_B)[0], 0
            with torch.autocast(x.device.type, member.precision, enabled=member.precision is not torch.float32):
                for depth in missing:
                    x, reached = model.forward_blocks(x, reached, depth), depth
                    parts[depth].append(pooled(x).cpu())
        computed = {depth: torch.cat(chunks) for depth, chunks in parts.items()}
        self._of_trunk |= {depth: x_MD for depth, x_MD in computed.items() if depth <= member.frozen}
        return {depth: computed[depth] if depth in computed else self._of_trunk[depth] for depth in depths}


def principal_components(x_MD: Tensor) -> NDArray[np.float16] | None:
    """The strongest COMPONENTS of M rows, over the first one's deviation; None where rows are alike or not finite."""
    x_MD = x_MD.double() - x_MD.double().mean(0)
    if not bool(torch.isfinite(x_MD).all()) or float(x_MD.abs().max()) == 0.0:
        return None
    if x_MD.shape[0] <= x_MD.shape[1]:  # the smaller of the two matrices that share their eigenvalues
        values, vectors_MM = torch.linalg.eigh(x_MD @ x_MD.T)
        scores_MP = vectors_MM * values.clamp_min(0).sqrt()
    else:
        scores_MP = x_MD @ torch.linalg.eigh(x_MD.T @ x_MD)[1]
    scores_MP = scores_MP.flip(1)[:, :COMPONENTS]
    return np.asarray((scores_MP / scores_MP[:, 0].std()).numpy(), dtype=np.float16)


def first_filters(model: BlockModel) -> Arrays:
    """Of the first convolution, where it sees pixels: as many as fit FILTER_BYTES, FILTERS at most."""
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or first.in_channels not in (1, 3) or first.kernel_size[0] < 3:
        return {}
    weight = first.weight.detach()
    count = min(FILTERS, len(weight), max(FILTER_BYTES // (2 * weight[0].numel()), 1))
    return {"filters": weight[:count].cpu().numpy().astype(np.float16)}


def worst_errors(name: str, split: Split, logits_NK: Tensor) -> Arrays:
    """The ERRORS images that were taken for another class with the highest confidence, at most THUMBNAIL_PX wide."""
    logits_KN = logits_NK.cpu().t()
    confidence_N = logits_KN.softmax(0).amax(0)
    told_N = ~confidence_N.isnan()  # else it was taken for no class
    wrong_N = torch.nonzero(told_N & ~hits_of(logits_KN.contiguous()[None], split.labels_N)[0]).flatten()
    if len(wrong_N) > ERRORS:  # of equal ones the first
        wrong_N = wrong_N[confidence_N[wrong_N] >= confidence_N[wrong_N].topk(ERRORS)[0][-1]]
    worst = wrong_N[confidence_N[wrong_N].argsort(descending=True, stable=True)][:ERRORS]
    images_NCHW = split.images(worst)
    if images_NCHW.shape[-1] > THUMBNAIL_PX and len(worst):
        small = nn.functional.interpolate(images_NCHW.float(), (THUMBNAIL_PX, THUMBNAIL_PX), mode="bilinear", antialias=True)
        images_NCHW = small.round().clamp(0, 255).to(torch.uint8)
    return {f"{name}_errors": worst.numpy().astype(np.int32), f"{name}_errors_pixels": images_NCHW.numpy()}
