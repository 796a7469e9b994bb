"""The chaos game's kernels: map choices, orbits, pixel places.

Everything here gives the bits of the published renderer (the code of Kataoka et al., ACCV 2020): float64 in its order
of operations, no fused multiply-add, no fastmath. Kernels write into buffers of the caller and hold no lock, so that
threads run them side by side.
"""

import numpy as np
import numpy.typing as npt

from fracgen.ifs import Floats
from fracgen.jit import kernel

NUM_BUCKETS = 4096
UNSURE = np.uint8(255)


@kernel
def tabulate(p: Floats, limits: Floats, table: npt.NDArray[np.uint8]) -> None:
    """Which map a uniform number r takes: the first j with r <= p_1 + ... + p_j, or none: len(p).

    limits: (N,), filled with p_1 + ... + p_j, summed in map order. table: (4096,), filled with the map for each value
    of floor(4096 r), and with UNSURE in the few buckets in which one map ends and the next begins.
    """
    total, done = 0.0, 0
    for j in range(p.size):
        total += p[j]
        limits[j] = total
        last = int(min(total * NUM_BUCKETS, 1.0 * NUM_BUCKETS))
        table[done:last] = np.uint8(j)
        if last < NUM_BUCKETS:
            table[last] = UNSURE
        done = max(done, last + 1)
    table[done:] = np.uint8(p.size)


@kernel
def choose_maps(
    p: Floats,
    uniforms: Floats,
    buckets: npt.NDArray[np.uint16],
    limits: Floats,
    table: npt.NDArray[np.uint8],
    choices: npt.NDArray[np.uint8],
) -> None:
    """Number of the map that each step takes: choices (T - 1,), filled; len(p) where it takes none (the point stays).

    uniforms: the published fixed stream r, (T - 1,). buckets: floor(4096 r). limits, table: scratch of `tabulate`.
    """
    tabulate(p, limits, table)
    for i in range(choices.size):
        choice = table[buckets[i]]
        if choice == UNSURE:
            choice = np.uint8(0)
            while choice < p.size and uniforms[i] > limits[choice]:
                choice += np.uint8(1)
        choices[i] = choice


@kernel
def trace_pair(
    first: Floats,
    second: Floats,
    choices: npt.NDArray[np.uint8],
    second_choices: npt.NDArray[np.uint8],
    xs: Floats,
    ys: Floats,
    extents: Floats,
) -> None:
    """Trace the orbits of two systems from (0, 0), and their extents, in the time of one.

    first, second: (N, 6), rows a, b, e, c, d, f, each with an N of its own. choices, second_choices: (T - 1,), of
    each; one array for both where they have the same probabilities. xs, ys: (2, T), filled.
    extents: (2, 4), filled with min x, max x, min y, max y; NaNs are passed over. An orbit with a NaN ends in one.
    """
    num_maps, num_second_maps = np.uint8(first.shape[0]), np.uint8(second.shape[0])
    x = y = u = v = 0.0
    x_min = x_max = y_min = y_max = 0.0
    u_min = u_max = v_min = v_max = 0.0
    xs[0, 0] = ys[0, 0] = xs[1, 0] = ys[1, 0] = 0.0
    for i in range(choices.size):
        j, k = choices[i], second_choices[i]
        if j < num_maps:
            next_x = x * first[j, 0] + y * first[j, 1] + first[j, 2]
            y = x * first[j, 3] + y * first[j, 4] + first[j, 5]
            x = next_x
            x_min, x_max = min(x_min, x), max(x_max, x)
            y_min, y_max = min(y_min, y), max(y_max, y)
        if k < num_second_maps:
            next_u = u * second[k, 0] + v * second[k, 1] + second[k, 2]
            v = u * second[k, 3] + v * second[k, 4] + second[k, 5]
            u = next_u
            u_min, u_max = min(u_min, u), max(u_max, u)
            v_min, v_max = min(v_min, v), max(v_max, v)
        xs[0, i + 1] = x
        ys[0, i + 1] = y
        xs[1, i + 1] = u
        ys[1, i + 1] = v
    extents[0, 0], extents[0, 1], extents[0, 2], extents[0, 3] = x_min, x_max, y_min, y_max
    extents[1, 0], extents[1, 1], extents[1, 2], extents[1, 3] = u_min, u_max, v_min, v_max


@kernel
def locate(
    xs: Floats, ys: Floats, extent: Floats, size: int, pad: int, stride: int, offsets: npt.NDArray[np.uint32]
) -> None:
    """Scale points to pixels and give their places in a canvas, v * stride + u: row v, column u.

    u = uint16(x / (max - min) * (size - 2 pad) + pad) after min is subtracted; likewise v. NaN is 0 (a flat or
    infinite axis). With 0 <= 2 pad < size <= 8192 nothing finite leaves [0, size], so uint16 never wraps; the clamp
    keeps every input within the canvas all the same.
    """
    x_min, x_extent = extent[0], extent[1] - extent[0]
    y_min, y_extent = extent[2], extent[3] - extent[2]
    scale, shift, most = np.float64(size - 2 * pad), np.float64(pad), np.float64(size)
    row = np.int32(stride)
    for i in range(xs.size):
        u = (xs[i] - x_min) / x_extent * scale + shift
        v = (ys[i] - y_min) / y_extent * scale + shift
        u = u if u >= 0.0 else 0.0
        v = v if v >= 0.0 else 0.0
        u = u if u <= most else most
        v = v if v <= most else most
        offsets[i] = np.int32(v) * row + np.int32(u)
