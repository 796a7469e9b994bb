"""The images of coloured multi-fractals (Anderson & Farrell, WACV 2022) in plain Python, pixel after pixel.

It shares no code with the kernels: it is what they are tested against, and what `fracgen bench` times them against. The
published program compiles its orbits and fields by numba, and calls OpenCV for colours, sizes and the blur.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

from fracgen.shards.sample import Image

F = np.float32
Grid = list[list[float]]
Colours = list[list[tuple[int, ...]]]
BLACK = (0, 0, 0)


def plain_scene(metadata: Mapping[str, Any], *, size: int, points: int) -> Image:
    """The image that a sample's metadata describes: uint8 (size, size, 3)."""
    image: Colours = [[BLACK] * size for _ in range(size)]
    if key := int(metadata["background_key"], 16):
        side = 2 ** math.ceil(math.log2(size)) + 1
        units = (number / 2**53 for number in (number >> 11 for number in _splitmix64(key)))
        image = colour_plain_field(
            plain_field(side, metadata["background_decay"], units), metadata["background_colours"], size
        )
    is_single = "regions" in metadata
    for number, places in enumerate(metadata["regions" if is_single else "squares"]):
        maps = [metadata["maps"][number][start : start + 6] for start in range(0, len(metadata["maps"][number]), 6)]
        halves = _halves(int(metadata["orbit_keys"][number], 16))
        orbit = plain_orbit(maps, plain_choices(maps, (half / 2**32 for half in islice(halves, points))))
        inner = size if is_single else size // 2
        counts = plain_counts(orbit, inner, metadata["masks"][number], places if is_single else None)
        picture = colour_plain_counts(counts, metadata["colours"][number], metadata["flips"][number])
        if is_single:
            image = paste_plain(picture, 0, 0, image)
        else:
            left, top, side = places
            image = paste_plain(resize_plain(picture, side), top, left, image)
    if metadata["blur_sigma"]:
        image = blur_plain(image, metadata["blur_sigma"])
    return np.array(image, np.uint8)


def _splitmix64(key: int) -> Iterator[int]:
    """Steele, Lea and Flood (2014): the 64-bit numbers of the stream."""
    mask = 2**64 - 1
    while True:
        key = (key + 0x9E3779B97F4A7C15) & mask
        z = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        yield z ^ (z >> 31)


def _halves(key: int) -> Iterator[int]:
    for number in _splitmix64(key):
        yield number & 0xFFFFFFFF
        yield number >> 32


def plain_choices(maps: list[list[float]], uniforms: Iterator[float]) -> Iterator[int]:
    """The number of the map that each uniform number chooses. maps: a, b, e, c, d, f of each."""
    determinants = [abs(a * d - b * c) for a, b, _, c, d, _ in maps]
    limits, total, whole = [], 0.0, 0.0
    for determinant in determinants:  # one after the other: Python's own sum compensates from 3.12 on
        whole += determinant
    for determinant in determinants:
        total += determinant / whole
        limits.append(total)
    for uniform in uniforms:
        yield next((number for number, limit in enumerate(limits[:-1]) if uniform < limit), len(maps) - 1)


def plain_orbit(maps: list[list[float]], choices: Iterable[int]) -> list[tuple[float, float]]:
    """The points of an orbit, one for each choice of a map."""
    a, b, e, c, d, f = maps[0]
    scale = 1 / (1 + (a * d - b * c) - a - d)
    x, y = scale * ((1 - d) * e + b * f), scale * ((1 - a) * f + c * e)
    orbit = []
    for chosen in choices:
        a, b, e, c, d, f = maps[chosen]
        x, y = a * x + b * y + e, c * x + d * y + f
        orbit.append((x, y))
    return orbit


def plain_counts(orbit: list[tuple[float, float]], size: int, mask: int, place: list[float] | None) -> list[list[int]]:
    """How often each pixel is drawn on. place: shift and extent in x and y of a region; None for the bounding box."""
    bounds = []
    for axis in range(2):
        low, high = min(point[axis] for point in orbit), max(point[axis] for point in orbit)
        if place is not None:
            centre, half = (low + high) / 2 + (high - low) * place[axis], (high - low) * place[2 + axis] / 2
            low, high = centre - half, centre + half
        bounds.append((low, high - low if high - low > 0 else 1.0))
    counts = [[0] * size for _ in range(size)]
    for point in orbit:
        row, column = (int((value - low) * (size - 1) / span) for value, (low, span) in zip(point, bounds, strict=True))
        if not (0 <= row < size and 0 <= column < size):
            continue
        for i in range(3):
            for j in range(3):
                down, right = row + i - 1, column + j - 1
                if mask >> (3 * i + j) & 1 and 0 <= down < size and 0 <= right < size:
                    counts[down][right] += 1
    return counts


def colour_plain_counts(counts: list[list[int]], colour: list[float], flips: int) -> Colours:
    """A fractal in colours on black, transposed and turned. colour: hue shift, saturation, value."""
    greatest = max(map(max, counts))
    if flips & 1:
        counts = [list(row) for row in zip(*counts, strict=True)]
    if flips & 2:
        counts = counts[::-1]
    if flips & 4:
        counts = [row[::-1] for row in counts]
    shift, saturation, value = colour
    return [
        [
            plain_rgb(int(255 * (count / greatest) + shift) % 256, int(saturation), int(value)) if count else BLACK
            for count in row
        ]
        for row in counts
    ]


