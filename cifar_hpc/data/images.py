"""One image file of a stranger -> a square of uint8 pixels, or a DataError that names the file and says why.

Owns: what is refused before it is decoded, how pixels of any range become 0..255, transparency, resizing. Knows nothing of
folders and classes. Whatever a library raises on a file is that file's fault.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cifar_hpc.config.image_folder import printable
from cifar_hpc.errors import DataError

MOST_PIXELS = 2**27  # 134 million: 512 MB decoded, at 4 bytes a pixel
MOST_ASPECT = 100  # longer side over shorter
BACKGROUND = (128, 128, 128)  # behind transparent pixels: neither white nor black shapes vanish on it
_SAVE = "save it with 8 or 16 bits"
_TURNS = {  # EXIF's orientation -> what shows the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")


@dataclass(frozen=True, slots=True)
class Fit:
    """How an image becomes a square. side: pixels; resize, crop_frac: see TrialConfig; gray: one channel, the luminance of
    ITU-R 601-2."""

    side: int
    resize: str = "crop"
    crop_frac: float = 1.0
    gray: bool = False

    @property
    def label(self) -> str:
        frac = f"{self.crop_frac:g}" if self.resize == "crop" and self.crop_frac != 1 else ""
        return f"{self.side}-{self.resize}{frac}{'-gray' if self.gray else ''}"

    @property
    def shape(self) -> tuple[int, int, int]:
        return (1 if self.gray else 3, self.side, self.side)


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """width, height: pixels as shown; mode: PIL's word for its pixels; frames: whether there are more than the first, which is
    the one that is used."""

    width: int
    height: int
    mode: str
    frames: bool


def decode_image(path: Path, fit: Fit) -> NDArray[np.uint8]:
    """CHW uint8: turned as its EXIF says, transparency over BACKGROUND, then fitted. An image that is of the right size already
    is not resampled (with a crop_frac of 1). Raises DataError."""
    with _faults_of(path):
        image = _fitted(_rgb(path), fit)
        if fit.gray:
            image = image.convert("L")
        return np.asarray(image, dtype=np.uint8).reshape(fit.side, fit.side, -1).transpose(2, 0, 1)


def look_at(path: Path) -> ImageFacts:
    """Decodes an image, a JPEG at an eighth of its size, to learn whether it is whole. Raises DataError."""
    with _faults_of(path):
        image = _opened(path)
        width, height, mode = *image.size, image.mode
        if "transparency" in image.info and mode in ("1", "L", "P", "RGB"):
            mode = f"{mode} with a clear colour"
        frames = bool(getattr(image, "is_animated", False))
        image.draft(None, (width // 8 + 1, height // 8 + 1))
        image.load()
        if mode.startswith(("I", "F")):
            _eight_bits(image)
        if _orientation(image) >= 5:  # shown turned by a quarter
            width, height = height, width
        return ImageFacts(width, height, mode, frames)


def has_frames(path: Path) -> bool:
    """Whether an image that can be read has more frames than the first, which is the one that is used."""
    with _faults_of(path), _opened(path) as image:
        return bool(getattr(image, "is_animated", False))


@contextmanager
def quiet() -> Iterator[None]:
    """What PIL only warns of (metadata that it cannot read) is not said."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _faults_of(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(f"{printable(str(path))} {error}") from error.__cause__
    except Exception as error:
        why = str(error).strip().split("\n")[0].replace(str(path), path.name) or type(error).__name__
        raise DataError(f"{printable(str(path))} is not a whole image ({printable(why)})") from error


def _opened(path: Path) -> Image.Image:
    """The image with its header read. Raises DataError, without the path, where it would be refused."""
    if not path.is_file():
        raise DataError("is no regular file")
    try:
        image = Image.open(path)
    except ValueError:  # text or a profile that is too large when unpacked: neither is pixels
        plain = _without_text(path.read_bytes())
        if plain is None:
            raise
        image = Image.open(io.BytesIO(plain))
    except Image.DecompressionBombError:
        raise DataError(f"has more than {MOST_PIXELS:,} pixels, which is refused") from None
    if image.format == "EPS":
        raise DataError("is PostScript, a program that would be run to see it")
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise DataError(f"is {width} x {height} pixels; more than {MOST_PIXELS:,} are refused")
    if max(width, height) > MOST_ASPECT * min(width, height):
        raise DataError(f"is {width} x {height} pixels; an aspect above {MOST_ASPECT} to 1 is refused")
    return image


def _without_text(data: bytes) -> bytes | None:
    """A PNG without its chunks of text and colour profile; None where the file is no PNG."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return None
    kept, at = [data[:8]], 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind not in _TEXT_CHUNKS:
            kept.append(data[at : at + 12 + length])
        at += 12 + length
    return b"".join(kept)


def _rgb(path: Path) -> Image.Image:
    image = _opened(path)
    image.load()
    turn = _TURNS.get(_orientation(image))
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    if turn is not None:
        image = image.transpose(turn)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        clear = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", clear.size, (*BACKGROUND, 255)), clear)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Gray pixels of more than 8 bits, scaled by the range of their format. Raises DataError, without the path."""
    if image.mode == "F":
        values = np.asarray(image)
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):
            raise DataError(f"has float pixels of {low:g} to {high:g}, of which only 0 to 1 has a meaning; {_SAVE}")
        scaled = np.rint(values * 255)
    else:
        scaled = np.rint(np.asarray(image).astype(np.float64) * (255 / _largest(image)))
    return Image.fromarray(scaled.astype(np.uint8))


def _largest(image: Image.Image) -> int:
    """The largest value of the format of an image of integers."""
    bits = 16
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        bits = int(tags.get(258, (16,))[0])
        signed = int(tags.get(339, (1,))[0]) == 2
        if signed or bits > 16:
            kind = f"{'signed ' if signed else ''}{bits}-bit"
            raise DataError(f"has {kind} integer pixels, whose range says nothing; {_SAVE}")
    largest = 2**bits - 1
    found = int(np.asarray(image).max(initial=0))
    if found > largest or int(np.asarray(image).min(initial=0)) < 0:
        raise DataError(f"has 32-bit integer pixels, whose range says nothing; {_SAVE}")
    return int(largest)


def _orientation(image: Image.Image) -> int:
    """EXIF's, 1 to 8; 1 where there is none or it cannot be read, which spoils no pixel."""
    try:
        found = image.getexif().get(0x0112, 1)
    except Exception:
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _fitted(image: Image.Image, fit: Fit) -> Image.Image:
    """side x side; bilinear, antialiased where it shrinks."""
    side, (wide, high) = fit.side, image.size
    if fit.resize == "squash":
        return _resized(image, side, side)
    if fit.resize == "pad":
        scale = side / max(wide, high)
        inner = _resized(image, max(1, round(wide * scale)), max(1, round(high * scale)))
        framed = Image.new("RGB", (side, side), BACKGROUND)
        framed.paste(inner, ((side - inner.width) // 2, (side - inner.height) // 2))
        return framed
    shorter = max(side, round(side / fit.crop_frac))
    scale = shorter / min(wide, high)
    inner = _resized(image, max(shorter, round(wide * scale)), max(shorter, round(high * scale)))
    left, top = (inner.width - side) // 2, (inner.height - side) // 2
    return inner.crop((left, top, left + side, top + side))


def _resized(image: Image.Image, width: int, height: int) -> Image.Image:
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)
