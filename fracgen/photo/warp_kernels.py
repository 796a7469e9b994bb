"""Kernels of warps: maps of polynomials, splines and matrices, and what a map or a matrix does to a picture.

Coordinates are those of `warps`: the frame [-1, 1] x [-1, 1], or pixels.
"""

import math
from typing import Any

import numpy as np

from fracgen.ifs import Floats
from fracgen.jit import kernel


@kernel
def bend(coefficients: Floats, xs: Floats, ys: Floats, unit: float, out: Any) -> None:
    """The map of a quadratic polynomial, (2, m, n): out[0, j, i] = u(x_i) + unit * Px(x_i, y_j), and y likewise.

    coefficients: (2, 6), of 1, x, y, x x, x y, y y, for x and for y. xs: (2, n), ys: (2, m): coordinates in the frame,
    and below them u, these in the units of `out`; unit: 1 of the frame in these.
    """
    for axis in range(2):
        c = coefficients[axis]
        for j in range(ys.shape[1]):
            y = ys[0, j]
            c0, c1, c2 = c[0] + c[2] * y + c[5] * y * y, c[1] + c[4] * y, c[3]
            for i in range(xs.shape[1]):
                x = xs[0, i]
                start = xs[1, i] if axis == 0 else ys[1, j]
                out[axis, j, i] = start + unit * (c0 + (c1 + c2 * x) * x)


@kernel
def stretch(nodes: Floats, xs: Floats, ys: Floats, unit: float, out: Any) -> None:
    """The map of a free-form deformation by uniform cubic B-splines: as `bend`, but for what is added.

    nodes: (m + 3, m + 3, 2), how far the control points are moved, row by row, in the frame; it has m x m cells.
    Along a row and within a cell a spline is one cubic, whose four coefficients are worked out first.
    """
    n, width = xs.shape[1], nodes.shape[0]
    cells = width - 3
    line, cubic = np.empty(width), np.empty((cells, 4))
    for axis in range(2):
        for j in range(ys.shape[1]):
            cell = min(max(int(np.floor((ys[0, j] + 1) / 2 * cells)), 0), cells - 1)
            t = (ys[0, j] + 1) / 2 * cells - cell
            for k in range(width):
                a, b, c, d = (
                    nodes[cell, k, axis],
                    nodes[cell + 1, k, axis],
                    nodes[cell + 2, k, axis],
                    nodes[cell + 3, k, axis],
                )
                line[k] = (
                    a + 4 * b + c + t * (3 * (c - a) + t * (3 * (a - 2 * b + c) + t * (d - a + 3 * (b - c))))
                ) / 6
            for k in range(cells):
                a, b, c, d = line[k], line[k + 1], line[k + 2], line[k + 3]
                cubic[k, 0], cubic[k, 1] = unit * (a + 4 * b + c) / 6, unit * (c - a) / 2
                cubic[k, 2], cubic[k, 3] = unit * (a - 2 * b + c) / 2, unit * (d - a + 3 * (b - c)) / 6
            first = 0
            for k in range(cells):
                end = n if k == cells - 1 else np.searchsorted(xs[0], (k + 1) * 2 / cells - 1)
                c0, c1, c2, c3 = cubic[k, 0], cubic[k, 1], cubic[k, 2], cubic[k, 3]
                for i in range(first, end):
                    t = (xs[0, i] + 1) / 2 * cells - k
                    out[axis, j, i] = (xs[1, i] if axis == 0 else ys[1, j]) + (c0 + t * (c1 + t * (c2 + t * c3)))
                first = end


@kernel
def overturned(sources: Floats) -> bool:
    """Whether a map turns over a cell centred in the picture; sources: (2, n + 1, n + 1), of corners, in the frame."""
    (xs, ys), n = sources, sources.shape[1] - 1
    for j in range(n):
        for i in range(n):
            ax, bx, cx, dx = xs[j, i], xs[j, i + 1], xs[j + 1, i], xs[j + 1, i + 1]
            ay, by, cy, dy = ys[j, i], ys[j, i + 1], ys[j + 1, i], ys[j + 1, i + 1]
            first = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
            second = (cx - dx) * (by - dy) - (cy - dy) * (bx - dx)
            if min(first, second) <= 0 and abs(ax + bx + cx + dx) <= 4 and abs(ay + by + cy + dy) <= 4:
                return True
    return False


@kernel
def bends_over(coefficients: Floats, corners: Floats) -> bool:
    """Whether the Jacobian of a quadratic (see `bend`) is not positive at one of corners x corners in the picture."""
    a, b = coefficients
    for j in range(len(corners)):
        y = corners[j]
        for i in range(len(corners)):
            x = corners[i]
            xx, xy = 1 + a[1] + 2 * a[3] * x + a[4] * y, a[2] + a[4] * x + 2 * a[5] * y
            yx, yy = b[1] + 2 * b[3] * x + b[4] * y, 1 + b[2] + b[4] * x + 2 * b[5] * y
            if xx * yy <= xy * yx:
                u = x + a[0] + (a[1] + a[3] * x + a[4] * y) * x + (a[2] + a[5] * y) * y
                v = y + b[0] + (b[1] + b[3] * x + b[4] * y) * x + (b[2] + b[5] * y) * y
                if abs(u) <= 1 and abs(v) <= 1:
                    return True
    return False


@kernel
def project(back: Floats, xs: Floats, ys: Floats, out: Floats) -> None:
    """out[:, j, i]: the picture's point behind (xs[i], ys[j]); infinity behind the horizon."""
    for j in range(len(ys)):
        for i in range(len(xs)):
            x, y = xs[i], ys[j]
            w = back[2, 0] * x + back[2, 1] * y + back[2, 2]
            if w > 1e-12:
                out[0, j, i] = (back[0, 0] * x + back[0, 1] * y + back[0, 2]) / w
                out[1, j, i] = (back[1, 0] * x + back[1, 1] * y + back[1, 2]) / w
            else:
                out[0, j, i] = out[1, j, i] = np.inf


@kernel
def measure(sources: Floats, width: float, height: float, step: float, numbers: Floats) -> None:
    """Measure the cells centred in the picture: covered share, visible share, least area, and how far
    apart pixels of a row and of a column are.

    sources: (2, n + 1, n + 1), the picture's points, in its pixels, behind the corners of the cells; these are `step`
    pixels of the image wide.
    """
    (xs, ys), n = sources, sources.shape[1] - 1
    covered, area, least, across, down = 0, 0.0, np.inf, 0.0, 0.0
    for j in range(n):
        for i in range(n):
            ax, bx, cx, dx = xs[j, i], xs[j, i + 1], xs[j + 1, i], xs[j + 1, i + 1]
            ay, by, cy, dy = ys[j, i], ys[j, i + 1], ys[j + 1, i], ys[j + 1, i + 1]
            x, y = (ax + bx + cx + dx) / 4, (ay + by + cy + dy) / 4
            if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
                continue
            covered += 1
            first = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
            second = (cx - dx) * (by - dy) - (cy - dy) * (bx - dx)
            area += (first + second) / 2
            least = min(least, first, second)
            across = max(across, (bx - ax) ** 2 + (by - ay) ** 2, (dx - cx) ** 2 + (dy - cy) ** 2)
            down = max(down, (cx - ax) ** 2 + (cy - ay) ** 2, (dx - bx) ** 2 + (dy - by) ** 2)
    numbers[0] = covered / (n * n)
    numbers[1] = area / (width * height)
    numbers[2] = least
    numbers[3], numbers[4] = math.sqrt(across) / step, math.sqrt(down) / step
