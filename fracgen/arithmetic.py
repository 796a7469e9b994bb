"""Sums and products with the same last bits on every processor and by every Python."""

from collections.abc import Iterable


def add(numbers: Iterable[float]) -> float:
    """The sum of numbers, one after the other: Python's own compensates from 3.12 on, so that last bits differ."""
    total = 0.0
    for number in numbers:
        total += number
    return total


def fused(a: float, b: float, c: float) -> float:
    """a b + c of finite numbers, rounded once: Python has no such function before 3.13."""
    (a_top, a_bottom), (b_top, b_bottom), (c_top, c_bottom) = (number.as_integer_ratio() for number in (a, b, c))
    return (a_top * b_top * c_bottom + c_top * a_bottom * b_bottom) / (a_bottom * b_bottom * c_bottom)
