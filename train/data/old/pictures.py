"""Encoded pictures of any mode as gray or RGB ones, and brought to a square."""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from fracgen.shards.errors import DataError
from fracgen.train.data.old.tars import BadSampleError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
GRAY_MODES = ("1", "L")


def read_picture(data: bytes, where: str, *, about: int = 0) -> Image.Image:
    """An encoded picture, decoded, in mode L where it is gray, else RGB: as `plain` makes it.

    What EXIF says of its orientation is not heeded, as nowhere in the protocols of this field.
    where: its name, for messages. about: where above 0, a JPEG may be decoded smaller, its sides no less than this.
    Raises BadSampleError where it cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            if about:
                opened.draft(None, (about, about))
            opened.load()
            return plain(opened)
    except UnidentifiedImageError:
        raise BadSampleError(f"{where}: no {', '.join(FORMATS)} image", "image") from None
    except (DataError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadSampleError(f"{where}: image cannot be decoded ({error})", "image") from error


def plain(picture: Image.Image) -> Image.Image:
    """A picture of any mode in mode L where it is gray, else RGB; alpha lies over black, 16 bits become 8.

    Raises DataError for numbers whose scale is not known.
    """
    if picture.mode.startswith("I"):
        levels = np.asarray(picture)
        if levels.min() < 0 or levels.max() > 0xFFFF:
            raise DataError(f"mode {picture.mode} with levels {levels.min()} to {levels.max()}; 8 or 16 bits are read")
        return Image.fromarray(((levels.astype(np.uint32) + 128) // 257).astype(np.uint8))
    if picture.mode == "F":
        raise DataError("mode F; 8 or 16 bits are read")
    if picture.mode in GRAY_MODES and "transparency" not in picture.info:
        return picture.convert("L")
    if picture.mode in (*GRAY_MODES, "LA"):
        return over_black(picture).convert("L")
    return over_black(picture).convert("RGB")


def over_black(picture: Image.Image) -> Image.Image:
    """A picture whose transparent parts show black; as it is where it has none."""
    if picture.mode not in ("LA", "PA", "RGBA", "La", "RGBa") and "transparency" not in picture.info:
        return picture
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture)


def square(picture: Image.Image, side: int) -> Image.Image:
    """Shorter edge to `side` (bicubic, antialiased), then the central square."""
    scale = side / min(picture.size)
    width, height = (max(side, round(edge * scale)) for edge in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - side) // 2, (height - side) // 2
    return picture.crop((left, top, left + side, top + side))
