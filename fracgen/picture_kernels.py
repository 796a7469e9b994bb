"""Colours, sizes and blur of 8-bit pictures as OpenCV computes them, and pasting.

One thing differs: the conversion to RGB of OpenCV (by AVX2) truncates in the first 32 floor(W/32) columns and rounds
in the rest; this one truncates everywhere, by which a channel may be 1 less. No fastmath.
"""

from functools import partial

import numpy as np
import numpy.typing as npt

from fracgen.jit import kernel

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]
Weights = npt.NDArray[np.int32]

_F1, _F2, _F255 = np.float32(1), np.float32(2), np.float32(255)
_PER_LEVEL, _PER_HUE = np.float32(1 / 255), np.float32(6 / 180)
_HALF, _PER_65536 = np.float32(32768), np.float32(2**-16)
_I2, _I8, _I16 = (np.int32(number) for number in (2, 8, 16))


@partial(kernel, inline="always")
def to_rgb(hue: np.int32, saturation: np.int32, value: np.int32) -> np.int32:
    """OpenCV's 8-bit HSV to RGB, truncated: red + 256 green + 65536 blue. A hue stands for two degrees, wraps at 180.

    Of the three channels one is the greatest, one the least, and one between, by the sector of 60 degrees. Without a
    branch or a table, and inlined, so that a loop over it takes vector instructions.
    """
    s, v, turn = np.float32(saturation) * _PER_LEVEL, np.float32(value) * _PER_LEVEL, np.float32(hue) * _PER_HUE
    sector = np.int32(turn)
    part = turn - np.float32(sector)
    part = part if sector & 1 else _F1 - part
    least, greatest = np.int32(v * (_F1 - s) * _F255), np.int32(v * _F255)
    # the product of two float32 is exact in float64, so that the difference is as if fused
    between = np.int32(v * np.float32(1.0 - np.float64(s) * np.float64(part)) * _F255)
    sector = np.int32(sector - 6) if sector >= 6 else sector
    red = greatest if (sector == 0) | (sector == 5) else (between if (sector == 1) | (sector == 4) else least)
    green = greatest if (sector == 1) | (sector == 2) else (between if (sector == 0) | (sector == 3) else least)
    blue = greatest if (sector == 3) | (sector == 4) else (between if (sector == 2) | (sector == 5) else least)
    return np.int32(red | green << _I8 | blue << _I16)


@kernel
def _resize_line(source: Bytes, places: Places, weights: Weights, line: Weights) -> None:
    """One row (n, 3) between columns: line (3 side,), 128 times the levels. places, weights: (2, side)."""
    for column in range(places.shape[1]):
        left, right = np.uint64(places[0, column]), np.uint64(places[1, column])
        first, second = weights[0, column], weights[1, column]
        if left == right:
            first, second = np.int32(2048), np.int32(0)
        for channel in range(3):
            total = np.int32(source[left, channel] * first) + np.int32(source[right, channel] * second)
            line[3 * column + channel] = np.int32(total >> 4)


@kernel
def resize(source: Bytes, target: Bytes) -> None:
    """OpenCV's 8-bit bilinear resize of squares: source (n, n, 3), target (side, side, 3), filled.

    Between columns at an edge the nearest is taken; between rows both are clipped, and the weights kept.
    """
    length, side = source.shape[0], target.shape[0]
    places, weights = np.empty((2, side), np.int64), np.empty((2, side), np.int32)
    lines, numbers = np.empty((2, 3 * side), np.int32), np.full(2, -1)
    for i in range(side):
        place = np.float32((i + 0.5) * (length / side) - 0.5)
        whole = np.floor(place)
        part = place - whole
        left = np.int64(whole)
        weights[0, i] = np.int32(np.rint((_F1 - part) * np.float32(2048)))
        weights[1, i] = np.int32(np.rint(part * np.float32(2048)))
        for k in range(2):
            places[k, i] = min(max(left + k, 0), length - 1)
    for row in range(side):
        upper, lower = places[0, row], places[1, row]
        for number in (upper, lower):
            if numbers[number % 2] != number:  # two lines that follow each other are kept
                numbers[number % 2] = number
                _resize_line(source[number], places, weights, lines[number % 2])
        above, under, pixels = lines[upper % 2], lines[lower % 2], target[row].reshape(-1)
        first, second = weights[0, row], weights[1, row]
        for i in range(pixels.size):
            total = np.int32(np.int32(first * above[i]) >> _I16) + np.int32(np.int32(second * under[i]) >> _I16)
            pixels[i] = np.uint8(np.int32(total + _I2) >> _I2)


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
