"""Drawing kernels: visible points, patch masks, canvases of one bit a pixel or in colour.

A patch mask's nine bits are the pixels of its block, row-major. The published code counts them from the most
significant bit, the masks here from the least.
"""

import numpy as np
import numpy.typing as npt

from fracgen.jit import kernel
from fracgen.shards.png import GRAY

MARGIN = 4
"""Canvases are this much wider and higher than the image, so that what sticks out needs no test: it is cropped."""

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_LOW = np.uint64(0xFFFFFFFF)
_EIGHT_PIXELS = (
    (np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little") * np.uint8(GRAY))
    .view(np.uint64)
    .ravel()
)
"""Eight pixels of 0 or GRAY, by the byte that holds their bits, lowest first."""
# Plain numbers would make these expressions signed, or float.
_U1, _U3, _U5, _U6, _U7, _U27, _U30 = (np.uint64(number) for number in (1, 3, 5, 6, 7, 27, 30))
_U31, _U32, _U61, _U63, _U64, _U511 = (np.uint64(number) for number in (31, 32, 61, 63, 64, 511))
_U0, _U2, _U4, _U8, _U56, _U255 = (np.uint64(number) for number in (0, 2, 4, 8, 56, 255))
_PAIRS, _FOURS = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333)
_EIGHTS, _ONES = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x0101010101010101)


@kernel
def splitmix64(key: np.uint64, number: np.uint64) -> np.uint64:
    """Number `number`, from 0, of the SplitMix64 stream from `key`: 64 random bits."""
    z = key + (number + _U1) * _GOLDEN_GAMMA
    z = (z ^ (z >> _U30)) * _MIX_1
    z = (z ^ (z >> _U27)) * _MIX_2
    return z ^ (z >> _U31)


@kernel
def patch_mask(key: np.uint64, i: np.uint32) -> np.uint64:
    """The random patch mask of point i, uniform in 1..511 to within 2^-32.

    Number i // 2 of the SplitMix64 stream from `key`; its low half is for even i, its high half for odd i:
    half * 511 >> 32, plus 1.
    """
    number = np.uint64(i)
    half: np.uint64 = splitmix64(key, number >> _U1) >> ((number & _U1) << _U5) & _LOW
    return (half * _U511 >> _U32) + _U1


@kernel
def find_visible(
    offsets: npt.NDArray[np.uint32], free: npt.NDArray[np.uint8], visible: npt.NDArray[np.uint32]
) -> np.uint64:
    """The points that are the last at their place, in orbit order: visible[n:] for the returned n.

    Patches are opaque, so that all others are hidden: of 100,000 points some 20,000 are left.
    offsets: (T,). free: one for every place on the canvas. visible: (T,), filled from the end.
    """
    first = i = np.uint64(offsets.size)
    for _ in range(offsets.size):
        i -= _U1  # unsigned, as numba tests signed indices for being negative: half the time
        offset = offsets[i]
        visible[first - _U1] = i  # without a branch, which would be mispredicted; overwritten if it is hidden
        first -= np.uint64(free[offset])
        free[offset] = 0
    return first


