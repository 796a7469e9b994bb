"""Noise kernels: points and pixels from counter-based random numbers, by a table of quantiles.

A table turns 16 random bits into a place or a level, so that a Gaussian costs no logarithm, and the same everywhere.
Patches are drawn 64 pixels at a time: where patches overlap they agree, so that no order of drawing has to be kept.
"""

import numpy as np
import numpy.typing as npt

from fracgen.canvas_kernels import splitmix64
from fracgen.jit import kernel

Bits = npt.NDArray[np.uint64]
"""A two-level canvas: (rows, words), 64 pixels a word, lowest bit first, rows from the bottom."""

_U0, _U1, _U2, _U6, _U16, _U32, _U48, _U62, _U63 = (np.uint64(number) for number in (0, 1, 2, 6, 16, 32, 48, 62, 63))
_LOW = np.uint64(0xFFFF)


@kernel
def scatter(
    count: int,
    key: np.uint64,
    levels: npt.NDArray[np.uint16],
    moves_key: np.uint64,
    reach: int,
    width: int,
    pad: int,
    places: Bits,
) -> None:
    """Mark the places of `count` points: places, zeros, get a bit at row v, column u.

    Points 2k and 2k + 1 take number k of the SplitMix64 stream from `key`, 16 bits for each of u, v, u and v from the
    highest on, by levels (65536,), both `pad` from the border. With reach > 0 both are then moved by a whole number in
    -reach..reach, from the high and the low half of number i of the stream from `moves_key`, and kept in 0..width-1.
    """
    first, last = np.int64(0), np.int64(width - 1)
    choices = np.uint64(2 * reach + 1)
    z = _U0
    for i in range(count):
        z = z << _U32 if i & 1 else splitmix64(key, np.uint64(i // 2))
        u, v = np.int64(levels[z >> _U48]), np.int64(levels[z >> _U32 & _LOW])
        if reach:
            move = splitmix64(moves_key, np.uint64(i))
            u = min(max(u + np.int64((move >> _U32) * choices >> _U32) - reach, first), last)
            v = min(max(v + np.int64((move & np.uint64(0xFFFFFFFF)) * choices >> _U32) - reach, first), last)
        column = np.uint64(u + pad)
        places[np.uint64(v + pad), column >> _U6] |= _U1 << (column & _U63)


@kernel
def cover(places: Bits, key: np.uint64, canvas: Bits) -> None:
    """Draw a patch of 3 x 3 pixels for every marked place, its corner one right of and one above (later row) the place.

    A pixel in a patch is lit where the field of random bits has a one: word w of row y of the field is number
    y * words + w of the SplitMix64 stream from `key`. canvas: as large as places, filled.
    """
    rows, words = places.shape
    spread = np.zeros((3, words), np.uint64)
    for y in range(rows):
        row = spread[y % 3]
        before = _U0
        for w in range(words):
            lit = _U0
            for above in range(3):
                lit |= spread[above, w]
            canvas[y, w] = lit & splitmix64(key, np.uint64(y * words + w)) if lit else _U0
        for w in range(words):
            word = places[y, w]
            once = word << _U1 | before >> _U63
            twice = word << _U2 | before >> _U62
            thrice = word << np.uint64(3) | before >> np.uint64(61)
            row[w] = once | twice | thrice
            before = word


@kernel
def fill_pixels(key: np.uint64, levels: npt.NDArray[np.uint16], pixels: npt.NDArray[np.uint8]) -> None:
    """Fill pixels (n,), by levels: four take a number of the SplitMix64 stream from `key`, lowest bits first."""
    for start in range(0, pixels.size, 4):
        z = splitmix64(key, np.uint64(start // 4))
        for pixel in range(start, min(start + 4, pixels.size)):
            pixels[pixel] = np.uint8(levels[z & _LOW])
            z >>= _U16
