"""Kernels of coloured multi-fractals: orbits, counts, colours, random fields (Anderson & Farrell, WACV 2022).

In the order of operations of the published code, no fastmath.
"""

import math

import numpy as np
import numpy.typing as npt

from fracgen.canvas_kernels import splitmix64
from fracgen.ifs import Floats
from fracgen.jit import kernel
from fracgen.picture_kernels import Bytes, to_rgb

Counts = npt.NDArray[np.uint32]

_U1, _U11, _U32 = (np.uint64(number) for number in (1, 11, 32))
_LOW = np.uint64(0xFFFFFFFF)
_BYTE = np.int32(255)
_TO_UNIT, _TO_32_BITS = 2.0**-53, 2.0**32


@kernel
def draw_units(key: np.uint64, units: Floats) -> None:
    """Fill `units` (n,) with the SplitMix64 stream of `key`, uniform in [0, 1), 53 bits each."""
    for i in range(units.size):
        units[i] = np.float64(splitmix64(key, np.uint64(i)) >> _U11) * _TO_UNIT


@kernel
def choose(limits: Floats, uniforms: Floats, choices: Bytes) -> None:
    """The map of each step: the first j with r < limits_j, else the last.

    limits: (N,), running sums of p. uniforms: (T,). choices: (T,), filled.
    """
    last = np.uint8(limits.size - 1)
    for i in range(choices.size):
        choice = np.uint8(0)
        for j in range(limits.size - 1):
            choice += np.uint8(uniforms[i] >= limits[j])
        choices[i] = min(choice, last)


