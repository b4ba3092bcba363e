"""Augmentation: bit-equal to torchvision where it can be, each image by itself, every draw from the given generator."""

from __future__ import annotations

import sys

import pytest
import torch
import torchvision.transforms as reference
import torchvision.transforms.functional as exact

from cifar_hpc.config import catalog
from cifar_hpc.config.packages import KORNIA_OPS
from cifar_hpc.config.trial import AugmentOp
from cifar_hpc.data import pixels, policies
from cifar_hpc.data.augment import resolve
from cifar_hpc.data.batches import Batches
from cifar_hpc.data.dataset import Split
from cifar_hpc.errors import CifarHpcError

CPU = torch.device("cpu")
B = 24
ALL = [*catalog.AUGMENTATIONS, *((AugmentOp(name=name),) for name in catalog.AUGMENT_OPS)]
ACTING = [augment for augment in ALL if augment != "none"]


def _name(augment):
    return augment if isinstance(augment, str) else f"[{augment[0].name}]"


def _mixes(augment):
    return resolve(augment)[-1].name in catalog.BATCH_OPS if resolve(augment) else False


def _split(channels=3, side=32, count=B):
    generator = torch.Generator().manual_seed(5)
    smooth = torch.rand(count, channels, 4, 4, generator=generator)  # images rather than noise, so that resampling is mild
    images = torch.nn.functional.interpolate(smooth, size=(side, side), mode="bilinear").mul(255).round().to(torch.uint8)
    return Split(images, torch.arange(count) % 4, torch.arange(count))


def _batches(split, augment="none", *, image_size=None, in_channels=None, mean=(0.0,), std=(1.0,)):
    channels, side = split.images_NCHW.shape[1], split.images_NCHW.shape[-1]
    return Batches(
        split,
        image_size=image_size or side,
        in_channels=in_channels or channels,
        mean=mean,
        std=std,
        augment=augment,
        num_classes=4,
        device=CPU,
    )


