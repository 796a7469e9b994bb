"""Systems of coloured multi-fractals: their sampler, and the changes that an image makes to them (parameter jitter).

Anderson & Farrell, "Improving Fractal Pre-training" (WACV 2022). A system is N affine maps of the plane, (N, 2, 3)
float64; its sigma-factor is uniform in [(5 + N)/2, (6 + N)/2]. From the draws of numpy's PCG64 the sampler's numbers
are the published ones, to the bit.
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from fracgen.arithmetic import add, fused
from fracgen.ifs import Floats

Unit = Callable[[], float]
"""Gives the next number, uniform in [0, 1)."""
Jitter = Literal["basic", "fractaldb-1", "fractaldb-2", "fractaldb-3", "fractaldb-4", "svd", "sval"]
"""How a system may be changed."""

JITTER_TRIES = 4
"""Changes that are tried before a system is used unchanged."""
_LEVELS = 5


def sample_system(num_maps: int, unit: Unit) -> Floats:
    """Draw a system: (num_maps, 2, 3) float64.

    Draws in order: 4 N signs, 2 N angles in [-pi, pi), sigma, the singular values map by map (of the last map one),
    2 N translations in [-1, 1). A_j = R(u_j) D(u_j) diag(s1, s2) R(v_j) D(v_j), with D of two signs.
    """
    signs = [[_sign(unit()), _sign(unit())] for _ in range(2 * num_maps)]
    angles = [_uniform(unit, -math.pi, math.pi) for _ in range(2 * num_maps)]
    values = _singular_values(num_maps, _uniform(unit, *sigma_range(num_maps)), unit)
    turns = [_turn(angle, sign) for angle, sign in zip(angles, signs, strict=True)]
    maps = np.empty((num_maps, 2, 3))
    for j, (s1, s2) in enumerate(values):
        left, right = turns[j], turns[num_maps + j]
        for row in range(2):
            first, second = left[row][0] * s1, left[row][1] * s2
            for column in range(2):
                maps[j, row, column] = fused(second, right[1][column], first * right[0][column])
    for j in range(num_maps):
        maps[j, :, 2] = _uniform(unit, -1, 1), _uniform(unit, -1, 1)
    return maps


def sigma_range(num_maps: int) -> tuple[float, float]:
    """Least and greatest sigma-factor of a system of N maps: (5 + N)/2 and (6 + N)/2."""
    return (5 + num_maps) / 2, (6 + num_maps) / 2


def _singular_values(num_maps: int, sigma: float, unit: Unit) -> list[tuple[float, float]]:
    """(s1, s2) of each map, all in [0, 1], s1 >= s2: each pair leaves the maps after it a solution."""
    rest, least = sigma, sigma - 3 * num_maps + 3
    values = []
    for _ in range(num_maps - 1):
        s1 = _uniform(unit, max(0.0, least / 3), min(1.0, rest))
        least, rest = least - s1, rest - s1
        s2 = _uniform(unit, max(0.0, least / 2), min(s1, rest / 2))
        least, rest = least - 2 * s2 + 3, rest - 2 * s2
        values.append((s1, s2))
    s2 = _uniform(unit, max(0.0, (rest - 1) / 2), rest / 3)
    return [*values, (rest - 2 * s2, s2)]


def jitter_system(maps: Floats, kind: Jitter, unit: Unit) -> Floats:
    """A changed copy whose singular values are all at most 1, or `maps` itself where none of 4 tries has such.

    basic: one map's six numbers x U(0.8, 1.1). fractaldb-k: one of the six numbers of every map x one common factor out
    of five in 1 - k/5 .. 1 + k/5. svd: a rotation of one map, on the left or the right, by U(-0.5, 0.5) radians, or its
    translation + U(-0.5, 0.5)^2. sval: the singular values of one map x a factor that keeps the sigma-factor in range.
    """
    change = _CHANGES.get(kind) or (lambda copy, unit: _change_column(copy, int(kind[-1]), unit))
    for _ in range(JITTER_TRIES):
        copy = maps.copy()
        change(copy, unit)
        if max(greatest for greatest, _ in map(_matrix_singular_values, copy)) <= 1:
            return copy
    return maps


def _change_map(maps: Floats, unit: Unit) -> None:
    j = _below(unit, len(maps))
    maps[j] *= np.array([_uniform(unit, 0.8, 1.1) for _ in range(6)]).reshape(2, 3)


def _change_column(maps: Floats, k: int, unit: Unit) -> None:
    row, column = divmod(_below(unit, 6), 3)
    maps[:, row, column] *= 1 + k / 5 * (2 * _below(unit, _LEVELS) / (_LEVELS - 1) - 1)


def _change_turns(maps: Floats, unit: Unit) -> None:
    part, j = divmod(_below(unit, 3 * len(maps)), len(maps))
    if part == 2:
        maps[j, :, 2] += _uniform(unit, -0.5, 0.5), _uniform(unit, -0.5, 0.5)
        return
    turn, matrix = _turn(_uniform(unit, -0.5, 0.5), [1, 1]), maps[j, :, :2].tolist()
    left, right = (matrix, turn) if part else (turn, matrix)
    # not by numpy, whose last bits follow the processor
    maps[j, :, :2] = [[row[0] * right[0][k] + row[1] * right[1][k] for k in range(2)] for row in left]


def _change_values(maps: Floats, unit: Unit) -> None:
    shares = [s1 + 2 * s2 for s1, s2 in map(_matrix_singular_values, maps)]
    j, sigma = _below(unit, len(maps)), add(shares)
    share = shares[j]
    low, high = ((bound - (sigma - share)) / share for bound in sigma_range(len(maps)))
    maps[j, :, :2] *= _uniform(unit, max(low, 0.0), max(high, 0.0))


def _matrix_singular_values(affine: Floats) -> tuple[float, float]:
    """(s1, s2), s1 >= s2, of the matrix of a map (2, 3): in closed form, so that all machines have the same bits."""
    (a, b, _), (c, d, _) = affine.tolist()
    outer = math.sqrt((a + d) * (a + d) + (b - c) * (b - c))
    inner = math.sqrt((a - d) * (a - d) + (b + c) * (b + c))
    return (outer + inner) / 2, abs(outer - inner) / 2


_CHANGES: dict[str, Callable[[Floats, Unit], None]] = {
    "basic": _change_map,
    "svd": _change_turns,
    "sval": _change_values,
}


def _uniform(unit: Unit, low: float, high: float) -> float:
    """As numpy's Generator.uniform."""
    return low + (high - low) * unit()


def _below(unit: Unit, count: int) -> int:
    return int(unit() * count)


def _sign(number: float) -> int:
    return -1 if number < 0.5 else 1


def _turn(angle: float, signs: list[int]) -> list[list[float]]:
    """A rotation times a diagonal matrix of two signs, row by row."""
    cos, sin = math.cos(angle), math.sin(angle)
    return [[cos * signs[0], -sin * signs[1]], [sin * signs[0], cos * signs[1]]]
