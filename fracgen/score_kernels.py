"""Numba kernels of `score`: boxes that hold something of a two-level image, and how much."""

import numpy as np
import numpy.typing as npt

from fracgen.jit import kernel


@kernel
def sum_table(lit: npt.NDArray[np.bool_], table: npt.NDArray[np.uint32]) -> None:
    """Lit pixels above and to the left of each corner, so that four entries give the sum of any box.

    lit: (H, W). table: (H + 1, W + 1), filled.
    """
    height, width = lit.shape
    table[0] = 0
    for row in range(height):
        in_row = np.uint32(0)
        table[row + 1, 0] = 0
        for column in range(width):
            in_row += np.uint32(lit[row, column])
            table[row + 1, column + 1] = table[row, column + 1] + in_row


@kernel
def count_boxes(table: npt.NDArray[np.uint32], side: int, counts: npt.NDArray[np.uint32]) -> int:
    """The least number of boxes of a grid that hold all lit pixels, over all side x side offsets of the grid.

    table: of `sum_table`. side: of a box, in pixels. counts: (side, side), overwritten.
    """
    height, width = table.shape[0] - 1, table.shape[1] - 1
    counts[:] = 0
    for top in range(1 - side, height):  # every box of every grid once, those that stick out too
        upper, lower = max(top, 0), min(top + side, height)
        of_row = counts[(top + side) % side]
        offset = 0
        for left in range(1 - side, width):
            first, last = max(left, 0), min(left + side, width)
            mass = table[lower, last] - table[upper, last] - table[lower, first] + table[upper, first]
            of_row[offset] += mass != 0
            offset += 1
            if offset == side:
                offset = 0
    least: int = counts.min()
    return least


@kernel
def box_moments(table: npt.NDArray[np.uint32], side: int) -> tuple[float, float]:
    """(mean, mean of the squares) of the lit pixels in a box, over all places of the box inside the image.

    table: of `sum_table`. side: of the gliding box, in pixels, at most the image's shorter side.
    """
    height, width = table.shape[0] - 1, table.shape[1] - 1
    total, squares = np.uint64(0), 0.0
    for top in range(height - side + 1):
        of_row = np.uint64(0)  # in an image of 6,000 x 8,000 pixels, the squares of all rows are more than 2^64
        for left in range(width - side + 1):
            mass = table[top + side, left + side] - table[top, left + side] - table[top + side, left] + table[top, left]
            total += np.uint64(mass)
            of_row += np.uint64(mass) * np.uint64(mass)
        squares += of_row
    places = (height - side + 1) * (width - side + 1)
    return total / places, squares / places
