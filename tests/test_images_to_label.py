"""Images to label: what of a folder is read, and what is left out and told."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image

from cifar_hpc.data.folder import load_images
from cifar_hpc.data.images import Fit


def test_of_several_frames_the_first_is_labelled_and_that_is_told(tmp_path):
    frames = [Image.fromarray(np.full((16, 16), value, np.uint8)) for value in (10, 200)]
    frames[0].save(tmp_path / "two.tiff", save_all=True, append_images=frames[1:])
    frames[1].save(tmp_path / "one.png")
    loaded = load_images(tmp_path, Fit(16))
    assert (loaded.names, loaded.frames) == (("one.png", "two.tiff"), ("two.tiff",))


def test_what_is_labelled_and_what_is_left_out_are_both_told(tmp_path):
    root = tmp_path / "own"
    (root / "new").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(root / "new" / f"{number}.png")
    (root / "new" / "1.png").write_bytes(b"broken")
    (root / "new" / "2.png").rename(root / "new" / "noname")
    (root / "new" / "x.heic").write_bytes(b"x")
    (root / "new" / "lost.png").symlink_to("nowhere.png")
    os.mkfifo(root / "new" / "pipe.png")
    loaded = load_images(root, Fit(16))
    assert loaded.names == ("new/0.png", "new/noname")
    assert loaded.images_NCHW.shape == (2, 3, 16, 16)
    told = ("new/lost.png: a link to nothing", "new/pipe.png: a named pipe, not a file", "x.heic", "1.png is not a whole")
    assert len(loaded.left_out) == 4 and all(any(one in line for line in loaded.left_out) for one in told), loaded.left_out
