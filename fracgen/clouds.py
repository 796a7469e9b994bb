"""Noise kernels: points and pixels from counter-based random numbers, by a table of quantiles.

A table turns 16 random bits into a place or a level, so that a Gaussian costs no logarithm, and the same everywhere.
"""

import numpy as np
import numpy.typing as npt

from fracgen.chaos import kernel, splitmix64

_U16, _U32, _U48, _LOW = (np.uint64(number) for number in (16, 32, 48, 0xFFFF))


@kernel
def scatter(
    key: np.uint64,
    levels: npt.NDArray[np.uint16],
    moves_key: np.uint64,
    reach: int,
    width: int,
    pad: int,
    stride: int,
    offsets: npt.NDArray[np.uint32],
) -> None:
    """Place points: offsets (T,), filled with v * stride + u.

    Point i takes number i of the SplitMix64 stream from `key`: its highest 16 bits give u, the next 16 give v, by
    levels (65536,), both `pad` from the border. With reach > 0 both are then moved by a whole number in -reach..reach,
    from the high and the low half of number i of the stream from `moves_key`, and kept in 0..width-1.
    """
    first, last = np.int64(0), np.int64(width - 1)
    count = np.uint64(2 * reach + 1)
    for i in range(offsets.size):
        z = splitmix64(key, np.uint64(i))
        u, v = np.int64(levels[z >> _U48]), np.int64(levels[z >> _U32 & _LOW])
        if reach:
            z = splitmix64(moves_key, np.uint64(i))
            u = min(max(u + np.int64((z >> _U32) * count >> _U32) - reach, first), last)
            v = min(max(v + np.int64((z & np.uint64(0xFFFFFFFF)) * count >> _U32) - reach, first), last)
        offsets[i] = (v + pad) * stride + u + pad


@kernel
def fill_pixels(key: np.uint64, levels: npt.NDArray[np.uint16], pixels: npt.NDArray[np.uint8]) -> None:
    """Fill pixels (n,), by levels: four take a number of the SplitMix64 stream from `key`, lowest bits first."""
    for start in range(0, pixels.size, 4):
        z = splitmix64(key, np.uint64(start // 4))
        for place in range(start, min(start + 4, pixels.size)):
            pixels[place] = np.uint8(levels[z & _LOW])
            z >>= _U16
