"""ExFractalDB's published programs (Kataoka et al., CVPR 2022) in plain Python, one statement after the other.

They share no code with the kernels: those are tested against them, and `fracgen bench` times them beside.
"""

import math
from collections.abc import Iterator

import numpy as np

from fracgen.ifs import Floats
from fracgen.shards.sample import Image


def plain_candidates(
    seed: int, count: int, *, threshold: float = 0.05, points: int = 10_000
) -> Iterator[tuple[Floats, Floats, bool]]:
    """(maps (N, 12), p (N,), whether it is a category) of the first candidates of the search."""
    stream = np.random.RandomState(seed)
    for _ in range(count):
        maps = np.array([stream.uniform(-1.0, 1.0, 12) for _ in range(stream.randint(2, 8))])
        p = np.array([abs(np.linalg.det(row[:9].reshape(3, 3))) for row in maps])
        p = p / _add(p)
        with np.errstate(all="ignore"):
            cloud = plain_cloud(maps, p, stream.random_sample(points))
            yield maps, p, bool(not np.isnan(cloud[:, 1]).any() and (cloud.var(axis=0) > threshold).all())


def plain_cloud(maps: Floats, p: Floats, uniforms: Floats) -> Floats:
    """The normalised points of maps (N, 12) chosen by the uniforms (T,): (T - 1, 3)."""
    x = y = z = 0.0
    rows, points = maps.tolist(), []
    for r in uniforms.tolist()[:-1]:
        total = 0.0
        for (a, b, c, d, e, f, g, h, i, j, k, l), probability in zip(rows, p.tolist(), strict=True):  # noqa: E741
            total += probability
            if r <= total:
                x, y, z = x * a + y * b + z * c + j, x * d + y * e + z * f + k, x * g + y * h + z * i + l
                break
        points.append((x, y, z))
    cloud = np.array(points)
    low, high = cloud.min(), cloud.max()
    cloud = (cloud - low) / (high - low) * 2 - 1
    for axis in range(3):
        cloud[:, axis] -= _add(cloud[:, axis]) / len(uniforms)
    normalised: Floats = cloud
    return normalised


def _add(numbers: Floats) -> float:
    """The sum, one number after the other: Python's own compensates from 3.12 on."""
    total = 0.0
    for number in numbers.tolist():
        total += number
    return total


def plain_view(points: np.ndarray, eye: tuple[float, float, float], up: tuple[float, float, float], size: int) -> Image:
    """What a camera at `eye` that looks at the origin sees of points (n, 3): uint8 (size, size), row 0 the lowest."""
    backward = [value / math.dist(eye, (0, 0, 0)) for value in eye]
    right = _cross(up, backward)
    right = [value / math.dist(right, (0, 0, 0)) for value in right]
    upward = _cross(backward, right)
    focal = 1 / math.tan(math.radians(45 / 2))
    image = np.zeros((size, size), np.uint8)
    for point in points.tolist():
        moved = [value - origin for value, origin in zip(point, eye, strict=True)]
        x, y, z = (sum(a * b for a, b in zip(axis, moved, strict=True)) for axis in (right, upward, backward))
        if not 1 <= -z <= 100:
            continue
        x_clip, y_clip = focal * x / -z, focal * y / -z
        if abs(x_clip) > 1 or abs(y_clip) > 1:
            continue
        column, row = (math.floor(round(256 * (place + 1) * size / 2) / 256) for place in (x_clip, y_clip))
        if column < size and row < size:
            image[row, column] = 255
    return image


def _cross(a: object, b: object) -> list[float]:
    return np.cross(np.array(a), np.array(b)).tolist()  # type: ignore[no-any-return]
