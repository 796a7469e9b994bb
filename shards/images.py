"""Encoded images of any kind as pixels: one policy for all that reads files which others made.

Gray stays gray, everything else becomes RGB. What is transparent (alpha, or the level or colour of a PNG's tRNS chunk)
lies over black. 16-bit gray is scaled to 8 bits, level v to (v + 128) // 257; of 16-bit colours, which Pillow reads by
their upper bytes, 8 bits are left. Of several frames the first is taken. The orientation in EXIF is not applied, as
nowhere in the protocols of this field.
"""

import contextlib
import io
import os
import threading
from collections.abc import Iterator

import numpy as np
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from fracgen.shards.errors import LFS_ADVICE, LFS_POINTER, BadImageError, FracgenError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
"""Pillow's names of the formats that are read."""
_SMALL_PIXELS = 1 << 22
_PIXELS_AT_ONCE = 1 << 26
"""Of the large images that the threads of a process decode at the same time: at most some 0.5 GiB, or one image."""
_BAND_PIXELS = 1 << 20
_ALPHA_MODES = ("LA", "PA", "RGBA")
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}


def decode_picture(data: bytes, *, min_size: int = 0) -> PillowImage.Image:
    """An encoded image, decoded, in mode L where it is gray, else RGB.

    min_size: where above 0, a JPEG may be decoded at 1/2, 1/4 or 1/8 size, its sides no less than this.
    Raises BadImageError where it is no image of FORMATS, cut off or damaged, or has too many pixels for Pillow.
    """
    with open_picture(data) as picture:
        if min_size:
            picture.draft(None, (min_size, min_size))
        picture.load()
        return to_gray_or_rgb(picture)


@contextlib.contextmanager
def open_picture(data: bytes, formats: tuple[str, ...] | None = FORMATS) -> Iterator[PillowImage.Image]:
    """Open an encoded image, whose pixels are not read yet. formats: Pillow's names; None for all that it knows.

    Raises BadImageError for whatever fails in Pillow, also in the body, in one line, with the reason "no image",
    "too large" or "damaged".
    """
    try:
        with PillowImage.open(io.BytesIO(data), formats=formats) as picture, _decoding(picture.width * picture.height):
            if picture.format == "PNG" and "transparency" in picture.info:
                picture.info["transparency"] = _transparency(data, picture.info["transparency"])
            yield picture
    except (FracgenError, MemoryError):
        raise
    except UnidentifiedImageError:
        if data.startswith(LFS_POINTER):
            raise BadImageError(LFS_ADVICE, "git-LFS pointer") from None
        raise BadImageError(_no_image(formats), "no image") from None
    except PillowImage.DecompressionBombError:
        raise BadImageError("more pixels than Pillow takes (a decompression bomb?)", "too large") from None
    except Exception as error:  # which errors there are depends on the format's decoder
        raise BadImageError(f"cannot be decoded ({error or type(error).__name__}); cut off?", "damaged") from error


class _Budget:
    """Pixels of large images that may be decoded at once; one that is larger than all of it waits to be alone."""

    def __init__(self) -> None:
        self.free = _PIXELS_AT_ONCE
        self.changed = threading.Condition()


_budget = _Budget()


def _after_fork() -> None:
    global _budget
    _budget = _Budget()  # what other threads of the parent were decoding, they do not give back here


os.register_at_fork(after_in_child=_after_fork)


@contextlib.contextmanager
def _decoding(num_pixels: int) -> Iterator[None]:
    """Wait until a large image can be decoded beside the others that are."""
    if num_pixels <= _SMALL_PIXELS:
        yield
        return
    num_pixels, budget = min(num_pixels, _PIXELS_AT_ONCE), _budget
    with budget.changed:
        budget.changed.wait_for(lambda: budget.free >= num_pixels)
        budget.free -= num_pixels
    try:
        yield
    finally:
        with budget.changed:
            budget.free += num_pixels
            budget.changed.notify_all()


def _no_image(formats: tuple[str, ...] | None) -> str:
    if formats is None:
        return "not an image that Pillow knows, or one without pixels"
    *others, last = (name.replace("WEBP", "WebP") for name in formats)
    return f"no {', '.join(others)} or {last} image" if others else f"no {last} image"


def is_gray(mode: str) -> bool:
    """Whether `to_gray_or_rgb` makes mode L of a picture of this mode."""
    return mode in ("1", "L", "LA", "La") or mode.startswith("I")


def to_gray_or_rgb(picture: PillowImage.Image) -> PillowImage.Image:
    """A loaded picture of any mode in mode L or RGB, by the policy of this module.

    What takes several copies on the way is done in bands of a million pixels.
    Raises BadImageError for numbers whose scale is not known: floats, and more than 16 bits.
    """
    mode = "L" if is_gray(picture.mode) else "RGB"
    if picture.mode == "F":
        raise BadImageError("mode F; 8 or 16 bits a channel are read", "unknown scale")
    if picture.mode.startswith("I"):
        levels = np.asarray(picture)
        if levels.min() < 0 or levels.max() > 0xFFFF:
            span = f"{levels.min()} to {levels.max()}"
            raise BadImageError(f"mode {picture.mode} with levels {span}; 8 or 16 bits are read", "unknown scale")
        del levels
        convert = _scaled
    elif picture.mode in (*_ALPHA_MODES, *_PREMULTIPLIED) or picture.info.get("transparency") is not None:
        convert = _over_black
    else:
        return picture.convert(mode)
    rows = max(1, _BAND_PIXELS // picture.width)
    if picture.height <= rows:
        return convert(picture).convert(mode)
    whole = PillowImage.new(mode, picture.size)
    for top in range(0, picture.height, rows):
        box = (0, top, picture.width, min(top + rows, picture.height))
        whole.paste(convert(picture.crop(box)).convert(mode), box)
    return whole


def _scaled(picture: PillowImage.Image) -> PillowImage.Image:
    """16-bit gray as 8-bit gray."""
    levels, transparent = np.asarray(picture), picture.info.get("transparency")
    gray = ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if isinstance(transparent, int):
        gray[levels == transparent] = 0
    return PillowImage.fromarray(gray)


def _over_black(picture: PillowImage.Image) -> PillowImage.Image:
    if picture.mode in _PREMULTIPLIED:
        picture = picture.convert(_PREMULTIPLIED[picture.mode])
    picture = picture.convert("RGBA")
    return PillowImage.alpha_composite(PillowImage.new("RGBA", picture.size, (0, 0, 0, 255)), picture)


def _transparency(png: bytes, level: int | tuple[int, ...] | bytes) -> int | tuple[int, ...] | bytes:
    """The transparent level or colour of a PNG on the scale of the pixels that Pillow gives, not of the file's."""
    bits = png[24]
    if isinstance(level, int) and png[25] == 0 and bits < 16:  # gray; of 16 bits, Pillow gives all
        most = (1 << bits) - 1
        return (level & most) * 255 // most
    if isinstance(level, tuple):
        return tuple(value >> 8 if bits == 16 else value & 255 for value in level)
    return level


def resize_and_center_crop(picture: PillowImage.Image, side: int) -> PillowImage.Image:
    """Shorter edge to `side` pixels (bicubic, antialiased), then the central square."""
    scale = side / min(picture.size)
    width, height = (max(side, round(edge * scale)) for edge in picture.size)
    picture = picture.resize((width, height), PillowImage.Resampling.BICUBIC)
    left, top = (width - side) // 2, (height - side) // 2
    return picture.crop((left, top, left + side, top + side))
