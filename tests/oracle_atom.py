"""One image of VisualAtom in slow, plain Python, one statement after the other as the published code has it.

It shares no code with the kernels, and leaves the lines to Pillow.
"""

import math

import numpy as np
from PIL import Image, ImageDraw

from fracgen.atom_kernels import PERMUTATION

F = np.float32


def draw_plain_atom(
    *,
    vertices,
    orbits,
    noise,
    line_offset,
    radius,
    waves,
    ellipse,
    centre,
    image_key,
    size,
    gradients="library",
    own_centre=True,
) -> np.ndarray:
    """The image of a class's numbers, a centre and a key: uint8 (size, size)."""
    angle = 2 * math.pi / vertices
    n1, n2 = waves
    xs = [math.cos(angle * k) * radius * ellipse[0] + centre[0] for k in range(vertices)]
    ys = [math.sin(angle * k) * radius * ellipse[1] + centre[1] for k in range(vertices)]
    stream = splitmix64(image_key)
    drawn = [(size + next(stream) // 2**32 * (2 * size + 1) // 2**32 - size) / 2 for _ in range(2)]
    assert not own_centre or drawn == list(centre)
    image = Image.new("RGB", (size, size), (0, 0, 0))
    pen = ImageDraw.Draw(image)
    for _ in range(orbits):
        gray = next(stream) // 2**56
        noises = []
        for _axis in range(2):
            row = []
            for k in range(vertices):
                uniform = next(stream) // 2**11 / 2**53 * 10000
                n = float(pnoise1_plain(uniform, gradients)) * noise - noise
                row.append(n - 0.5 * math.sin(angle * k * n1) - 0.5 * math.sin(angle * k * n2))
            noises.append(row)
        for k in range(vertices):
            xs[k] -= math.cos(angle * k) * (noises[0][k] - line_offset)
            ys[k] -= math.sin(angle * k) * (noises[1][k] - line_offset)
        for k in range(vertices):
            after = (k + 1) % vertices
            pen.line((xs[k], ys[k], xs[after], ys[after]), fill=(gray, gray, gray), width=1)
    return np.asarray(image)[:, :, 0]


def pnoise1_plain(x: float, gradients: str = "signed") -> np.float32:
    x = F(x)
    cell = int(x)
    t = x - F(cell)
    fade = t * t * t * (t * (t * F(6) - F(15)) + F(10))
    left = gradient(cell % 1024, gradients) * t
    right = gradient((cell + 1) % 1024, gradients) * (t - F(1))
    return (left + fade * (right - left)) * F(0.4)


def gradient(point: int, gradients: str) -> np.float32:
    hashed = PERMUTATION[point & 255]
    size = F((hashed & 7) + 1)
    if gradients == "library" and hashed & 8:
        return F(-1)
    return -size if hashed & 8 else size


def splitmix64(state: int):
    while True:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        yield z ^ z >> 31
