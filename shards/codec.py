"""Images to PNG bytes and back; and files as they were found, to pixels.

Pillow needs 5 ms for one 512 x 512 patch fractal at its fastest setting. The frame of a PNG is five fields and a
deflate stream, so the frame is written here and ISA-L's deflate fills it (0.2 ms, at one bit a pixel too).
"""

import io
import struct
import zlib

import numpy as np
import numpy.typing as npt
from isal import isal_zlib
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from fracgen.shards.errors import BadImageError, DataError, UsageError
from fracgen.shards.sample import Image

GRAY = 127
"""The one gray level of two-level images (REFERENCE section 2: (127, 127, 127) on black)."""

ORIGINALS = ("JPEG", "PNG", "WEBP")
"""Pillow's names of the formats of files that are stored as they were found."""
GRAY_MODES = ("1", "L", "LA")
"""Pillow's modes without colours and with at most 8 bits."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GRAY_TYPE, _RGB_TYPE = 0, 2
_IDAT_START = len(_SIGNATURE) + 25 + 8
"""Where the pixels of a PNG begin: after the signature, the header's chunk and eight bytes of their own."""
_IEND_SIZE = 12
_FIRST = 8
"""Bytes that are deflated by themselves: at least 4, or they set nothing right, and at most 16: see `_deflate`."""


def encode_png(image: Image, bits: int = 8) -> bytes:
    """PNG bytes of an image, every row unfiltered (filter type 0).

    image: uint8 (H, W) or (H, W, 3).
    bits: bits per pixel and channel. 1 is for gray images with the two levels 0 and 127 only; readers then return
        0 and 255, or 0 and 1. `decode_image(..., bits=1)` gives 0 and 127 back.
    Raises UsageError where one bit cannot hold the image.
    """
    height, width = image.shape[:2]
    if bits == 1:
        if image.ndim != 2 or np.count_nonzero(image) != np.count_nonzero(image == GRAY):
            raise UsageError(f"--png-bits 1 holds gray images of the two levels 0 and {GRAY} only; use 8")
        pixels, color_type = np.packbits(image, axis=1), _GRAY_TYPE
    else:
        pixels = image.reshape(height, -1)
        color_type = _GRAY_TYPE if image.ndim == 2 else _RGB_TYPE
    rows = np.zeros((height, pixels.shape[1] + 1), np.uint8)
    rows[:, 1:] = pixels
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    chunks = _chunk(b"IHDR", header), _chunk(b"IDAT", _deflate(rows.reshape(-1))), _chunk(b"IEND", b"")
    return b"".join([_SIGNATURE, *chunks])


def _deflate(data: npt.NDArray[np.uint8]) -> bytes:
    """A zlib stream at level 1: the same bytes in every thread and process, which ISA-L in one piece does not give.

    Its kernel of levels 1 and 2 (2.31; so in its source, and as it is shipped) takes the third byte's slot in the hash
    table from a register that holds an address by then, that of the stream. Where that slot is one of the first bytes'
    own, a match is lost or found by chance: once in some thousand images. A few bytes that are flushed by themselves go
    through another kernel, and that code is not reached any more: 10 bytes and 0.015 ms more an image.
    """
    stream = isal_zlib.compressobj(1)
    parts = [stream.compress(data[:_FIRST]), stream.flush(isal_zlib.Z_SYNC_FLUSH)]
    return b"".join([*parts, stream.compress(data[_FIRST:]), stream.flush()])


def _chunk(kind: bytes, data: bytes) -> bytes:
    return b"".join([struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))])