def _batch(split, augment, seed=0, index=None):
    index = torch.arange(len(split.labels_N)) if index is None else index
    return _batches(split, augment).train_batch(index, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("side", [8, 28, 32])
@pytest.mark.parametrize(
    "augment", ["flip", "flip_crop", (AugmentOp(name="crop"),), (AugmentOp(name="crop"), AugmentOp(name="flip"))]
)
def test_flip_and_crop_equal_torchvision_to_the_bit_for_the_same_draws(augment, side):
    split = _split(side=side)
    x_NCHW, _ = _batch(split, augment, seed=3)
    generator, expected = torch.Generator().manual_seed(3), list(split.images_NCHW)
    for op in resolve(augment):
        if op.name == "flip":
            flips = torch.rand(B, generator=generator) < 0.5
            expected = [exact.hflip(image) if flip else image for image, flip in zip(expected, flips, strict=True)]
        else:
            pad = side // 8 if side != 28 else 4  # an eighth of 28 is 3.5, rounded to even
            corners = torch.randint(0, 2 * pad + 1, (B, 2), generator=generator).tolist()
            expected = [
                exact.crop(exact.pad(image, [pad] * 4), *at, side, side) for image, at in zip(expected, corners, strict=True)
            ]
    assert torch.equal((x_NCHW * 255).round().to(torch.uint8), torch.stack(expected))
    assert not torch.equal(torch.stack(expected), split.images_NCHW)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augment", ALL, ids=_name)
def test_every_augmentation_keeps_shape_and_range_and_leaves_the_global_generator_alone(augment, channels):
    before = torch.get_rng_state()
    x_NCHW, target = _batch(_split(channels), augment)
    assert torch.equal(torch.get_rng_state(), before)
    assert x_NCHW.shape == (B, channels, 32, 32)
    assert x_NCHW.dtype == torch.float32
    assert x_NCHW.min() >= -1e-6
    assert x_NCHW.max() <= 1 + 1e-6
    if _mixes(augment):
        assert target.shape == (B, 4)
        torch.testing.assert_close(target.sum(1), torch.ones(B))
    else:
        assert target.dtype == torch.int64


@pytest.mark.parametrize("augment", ACTING, ids=_name)
def test_the_same_generator_gives_the_same_batch_and_another_another(augment):
    split = _split()
    assert torch.equal(_batch(split, augment, seed=1)[0], _batch(split, augment, seed=1)[0])
    assert not torch.equal(_batch(split, augment, seed=1)[0], _batch(split, augment, seed=2)[0])


@pytest.mark.parametrize("augment", [augment for augment in ACTING if not _mixes(augment)], ids=_name)
def test_each_image_has_a_draw_of_its_own(augment):
    x_NCHW, _ = _batch(_split(), augment, index=torch.zeros(B, dtype=torch.int64))
    assert len(torch.unique(x_NCHW.flatten(1), dim=0)) > 1


@pytest.mark.parametrize("augment", [augment for augment in ACTING if not _mixes(augment)], ids=_name)
def test_an_image_does_not_depend_on_its_neighbours_in_the_batch(augment):
    index = torch.arange(B)
    changed = torch.where(index % 2 == 0, index, (index + 7) % B)
    split = _split()
    torch.testing.assert_close(
        _batch(split, augment, index=index)[0][::2], _batch(split, augment, index=changed)[0][::2], rtol=0, atol=1e-6
    )


def test_the_stored_images_are_not_altered_by_augmenting():
    split = _split()
    before = split.images_NCHW.clone()
    batches = _batches(split, "autoaugment")
    untouched = batches.eval_batch(torch.arange(B))[0].clone()
    batches.train_batch(torch.arange(B), torch.Generator().manual_seed(0))
    assert torch.equal(split.images_NCHW, before)
    assert torch.equal(batches.eval_batch(torch.arange(B))[0], untouched)


@pytest.mark.parametrize("name", [name for name in catalog.AUGMENTATIONS if name != "none"])
def test_a_name_stands_for_its_listed_operations(name):
    listed = tuple(AugmentOp(name=op) for op in catalog.AUGMENTATIONS[name])
    assert torch.equal(_batch(_split(), name)[0], _batch(_split(), listed)[0])


def test_every_operation_of_the_catalogue_has_an_implementation():
    from cifar_hpc.data import mixing

    made = {*pixels.OPERATIONS, *pixels.GEOMETRIC, *policies.OPERATIONS, *mixing.OPERATIONS}
    assert made == set(catalog.AUGMENT_OPS)


def test_an_unknown_operation_is_refused_with_the_nearest():
    with pytest.raises(CifarHpcError, match="'rotate'"):
        resolve((AugmentOp(name="rotat"),))
    with pytest.raises(CifarHpcError, match="'degrees'"):
        resolve((AugmentOp(name="rotate", args=(("degree", 3.0),)),))
    with pytest.raises(CifarHpcError, match="last"):
        resolve((AugmentOp(name="mixup"), AugmentOp(name="flip")))


@pytest.mark.parametrize("name", catalog.AUGMENT_OPS)
def test_an_operation_does_without_kornia_or_says_at_once_that_it_is_missing(monkeypatch, name):
    for module in ("kornia", "kornia.enhance", "kornia.filters"):
        monkeypatch.setitem(sys.modules, module, None)
    operations = (AugmentOp(name=name),)
    if name in KORNIA_OPS:
        with pytest.raises(CifarHpcError, match=f"augment {name}: kornia, .* pip install 'kornia>=0.8'"):
            _batches(_split(), operations)
    else:
        _batches(_split(), operations).train_batch(torch.arange(B), torch.Generator())


# --- geometry and colour against torchvision -------------------------------------------------------------------------


@pytest.mark.parametrize(("degrees", "right", "down", "scale"), [(20, 0, 0, 1), (0, 3, -5, 1), (0, 0, 0, 1.2), (0, 0, 0, 0.8)])
def test_geometric_maps_agree_with_torchvision(degrees, right, down, scale):
    x_NCHW = _split().images_NCHW.float() / 255
    maps = pixels.rotation_maps(torch.full((B,), float(degrees)))
    maps = maps @ pixels.translation_maps(torch.full((B,), right / 32), torch.full((B,), down / 32))
    maps = maps @ pixels.scale_maps(torch.full((B,), scale), torch.full((B,), scale))
    expected = exact.affine(x_NCHW, -degrees, [right, down], scale, [0.0, 0.0], exact.InterpolationMode.BILINEAR)
    torch.testing.assert_close(pixels.warp(x_NCHW, maps[:, :2]), expected, rtol=0, atol=1e-4)


def test_neighbouring_geometric_operations_are_resampled_once():
    there = (AugmentOp(name="rotate", args=(("degrees", 0.0),)), AugmentOp(name="scale", args=(("frac", 0.0),)))
    split = _split()
    torch.testing.assert_close(_batch(split, there)[0], split.images_NCHW / 255, rtol=0, atol=1e-5)


@pytest.mark.parametrize("strength", [-0.5, 0.7])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Brightness", exact.adjust_brightness),
        ("Color", exact.adjust_saturation),
        ("Contrast", exact.adjust_contrast),
        ("Sharpness", exact.adjust_sharpness),
    ],
)
def test_enhancing_operations_agree_with_torchvision(name, expected, strength):
    x_NCHW = _split().images_NCHW / 255
    ours = policies._COLOUR[name](x_NCHW.clone(), torch.full((B,), strength))
    torch.testing.assert_close(ours, expected(x_NCHW, 1 + strength), rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("name", "strength", "expected"),
    [
        ("Posterize", 3.0, lambda image: exact.posterize(image, 3)),
        ("Solarize", 100 / 255, lambda image: exact.solarize(image, 100)),
        ("AutoContrast", 0.0, exact.autocontrast),
        ("Equalize", 0.0, exact.equalize),
        ("Invert", 0.0, exact.invert),
    ],
)
def test_tone_operations_agree_with_torchvision_to_a_gray_level(name, strength, expected):
    images = _split().images_NCHW
    ours = policies._COLOUR[name](images / 255, torch.full((B,), strength)) * 255
    assert (ours - expected(images)).abs().max() <= 1.01


