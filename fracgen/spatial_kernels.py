"""ExFractalDB's kernels: orbits in three dimensions, the search's candidates, points through a camera.

Float64 in the published order of operations (Yamada et al., IROS 2022; Kataoka et al., CVPR 2022), no fused
multiply-add, no fastmath. A map is twelve numbers a..l: a 3 x 3 matrix row by row, and a translation j, k, l.
"""

import math

import numpy as np
import numpy.typing as npt

from fracgen.ifs import Floats
from fracgen.jit import kernel
from fracgen.mersenne_kernels import Words, read_bits, read_units

MIN_MAPS, MAX_MAPS = 2, 7
POINTS = 10_000
"""T; an orbit has one point less, as its start is none."""
FLAT, FOUND, OVERFLOW = 0, 1, 2
"""What a candidate is, in the order of `SpatialSearch.OUTCOMES`."""
LIT = 255
SUB_PIXELS = 256.0
"""The published rasteriser's grid in a pixel."""
NEAR, FAR = 1.0, 100.0
"""Distances from the camera between which points are drawn."""
_ALL = np.uint32(32)


@kernel
def determinant(row: Floats) -> float:
    """|det| of a map's matrix as numpy computes it, by LAPACK: an LU decomposition, and the logarithms of its pivots.

    row: (12,) or more; the first nine are the matrix. Not the cofactors' sum: in three of four cases that differs in
    the last bits.
    """
    lu = np.empty((3, 3))
    for i in range(9):
        lu[i // 3, i % 3] = row[i]
    logarithm = 0.0
    for column in range(3):
        for i in range(3):
            total = 0.0
            for k in range(min(i, column)):
                total += lu[i, k] * lu[k, column]
            lu[i, column] -= total
        pivot = column
        for i in range(column + 1, 3):
            if abs(lu[i, column]) > abs(lu[pivot, column]):
                pivot = i
        if lu[pivot, column] == 0.0:
            return 0.0
        for k in range(3):
            lu[column, k], lu[pivot, k] = lu[pivot, k], lu[column, k]
        reciprocal = 1.0 / lu[column, column]
        for i in range(column + 1, 3):
            lu[i, column] *= reciprocal
        logarithm += math.log(abs(lu[column, column]))
    return math.exp(logarithm)


@kernel
def draw_candidate(words: Words, position: int, rows: Floats, p: Floats, uniforms: Floats) -> tuple[int, int]:
    """Draw a candidate of the search: N uniform in 2..7, twelve numbers in [-1, 1) a map, then the orbit's uniforms.

    words: as of `mersenne_kernels.read_unit`. rows: (7, 12). p: (7,), |det| / sum. uniforms: (T,). All are filled.
    Returns N and the next position.
    """
    number = np.uint32(7)
    while number > MAX_MAPS - MIN_MAPS:  # numpy's legacy randint: three bits of a word, until they are in range
        word, position = read_bits(words, position, _ALL)
        number = word & np.uint32(7)
    num_maps = int(number) + MIN_MAPS
    total = 0.0
    for j in range(num_maps):
        position = read_units(words, position, rows[j])
        for k in range(12):
            rows[j, k] = -1.0 + 2.0 * rows[j, k]
        p[j] = determinant(rows[j])
        total += p[j]
    for j in range(num_maps):
        p[j] /= total
    return num_maps, read_units(words, position, uniforms)


@kernel
def trace_cloud(rows: Floats, p: Floats, uniforms: Floats, cloud: Floats) -> None:
    """Trace the orbit from the origin, which is no point of it.

    rows: (N, 12). p: (N,). uniforms: (T,), the last one is not used. cloud: (T - 1, 3), filled. Step i takes the first
    map with r_i <= p_1 + ... + p_j; where there is none, the point stays.
    """
    x = y = z = 0.0
    for i in range(cloud.shape[0]):
        total = 0.0
        for j in range(p.size):
            total += p[j]
            if uniforms[i] <= total:
                map_ = rows[j]
                x, y, z = (
                    x * map_[0] + y * map_[1] + z * map_[2] + map_[9],
                    x * map_[3] + y * map_[4] + z * map_[5] + map_[10],
                    x * map_[6] + y * map_[7] + z * map_[8] + map_[11],
                )
                break
        cloud[i, 0], cloud[i, 1], cloud[i, 2] = x, y, z


@kernel
def normalise_cloud(cloud: Floats) -> bool:
    """Scale all axes together to [-1, 1], and move each to a mean of 0, as published: of T points, one too many.

    cloud: (T - 1, 3), changed. Returns whether it is finite.
    """
    low, high = np.inf, -np.inf
    for i in range(cloud.shape[0]):
        for axis in range(3):
            value = cloud[i, axis]
            if not math.isfinite(value):
                return False
            low, high = min(low, value), max(high, value)
    for axis in range(3):
        total = 0.0
        for i in range(cloud.shape[0]):
            cloud[i, axis] = (cloud[i, axis] - low) / (high - low) * 2.0 - 1.0
            total += cloud[i, axis]
        mean = total / (cloud.shape[0] + 1)
        for i in range(cloud.shape[0]):
            cloud[i, axis] -= mean
    return math.isfinite(cloud[0, 0])


@kernel
def judge_cloud(cloud: Floats, threshold: float) -> int:
    """Whether a normalised cloud's population variance exceeds the threshold on every axis: FOUND or FLAT."""
    for axis in range(3):
        mean = square = 0.0
        for i in range(cloud.shape[0]):
            mean += cloud[i, axis]
        mean /= cloud.shape[0]
        for i in range(cloud.shape[0]):
            square += (cloud[i, axis] - mean) ** 2
        if not square / cloud.shape[0] > threshold:
            return FLAT
    return FOUND


@kernel
def project(points: npt.NDArray[np.float32], camera: Floats, size: int, canvas: npt.NDArray[np.uint8]) -> int:
    """Light the pixels that points are seen in; returns how many points are in view.

    points: (n, 3). camera: (3, 4), rows that turn (x, y, z, 1) into coordinates to the right, upward and towards the
    viewer, with the focal length in the first two. Row 0 of the canvas, (size, size) zeros, is the lowest, as
    published. Places are rounded to a 256th of a pixel, as the published rasteriser has it.
    """
    seen = 0
    for i in range(points.shape[0]):
        x, y, z = np.float64(points[i, 0]), np.float64(points[i, 1]), np.float64(points[i, 2])
        depth = -(camera[2, 0] * x + camera[2, 1] * y + camera[2, 2] * z + camera[2, 3])
        right = (camera[0, 0] * x + camera[0, 1] * y + camera[0, 2] * z + camera[0, 3]) / depth
        up = (camera[1, 0] * x + camera[1, 1] * y + camera[1, 2] * z + camera[1, 3]) / depth
        if not (NEAR <= depth <= FAR and -1.0 <= right <= 1.0 and -1.0 <= up <= 1.0):
            continue
        column = int(np.floor(np.rint((right + 1.0) * size / 2.0 * SUB_PIXELS) / SUB_PIXELS))
        row = int(np.floor(np.rint((up + 1.0) * size / 2.0 * SUB_PIXELS) / SUB_PIXELS))
        if column < size and row < size:
            canvas[row, column] = LIT
            seen += 1
    return seen