def plain_rgb(hue: int, saturation: int, value: int) -> tuple[int, ...]:
    """An 8-bit HSV colour as RGB, in float32, truncated."""
    sectors = F(hue) * F(6 / 180)
    whole = math.floor(sectors)
    part = sectors - F(whole)
    s, v = F(saturation) * F(1 / 255), F(value) * F(1 / 255)
    p = v * (F(1) - s)
    q = v * F(1 - float(s) * float(part))
    t = v * F(1 - float(s) * float(F(1) - part))
    red, green, blue = [(v, t, p), (q, v, p), (p, v, t), (p, q, v), (t, p, v), (v, p, q)][whole % 6]
    return int(red * F(255)), int(green * F(255)), int(blue * F(255))


def plain_field(side: int, decay: float, units: Iterator[float]) -> Grid:
    """A field of the diamond-square algorithm, side 2^n + 1."""
    field = [[0.0] * side for _ in range(side)]
    for row, column in ((0, 0), (0, side - 1), (side - 1, 0), (side - 1, side - 1)):
        field[row][column] = next(units)
    for level in range(1, (side - 1).bit_length()):
        step = side // 2**level
        amplitude = 0.5 * math.exp(decay * (1 - level))

        def noise(amplitude: float = amplitude) -> float:
            return -amplitude + (amplitude + amplitude) * next(units)

        for row in range(step, side, 2 * step):
            for column in range(step, side, 2 * step):
                total = field[row - step][column - step] + field[row - step][column + step]
                total = total + field[row + step][column - step] + field[row + step][column + step]
                field[row][column] = total * 0.25 + noise()
        for row in range(0, side, step):
            for column in range(0 if row // step % 2 else step, side, 2 * step):
                above = field[row - step if row else side - step - 1][column]
                left = field[row][column - step if column else side - step - 1]
                right = field[row][column + step if column != side - 1 else step]
                below = field[row + step if row != side - 1 else step][column]
                field[row][column] = (above + left + right + below) * 0.25 + noise()
    return field


def colour_plain_field(field: Grid, colours: list[float], size: int) -> Colours:
    """The corner of a field in colours: scale and shift of hue, saturation and value."""
    hue_scale, hue_shift, saturation_scale, saturation_shift, value_scale, value_shift = colours
    return [
        [
            plain_rgb(
                int(x * hue_scale + hue_shift) % 256,
                int(min(x * saturation_scale + saturation_shift, 255)) % 256,
                int(min(x * value_scale + value_shift, 255)) % 256,
            )
            for x in row[:size]
        ]
        for row in field[:size]
    ]


def resize_plain(source: Colours, side: int) -> Colours:
    """A square picture in another size, between pixels."""
    length, target = len(source), list[list[tuple[int, ...]]]()

    def along(number: int) -> tuple[int, int, int]:
        place = F((number + 0.5) * (length / side) - 0.5)
        whole = math.floor(place)
        part = place - F(whole)
        return whole, round(float((F(1) - part) * F(2048))), round(float(part * F(2048)))

    for row in range(side):
        whole, *weights = along(row)
        lines = [source[min(max(number, 0), length - 1)] for number in (whole, whole + 1)]
        target.append([])
        for column in range(side):
            first, near, far = along(column)
            second = first + 1
            if first < 0 or second >= length:
                first = second = min(max(first, 0), length - 1)
                near, far = 2048, 0
            pixel = []
            for channel in range(3):
                across = [line[first][channel] * near + line[second][channel] * far for line in lines]
                parts = [weight * (value >> 4) >> 16 for weight, value in zip(weights, across, strict=True)]
                pixel.append(sum(parts) + 2 >> 2)
            target[-1].append(tuple(pixel))
    return target


def paste_plain(picture: Colours, top: int, left: int, image: Colours) -> Colours:
    """An image with a picture over it, where that is not black."""
    image = [list(row) for row in image]
    for row, line in enumerate(picture, start=top):
        for column, pixel in enumerate(line, start=left):
            if 0 <= row < len(image) and 0 <= column < len(image) and pixel != BLACK:
                image[row][column] = pixel
    return image


def blur_plain(image: Colours, sigma: float) -> Colours:
    """An image blurred by a Gaussian of three pixels across."""
    share, last = math.exp(-1 / (2 * sigma**2)), len(image) - 1
    edge = round(256 * share / (1 + 2 * share))

    def pass_over(rows: Any) -> Any:
        return [
            [
                [
                    edge * (before + after) + (256 - 2 * edge) * middle
                    for before, middle, after in zip(
                        row[abs(i - 1)], row[i], row[last - abs(last - i - 1)], strict=True
                    )
                ]
                for i in range(len(row))
            ]
            for row in rows
        ]

    across = pass_over(image)
    down = pass_over([list(column) for column in zip(*across, strict=True)])
    return [[tuple(value + 32768 >> 16 for value in pixel) for pixel in row] for row in zip(*down, strict=True)]
