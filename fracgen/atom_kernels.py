"""VisualAtom's kernels: 1-D Perlin noise, one-pixel lines, a whole atom (Takashima et al., CVPR 2023).

Float64 in the published order, and float32 within the noise; no fused multiply-add, no fastmath. An image's numbers
come from one SplitMix64 stream, each from the place that is its own: 0 and 1 are the centre's x and y; then, for each
orbit of V vertices, 1 is the gray, V are the noises of x and V those of y.

An image at the published ranges takes 0.63 ms of CPU on average (an AMD Zen 4). It has 116,000 noises and 58,000 lines,
of which 35,000 are within the canvas and 800 partly.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fracgen.canvas_kernels import splitmix64
from fracgen.ifs import Floats
from fracgen.jit import kernel

PERMUTATION = (
    *(151, 160, 137, 91, 90, 15, 131, 13, 201, 95, 96, 53, 194, 233, 7, 225, 140, 36, 103, 30, 69, 142, 8, 99, 37, 240),
    *(21, 10, 23, 190, 6, 148, 247, 120, 234, 75, 0, 26, 197, 62, 94, 252, 219, 203, 117, 35, 11, 32, 57, 177, 33, 88),
    *(237, 149, 56, 87, 174, 20, 125, 136, 171, 168, 68, 175, 74, 165, 71, 134, 139, 48, 27, 166, 77, 146, 158, 231),
    *(83, 111, 229, 122, 60, 211, 133, 230, 220, 105, 92, 41, 55, 46, 245, 40, 244, 102, 143, 54, 65, 25, 63, 161, 1),
    *(216, 80, 73, 209, 76, 132, 187, 208, 89, 18, 169, 200, 196, 135, 130, 116, 188, 159, 86, 164, 100, 109, 198, 173),
    *(186, 3, 64, 52, 217, 226, 250, 124, 123, 5, 202, 38, 147, 118, 126, 255, 82, 85, 212, 207, 206, 59, 227, 47, 16),
    *(58, 17, 182, 189, 28, 42, 223, 183, 170, 213, 119, 248, 152, 2, 44, 154, 163, 70, 221, 153, 101, 155, 167, 43),
    *(172, 9, 129, 22, 39, 253, 19, 98, 108, 110, 79, 113, 224, 232, 178, 185, 112, 104, 218, 246, 97, 228, 251, 34),
    *(242, 193, 238, 210, 144, 12, 191, 179, 162, 241, 81, 51, 145, 235, 249, 14, 239, 107, 49, 192, 214, 31, 181, 199),
    *(106, 157, 184, 84, 204, 176, 115, 121, 50, 45, 127, 4, 150, 254, 138, 236, 205, 93, 222, 114, 67, 29, 24, 72),
    *(243, 141, 128, 195, 78, 66, 215, 61, 156, 180),
)
"""Perlin's standard permutation of 0..255, that hashes lattice points."""
NOISE_DOMAIN = 10_000.0
"""The published code takes its noise at uniform places in [0, this)."""

SHORTER, SHORT, LONGER = 4, 8, 16
"""Steps of a line that is drawn from a table: of VisualAtom's lines within the canvas three of five, four of five, and
nineteen of twenty."""

Pixels = npt.NDArray[np.int32]
Gradients = npt.NDArray[np.int32]
"""Of the 256 cells between lattice points: 65536 times the gradient on the left, plus that on the right, plus 16. In
one number, as looking one up takes as long as computing with it."""


def _pair(gradients: npt.NDArray[np.int64]) -> Gradients:
    return (gradients * 65536 + np.roll(gradients, -1) + 16).astype(np.int32)


_HASHES = np.array(PERMUTATION)
_SIZES = (_HASHES & 7) + 1
SIGNED_GRADIENTS = _pair(np.where(_HASHES & 8, -_SIZES, _SIZES))
"""(hash & 7) + 1, negated if hash & 8, as Perlin's noise in one dimension is meant."""
LIBRARY_GRADIENTS = _pair(np.where(_HASHES & 8, -1, _SIZES))
"""As the C source of the library noise 1.2.2 has them, which the published code names: -1 wherever hash & 8."""

