"""Images as people have them: what each pixel format, file and folder becomes, or the sentence that refuses it."""

from __future__ import annotations

import dataclasses
import os
import struct
import unicodedata
import weakref
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.image_folder import folder_fingerprint, list_folder
from cifar_hpc.config.normalize import normalise
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.data import folder as folder_room
from cifar_hpc.data.batches import Batches
from cifar_hpc.data.dataset import load_dataset, pixel_statistics
from cifar_hpc.data.images import Fit, decode_image, look_at
from cifar_hpc.errors import DataError

RAMP = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32) * 63  # 0..64449
EIGHT = np.rint(RAMP * (255 / 65535)).astype(np.uint8)


def _picture(path, colour=(200, 30, 30), size=(32, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def _folder(root, splits=("train",), classes=("a", "b"), count=3):
    for split in splits:
        for label, name in enumerate(classes):
            for number in range(count):
                _picture(root / split / name / f"{number}.png", (number, 100 * label, len(split)))
    return root


def _config(root, **keys):
    return DatasetConfig(name="folder", folder=str(root), fingerprint=folder_fingerprint(list_folder(root)), **keys)


def _pgm(path, values, largest):
    path.write_bytes(f"P5\n{values.shape[1]} {values.shape[0]}\n{largest}\n".encode() + values.astype(">u2").tobytes())


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.jp2", "x.pgm"])
def test_sixteen_bit_grays_are_scaled_by_their_range(tmp_path, name):
    path = tmp_path / name
    if name.endswith("pgm"):
        _pgm(path, RAMP, 65535)
    else:
        Image.fromarray(RAMP).save(path)
    pixels = decode_image(path, Fit(32))
    assert pixels.shape == (3, 32, 32)
    assert np.abs(pixels.astype(int) - EIGHT).max() <= 1


def test_ten_bit_grays_are_scaled_by_the_range_that_the_file_states(tmp_path):
    _pgm(tmp_path / "x.pgm", RAMP >> 6, 1023)
    assert np.abs(decode_image(tmp_path / "x.pgm", Fit(32)).astype(int) - EIGHT).max() <= 1


def test_floats_of_0_to_1_are_scaled_and_others_are_refused_by_name(tmp_path):
    unit = (RAMP / 65535).astype(np.float32)
    Image.fromarray(unit).save(tmp_path / "unit.tif")
    assert np.abs(decode_image(tmp_path / "unit.tif", Fit(32)).astype(int) - EIGHT).max() <= 1
    Image.fromarray(unit * 255).save(tmp_path / "wide.tif")
    with pytest.raises(DataError, match=r"wide\.tif has float pixels of 0 to 250\.\d+, of which only 0 to 1"):
        decode_image(tmp_path / "wide.tif", Fit(32))
    unit[0, 0] = np.nan
    Image.fromarray(unit).save(tmp_path / "nan.tif")
    with pytest.raises(DataError, match=r"nan\.tif has float pixels of nan"):
        look_at(tmp_path / "nan.tif")


def test_integers_whose_range_says_nothing_are_refused_by_name(tmp_path):
    Image.fromarray(RAMP.astype(np.int32)).save(tmp_path / "i.tif")
    with pytest.raises(DataError, match=r"i\.tif has signed 32-bit integer pixels"):
        decode_image(tmp_path / "i.tif", Fit(32))


@pytest.mark.parametrize("ink", [0, 255])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "clear colour"])
def test_a_shape_in_the_alpha_channel_alone_is_seen(tmp_path, ink, mode):
    shape = np.zeros((32, 32), np.uint8)
    shape[8:24] = 255
    if mode == "clear colour":
        image = Image.fromarray(np.where(shape, ink, 77).astype(np.uint8))
        image.save(tmp_path / "x.png", transparency=77)
    else:
        channels = 1 if mode == "LA" else 3
        pixels = np.dstack([np.full_like(shape, ink)] * channels + [shape])
        Image.fromarray(pixels).save(tmp_path / "x.png")
    seen = decode_image(tmp_path / "x.png", Fit(32))
    assert (seen[:, 16] == ink).all() and (seen[:, 2] == 128).all()


def test_a_clear_colour_is_told_of_black_and_white_images_too(tmp_path):
    Image.new("1", (32, 32), 1).save(tmp_path / "x.png", transparency=1)
    assert (decode_image(tmp_path / "x.png", Fit(32)) == 128).all()
    assert look_at(tmp_path / "x.png").mode == "1 with a clear colour"