def decode_image(data: bytes, bits: int = 8, *, shape: tuple[int, ...] | None = None) -> Image:
    """The pixels of an encoded PNG or JPEG: uint8 (H, W) for gray, (H, W, 3) for colour.

    shape: what it must be; an image of another size is not even unpacked.
    Raises DataError where the bytes are no image, or of another shape.
    """
    if (image := _decode_ours(data, bits, shape)) is not None:
        return image
    try:
        with PillowImage.open(io.BytesIO(data), formats=("PNG", "JPEG")) as picture:
            gray = picture.mode in ("1", "L")
            found = (picture.height, picture.width) if gray else (picture.height, picture.width, 3)
            if shape is not None and found != shape:
                raise DataError(f"an image of shape {found}, not {shape}")
            picture.load()
            if bits == 1:
                return np.where(np.asarray(picture.convert("L")), np.uint8(GRAY), np.uint8(0))
            return np.asarray(picture.convert("L" if gray else "RGB"))
    except UnidentifiedImageError:
        raise DataError("no PNG or JPEG image") from None
    except (OSError, SyntaxError, ValueError, PillowImage.DecompressionBombError) as error:
        raise DataError(f"cannot be decoded ({error})") from error


def _decode_ours(data: bytes, bits: int, shape: tuple[int, ...] | None) -> Image | None:
    """The pixels of a PNG as `encode_png` writes it, in a third of Pillow's time; None for any other bytes."""
    start, end = _IDAT_START, len(data) - _IEND_SIZE
    if shape is None or len(data) < start + _IEND_SIZE or data[:8] != _SIGNATURE:
        return None
    header = struct.unpack_from(">IIBBBBB", data, 16)
    height, width = shape[:2]
    if header != (width, height, bits, _GRAY_TYPE if len(shape) == 2 else _RGB_TYPE, 0, 0, 0) or end < start:
        return None
    chunks = _chunk(b"IHDR", data[16:29]), _chunk(b"IDAT", data[start : end - 4]), _chunk(b"IEND", b"")
    if data[8:] != b"".join(chunks):
        return None
    row = 1 + (-(-width // 8) if bits == 1 else width * (len(shape) == 2 or 3))
    unpacked = isal_zlib.decompressobj()
    try:
        rows = np.frombuffer(unpacked.decompress(data[start : end - 4], height * row), np.uint8)
    except isal_zlib.error:  # type: ignore[misc]  # declared as a class of its own kind
        return None
    if rows.size != height * row or not unpacked.eof or rows[::row].any():
        return None
    pixels = rows.reshape(height, row)[:, 1:]
    return np.unpackbits(pixels, axis=1, count=width) * np.uint8(GRAY) if bits == 1 else pixels.reshape(shape)


def open_original(data: bytes) -> PillowImage.Image:
    """A JPEG, PNG or WebP, whole and decoded, in its own mode; of several frames the first.

    An orientation that EXIF tells is not applied. Raises BadImageError where it is none, cut off, has more than 8 bits
    a channel in its mode, or so many pixels that Pillow refuses it.
    """
    try:
        picture = PillowImage.open(io.BytesIO(data), formats=ORIGINALS)
        if picture.mode.startswith(("I", "F")):
            raise BadImageError(f"mode {picture.mode}; 8 bits a channel are read", "16 bits")
        picture.load()
    except (BadImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BadImageError("no JPEG, PNG or WebP image", "no image") from None
    except PillowImage.DecompressionBombError:
        raise BadImageError("more pixels than Pillow takes (a decompression bomb?)", "too large") from None
    except Exception as error:  # which errors there are depends on the format's decoder
        raise BadImageError(f"cannot be decoded ({error or type(error).__name__}); cut off?", "damaged") from error
    return picture


def decode_original(data: bytes, mode: str) -> Image:
    """The pixels of a JPEG, PNG or WebP: uint8 (H, W) for mode "L", (H, W, 3) for "RGB"; alpha is laid over black.

    Raises BadImageError as `open_original` does.
    """
    picture: PillowImage.Image = open_original(data)
    if picture.mode in ("LA", "PA", "RGBA") or ("transparency" in picture.info and picture.mode not in ("1", "L")):
        above = picture.convert("RGBA")
        picture = PillowImage.alpha_composite(PillowImage.new("RGBA", above.size, (0, 0, 0, 255)), above)
    return np.asarray(picture.convert(mode))