# Plain numbers would make these expressions signed, or float64.
_U1, _U2, _U11, _U32, _U56 = (np.uint64(number) for number in (1, 2, 11, 32, 56))
_I16, _LOW = np.int32(16), np.int32(255)
_KIND_BITS = 11  # more than the number of any row has
_KIND, _OTHER, _OUTSIDE = (np.int32(kind << _KIND_BITS) for kind in (1, 3, 4))
_FRACTION = np.uint64(44)
_F1, _F6, _F10, _F15, _F04 = (np.float32(number) for number in (1, 6, 10, 15, 0.4))
_TO_UNIT = 2.0**-53


@kernel
def integer(key: np.uint64, number: np.uint64, count: np.uint64) -> np.uint64:
    """Number `number` of the stream as a whole number, uniform in 0..count-1 to within 2^-32; count <= 2^32."""
    high: np.uint64 = splitmix64(key, number) >> _U32
    return high * count >> _U32


@lru_cache(maxsize=4)
def short_lines(size: int) -> Pixels:
    """Offsets from the first pixel of all lines of up to LONGER steps, without the last pixel: (n^2, LONGER) int32.

    Row n (last_v - v + LONGER) + last_u - u + LONGER, n = 2 LONGER + 1; the last pixel of a shorter line is repeated,
    so that all are drawn without a branch on their length, which would be mispredicted. size: of the canvas's rows.
    """
    down, right = np.mgrid[-LONGER : LONGER + 1, -LONGER : LONGER + 1].reshape(2, -1, 1)
    du, dv = abs(right), abs(down)
    along, aside, steep = np.maximum(du, dv), np.minimum(du, dv), dv >= du
    step_u, step_v = np.where(right >= 0, 1, -1), np.where(down >= 0, size, -size)
    steps = np.minimum(np.arange(LONGER), along)
    turns = (2 * aside * steps + along) // np.maximum(2 * along, 1)
    table: Pixels = (steps * np.where(steep, step_v, step_u) + turns * np.where(steep, step_u, step_v)).astype(np.int32)
    table.flags.writeable = False
    return table


@kernel
def draw_line(
    u: int, v: int, last_u: int, last_v: int, gray: np.uint8, size: int, canvas: npt.NDArray[np.uint8]
) -> None:
    """Draw from column u, row v to column last_u, row last_v, both included: Bresenham's line as Pillow draws it.

    Of n steps along the longer axis, m on the shorter, the first i take floor(m i / n + 1/2) to the side.
    canvas: flat, of `size` rows and columns, at most 8192; what lies outside is left out.
    """
    du, dv = abs(last_u - u), abs(last_v - v)
    steep = dv >= du
    along, aside = (dv, du) if steep else (du, dv)
    step_u, step_v = 1 if last_u >= u else -1, 1 if last_v >= v else -1
    if min(u, v, last_u, last_v) >= 0 and max(u, v, last_u, last_v) < size:
        ahead, sideways = (step_v * size, step_u) if steep else (step_u, step_v * size)
        # x / (2 along) is x unit >> FRACTION rounded down, for x up to 3 along^2 and along < 2^13: the error of unit,
        # less than 1, makes less than 1 / (2 along) of it
        unit = (np.uint64(1) << _FRACTION) // np.uint64(max(2 * along, 1)) + _U1
        slope, turns = np.uint64(2 * aside) * unit, np.uint64(along) * unit
        offset = v * size + u
        for _ in range(along + 1):
            canvas[np.uint64(offset + np.int64(turns >> _FRACTION) * sideways)] = gray
            offset += ahead
            turns += slope
        return
    error = 2 * aside - along
    for _ in range(along + 1):
        if 0 <= u < size and 0 <= v < size:
            canvas[np.uint64(v * size + u)] = gray
        turn = error >= 0
        error += 2 * aside - (2 * along if turn else 0)
        u += step_u if turn or not steep else 0
        v += step_v if turn or steep else 0


