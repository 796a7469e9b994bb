"""The category search's kernels: the legacy random stream, and whether a candidate fills the image.

The stream is that of numpy's RandomState (`mersenne_kernels`). Only the first word of a double decides about a map, but
for one point in a thousand.

Orbits are traced twice, block by block, rather than kept, as four of them would not stay in the nearest cache.
"""

import numpy as np
import numpy.typing as npt

from fracgen.chaos import NUM_BUCKETS, UNSURE, tabulate
from fracgen.ifs import Floats
from fracgen.jit import kernel
from fracgen.mersenne_kernels import CHUNK_WORDS, STATE_WORDS, Words, refill, temper, to_unit
from fracgen.search_settings import SIZE as SIZE

LANES = 4
"""Candidates judged at a time: an orbit waits for its own arithmetic, so that four take little longer than one."""
MIN_MAPS, MAX_MAPS = 2, 7
POINTS = 100_000
BLOCK = 1024
"""Points that are traced, and looked at, at a time: they stay in the nearest cache."""
PAD = 6
OVERFLOW, FLAT = -1, -2
"""Instead of a number of pixels."""

ROW = 8
"""Numbers of a map in `trace_four`: a, b, e, c, d, f and two that are not used. Choices are multiples of it."""
_ORDER = np.array([0, 1, 3, 4, 2, 5])
"""Of a, b, c, d, e, f in such a row."""
_HEADER_WORDS = 64 + 12 * MAX_MAPS
"""Most that a candidate's maps take: their number takes 1.3 words on average, and more than 64 never."""
_S5, _S6, _S15 = (np.uint32(shift) for shift in (5, 6, 15))
_B, _E, _C, _D, _F = (np.uint64(number) for number in (1, 2, 3, 4, 5))  # signed indices take half as long again
_W1, _W6, _W63 = (np.uint64(number) for number in (1, 6, 63))


@kernel
def read_maps(words: Words, position: int, rows: Floats) -> tuple[int, int]:
    """Read a candidate's maps: N uniform in 2..7, then six values in [-1, 1) a map.

    words: raw, with all that it takes. rows: (7, 6), filled with a, b, c, d, e, f. Returns N and the next position.
    """
    number = np.uint32(7)
    while number > MAX_MAPS - MIN_MAPS:  # numpy's legacy randint: three bits of a word, until they are in range
        number = temper(words[position]) & np.uint32(7)
        position += 1
    num_maps = np.int64(number) + MIN_MAPS
    for j in range(num_maps):
        for k in range(6):
            high, low = temper(words[position]) >> _S5, temper(words[position + 1]) >> _S6
            rows[j, k] = -1.0 + 2.0 * to_unit(high, low)
            position += 2
    return int(num_maps), position


@kernel
def find_probabilities(rows: Floats, p: Floats) -> None:
    """p_j = |a d - b c| / sum, summed in map order. rows: (N, 6) a, b, c, d, e, f. p: (N,), filled."""
    total = 0.0
    for j in range(p.size):
        p[j] = abs(rows[j, 0] * rows[j, 3] - rows[j, 1] * rows[j, 2])
        total += p[j]
    for j in range(p.size):
        p[j] /= total