@pytest.mark.parametrize(
    ("ours", "bins", "theirs", "arguments"),
    [
        (policies._RANDAUGMENT, 31, reference.RandAugment(), (31, (224, 224))),
        (policies._AUTOAUGMENT, 10, reference.AutoAugment(), (10, (224, 224))),
        (policies._TRIVIALAUGMENT, 31, reference.TrivialAugmentWide(), (31,)),
    ],
    ids=["randaugment", "autoaugment", "trivialaugment"],
)
def test_the_policies_have_the_published_operations_and_strengths(ours, bins, theirs, arguments):
    published = theirs._augmentation_space(*arguments)
    strengths = dict(zip(ours, policies.strength_table(ours, bins, 1.0), strict=True))
    assert set(ours) | {"Identity"} == set(published) | {"Identity"}
    for name, (values, signed) in published.items():
        assert ours[name][1] == signed
        scale = {"Solarize": 255, "TranslateX": 224, "TranslateY": 224}.get(name, 1) if len(arguments) > 1 else 1
        scale = 255 if name == "Solarize" else scale
        torch.testing.assert_close(strengths[name] * scale, values.float().expand(bins), rtol=1e-4, atol=1e-4)


# --- mixing ----------------------------------------------------------------------------------------------------------


def test_mixup_mixes_images_and_targets_by_one_share():
    split = _split()
    plain = split.images_NCHW / 255
    x_NCHW, y_NK = _batch(split, (AugmentOp(name="mixup"),), seed=4)
    generator = torch.Generator().manual_seed(4)
    share = float(torch.rand((), generator=generator, dtype=torch.float64))  # Beta(1, 1) is uniform
    partner = torch.randperm(B, generator=generator)
    torch.testing.assert_close(x_NCHW, share * plain + (1 - share) * plain[partner])
    one_hot = torch.nn.functional.one_hot(split.labels_N, 4)
    torch.testing.assert_close(y_NK, share * one_hot + (1 - share) * one_hot[partner])


def test_cutmix_targets_are_the_share_of_pixels_that_came_from_each_image():
    split = _split()
    plain = split.images_NCHW / 255
    x_NCHW, y_NK = _batch(split, (AugmentOp(name="cutmix"),), seed=1)
    kept = torch.isclose(x_NCHW, plain, atol=1e-6).all(1).float().mean((1, 2))
    other_class = y_NK.max(1).values < 1
    assert other_class.any()
    own = y_NK[torch.arange(B), split.labels_N]
    torch.testing.assert_close(own[other_class], kept[other_class], rtol=0, atol=0.01)


def test_the_mixing_share_follows_the_beta_distribution():
    from cifar_hpc.data.mixing import draw_share

    generator = torch.Generator().manual_seed(0)
    shares = torch.tensor([draw_share(0.2, generator) for _ in range(2000)])
    assert abs(shares.mean() - 0.5) < 0.03
    assert abs(shares.var() - 1 / (4 * 1.4)) < 0.01  # variance of Beta(a, a): 1 / (4 (2a + 1))


# --- resizing, channels ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image_size", [16, 64])
def test_resizing_is_bilinear_and_antialiased_where_it_shrinks(image_size):
    split = _split()
    x_NCHW, _ = _batches(split, image_size=image_size).eval_batch(torch.arange(B))
    expected = exact.resize(split.images_NCHW / 255, [image_size] * 2, antialias=True)
    torch.testing.assert_close(x_NCHW, expected, rtol=0, atol=1e-5)


def test_images_are_normalised_by_channel():
    split = _split()
    x_NCHW, y_N = _batches(split, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0)).eval_batch(torch.tensor([5, 2]))
    expected = exact.normalize(split.images_NCHW[[5, 2]] / 255, [0.1, 0.2, 0.3], [0.5, 0.25, 2.0])
    torch.testing.assert_close(x_NCHW, expected, rtol=0, atol=1e-5)
    assert y_N.tolist() == [1, 2]


def test_gray_images_are_repeated_for_a_network_of_three_channels():
    split = _split(channels=1)
    batches = _batches(split, "cutout", in_channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2))
    for x_NCHW, _ in (batches.eval_batch(torch.arange(B)), batches.train_batch(torch.arange(B), torch.Generator())):
        assert x_NCHW.shape == (B, 3, 32, 32)
        torch.testing.assert_close(x_NCHW[:, 0] * 0.2 + 0.4, x_NCHW[:, 2] * 0.2 + 0.6)