@kernel
def choose_indexed(key: np.uint64, limits: Floats, numbers: npt.NDArray[np.uint32], choices: Bytes) -> None:
    """The same, of 32 random bits a step: number i // 2 of the SplitMix64 stream, its low half for even i.

    numbers: (T + 1,) scratch. Loops are split so that each takes vector instructions.
    """
    for pair in range((choices.size + 1) // 2):
        number = splitmix64(key, np.uint64(pair))
        numbers[2 * pair], numbers[2 * pair + 1] = np.uint32(number & _LOW), np.uint32(number >> _U32)
    choices[:] = 0
    for j in range(limits.size - 1):
        bound = np.uint32(min(math.ceil(limits[j] * _TO_32_BITS), _TO_32_BITS - 1.0))
        for i in range(choices.size):
            choices[i] += np.uint8(numbers[i] >= bound)


@kernel
def fixed_point(rows: Floats) -> tuple[float, float]:
    """The point that the first map, rows[0], a, b, e, c, d, f, leaves in its place."""
    a, b, e, c, d, f = rows[0, 0], rows[0, 1], rows[0, 2], rows[0, 3], rows[0, 4], rows[0, 5]
    scale = 1.0 / (1.0 + (a * d - b * c) - a - d)
    return scale * ((1.0 - d) * e + b * f), scale * ((1.0 - a) * f + c * e)


@kernel
def trace_pair(
    first: Floats, second: Floats, choices: Bytes, second_choices: Bytes, xs: Floats, ys: Floats, extents: Floats
) -> bool:
    """Trace two orbits in the time of one, each from the fixed point of its first map, which is no point of it.

    Returns whether all their points are finite. first, second: (N, 6), each with an N of its own. choices: (T,) each.
    xs, ys: (2, T), filled. extents: (2, 4), filled with min x, max x, min y, max y.
    """
    (x, y), (u, v) = fixed_point(first), fixed_point(second)
    x_min, x_max, y_min, y_max = np.inf, -np.inf, np.inf, -np.inf
    u_min, u_max, v_min, v_max = np.inf, -np.inf, np.inf, -np.inf
    for i in range(choices.size):
        j, k = np.uint64(choices[i]), np.uint64(second_choices[i])
        next_x = first[j, 0] * x + first[j, 1] * y + first[j, 2]
        y = first[j, 3] * x + first[j, 4] * y + first[j, 5]
        x = next_x
        next_u = second[k, 0] * u + second[k, 1] * v + second[k, 2]
        v = second[k, 3] * u + second[k, 4] * v + second[k, 5]
        u = next_u
        xs[0, i], ys[0, i], xs[1, i], ys[1, i] = x, y, u, v
        x_min, x_max = min(x_min, x), max(x_max, x)
        y_min, y_max = min(y_min, y), max(y_max, y)
        u_min, u_max = min(u_min, u), max(u_max, u)
        v_min, v_max = min(v_min, v), max(v_max, v)
    extents[0, 0], extents[0, 1], extents[0, 2], extents[0, 3] = x_min, x_max, y_min, y_max
    extents[1, 0], extents[1, 1], extents[1, 2], extents[1, 3] = u_min, u_max, v_min, v_max
    finite = math.isfinite(x) and math.isfinite(y) and math.isfinite(x_max - x_min) and math.isfinite(y_max - y_min)
    if finite:
        finite = math.isfinite(u) and math.isfinite(v) and math.isfinite(u_max - u_min) and math.isfinite(v_max - v_min)
    return finite


@kernel
def locate(xs: Floats, ys: Floats, region: Floats, size: int, places: npt.NDArray[np.uint32]) -> None:
    """The pixel of each point in a square of `size`: places (T,), filled with row * size + column.

    xs, ys: (T,). region: (4,), least and greatest x, y of the square; x goes down, y to the right. Places are truncated
    toward zero, so that those up to a pixel outside the low edges are on row or column 0; others outside are
    size * size.
    """
    x_min, x_span = region[0], region[1] - region[0]
    y_min, y_span = region[2], region[3] - region[2]
    x_span = 1.0 if x_span <= 0.0 else x_span
    y_span = 1.0 if y_span <= 0.0 else y_span
    most, end, outside = np.float64(size - 1), np.float64(size), np.int32(size * size)
    for i in range(xs.size):
        row, column = (xs[i] - x_min) * most / x_span, (ys[i] - y_min) * most / y_span
        is_inside = (row > -1.0) & (row < end) & (column > -1.0) & (column < end)
        row, column = min(max(row, 0.0), most), min(max(column, 0.0), most)
        place = np.int32(row) * np.int32(size) + np.int32(column)
        places[i] = np.uint32(place if is_inside else outside)


@kernel
def count(places: npt.NDArray[np.uint32], mask: int, points: Counts, counts: Counts) -> int:
    """How often each pixel of a square is drawn on; returns the greatest number.

    places: of `locate`. mask: nine bits, row by row, lowest first, of the 3 x 3 patch around each point; 16 draws
    points. points: (S * S + 1,), filled with the points alone. counts: (S, S), filled.
    """
    size = counts.shape[0]
    points[:] = 0
    for i in range(places.size):
        points[places[i]] += np.uint32(1)
    counts[:] = 0
    square = points[: size * size].reshape(size, size)
    for bit in range(9):
        if mask >> bit & 1:
            down, right = bit // 3 - 1, bit % 3 - 1
            for row in range(max(down, 0), size + min(down, 0)):
                first, end = max(right, 0), size + min(right, 0)
                target, source = counts[row, first:end], square[row - down, first - right : end - right]
                for i in range(target.size):
                    target[i] += source[i]
    greatest = np.uint32(0)
    for row in range(size):
        for column in range(size):
            greatest = max(greatest, counts[row, column])
    return int(greatest)


@kernel
def paint(counts: Counts, greatest: int, colour: Floats, flips: int, image: Bytes) -> None:
    """A fractal in its colours on black: image (S, S, 3), filled.

    counts: (S, S), and the greatest of them. colour: (3,), hue shift, saturation, value, 0 to 255; the hue of a pixel
    is trunc(255 count / greatest + shift) mod 256. flips: bit 0 transposes, then bit 1 turns the order of rows, bit 2
    that of columns.
    """
    size = counts.shape[0]
    palette, saturation, value = np.empty(256, np.int32), np.int32(colour[1]), np.int32(colour[2])
    for hue in range(256):
        palette[hue] = to_rgb(np.int32(hue), saturation, value)
    for row in range(size):
        for column in range(size):
            down = size - 1 - row if flips & 2 else row
            right = size - 1 - column if flips & 4 else column
            number = counts[right, down] if flips & 1 else counts[down, right]
            if number:
                shifted = np.int64(255.0 * (np.float64(number) / np.float64(greatest)) + colour[0]) & 255
                rgb = palette[shifted]
            else:
                rgb = np.int32(0)
            for channel in range(3):
                image[row, column, channel] = np.uint8(rgb >> 8 * channel)


@kernel
def refine(grid: Floats, low: float, width: float, units: Floats, fine: Floats) -> None:
    """One level of the diamond-square algorithm: a field of twice as many cells, with neighbours that wrap around.

    grid: (c + 1, c + 1). low + width u is added to each new point. units: in order those of the centres of cells, then
    row by row of the points between. fine: (2 c + 1, 2 c + 1), filled.
    """
    cells = grid.shape[0] - 1
    for row in range(cells):
        above, below, line = grid[row], grid[row + 1], fine[2 * row + 1]
        for k in range(cells):
            total = above[k] + above[k + 1]
            total = total + below[k] + below[k + 1]
            line[2 * k + 1] = total * 0.25 + (low + width * units[cells * row + k])
    units = units[cells * cells :]
    for row in range(cells + 1):
        middle, line = grid[row], fine[2 * row]
        over, under = fine[2 * row - 1 if row else 2 * cells - 1], fine[2 * row + 1 if row < cells else 1]
        for k in range(cells):
            total = over[2 * k + 1] + middle[k] + middle[k + 1] + under[2 * k + 1]
            line[2 * k], line[2 * k + 1] = middle[k], total * 0.25 + (low + width * units[k])
        line[2 * cells] = middle[cells]
        units = units[cells:]
        if row < cells:
            below, line = grid[row + 1], fine[2 * row + 1]
            total = middle[0] + line[2 * cells - 1] + line[1] + below[0]
            line[0] = total * 0.25 + (low + width * units[0])
            for k in range(1, cells):
                total = middle[k] + line[2 * k - 1] + line[2 * k + 1] + below[k]
                line[2 * k] = total * 0.25 + (low + width * units[k])
            total = middle[cells] + line[2 * cells - 1] + line[1] + below[cells]
            line[2 * cells] = total * 0.25 + (low + width * units[cells])
            units = units[cells + 1 :]


@kernel
def diamond_square(decay: float, units: Floats, field: Floats) -> None:
    """A random field by the diamond-square algorithm, with neighbours that wrap around.

    decay: the amplitude of level k is exp(decay (1 - k)) / 2. units: ((2^n + 1)^2,) in [0, 1), used in order: corners,
    then level by level the centres, and the points between. field: (2^n + 1, 2^n + 1), filled.
    """
    side, cells, level = field.shape[0], 1, 1
    scratch = np.empty((2, (side // 2 + 1) ** 2))
    grid, units = units[:4].reshape(2, 2), units[4:]
    while cells < side - 1:
        points = (2 * cells + 1) ** 2
        fine = field if 2 * cells == side - 1 else scratch[level % 2, :points].reshape(2 * cells + 1, 2 * cells + 1)
        amplitude = 0.5 * math.exp(decay * (1 - level))
        refine(grid, -amplitude, amplitude - -amplitude, units, fine)
        units = units[points - (cells + 1) ** 2 :]
        grid, cells, level = fine, 2 * cells, level + 1


@kernel
def paint_background(field: Floats, colours: Floats, image: Bytes) -> None:
    """The corner of a field in colours: image (S, S, 3), filled.

    colours: (6,), scale and shift of hue, saturation and value; the hue is trunc(x scale + shift) mod 256, the others
    trunc(min(x scale + shift, 255)) mod 256.
    """
    size, pixels = image.shape[0], np.empty(image.shape[1], np.int32)
    hue_scale, hue_shift, saturation_scale = colours[0], colours[1], colours[2]
    saturation_shift, value_scale, value_shift = colours[3], colours[4], colours[5]
    for row in range(size):
        xs, line = field[row, :size], image[row].reshape(-1)
        for column in range(size):
            x = xs[column]
            hue = np.int32(x * hue_scale + hue_shift) & _BYTE
            saturation = np.int32(min(x * saturation_scale + saturation_shift, 255.0)) & _BYTE
            value = np.int32(min(x * value_scale + value_shift, 255.0)) & _BYTE
            pixels[column] = to_rgb(hue, saturation, value)
        for column in range(size):
            for channel in range(3):
                line[3 * column + channel] = np.uint8(pixels[column] >> 8 * channel)