@kernel
def draw_uniforms(key: np.uint64, number: np.uint64, uniforms: Floats) -> None:
    """Fill with uniforms in [0, 1) of 53 bits: numbers `number` and on of the SplitMix64 stream of `key`."""
    for k in range(uniforms.size):
        uniforms[k] = np.float64(np.int64(splitmix64(key, number + np.uint64(k)) >> _U11)) * _TO_UNIT


@kernel
def perlin(
    uniforms: Floats, gradients: Gradients, cells: npt.NDArray[np.int32], noises: npt.NDArray[np.float32]
) -> None:
    """1-D Perlin noise at x = 10,000 u, in float32: noises (V,), filled; within [-1.6, 1.6], and 0 at whole numbers.

    The gradients of the two lattice points beside x (modulo 256), times the distances from them, interpolated by
    6t^5 - 15t^4 + 10t^3; the result times 0.4. uniforms: (V,) in [0, 1). cells: (V,), scratch. Loops are split so that
    all but the look-up take vector instructions.
    """
    for k in range(uniforms.size):
        x = np.float32(uniforms[k] * NOISE_DOMAIN)
        cell = np.int32(x)
        cells[k], noises[k] = cell & _LOW, x - np.float32(cell)
    for k in range(cells.size):
        cells[k] = gradients[np.uint32(cells[k])]
    for k in range(cells.size):
        t, pair = noises[k], cells[k]
        fade = t * t * t * (t * (t * _F6 - _F15) + _F10)
        left, right = np.float32(pair >> _I16) * t, np.float32((pair & _LOW) - _I16) * (t - _F1)
        noises[k] = (left + fade * (right - left)) * _F04


@kernel
def move_axis(
    noises: npt.NDArray[np.float32], waves: Floats, cycle: Floats, noise: float, line_offset: float, axis: Floats
) -> None:
    """Move one coordinate of all vertices to the next orbit: c -= cycle (n - line_offset), vertex by vertex.

    n = noises noise - noise - waves[0] - waves[1]. noises: (V,) float32, of `perlin`. waves: (2, V). cycle, axis: (V,).
    """
    for k in range(axis.size):
        n = np.float64(noises[k]) * noise - noise - waves[0, k] - waves[1, k]
        axis[k] -= cycle[k] * (n - line_offset)


@kernel
def truncate(coordinates: Floats, centre: float, places: Pixels) -> None:
    """Pixels of coordinates (V,), moved by `centre`, truncated towards zero as Pillow does: places (V + 1,), the last
    one first.
    """
    for k in range(coordinates.size):
        places[k + 1] = np.int32(coordinates[k] + centre)
    places[0] = places[coordinates.size]


@kernel
def sort_lines(
    us: Pixels, vs: Pixels, last_us: Pixels, last_vs: Pixels, size: int, offsets: Pixels, rows: Pixels
) -> None:
    """Tell how lines (V,) are drawn, in vector instructions: offsets of their first pixels, rows of `short_lines`.

    The bits of a row from _KIND_BITS on are 0 for a line of at most SHORTER steps, 1 for SHORT, 2 for LONGER; 3 where
    it is longer, or not quite within the canvas, and 4 where both ends are beyond one edge of it.
    """
    edge = np.int32(size - 1)
    for k in range(us.size):
        u, v, last_u, last_v = us[k], vs[k], last_us[k], last_vs[k]
        right, below = np.int32(edge - u), np.int32(edge - v)  # sums are 64 bits wide, which halves the vectors
        last_right, last_below = np.int32(edge - last_u), np.int32(edge - last_v)
        across, down = np.int32(last_u - u), np.int32(last_v - v)
        along = max(np.int32(abs(across)), np.int32(abs(down)))
        row = np.int32((2 * LONGER + 1) * (down + LONGER) + across + LONGER)
        row = row if along <= SHORTER else np.int32(row + _KIND)
        row = row if along <= SHORT else np.int32(row + _KIND)
        row = row if along <= LONGER else _OTHER
        row = row if (u | last_u | v | last_v | right | last_right | below | last_below) >= 0 else _OTHER  # sign bits
        row = row if (u & last_u | v & last_v | right & last_right | below & last_below) >= 0 else _OUTSIDE
        offsets[k], rows[k] = np.int32((edge + 1) * v + u), row


