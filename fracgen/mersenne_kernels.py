"""The Mersenne Twister MT19937 (Matsumoto and Nishimura, 1998): stream of numpy's RandomState and Python's `random`.

A double takes two words, 27 bits of the first and 26 of the second. The recurrence is written out here because it takes
vector instructions over a buffer, a third of numpy's time, and because what is skipped need not be tempered: words are
kept as the recurrence gives them ("raw") and are tempered when they are read.
"""

import numpy as np
import numpy.typing as npt

from fracgen.ifs import Floats
from fracgen.jit import kernel

Words = npt.NDArray[np.uint32]

STATE_WORDS = 624
CHUNK_WORDS = 4096
"""Words of the stream that are made at a time: they stay in the nearest cache."""

_TOP, _REST, _MATRIX = np.uint32(0x80000000), np.uint32(0x7FFFFFFF), np.uint32(0x9908B0DF)
_ONE = np.uint32(1)
_TEMPER_1, _TEMPER_2 = np.uint32(0x9D2C5680), np.uint32(0xEFC60000)
_S5, _S6, _S7, _S11, _S15, _S18 = (np.uint32(shift) for shift in (5, 6, 7, 11, 15, 18))


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


@kernel
def read_unit(words: Words, position: int) -> tuple[float, int]:
    """A double in [0, 1), and the next position.

    words: (624 + CHUNK_WORDS,) raw, those from `position` not used yet; refilled when they are used up, so that the 624
    words before the next position are the state of the stream there.
    """
    if position + 2 > words.size:
        refill(words)
        position -= CHUNK_WORDS
    return to_unit(temper(words[position]) >> _S5, temper(words[position + 1]) >> _S6), position + 2


@kernel
def read_units(words: Words, position: int, units: Floats) -> int:
    """Fill `units` as `read_unit` does; returns the next position."""
    for i in range(units.size):
        units[i], position = read_unit(words, position)
    return position


@kernel
def read_bits(words: Words, position: int, bits: np.uint32) -> tuple[np.uint32, int]:
    """The top bits of a word, 1 to 32, and the next position; words as of `read_unit`."""
    if position >= words.size:
        refill(words)
        position -= CHUNK_WORDS
    return temper(words[position]) >> (np.uint32(32) - bits), position + 1


@kernel
def read_below(words: Words, position: int, count: int) -> tuple[int, int]:
    """A whole number uniform in 0..count-1 as Python's `random` draws it, and the next position; count < 2^32.

    The top bits of a word, as many as `count` has, until they are below it.
    """
    bits = np.uint32(0)
    rest = count
    while rest:
        rest >>= 1
        bits += _ONE
    number = count
    while number >= count:
        top, position = read_bits(words, position, bits)
        number = int(top)
    return number, position


@kernel
def skip_words(words: Words, position: int, count: int) -> int:
    """Pass over words of the stream, which are made and not tempered; returns the next position."""
    position += count
    while position > words.size:
        refill(words)
        position -= CHUNK_WORDS
    return position
