"""Images to PNG bytes and back.

Pillow needs 5 ms for one 512 x 512 patch fractal at its fastest setting. The frame of a PNG is five fields and a
deflate stream, so the frame is written here and ISA-L's deflate fills it (0.2 ms, at one bit a pixel too).
"""

import struct

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.images import is_gray, open_picture, to_gray_or_rgb
from fracgen.shards.sample import Image

GRAY = 127
"""The one gray level of two-level images (the published renderer draws (127, 127, 127) on black)."""

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
    checksum = isal_zlib.crc32(data, isal_zlib.crc32(kind))
    return b"".join([struct.pack(">I", len(data)), kind, data, struct.pack(">I", checksum)])


def decode_png(data: bytes, bits: int = 8, *, shape: tuple[int, ...] | None = None) -> Image:
    """Decode a PNG, ours or any other: uint8 (H, W) for gray, (H, W, 3) for colour.

    shape: what it must be; an image of another size is not even unpacked.
    Raises DataError where the bytes are no PNG, or one of another shape.
    """
    if (image := _decode_ours(data, bits, shape)) is not None:
        return image
    with open_picture(data, ("PNG",)) as picture:
        actual = (picture.height, picture.width) if is_gray(picture.mode) else (picture.height, picture.width, 3)
        if shape is not None and actual != shape:
            raise DataError(f"an image of shape {actual}, not {shape}")
        picture.load()
        pixels = np.asarray(to_gray_or_rgb(picture))
        return np.where(pixels, np.uint8(GRAY), np.uint8(0)) if bits == 1 else pixels


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
