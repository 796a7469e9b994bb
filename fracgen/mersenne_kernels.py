"""The Mersenne Twister MT19937 (Matsumoto and Nishimura, 1998): stream of numpy's RandomState and Python's `random`.

A double takes two words, 27 bits of the first and 26 of the second. The recurrence is written out here because it takes
vector instructions over a buffer, a third of numpy's time, and because what is skipped need not be tempered: words are
kept as the recurrence gives them ("raw") and are tempered when they are read.
"""

import numpy as np
import numpy.typing as npt

from fracgen.jit import kernel

Words = npt.NDArray[np.uint32]

STATE_WORDS = 624
CHUNK_WORDS = 4096
"""Words of the stream that are made at a time: they stay in the nearest cache."""

_TOP, _REST, _MATRIX = np.uint32(0x80000000), np.uint32(0x7FFFFFFF), np.uint32(0x9908B0DF)
_ONE = np.uint32(1)
_TEMPER_1, _TEMPER_2 = np.uint32(0x9D2C5680), np.uint32(0xEFC60000)
_S7, _S11, _S15, _S18 = (np.uint32(shift) for shift in (7, 11, 15, 18))


@kernel
def twist(words: Words) -> None:
    """Continue the raw sequence: words[624:] from words[:624]."""
    for n in range(words.size - STATE_WORDS):
        y = (words[n] & _TOP) | (words[n + 1] & _REST)
        words[n + 624] = words[n + 397] ^ (y >> _ONE) ^ ((np.uint32(0) - (words[n + 1] & _ONE)) & _MATRIX)


@kernel
def refill(words: Words) -> None:
    """Go on to the next words of the stream, behind the last 624: words (624 + CHUNK_WORDS,)."""
    for n in range(STATE_WORDS):
        words[n] = words[n + CHUNK_WORDS]
    twist(words)


@kernel
def temper(word: np.uint32) -> np.uint32:
    """A raw word as numpy gives it out."""
    word ^= word >> _S11
    word ^= (word << _S7) & _TEMPER_1
    word ^= (word << _S15) & _TEMPER_2
    return word ^ (word >> _S18)


@kernel
def to_unit(high: np.uint32, low: np.uint32) -> float:
    """The double in [0, 1) of 27 and 26 random bits, as numpy makes it."""
    unit: float = (np.float64(high) * 67108864.0 + np.float64(low)) / 9007199254740992.0
    return unit
