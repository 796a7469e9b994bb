"""Seeds: (seed, index, purpose, attempt) to a generator. The only place in this package where a generator is made.

Rule 1: PCG64DXSM seeded by numpy's SeedSequence over the fixed-width words
[rule, purpose, seed low, seed high, index low, index high, attempt]. Only `random()` (53 bits) and `random_raw` are
drawn from it, whose streams numpy keeps stable.
"""

from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

RULE = 1
Purpose = Literal[
    "ifs",
    "vet",
    "eps",
    "masks",
    "atom",
    "image",
    "noise",
    "moves",
    "warp",
    "crop",
    "contour",
    "cloud",
    "view",
    "sample",
    "system",
    "scene",
]
_CODES = {purpose: code for code, purpose in enumerate(get_args(Purpose), start=1)}
_WORD = 0xFFFFFFFF

MAX_SEED = 2**63 - 1
"""Seeds are 0 to this, so that every JSON and Arrow reader holds them in an int64."""
MAX_LEGACY_SEED = 2**32 - 1


def generator(seed: int, index: int, purpose: Purpose, attempt: int = 0) -> np.random.Generator:
    """The generator for one purpose of one sample, at one attempt; streams of different arguments are independent."""
    words = [RULE, _CODES[purpose], seed & _WORD, seed >> 32, index & _WORD, index >> 32, attempt]
    entropy: Any = np.array(words, np.uint32)  # as a list it means the same and takes three times as long
    return np.random.Generator(np.random.PCG64DXSM(np.random.SeedSequence(entropy)))


def stream_key(seed: int, index: int, purpose: Purpose, attempt: int = 0) -> int:
    """A 64-bit key for a kernel's own counter-based stream."""
    return int(generator(seed, index, purpose, attempt).bit_generator.random_raw())


@lru_cache(maxsize=2)
def published_uniforms(count: int) -> npt.NDArray[np.float64]:
    """The stream that the published renderer draws afresh for every image: RandomState(100).random_sample(count)."""
    uniforms = np.random.RandomState(100).random_sample(count)
    uniforms.flags.writeable = False
    return uniforms


def legacy_state(seed: int) -> npt.NDArray[np.uint32]:
    """The 624 words with which numpy's legacy generator begins after `numpy.random.seed(seed)`, (624,) uint32."""
    _, words, position, *_ = np.random.RandomState(seed).get_state(legacy=True)
    assert position == len(words), "the first draw makes the first block"
    return np.array(words, np.uint32)
