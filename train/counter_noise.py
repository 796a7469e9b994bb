"""Noise as a function of counters, on any device: nothing keeps a state, and nothing is read back."""

from torch import Tensor

GOLDEN_RATIO = 0x9E3779B9 - 2**32
"""2^32 / golden ratio as an int32. It is odd, so that different counters stay different when multiplied by it."""


def normals(counters: Tensor) -> Tensor:
    """N(0, 1) noise, float32, a function of each int32 counter: a hash, then the inverse normal.

    Within 5.3 standard deviations, in 2^23 steps of equal probability.
    """
    return signed_uniforms(counters).erfinv_().mul_(2**0.5)


def signed_uniforms(counters: Tensor) -> Tensor:
    """Uniform noise in (-1, 1), float32, a function of each int32 counter: Wellons' lowbias32 hash, in 2^23 steps."""
    bits = counters ^ (counters >> 16 & 0xFFFF)
    bits = bits * 0x7FEB352D
    bits ^= bits >> 15 & 0x1FFFF
    bits *= 0x846CA68B - 2**32
    bits ^= bits >> 16 & 0xFFFF
    return (bits >> 9 & 0x7FFFFF) * 2.0**-22 + (2.0**-23 - 1)