@kernel
def choose(words: Words, limits: Floats, table: npt.NDArray[np.uint8], choices: npt.NDArray[np.uint8]) -> None:
    """Map of each step, from the raw words of its random numbers r: the first j with r <= p_1 + ... + p_j.

    words: (2 n,). limits, table: from `chaos.tabulate`. choices: (n,), filled with multiples of ROW: len(p) of them
    where r exceeds the sum.
    """
    highs = np.empty(CHUNK_WORDS // 2 + STATE_WORDS, np.uint32)
    for i in range(choices.size):
        highs[i] = temper(words[2 * i]) >> _S5
    for i in range(choices.size):
        choice = table[highs[i] >> _S15]
        if choice == UNSURE:
            r = to_unit(highs[i], temper(words[2 * i + 1]) >> _S6)
            choice = np.uint8(0)
            while choice < limits.size and r > limits[choice]:
                choice += np.uint8(1)
        choices[i] = choice * np.uint8(ROW)


@kernel
def trace_four(coefficients: Floats, choices: npt.NDArray[np.uint8], position: Floats, xs: Floats, ys: Floats) -> None:
    """Go on with the orbits of four systems, as `chaos.trace_pair` traces two.

    coefficients: (4, 64), a ROW for each map; the row after the last is the identity: a finite point stays.
    choices: (4, n), multiples of ROW. position: (4, 2), where they are; updated. xs, ys: (4, n), filled with the points
    after each step.
    """
    first, second, third, fourth = coefficients[0], coefficients[1], coefficients[2], coefficients[3]
    x0, y0, x1, y1 = position[0, 0], position[0, 1], position[1, 0], position[1, 1]
    x2, y2, x3, y3 = position[2, 0], position[2, 1], position[3, 0], position[3, 1]
    choices0, choices1, choices2, choices3 = choices[0], choices[1], choices[2], choices[3]
    for i in range(choices0.size):
        j = np.uint64(choices0[i])
        x0, y0 = (
            x0 * first[j] + y0 * first[j + _B] + first[j + _E],
            x0 * first[j + _C] + y0 * first[j + _D] + first[j + _F],
        )
        j = np.uint64(choices1[i])
        x1, y1 = (
            x1 * second[j] + y1 * second[j + _B] + second[j + _E],
            x1 * second[j + _C] + y1 * second[j + _D] + second[j + _F],
        )
        j = np.uint64(choices2[i])
        x2, y2 = (
            x2 * third[j] + y2 * third[j + _B] + third[j + _E],
            x2 * third[j + _C] + y2 * third[j + _D] + third[j + _F],
        )
        j = np.uint64(choices3[i])
        x3, y3 = (
            x3 * fourth[j] + y3 * fourth[j + _B] + fourth[j + _E],
            x3 * fourth[j + _C] + y3 * fourth[j + _D] + fourth[j + _F],
        )
        xs[0, i], ys[0, i] = x0, y0
        xs[1, i], ys[1, i] = x1, y1
        xs[2, i], ys[2, i] = x2, y2
        xs[3, i], ys[3, i] = x3, y3
    position[0, 0], position[0, 1], position[1, 0], position[1, 1] = x0, y0, x1, y1
    position[2, 0], position[2, 1], position[3, 0], position[3, 1] = x2, y2, x3, y3


@kernel
def find_greatest(
    signed: npt.NDArray[np.int64], unsigned: npt.NDArray[np.uint64], greatest: npt.NDArray[np.int64]
) -> None:
    """Greatest of the values as signed and as unsigned whole numbers, and of what greatest (2,) holds already.

    signed, unsigned: (n,), the same bits. For the bits of doubles this finds their extent: those that are not negative
    are in their own order, and negative ones come after them (unsigned) in the order of their distance from 0. So the
    first is the maximum, if it is not negative, and the second is the minimum, if it is. Whole numbers take vector
    instructions here; doubles, whose maximum must mind NaN, do not. A NaN is greater than all.
    """
    highest, lowest = greatest[0], np.uint64(greatest[1])
    for i in range(signed.size):
        highest = max(highest, signed[i])
        lowest = max(lowest, unsigned[i])
    greatest[0], greatest[1] = highest, np.int64(lowest)


@kernel
def plot_block(xs: Floats, ys: Floats, extent: Floats, offsets: Words, canvas: npt.NDArray[np.uint64]) -> int:
    """Light the pixels of some points on a canvas of one bit a pixel; returns how many were dark.

    extent: min x, max x, min y, max y. offsets: (n,), scratch. It places points as `chaos.locate` does.
    """
    x_min, x_extent, y_min, y_extent = extent[0], extent[1] - extent[0], extent[2], extent[3] - extent[2]
    scale, shift, row = np.float64(SIZE - 2 * PAD), np.float64(PAD), np.int32(SIZE)
    for i in range(xs.size):
        u = (xs[i] - x_min) / x_extent * scale + shift
        v = (ys[i] - y_min) / y_extent * scale + shift
        offsets[i] = np.int32(v) * row + np.int32(u)
    lit = 0
    for i in range(xs.size):
        offset = np.uint64(offsets[i])
        bit = _W1 << (offset & _W63)
        lit += int(canvas[offset >> _W6] & bit == 0)
        canvas[offset >> _W6] |= bit
    return lit


@kernel
def draw_candidate(
    words: Words, position: int, rows: Floats, p: Floats, choices: npt.NDArray[np.uint8], coefficients: Floats
) -> int:
    """Draw the next candidate from the stream: its maps, and the map of each step. Returns the next position.

    words: (624 + CHUNK_WORDS,) raw words, those from `position` not used yet; refilled. rows: (7, 6) a, b, c, d, e, f;
    p: (7,), 0 where there is no map; choices: (T,), the last of which is drawn and not used; coefficients: (64,) of
    `trace_four`; all filled.
    """
    if words.size - position < _HEADER_WORDS:
        refill(words)
        position -= CHUNK_WORDS
    num_maps, position = read_maps(words, position, rows)
    find_probabilities(rows[:num_maps], p[:num_maps])
    for j in range(num_maps, p.size):
        p[j] = 0.0
    limits, table = np.empty(num_maps), np.empty(NUM_BUCKETS, np.uint8)
    tabulate(p[:num_maps], limits, table)
    start = 0
    while start < choices.size:
        size = min((words.size - position) // 2, choices.size - start)
        choose(words[position : position + 2 * size], limits, table, choices[start : start + size])
        start, position = start + size, position + 2 * size
        if start < choices.size:
            refill(words)
            position -= CHUNK_WORDS
    for j in range(num_maps):
        for k in range(6):
            coefficients[j * ROW + _ORDER[k]] = rows[j, k]
    for k in range(ROW):
        coefficients[num_maps * ROW + k] = 1.0 if k in (0, 4) else 0.0
    return position


@kernel
def find_extents(
    coefficients: Floats,
    choices: npt.NDArray[np.uint8],
    position: Floats,
    xs: Floats,
    ys: Floats,
    signed: npt.NDArray[np.int64],
    unsigned: npt.NDArray[np.uint64],
    greatest: npt.NDArray[np.int64],
) -> None:
    """Trace four orbits, only for their extents: greatest (4, 2, 2) holds them as `find_greatest` finds them.

    position: (4, 2), zeros; then where the orbits end. xs, ys: (4, block), scratch; signed, unsigned: (2, 4, block),
    their bits.
    """
    for start in range(0, choices.shape[1], BLOCK):
        size = min(BLOCK, choices.shape[1] - start)
        trace_four(coefficients, choices[:, start : start + size], position, xs, ys)
        for lane in range(LANES):
            for axis in range(2):
                find_greatest(signed[axis, lane, :size], unsigned[axis, lane, :size], greatest[lane, axis])


@kernel
def count_lit(
    coefficients: Floats,
    choices: npt.NDArray[np.uint8],
    position: Floats,
    xs: Floats,
    ys: Floats,
    extents: Floats,
    least: int,
    canvases: npt.NDArray[np.uint64],
    lit: npt.NDArray[np.int64],
) -> None:
    """How many pixels each of four candidates lights: lit (4,), exact as to whether it is `least` or more.

    It stops where the points that are left cannot change that. Lanes whose `lit` is negative are passed over, others
    begin with 1, of the first point, which is on their canvas. position: (4, 2), zeros. xs, ys: (4, block), scratch.
    extents: (4, 4), min x, max x, min y, max y. canvases: (4, pixels / 64), one bit a pixel.
    """
    offsets = np.empty(BLOCK, np.uint32)
    undecided = 0
    for lane in range(LANES):
        undecided |= (1 if lit[lane] >= 0 else 0) << lane
    steps = choices.shape[1]
    for start in range(0, steps, BLOCK):
        if not undecided:
            return
        size = min(BLOCK, steps - start)
        trace_four(coefficients, choices[:, start : start + size], position, xs, ys)
        for lane in range(LANES):
            if undecided >> lane & 1:
                lit[lane] += plot_block(xs[lane, :size], ys[lane, :size], extents[lane], offsets, canvases[lane])
                if lit[lane] >= least or lit[lane] + steps - start - size < least:
                    undecided ^= 1 << lane