@kernel
def stamp_gray(
    offsets: npt.NDArray[np.uint32],
    visible: npt.NDArray[np.uint32],
    key: np.uint64,
    random: bool,
    stride: int,
    canvas: npt.NDArray[np.uint64],
) -> None:
    """Draw opaque 3 x 3 patches in orbit order, the top-left corner one right of and one below the point.

    offsets: (T,). visible: numbers of the points to draw. key: of the random masks, else all nine pixels are lit.
    canvas: flat, one bit a pixel, lowest first, zeros, in rows of `stride` bits (a multiple of 64).
    """
    row = np.uint64(stride // 64)
    for i in visible:
        mask = patch_mask(key, i) if random else _U511
        corner = np.uint64(offsets[i]) + np.uint64(stride) + _U1
        word, shift = corner >> _U6, corner & _U63
        keep = ~(_U7 << shift)
        canvas[word] = canvas[word] & keep | (mask & _U7) << shift
        canvas[word + row] = canvas[word + row] & keep | (mask >> _U3 & _U7) << shift
        canvas[word + row + row] = canvas[word + row + row] & keep | (mask >> _U6) << shift
        if shift > _U61:  # the block goes on in the next word
            word, shift = word + _U1, _U64 - shift
            keep = ~(_U7 >> shift)
            canvas[word] = canvas[word] & keep | (mask & _U7) >> shift
            canvas[word + row] = canvas[word + row] & keep | (mask >> _U3 & _U7) >> shift
            canvas[word + row + row] = canvas[word + row + row] & keep | (mask >> _U6) >> shift


@kernel
def unpack_gray(
    canvas: npt.NDArray[np.uint64],
    stride: int,
    top_bottom: bool,
    left_right: bool,
    words: npt.NDArray[np.uint64],
    pixels: npt.NDArray[np.uint8],
    image: npt.NDArray[np.uint8],
) -> None:
    """The image on a canvas of `stamp_gray`, 0 and 127, rows from the top (the canvas's are from the bottom).

    words: (stride / 8,), scratch, and pixels: the same memory as bytes. image: (H, W), filled; mirrored top to bottom,
    left to right, or both.
    """
    height, width = image.shape
    for v in range(height):
        row = image[v if top_bottom else height - 1 - v]
        for word in range(stride // 64):
            bits = canvas[v * stride // 64 + word]
            for byte in range(8):
                words[8 * word + byte] = _EIGHT_PIXELS[bits & _U255]
                bits >>= _U8
        if left_right:
            for u in range(width):
                row[u] = pixels[width - 1 - u]
        else:
            for u in range(width):
                row[u] = pixels[u]


@kernel
def count_gray(canvas: npt.NDArray[np.uint64], stride: int, size: int) -> int:
    """Number of lit pixels in the image, size x size, on a canvas of `stamp_gray`."""
    lit = _U0
    for v in range(size):
        for word in range((size + 63) // 64):
            bits = canvas[v * stride // 64 + word]
            if size - 64 * word < 64:
                bits &= (_U1 << np.uint64(size - 64 * word)) - _U1
            bits -= bits >> _U1 & _PAIRS
            bits = (bits & _FOURS) + (bits >> _U2 & _FOURS)
            bits = bits + (bits >> _U4) & _EIGHTS
            lit += bits * _ONES >> _U56
    return int(lit)


@kernel
def plot_gray(offsets: npt.NDArray[np.uint32], canvas: npt.NDArray[np.uint64]) -> None:
    """Draw single pixels on a canvas as that of `stamp_gray`."""
    for i in range(offsets.size):
        offset = np.uint64(offsets[i])
        canvas[offset >> _U6] |= _U1 << (offset & _U63)


@kernel
def stamp_color(
    offsets: npt.NDArray[np.uint32],
    visible: npt.NDArray[np.uint32],
    key: np.uint64,
    random: bool,
    hues: npt.NDArray[np.uint8],
    palette: npt.NDArray[np.uint8],
    stride: int,
    canvas: npt.NDArray[np.uint8],
) -> None:
    """As `stamp_gray`, each patch in its point's colour, palette[hues[i]]: (n, 3) RGB, (T,). canvas: (pixels, 3)."""
    for i in visible:
        corner = np.uint64(offsets[i]) + np.uint64(stride) + _U1
        mask = patch_mask(key, i) if random else _U511
        for bit in range(9):
            at = corner + np.uint64(bit // 3 * stride + bit % 3)
            lit = mask >> np.uint64(bit) & _U1
            for channel in range(3):
                canvas[at, channel] = palette[hues[i], channel] if lit else 0


@kernel
def plot_color(
    offsets: npt.NDArray[np.uint32],
    hues: npt.NDArray[np.uint8],
    palette: npt.NDArray[np.uint8],
    canvas: npt.NDArray[np.uint8],
) -> None:
    """Draw single pixels in orbit order, each in its point's colour: see `stamp_color`."""
    for i in range(offsets.size):
        for channel in range(3):
            canvas[offsets[i], channel] = palette[hues[i], channel]


@kernel
def count_color(canvas: npt.NDArray[np.uint8], stride: int, size: int) -> int:
    """Number of pixels that are not black in the image, size x size, on a canvas of `stamp_color`."""
    lit = 0
    for v in range(size):
        for at in range(v * stride, v * stride + size):
            lit += (canvas[at, 0] | canvas[at, 1] | canvas[at, 2]) != 0
    return lit


@kernel
def copy_color(
    canvas: npt.NDArray[np.uint8], stride: int, top_bottom: bool, left_right: bool, image: npt.NDArray[np.uint8]
) -> None:
    """The image on a canvas of `stamp_color`: (H, W, 3), filled; rows and mirrors as `unpack_gray`."""
    height, width, _ = image.shape
    for v in range(height):
        row = image[v if top_bottom else height - 1 - v]
        for u in range(width):
            at = v * stride + (width - 1 - u if left_right else u)
            for channel in range(3):
                row[u, channel] = canvas[at, channel]
