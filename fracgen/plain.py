"""The published renderer (the code of Kataoka et al., ACCV 2020) in slow, plain Python, one statement after the other.

It shares no code with the kernels: it is what they are tested against, and what `fracgen bench` times them against.
"""

import colorsys
import math

import numpy as np

from fracgen.ifs import Floats
from fracgen.shards.sample import Image
from fracgen.style import Style

_MASK64 = 2**64 - 1


def draw_plain(maps: Floats, p: Floats, style: Style, mask_key: int = 0) -> Image | None:
    """The image of maps (N, 2, 3) chosen with p (N,): uint8 (size, size), or with 3 channels; None if it overflows."""
    xs, ys, made_by = _orbit(maps, p, style.points)
    xs, ys = _trim(xs, ys)
    if not xs:
        return None
    columns, rows = _scale(xs, style), _scale(ys, style)
    size = style.size
    image = np.zeros((size, size, 3), np.uint8)
    for i, (u, v) in enumerate(zip(columns, rows, strict=True)):
        color = (127, 127, 127) if style.color == "gray" else _hue(i)
        if style.color == "map":
            color = tuple(int(255 * level) for level in colorsys.hsv_to_rgb(made_by[i] / len(p), 1, 1))
        if style.draw == "point":
            if u < size and v < size:
                image[v, u] = color
            continue
        mask = _random_mask(mask_key, i) if style.patch == "random" else 511
        for bit in range(9):
            y, x = v + 1 + bit // 3, u + 1 + bit % 3
            if y < size and x < size:
                image[y, x] = color if mask >> bit & 1 else (0, 0, 0)
    image = image[::-1]
    return image[:, :, 0] if style.color == "gray" else image


def _orbit(maps: Floats, p: Floats, points: int) -> tuple[list[float], list[float], list[int]]:
    """Coordinates, and the map that made each point: the first for the start, the last for a step without a map."""
    uniforms = np.random.RandomState(100).random_sample(points).tolist()
    coefficients, probabilities = maps.tolist(), p.tolist()
    x = y = 0.0
    xs, ys, made_by = [x], [y], [0]
    for r in uniforms[:-1]:
        total, j = 0.0, len(p) - 1
        for number, (((a, b, e), (c, d, f)), probability) in enumerate(zip(coefficients, probabilities, strict=True)):
            total += probability
            if r <= total:
                x, y, j = x * a + y * b + e, x * c + y * d + f, number
                break
        xs.append(x)
        ys.append(y)
        made_by.append(j)
    return xs, ys, made_by


def _trim(xs: list[float], ys: list[float]) -> tuple[list[float], list[float]]:
    for number in range(2):
        axis = (xs, ys)[number]
        first = next((n for n, value in enumerate(axis) if math.isnan(value)), None)
        if first is not None:
            keep = max(first - 100, 0)
            xs, ys = xs[:keep], ys[:keep]
    return xs, ys


def _scale(values: list[float], style: Style) -> list[int]:
    low = min(values)
    if low < 0:
        values = [value - low for value in values]
    if any(math.isnan(value) for value in values):
        return [0] * len(values)
    extent = max(values) - min(values)
    pixels = []
    for value in values:
        ratio = math.nan if extent == 0 or math.isnan(extent) or math.isinf(value) else value / extent
        coordinate = ratio * (style.size - 2 * style.pad) + style.pad
        pixels.append(0 if math.isnan(coordinate) or math.isinf(coordinate) else int(coordinate) % 65536)
    return pixels


def _hue(point: int) -> tuple[int, ...]:
    saturation = intensity = 0.75
    turn = 3 * (2 * math.pi * (point % 128) / 128) / math.pi
    h = math.floor(turn)
    p = intensity * (1 - saturation)
    q = intensity * (1 - saturation * (turn - h))
    t = intensity * (1 - saturation * (1 - turn + h))
    i = intensity
    return tuple(int(255 * value) for value in [(p, t, i), (p, i, q), (t, i, p), (i, q, p), (i, p, t), (q, p, i)][h])


def _random_mask(key: int, i: int) -> int:
    z = (key + (i // 2 + 1) * 0x9E3779B97F4A7C15) & _MASK64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK64
    z ^= z >> 31
    half = z >> 32 if i % 2 else z & 0xFFFFFFFF
    return (half * 511 >> 32) + 1
