"""Seeds: every draw of a run is a pure function of its seed, a purpose and a counter.

Nothing here keeps a state, so a checkpoint needs none: step k of a resumed run draws what step k of an undisturbed
one does, and sample number n of the run is augmented alike whatever the ranks and workers. Rule 1: SeedSequence over
the words [rule, purpose, seed, counters...], two 32-bit words each of seed and counters, and PCG64DXSM; `uniforms` is
SplitMix64 from such a key.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

RULE = 1
Purpose = Literal[
    "order",
    "shuffle",
    "augment",
    "erase",
    "mix",
    "layers",
    "init",
    "split",
    "closed_form",
    "mask",
    "brackets",
    "texture",
]
"""What a draw is for; "layers" is drop path and dropout. A purpose's place is its code: new ones come last."""
_CODES = {purpose: code for code, purpose in enumerate(get_args(Purpose), start=1)}
_WORD = 0xFFFFFFFF

MAX_SEED = 2**63 - 1

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def generator(seed: int, purpose: Purpose, *counters: int) -> np.random.Generator:
    """The generator for one purpose at one count (an epoch, a step, a rank), independent of all others.

    seed, counters: 0 to MAX_SEED.
    """
    words = [RULE, _CODES[purpose]]
    for value in (seed, *counters):
        words += [value & _WORD, value >> 32]
    entropy: Any = np.array(words, np.uint32)
    return np.random.Generator(np.random.PCG64DXSM(np.random.SeedSequence(entropy)))


def key(seed: int, purpose: Purpose, *counters: int) -> int:
    """A seed for somebody else's generator (torch, timm, Python's): 0 to MAX_SEED."""
    return int(generator(seed, purpose, *counters).bit_generator.random_raw()) >> 1


def uniforms(
    seed: int, purpose: Purpose, positions: Sequence[int] | npt.NDArray[np.int64], num: int
) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1), (len(positions), num) float64: row i depends on seed, purpose and positions[i] alone.

    positions: numbers of samples, counted from the start of the run, int64 (B,).
    """
    places = np.asarray(positions, np.int64).astype(np.uint64)
    with np.errstate(over="ignore"):
        rows = _mix(_mix(places * _GOLDEN_GAMMA) ^ np.uint64(key(seed, purpose)))
        counts = np.arange(1, num + 1, dtype=np.uint64) * _GOLDEN_GAMMA
        bits = _mix(rows[:, None] + counts)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014, as Vigna writes it)."""
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX_1
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX_2
    return bits ^ (bits >> np.uint64(31))
