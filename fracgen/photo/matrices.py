"""Affine and perspective warps as matrices, and their small algebra. Pure functions.

Frame: a picture of `size` x `size` pixels is the square [-1, 1] x [-1, 1], x to the right and y down, so that a length
of 1 is half of its width; the centre of pixel i lies at (2 i + 1) / size - 1. Matrices are given in pixels, (3, 3)
float64, and lead from the picture to the image ("forward"), as OpenCV's warpPerspective takes them.
"""

import operator

import numpy as np

from fracgen.arithmetic import add
from fracgen.ifs import Floats


def affine_matrix(eps: Floats, size: int) -> Floats:
    """The identity moved by eps (6,), its coefficients a, b, e, c, d, f in the frame.

    x' = (1 + a) x + b y + e, y' = c x + (1 + d) y + f; so e and f are in halves of the width.
    """
    (a, b, e), (c, d, f) = eps.reshape(2, 3).tolist()
    centre, half = (size - 1) / 2, size / 2
    rows = [[1 + a, b, half * e - centre * (a + b)], [c, 1 + d, half * f - centre * (c + d)], [0.0, 0.0, 1.0]]
    return np.array(rows)


def perspective_matrix(eps: Floats, size: int) -> Floats:
    """The homography that moves the frame's corners by eps (8,).

    x and y of top left, top right, bottom right, bottom left. Heckbert's closed form for the unit square (1989), in
    pixels. Corners that lie in a line have none: all zeros then.
    """
    corners = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]) + eps.reshape(4, 2)
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = ((corners + 1) / 2).tolist()
    dx1, dx2, sx = x1 - x2, x3 - x2, x0 - x1 + x2 - x3
    dy1, dy2, sy = y1 - y2, y3 - y2, y0 - y1 + y2 - y3
    det = dx1 * dy2 - dx2 * dy1
    if det == 0:
        return np.zeros((3, 3))
    g, h = (sx * dy2 - sy * dx2) / det, (dx1 * sy - dy1 * sx) / det
    a, b, d, e = x1 - x0 + g * x1, x3 - x0 + h * x3, y1 - y0 + g * y1, y3 - y0 + h * y3
    tilt = (g + h) / 2
    last = [g / size, h / size, 1 + tilt / size]
    # from the unit square to pixels, u = (x + 1/2) / size: written out, so that the identity is exact
    first = [a - last[0] / 2, b - last[1] / 2, size * x0 + (a + b - 1 - tilt / size) / 2]
    second = [d - last[0] / 2, e - last[1] / 2, size * y0 + (d + e - 1 - tilt / size) / 2]
    return np.array([first, second, last])


def product(*matrices: Floats) -> Floats:
    """Of small matrices, in plain arithmetic: libraries of linear algebra differ in the last bit."""
    result, *others = (matrix.tolist() for matrix in matrices)
    for other in others:
        columns = list(zip(*other, strict=True))
        result = [[add(map(operator.mul, row, column)) for column in columns] for row in result]
    return np.array(result)


def inverse(matrix: Floats) -> Floats:
    """Of a (3, 3) matrix, by its adjugate: the identity's is exact. Where there is none, it is not finite."""
    (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
    adjugate = [
        [e * i - f * h, c * h - b * i, b * f - c * e],
        [f * g - d * i, a * i - c * g, c * d - a * f],
        [d * h - e * g, b * g - a * h, a * e - b * d],
    ]
    det = a * adjugate[0][0] + b * adjugate[1][0] + c * adjugate[2][0]
    return np.array(adjugate) / det if det else np.full((3, 3), np.nan)