def test_a_png_with_a_large_text_is_read(tmp_path):
    notes = PngImagePlugin.PngInfo()
    notes.add_text("comment", "x" * 2_000_000, zip=True)
    Image.fromarray(EIGHT).save(tmp_path / "x.png", pnginfo=notes)
    assert np.array_equal(decode_image(tmp_path / "x.png", Fit(32))[0], EIGHT)


def test_exif_that_cannot_be_read_spoils_no_pixel(tmp_path):
    Image.fromarray(EIGHT).save(tmp_path / "x.png", exif=b"Exif\0\0no header at all")
    assert np.array_equal(decode_image(tmp_path / "x.png", Fit(32))[0], EIGHT)


def _png_of(path, width, height):
    """A PNG of one colour, made row by row."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compressobj(9)
    body = b"".join(rows.compress(bytes(1 + width)) for _ in range(height)) + rows.flush()
    chunks = [(b"IHDR", head), (b"IDAT", body), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    )


@pytest.mark.parametrize(("width", "height"), [(1, 200_000), (20_000, 20_000), (12_000, 12_000)])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch, width, height):
    path = tmp_path / "bomb.png"
    _png_of(path, width, height if width == 1 else 1)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", width, height)  # the header alone decides
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    for read in (look_at, lambda path: decode_image(path, Fit(32))):
        with pytest.raises(DataError, match=r"bomb\.png .*refused"):
            read(path)


def test_postscript_under_an_images_name_is_never_run(tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *given: pytest.fail("run"))
    for read in (look_at, lambda path: decode_image(path, Fit(32))):
        with pytest.raises(DataError, match=r"x\.png is PostScript, a program"):
            read(tmp_path / "x.png")


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
def test_an_image_of_the_right_size_stays_as_it_is(tmp_path, resize):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.png")
    assert np.array_equal(decode_image(tmp_path / "x.png", Fit(32, resize)), noise.transpose(2, 0, 1))


def test_crop_cuts_squash_distorts_and_pad_frames(tmp_path):
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, :20] = 255
    Image.fromarray(wide).save(tmp_path / "x.png")
    crop, squash, pad = (decode_image(tmp_path / "x.png", Fit(40, resize))[0] for resize in ("crop", "squash", "pad"))
    assert not crop.any()
    assert (squash[:, :8] > 250).all() and (squash[:, 12:] < 5).all()
    assert (pad[:9] == 128).all() and (pad[31:] == 128).all() and (pad[12:28, :8] > 250).all()
    Image.fromarray(wide[:, :40]).save(tmp_path / "square.png")
    cut = decode_image(tmp_path / "square.png", Fit(40, "crop", 0.5))[0]
    assert (cut[:, :18] > 250).all() and (cut[:, 22:] < 5).all()


def test_how_images_are_fitted_is_part_of_the_id_where_it_acts():
    plain = TrialConfig(dataset=DatasetConfig(name="folder", folder="x", fingerprint="0" * 16), arch="linear", image_size=32)
    ids = {
        normalise(dataclasses.replace(plain, **keys)).trial_id
        for keys in ({}, {"resize": "pad"}, {"resize": "squash"}, {"crop_frac": 0.875}, {"resize": "pad", "crop_frac": 0.5})
    }
    assert len(ids) == 4
    fixed = dataclasses.replace(plain, dataset=DatasetConfig(name="cifar10"))
    assert normalise(dataclasses.replace(fixed, resize="pad", crop_frac=0.5)).trial_id == fixed.trial_id


def test_a_folder_is_normalised_by_the_pixels_that_are_trained_on(tmp_path):
    root = _folder(tmp_path / "own", count=8)
    data = load_dataset(_config(root, val_frac=0.25), 32, tmp_path)
    pixels = data.train.images(torch.arange(len(data.train.labels_N))).double() / 255
    assert data.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert data.std[:2] == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist()[:2], abs=1e-12)
    assert data.std[2] == 1.0  # the same everywhere
    assert pixel_statistics(data.train) == (data.mean, data.std)


def test_batches_from_the_map_are_those_of_images_in_memory(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "own" / name).mkdir(parents=True)
        for number in range(6):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / "own" / name / f"{number}.png")
    data = load_dataset(_config(tmp_path / "own", val_frac=0.25), 16, tmp_path)
    held = dataclasses.replace(data.train, images_NCHW=data.train.images(torch.arange(len(data.train.labels_N))), rows_N=None)
    made = [
        Batches(
            split,
            image_size=16,
            in_channels=3,
            mean=data.mean,
            std=data.std,
            augment="cutout",
            num_classes=2,
            device=torch.device("cpu"),
        )
        for split in (data.train, held)
    ]
    index_B = torch.tensor([4, 0, 7, 7])
    pairs = [(b.eval_batch(index_B), b.train_batch(index_B, torch.Generator().manual_seed(1))) for b in made]
    for one, other in zip(*pairs, strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_every_broken_file_is_named_at_once(tmp_path):
    root = _folder(tmp_path / "own")
    for name in ("a/1.png", "b/2.png"):
        (root / "train" / name).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"(?s)a/1\.png is not a whole image.*b/2\.png is not a whole image"):
        load_dataset(_config(root, val_frac=0.35), 32, tmp_path)
    assert list((tmp_path / "cache").iterdir()) == []


def test_few_images_are_in_memory_at_once(tmp_path, monkeypatch):
    root = _folder(tmp_path / "own", count=40)
    alive, most = 0, 0

    class Pixels(np.ndarray):
        pass

    def decode(path, fit):
        nonlocal alive, most
        pixels = np.zeros(fit.shape, np.uint8).view(Pixels)
        alive += 1
        most = max(most, alive)

        def gone():
            nonlocal alive
            alive -= 1

        weakref.finalize(pixels, gone)
        return pixels

    monkeypatch.setattr(folder_room, "decode_image", decode)
    monkeypatch.setattr(folder_room, "_CHUNK", 4)
    load_dataset(_config(root), 32, tmp_path)
    assert most <= 8


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_without_train_is_its_classes(tmp_path):
    root = _folder(tmp_path / "own", splits=("",))
    listing = list_folder(root)
    assert listing.classes == ("a", "b")
    assert any("no train/" in note for note in listing.notes(None, 0.1))
    before = folder_fingerprint(listing)
    (tmp_path / "other").mkdir()
    root.rename(tmp_path / "other" / "train")
    assert folder_fingerprint(list_folder(tmp_path / "other")) == before


@pytest.mark.parametrize("splits", [("test",), ("val", "test")])
def test_a_test_or_val_without_train_is_to_mend(tmp_path, splits):
    assert f"{splits[0]}/ without a train/ beside it" in _wrong(_folder(tmp_path / "own", splits=splits))


@pytest.mark.parametrize("name", ["valid", "validation", "Val"])
def test_other_names_of_val_are_val(tmp_path, name):
    root = _folder(tmp_path / "own", splits=("Train", name))
    assert len(load_dataset(_config(root), 32, tmp_path).val.labels_N) == 6
    _folder(root, splits=("val",))
    assert f"{min(name, 'val')}/, {max(name, 'val')}/ mean the same: keep one" in _wrong(root)


def _wrong(root, classes=None, val_frac=0.35):
    return "\n".join(list_folder(root).problems(classes, val_frac))


def test_images_outside_the_class_folders_are_a_problem_that_names_them(tmp_path):
    root = _folder(tmp_path / "own")
    _picture(root / "val" / "0.png")
    assert "val/0.png: 1 image beside its class folders, of no class" in _wrong(root)
    (root / "val" / "0.png").unlink()
    assert "val/ holds no class folders" in _wrong(root)
    (root / "val").rmdir()
    assert _wrong(root) == ""
    _picture(root / "train" / "loose.png")
    _picture(root / "beside.png")
    assert "train/loose.png" in _wrong(root) and "beside.png" in _wrong(root)


def test_an_unknown_folder_with_images_is_named_and_other_files_are_told_of(tmp_path):
    root = _folder(tmp_path / "own")
    (root / "labels.csv").write_text("x")
    (root / "notes").mkdir()
    listing = list_folder(root)
    assert listing.problems(None, 0.35) == []
    assert "left out, no images: notes/, labels.csv" in listing.notes(None, 0.1)
    _picture(root / "extra" / "0.png")
    assert "extra/ holds 1 image and is none of train/, val/" in _wrong(root)


def test_an_image_is_known_by_its_content_where_its_name_says_nothing(tmp_path):
    root = _folder(tmp_path / "own")
    (root / "train" / "a" / "0.png").rename(root / "train" / "a" / "photo")
    (root / "train" / "a" / "note.txt").write_text("x")
    listing = list_folder(root)
    assert len(listing.splits["train"]["a"]) == 3
    assert [entry.name for entry in listing.left_out] == ["train/a/note.txt"]


def test_a_class_without_images_is_named(tmp_path):
    root = _folder(tmp_path / "own")
    (root / "train" / "c").mkdir()
    assert _wrong(root) == ""
    assert "no class is made of c, which holds nothing" in list_folder(root).notes(None, 0.1)
    (root / "train" / "c" / "x.heic").write_bytes(b"x")
    assert "class 'c' holds no image, 1 file of another kind" in _wrong(root)
    assert _wrong(root, classes=("a", "b")) == ""
    (root / "train" / "c" / "x.heic").unlink()
    _folder(root, splits=("val",), classes=("a", "b", "c"))
    assert "class 'c' has 3 images in val/ and none to train on" in _wrong(root)


def test_class_names_that_differ_in_their_unicode_form_alone_are_told_apart(tmp_path):
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    root = _folder(tmp_path / "own", classes=(composed, apart))
    told = "'caf\\xe9' and 'cafe\\u0301' look the same"
    assert any(told in note for note in list_folder(root).notes(None, 0.1))
    other = _folder(_folder(tmp_path / "other", classes=("a", composed)), splits=("val",), classes=("a", apart))
    assert f"no class of train/; the classes are a, {composed}; {told} and are not" in _wrong(other)


def test_class_names_that_differ_in_outer_spaces_alone_are_told_apart(tmp_path):
    """A table of labels has them as one."""
    root = _folder(tmp_path / "own", classes=("a", "a ", "b"))
    assert any("'a ' and 'a' look the same and are two classes" in note for note in list_folder(root).notes(None, 0.1))


def test_a_class_of_one_image_and_validation_that_cannot_choose_are_refused(tmp_path):
    root = _folder(tmp_path / "own")
    _picture(root / "train" / "c" / "only.png")
    assert "c: one image" in _wrong(root)
    assert _wrong(root, val_frac=0.0) == ""
    assert "but at least one of each class" in " ".join(list_folder(root).notes(("a", "b"), 0.1))
    assert "but at least" not in " ".join(list_folder(root).notes(("a", "b"), 0.3))
    assert "but at least one of each class" in " ".join(list_folder(root).notes(("a", "b"), 0.3, train_size=4))
    assert "train_size 7: there are 6 images" in list_folder(root).problems(("a", "b"), 0.35, 7)[0]
    _folder(root, splits=("val",), classes=("a",))
    assert "val/ holds images of 'a' alone: validation cannot choose" in _wrong(root)
    assert _wrong(root, val_frac=0.0) == ""  # of folds, and of a refit: val/ joins train/
    assert not any("val/" in note for note in list_folder(root).notes(None, 0.0))
    _folder(root, splits=("val",), classes=("a", "b"))
    assert _wrong(root) == ""
    assert "val/ holds no image of c" in list_folder(root).notes(None, 0.1)


def test_a_link_to_nothing_and_a_pipe_are_named_at_once(tmp_path):
    root = _folder(tmp_path / "own")
    (root / "train" / "a" / "broken.png").symlink_to("/nowhere/at/all.png")
    os.mkfifo(root / "train" / "b" / "pipe.png")
    text = _wrong(root)
    assert "train/a/broken.png: a link to nothing" in text and "train/b/pipe.png: a named pipe, not a file" in text
    with pytest.raises(DataError, match=r"pipe\.png is no regular file"):
        decode_image(root / "train" / "b" / "pipe.png", Fit(8))


def test_each_real_folder_is_read_once_however_links_run(tmp_path):
    root = _folder(tmp_path / "own")
    _picture(tmp_path / "pool" / "x.png")
    (root / "train" / "a" / "up").symlink_to("..")
    (root / "train" / "a" / "home").symlink_to(tmp_path)
    (root / "train" / "b" / "pool").symlink_to(tmp_path / "pool")
    (tmp_path / "pool" / "round").symlink_to(root / "train" / "b")
    listing = list_folder(root)
    assert {name: len(paths) for name, paths in listing.splits["train"].items()} == {"a": 3, "b": 4}
    assert sorted(entry.name for entry in listing.left_out) == ["train/a/home/", "train/a/up/", "train/b/pool/round/"]


def test_a_file_name_that_is_no_utf_8_is_trained_on_and_a_class_of_such_a_name_is_refused(tmp_path):
    root = _folder(tmp_path / "own")
    odd = os.fsdecode(os.fsencode(root / "train" / "a") + b"/caf\xe9.png")
    _picture(root / "train" / "a" / "x.png")
    (root / "train" / "a" / "x.png").rename(odd)
    assert len(load_dataset(_config(root, val_frac=0.3), 32, tmp_path).train.labels_N) == 5
    (root / "train" / "a").rename(os.fsdecode(os.fsencode(root / "train") + b"/\xe9"))
    assert r"the class folder \xe9: its name is not UTF-8 text" in _wrong(root)
