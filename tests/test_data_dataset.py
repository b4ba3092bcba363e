"""A data set as a trial sees it: classes, splits, one's own folder, the contact sheet."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.image_folder import folder_fingerprint, list_folder
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.data.contact_sheet import contact_sheet
from cifar_hpc.data.dataset import STATISTICS, load_dataset
from cifar_hpc.data.files import why_missing
from cifar_hpc.data.folder import load_images
from cifar_hpc.data.images import Fit
from cifar_hpc.errors import DataError
from tests.helpers.official_files import write_cifar10_binary, write_idx

DIGITS = DatasetConfig(name="digits")


def _picture(path, *, shape=(40, 60), colour=(200, 30, 30), exif=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (shape[1], shape[0]), colour)
    image.paste((0, 0, 255), (0, 0, shape[1], shape[0] // 2))  # upper half blue
    image.save(path, exif=exif) if exif else image.save(path)


@pytest.fixture
def own(tmp_path):
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        for label, name in enumerate(("ant", "bee")):
            for number in range(count):
                _picture(tmp_path / "own" / split / name / f"{number}.png", colour=(40 * number, 100 * label, 0))
    return tmp_path / "own"


def _config(own, **keys):
    return DatasetConfig(name="folder", folder=str(own), fingerprint=folder_fingerprint(list_folder(own)), **keys)


def test_splits_are_disjoint_and_the_same_for_every_seed_of_a_sweep(tmp_path):
    data = load_dataset(DIGITS, 8, tmp_path)
    positions = [set(split.index_N.tolist()) for split in (data.train, data.val, data.test)]
    assert set.union(*positions) == set(range(1797))
    assert sum(map(len, positions)) == 1797
    assert load_dataset(DIGITS, 8, tmp_path).sha256 == data.sha256
    other = load_dataset(dataclasses.replace(DIGITS, split_seed=1), 8, tmp_path)
    assert other.sha256 != data.sha256
    assert torch.equal(other.test.index_N, data.test.index_N)


def test_train_size_counts_the_images_before_the_validation_split(tmp_path):
    data = load_dataset(dataclasses.replace(DIGITS, train_size=200, val_frac=0.2), 8, tmp_path)
    assert (len(data.train.labels_N), len(data.val.labels_N)) == (160, 40)


def test_positions_name_the_images_of_the_official_split(tmp_path):
    write_cifar10_binary(tmp_path)
    whole = np.concatenate([np.fromfile(tmp_path / f"data_batch_{i}.bin", np.uint8).reshape(-1, 3073) for i in range(1, 6)])
    data = load_dataset(DatasetConfig(name="cifar10", val_frac=0.2, classes=("cat", "dog", "ship")), 32, tmp_path)
    assert data.classes == ("cat", "dog", "ship")
    for split in (data.train, data.val):
        records = whole[split.index_N.numpy()]
        np.testing.assert_array_equal(records[:, 1:].reshape(-1, 3, 32, 32), split.images_NCHW.numpy())
        assert [(3, 5, 8)[label] for label in split.labels_N] == records[:, 0].tolist()


def test_statistics_of_digits_are_those_of_its_pixels(tmp_path):
    data = load_dataset(DIGITS, 8, tmp_path)
    images = torch.cat([split.images_NCHW for split in (data.train, data.val)]).float() / 255
    mean, std = STATISTICS["digits"]
    assert images.mean().item() == pytest.approx(mean[0], abs=1e-3)
    assert images.std().item() == pytest.approx(std[0], abs=1e-3)


def test_every_data_set_has_statistics_for_its_channels(tmp_path):
    write_idx(tmp_path / "fashion_mnist", packed=True)
    data = load_dataset(DatasetConfig(name="fashion_mnist", val_frac=0.25), 28, tmp_path)
    assert data.channels == len(data.mean) == len(data.std) == 1


def test_an_unknown_class_is_refused_with_the_nearest(tmp_path):
    write_cifar10_binary(tmp_path)
    with pytest.raises(DataError, match="'airplane'"):
        load_dataset(DatasetConfig(name="cifar10", classes=("aeroplane", "cat")), 32, tmp_path)


def test_a_folder_s_own_val_and_test_are_used_whole(own, tmp_path):
    data = load_dataset(_config(own), 16, tmp_path)
    assert data.classes == ("ant", "bee")
    assert [len(split.labels_N) for split in (data.train, data.val, data.test)] == [12, 4, 6]
    assert data.train.images(torch.arange(12)).shape == (12, 3, 16, 16)


def test_a_folder_without_val_is_split_and_without_test_has_none(own, tmp_path):
    for part in ("val", "test"):
        (own / part).rename(own.parent / part)
    data = load_dataset(_config(own, val_frac=0.5), 16, tmp_path)
    assert (len(data.train.labels_N), len(data.val.labels_N), data.test) == (6, 6, None)


def test_an_unlabelled_test_folder_is_no_test_split_but_can_be_loaded(own, tmp_path):
    (own / "test").rename(own.parent / "labelled")
    for number in range(3):
        _picture(own / "test" / f"{number}.jpg")
    assert load_dataset(_config(own), 16, tmp_path).test is None
    loaded = load_images(own / "test", Fit(16))
    assert loaded.images_NCHW.shape == (3, 3, 16, 16)
    assert loaded.names == ("0.jpg", "1.jpg", "2.jpg")
    assert torch.equal(load_images(own / "test" / "1.jpg", Fit(16)).images_NCHW[0], loaded.images_NCHW[1])


def test_images_are_resized_by_the_shorter_side_and_cropped_in_the_centre(tmp_path):
    _picture(tmp_path / "wide.png", shape=(70, 140))
    images = load_images(tmp_path, Fit(32)).images_NCHW
    assert images.shape == (1, 3, 32, 32)
    assert images[0, 2, :14].min() > 240  # the upper half stays the upper half
    assert images[0, 2, 18:].max() < 60


def test_an_exif_rotation_is_honoured(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    _picture(tmp_path / "turned.png", shape=(40, 40), exif=exif)
    images = load_images(tmp_path, Fit(32)).images_NCHW
    assert images[0, 2, :, 20:].min() > 240  # what was above is to the right
    assert images[0, 2, :, :12].max() < 60


@pytest.mark.parametrize("data", [b"", b"no image at all", None])
def test_a_corrupt_image_is_named(own, tmp_path, data):
    bad = own / "train" / "bee" / "3.png"
    bad.write_bytes(bad.read_bytes()[:60] if data is None else data)
    with pytest.raises(DataError, match=r"bee/3\.png is not a whole image"):
        load_dataset(_config(own), 16, tmp_path)


def test_decoded_images_are_kept_by_fingerprint_and_size(own, tmp_path, monkeypatch):
    first = load_dataset(_config(own), 16, tmp_path)
    kept = sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert len(kept) == 1 and kept[0].endswith("-16-crop.npy")
    monkeypatch.setattr("cifar_hpc.data.folder.decode_image", None)  # nothing is decoded again
    assert load_dataset(_config(own), 16, tmp_path).sha256 == first.sha256
    for keys in ({"image_size": 24}, {"resize": "pad"}, {"crop_frac": 0.875}):
        with pytest.raises(TypeError):
            load_dataset(_config(own), root=tmp_path, **{"image_size": 16, **keys})


def test_a_corrupt_cache_is_made_again(own, tmp_path):
    first = load_dataset(_config(own), 16, tmp_path)
    cache = next((tmp_path / "cache").rglob("*.npy"))
    cache.write_bytes(cache.read_bytes()[:500])
    assert load_dataset(_config(own), 16, tmp_path).sha256 == first.sha256


def test_a_cache_that_cannot_be_written_is_done_without(own, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert len(load_dataset(_config(own), 16, tmp_path).train.labels_N) == 12


def test_a_folder_that_changed_since_it_was_planned_is_refused(own, tmp_path):
    config = _config(own)
    _picture(own / "train" / "ant" / "late.png")
    with pytest.raises(DataError, match="changed since the sweep was planned"):
        load_dataset(config, 16, tmp_path)


def test_a_folder_that_is_not_there_is_told_without_a_fetch_line(own, tmp_path):
    assert why_missing(_config(own), tmp_path) is None
    assert "is not there" in why_missing(DatasetConfig(name="folder", folder=str(tmp_path / "gone")), tmp_path)


def test_a_test_class_unknown_to_train_is_refused(own, tmp_path):
    _picture(own / "test" / "wasp" / "0.png")
    with pytest.raises(DataError, match="wasp"):
        load_dataset(_config(own), 16, tmp_path)


def test_a_contact_sheet_shows_each_image_and_its_draws(tmp_path):
    config = TrialConfig(dataset=DIGITS, arch="linear", augment="mixup", image_size=16)
    sheet = contact_sheet(config, tmp_path, rows=5, draws=3)
    assert sheet.pixels_RMCHW.shape == (5, 4, 1, 16, 16)
    assert sheet.row_labels == ("0", "1", "2", "3", "4")
    assert sheet.targets_RMK[:, 0].argmax(1).tolist() == [0, 1, 2, 3, 4]
    assert sheet.targets_RMK[:, 1:].max(2).values.min() < 1
    assert not torch.equal(sheet.pixels_RMCHW[:, 0], sheet.pixels_RMCHW[:, 1])