@kernel
def draw_polyline(
    vertices: Floats,
    centre: tuple[float, float],
    gray: np.uint8,
    size: int,
    table: Pixels,
    scratch: Pixels,
    canvas: npt.NDArray[np.uint8],
) -> None:
    """Draw the closed polyline of the vertices (2, V), moved by the centre (x, y).

    All of it has one gray, so that lines are drawn kind by kind, and each is left to the next one's first pixel.
    table: of `short_lines`. scratch: (8, V + 1). canvas: as of `draw_line`.
    """
    num_lines, us, vs, offsets, rows = vertices.shape[1], scratch[0], scratch[1], scratch[2], scratch[3]
    shorter, short, longer, others = scratch[4], scratch[5], scratch[6], scratch[7]
    truncate(vertices[0], centre[0], us)
    truncate(vertices[1], centre[1], vs)
    sort_lines(us[:num_lines], vs[:num_lines], us[1:], vs[1:], size, offsets, rows)
    num_shorter = num_short = num_longer = num_others = np.uint64(0)
    for k in range(num_lines):
        kind = rows[np.uint64(k)] >> _KIND_BITS
        if kind == 4:  # outside, as most of its neighbours are: worth a branch
            continue
        shorter[num_shorter] = short[num_short] = longer[num_longer] = others[num_others] = k
        num_shorter += np.uint64(kind == 0)  # without a branch, which would be mispredicted
        num_short += np.uint64(kind == 1)
        num_longer += np.uint64(kind == 2)
        num_others += np.uint64(kind == 3)
    for k in shorter[:num_shorter]:
        offset, row = np.uint64(offsets[np.uint64(k)]), np.uint64(rows[np.uint64(k)])
        for number in range(SHORTER):
            canvas[offset + np.uint64(table[row, number])] = gray
    for k in short[:num_short]:
        offset, row = np.uint64(offsets[np.uint64(k)]), np.uint64(rows[np.uint64(k)] - _KIND)
        for number in range(SHORT):
            canvas[offset + np.uint64(table[row, number])] = gray
    for k in longer[:num_longer]:
        offset, row = np.uint64(offsets[np.uint64(k)]), np.uint64(rows[np.uint64(k)] - 2 * _KIND)
        for number in range(LONGER):
            canvas[offset + np.uint64(table[row, number])] = gray
    for k in others[:num_others]:
        draw_line(us[k], vs[k], us[k + 1], vs[k + 1], gray, size, canvas)


@kernel
def draw_atom(
    key: np.uint64,
    gradients: Gradients,
    orbits: int,
    noise: float,
    line_offset: float,
    cycle: Floats,
    vertices: Floats,
    size: int,
    table: Pixels,
    canvas: npt.NDArray[np.uint8],
) -> None:
    """Draw an atom's orbits, each a closed polyline of its vertices after they moved outward, over the earlier ones.

    noise, line_offset: q and w. cycle: (4, V), rows cos(kA), sin(kA), 0.5 sin(kA n1), 0.5 sin(kA n2).
    vertices: (2, V), x and y before the first orbit; changed. table: of `short_lines`. canvas: flat, size x size,
    zeros.
    """
    num_vertices = vertices.shape[1]
    uniforms, noises = np.empty(num_vertices), np.empty(num_vertices, np.float32)
    cells, scratch = np.empty(num_vertices, np.int32), np.empty((8, num_vertices + 1), np.int32)
    number = _U2
    for _ in range(orbits):
        gray = np.uint8(splitmix64(key, number) >> _U56)
        number += _U1
        for axis in range(2):
            draw_uniforms(key, number, uniforms)
            perlin(uniforms, gradients, cells, noises)
            move_axis(noises, cycle[2:], cycle[axis], noise, line_offset, vertices[axis])
            number += np.uint64(num_vertices)
        draw_polyline(vertices, (0.0, 0.0), gray, size, table, scratch, canvas)
