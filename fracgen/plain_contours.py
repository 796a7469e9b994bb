"""RCDB's published program (Kataoka et al., CVPR 2022) in plain Python, one statement after the other.

It shares no code with the kernels: it is what they are tested against, and what `fracgen bench` times them against.
Lines are Pillow's. The noise of a line is computed by numpy for all its vertices at once, where the published program
calls a C library for each: about as fast.
"""

import math
import random
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw

from fracgen.atom_kernels import PERMUTATION
from fracgen.ifs import Floats
from fracgen.shards.sample import Image

F = np.float32
_HASHES = np.array(PERMUTATION)
_GRADIENTS = np.where(_HASHES & 8, -1, (_HASHES & 7) + 1).astype(F)


def plain_images(
    process: int, *, classes: int, images: int, size: int = 512, max_shift: int = 400
) -> Iterator[tuple[int, int, Image]]:
    """(class, image, pixels) of all that one process of the published program makes, from its number 0 on."""
    stream = random.Random(process + 1)
    for label in range(process * classes, (process + 1) * classes):
        vertices = 0
        while not 3 <= vertices <= 200:
            vertices = int(stream.expovariate(1 / 100))
        lines = stream.randint(1, 200)
        noise, line_offset = stream.uniform(0, 4), stream.uniform(0, 0.1)
        radius = stream.randint(0, 100)
        oval_x, oval_y = stream.uniform(1, 2), stream.uniform(1, 2)
        centre_y = (size + stream.randint(-max_shift, max_shift)) / 2
        centre_x = (size + stream.randint(-max_shift, max_shift)) / 2
        for number in range(images):
            drawn = draw_plain_contours(
                lambda count: stream.randint(0, count - 1),
                lambda: stream.uniform(0, 10000),
                numbers=(vertices, lines, noise, line_offset),
                radii=(radius, oval_x, oval_y),
                centre=(centre_x, centre_y),
                size=size,
            )
            yield label, number, drawn
            oval_x, oval_y = stream.uniform(1, 2), stream.uniform(1, 2)
            radius = stream.randint(0, 100)
            centre_y = (size + stream.randint(-max_shift, max_shift)) / 2
            centre_x = (size + stream.randint(-max_shift, max_shift)) / 2


def draw_plain_contours(
    draw_below: Callable[[int], int],
    draw_place: Callable[[], float],
    *,
    numbers: tuple[int, int, float, float],
    radii: tuple[int, float, float],
    centre: tuple[float, float],
    size: int,
) -> Image:
    """One image: uint8 (size, size).

    draw_below: a random whole number below another. draw_place: a random place in 0..10000 of the noise.
    numbers: V, L, q and w. radii: the radius, and factors of x and y.
    """
    vertices, lines, noise, line_offset = numbers
    radius, oval_x, oval_y = radii
    angle = 2 * math.pi / vertices
    xs = [math.cos(k * angle) * radius * oval_x for k in range(vertices)]
    ys = [math.sin(k * angle) * radius * oval_y for k in range(vertices)]
    picture = PillowImage.new("L", (size, size), 255)
    pen = ImageDraw.Draw(picture)
    for _ in range(lines):
        gray = min(draw_below(size // 2 + 1), 255)
        noises_x = _plain_noise([draw_place() for _ in range(vertices)]) * noise * 2 - noise
        noises_y = _plain_noise([draw_place() for _ in range(vertices)]) * noise * 2 - noise
        for k in range(vertices):
            xs[k] -= math.cos(k * angle) * (float(noises_x[k]) - line_offset)
            ys[k] -= math.sin(k * angle) * (float(noises_y[k]) - line_offset)
        for k in range(vertices):
            end = (k + 1) % vertices
            ends = xs[k] + centre[0], ys[k] + centre[1], xs[end] + centre[0], ys[end] + centre[1]
            pen.line(ends, fill=gray, width=1)
    return np.asarray(picture)


def _plain_noise(places: list[float]) -> Floats:
    """1-D Perlin noise in float32, with -1 for every gradient whose hash has bit 3, as noise 1.2.2 has it; float64."""
    x = np.array(places).astype(F)
    cell = x.astype(np.int64)
    t = x - cell.astype(F)
    fade = t * t * t * (t * (t * F(6) - F(15)) + F(10))
    left, right = _GRADIENTS[cell & 255] * t, _GRADIENTS[cell + 1 & 255] * (t - F(1))
    noise: Floats = ((left + fade * (right - left)) * F(0.4)).astype(np.float64)
    return noise
