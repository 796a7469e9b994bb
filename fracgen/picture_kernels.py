"""Colours, sizes and blur of 8-bit pictures as OpenCV computes them, and pasting.

One thing differs: the conversion to RGB of OpenCV (by AVX2) truncates in the first 32 floor(W/32) columns and rounds
in the rest; this one truncates everywhere, by which a channel may be 1 less. No fastmath.
"""

import numpy as np
import numpy.typing as npt

from fracgen.jit import kernel

Bytes = npt.NDArray[np.uint8]

_F1, _F255 = np.float32(1), np.float32(255)
_PER_LEVEL = np.float32(1 / 255)
_F2, _HALF, _PER_65536 = np.float32(2), np.float32(32768), np.float32(2**-16)
_BYTE, _SHIFT_8, _SHIFT_16, _SHIFT_24 = (np.uint32(number) for number in (255, 8, 16, 24))
_HUES = np.arange(256).astype(np.float32) * np.float32(6 / 180)
"""8-bit hues in sectors of 60 degrees."""
_PARTS = (_HUES - np.floor(_HUES)).astype(np.float64)
_RESTS = (_F1 - (_HUES - np.floor(_HUES))).astype(np.float64)
_SECTORS = np.array([[1, 3, 0], [2, 1, 0], [0, 1, 3], [0, 2, 1], [3, 0, 1], [1, 0, 2]])
"""Of each sector, which of the four levels p, v, q, t red, green and blue are."""
_CHANNELS = (8 * _SECTORS[_HUES.astype(np.int64) % 6]).astype(np.uint32)


@kernel
def to_rgb(hue: np.uint8, saturation: np.uint8, value: np.uint8, rgb: Bytes) -> None:
    """OpenCV's 8-bit HSV to RGB, truncated: rgb (3,), filled. A hue stands for two degrees, and wraps at 180."""
    s, v = np.float32(saturation) * _PER_LEVEL, np.float32(value) * _PER_LEVEL
    share, part, rest = np.float64(s), _PARTS[hue], _RESTS[hue]
    levels = (  # products of two float32 are exact in float64, so that the differences of one are as if fused
        np.uint32(v * (_F1 - s) * _F255)
        | np.uint32(v * _F255) << _SHIFT_8
        | np.uint32(v * np.float32(1.0 - share * part) * _F255) << _SHIFT_16
        | np.uint32(v * np.float32(1.0 - share * rest) * _F255) << _SHIFT_24
    )
    rgb[0] = np.uint8(levels >> _CHANNELS[hue, 0] & _BYTE)
    rgb[1] = np.uint8(levels >> _CHANNELS[hue, 1] & _BYTE)
    rgb[2] = np.uint8(levels >> _CHANNELS[hue, 2] & _BYTE)


@kernel
def resize(source: Bytes, target: Bytes) -> None:
    """OpenCV's 8-bit bilinear resize of squares: source (n, n, 3), target (side, side, 3), filled.

    Between columns at an edge the nearest is taken; between rows both are clipped, and the weights kept.
    """
    length, side = source.shape[0], target.shape[0]
    places, weights = np.empty(side, np.int64), np.empty((side, 2), np.int64)
    for i in range(side):
        place = np.float32((i + 0.5) * (length / side) - 0.5)
        whole = np.floor(place)
        part = place - whole
        places[i] = np.int64(whole)
        weights[i, 0] = np.int64(np.rint((_F1 - part) * np.float32(2048)))
        weights[i, 1] = np.int64(np.rint(part * np.float32(2048)))
    for row in range(side):
        upper = min(max(places[row], 0), length - 1)
        lower = min(max(places[row] + 1, 0), length - 1)
        for column in range(side):
            left, right = places[column], places[column] + 1
            first, second = weights[column, 0], weights[column, 1]
            if left < 0 or right >= length:
                left = right = min(max(left, 0), length - 1)
                first, second = 2048, 0
            for channel in range(3):
                above = source[upper, left, channel] * first + source[upper, right, channel] * second
                under = source[lower, left, channel] * first + source[lower, right, channel] * second
                total = (weights[row, 0] * (above >> 4) >> 16) + (weights[row, 1] * (under >> 4) >> 16)
                target[row, column, channel] = np.uint8((total + 2) >> 2)


@kernel
def paste(fractal: Bytes, top: int, left: int, image: Bytes) -> None:
    """Put the pixels of a fractal that are not black over an image; what hangs out is cut.

    fractal: (side, side, 3). top, left: of its corner in the image, (S, S, 3).
    """
    size, side = image.shape[0], fractal.shape[0]
    for row in range(max(0, -top), min(side, size - top)):
        for column in range(max(0, -left), min(side, size - left)):
            if fractal[row, column, 0] or fractal[row, column, 1] or fractal[row, column, 2]:
                for channel in range(3):
                    image[top + row, left + column, channel] = fractal[row, column, channel]


@kernel
def blur(edge: int, lines: npt.NDArray[np.float32], image: Bytes) -> None:
    """OpenCV's 8-bit 3 x 3 Gaussian blur, in place; the image is mirrored at its borders, without the border itself.

    edge: of 256, the weight of a neighbour in a row or column; the middle has 256 - 2 edge. lines: scratch, (S, 3 S).
    image: (S, S, 3), S at least 2. The published numbers are whole and below 2^24, so that float32 holds them exactly.
    """
    size, outer, inner = image.shape[0], np.float32(edge), np.float32(256 - 2 * edge)
    pixels, last = image.reshape(size, -1), 3 * size - 3
    for row in range(size):
        source, line = pixels[row], lines[row]
        before, after, middle, target_line = source[: last - 3], source[6:], source[3:last], line[3:last]
        for i in range(middle.size):
            both = np.float32(before[i]) + np.float32(after[i])
            target_line[i] = outer * both + inner * np.float32(middle[i])
        for channel in range(3):
            i = last + channel
            line[channel] = outer * (_F2 * np.float32(source[channel + 3])) + inner * np.float32(source[channel])
            line[i] = outer * (_F2 * np.float32(source[i - 3])) + inner * np.float32(source[i])
    for row in range(size):
        above, line = lines[row - 1 if row else 1], lines[row]
        below, target = lines[row + 1 if row < size - 1 else size - 2], pixels[row]
        for i in range(target.size):
            total = outer * (above[i] + below[i]) + inner * line[i]
            target[i] = np.uint8(np.int32((total + _HALF) * _PER_65536))
