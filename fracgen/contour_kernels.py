"""RCDB's kernels: radial contours of wandering vertices (Kataoka et al., CVPR 2022), from either random stream.

Float64 in the published order, and float32 within the noise; no fused multiply-add, no fastmath. An image takes, for
each line: one gray, then V uniforms for the noise of x, then V for that of y.
"""

import numpy as np
import numpy.typing as npt

from fracgen.atom_kernels import LIBRARY_GRADIENTS, Pixels, draw_polyline, draw_uniforms, integer, perlin
from fracgen.ifs import Floats
from fracgen.jit import kernel
from fracgen.mersenne_kernels import Words, read_below, read_unit, read_units, skip_words

_U1 = np.uint64(1)


@kernel
def move_axis(noises: npt.NDArray[np.float32], cycle: Floats, noise: float, line_offset: float, axis: Floats) -> None:
    """Move one coordinate of all vertices to the next line: c -= cycle (noises noise 2 - noise - line_offset).

    noises: (V,) float32, of `atom_kernels.perlin`. cycle, axis: (V,).
    """
    for k in range(axis.size):
        n = np.float64(noises[k]) * noise * 2.0 - noise
        axis[k] -= cycle[k] * (n - line_offset)


@kernel
def draw_indexed(
    key: np.uint64,
    lines: int,
    noise: float,
    line_offset: float,
    cycle: Floats,
    vertices: Floats,
    centre: tuple[float, float],
    size: int,
    table: Pixels,
    canvas: npt.NDArray[np.uint8],
) -> None:
    """Draw an image of a class from the SplitMix64 stream of `key`, from its number 0 on.

    noise, line_offset: q and w. cycle, vertices: (2, V), cos(kA) and sin(kA); x and y before the first line, changed.
    table: of `atom_kernels.short_lines`. canvas: flat, size x size, white.
    """
    uniforms, noises = np.empty(vertices.shape[1]), np.empty(vertices.shape[1], np.float32)
    cells, scratch = np.empty(vertices.shape[1], np.int32), np.empty((8, vertices.shape[1] + 1), np.int32)
    grays, number = np.uint64(size // 2 + 1), np.uint64(0)
    for _ in range(lines):
        gray = np.uint8(min(integer(key, number, grays), np.uint64(255)))
        number += _U1
        for axis in range(2):
            draw_uniforms(key, number, uniforms)
            perlin(uniforms, LIBRARY_GRADIENTS, cells, noises)
            move_axis(noises, cycle[axis], noise, line_offset, vertices[axis])
            number += np.uint64(uniforms.size)
        draw_polyline(vertices, centre, gray, size, table, scratch, canvas)


@kernel
def draw_published(
    words: Words,
    position: int,
    lines: int,
    noise: float,
    line_offset: float,
    cycle: Floats,
    vertices: Floats,
    centre: tuple[float, float],
    size: int,
    table: Pixels,
    canvas: npt.NDArray[np.uint8],
) -> int:
    """Draw an image of a class from the published stream; returns the position after it.

    words: as of `mersenne_kernels.read_unit`. The rest as of `draw_indexed`.
    """
    uniforms, noises = np.empty(vertices.shape[1]), np.empty(vertices.shape[1], np.float32)
    cells, scratch = np.empty(vertices.shape[1], np.int32), np.empty((8, vertices.shape[1] + 1), np.int32)
    for _ in range(lines):
        gray, position = read_below(words, position, size // 2 + 1)
        for axis in range(2):
            position = read_units(words, position, uniforms)
            perlin(uniforms, LIBRARY_GRADIENTS, cells, noises)
            move_axis(noises, cycle[axis], noise, line_offset, vertices[axis])
        draw_polyline(vertices, centre, np.uint8(min(gray, 255)), size, table, scratch, canvas)
    return position


@kernel
def read_placement(words: Words, position: int, bounds: Floats, size: int, placement: Floats) -> int:
    """Read what the published program draws anew after each image; returns the next position.

    bounds: (5,), least and greatest factor of an axis, least and greatest radius, greatest shift of the centre.
    placement: (5,), filled with the factors of x and y, the radius, and the centre's y and x, in the published order.
    """
    for number in range(2):
        unit, position = read_unit(words, position)
        placement[number] = bounds[0] + (bounds[1] - bounds[0]) * unit
    radius, position = read_below(words, position, int(bounds[3] - bounds[2]) + 1)
    placement[2] = bounds[2] + radius
    for number in range(3, 5):
        shift, position = read_below(words, position, 2 * int(bounds[4]) + 1)
        placement[number] = (size + shift - bounds[4]) / 2
    return position


@kernel
def skip_images(
    words: Words,
    position: int,
    images: int,
    num_vertices: int,
    lines: int,
    bounds: Floats,
    size: int,
    placement: Floats,
) -> int:
    """Pass over images of a class, and read where the next one lies; returns the position there.

    Words that are passed over are made, not tempered. placement: as of `read_placement`; kept where no image is
    passed over.
    """
    for _ in range(images):
        for _ in range(lines):
            _, position = read_below(words, position, size // 2 + 1)
            position = skip_words(words, position, 4 * num_vertices)
        position = read_placement(words, position, bounds, size, placement)
    return position
