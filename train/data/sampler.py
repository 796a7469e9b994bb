"""Which example each position of a run has: a pure function of seed and position."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fracgen.train.data.examples import Indices
from fracgen.train.seeding import generator

BLOCK = 64
"""Neighbouring examples of tars that are read together."""


@dataclass(frozen=True)
class Sampler:
    """Position p of the run lies in epoch p // epoch_length; an epoch has every example `repeats` times.

    Where an epoch is no longer than `shuffle`, or block is 1, it is one permutation. Else its blocks of `block`
    neighbouring numbers are permuted, and then the examples of every `shuffle` positions among each other; so tars are
    read in runs, and a batch has examples of many blocks. Ranks, workers and where the images are kept play no part.

    With `copies` above 1, a batch has each of its examples so many times (repeated augmentation; Hoffer et al. 2020):
    all of them, then all again, so that ranks, which take slices of a batch, have an example each. Where `copies` does
    not divide the batch, some come less often. An epoch then takes so many times as many positions.

    shuffle: 0 leaves the examples of a block in their order. batch_size: of all ranks; counts with copies alone.
    """

    num_examples: int
    seed: int
    repeats: int = 1
    shuffle: int = 8192
    block: int = BLOCK
    copies: int = 1
    batch_size: int = 1

    @property
    def epoch_length(self) -> int:
        """Positions of one epoch."""
        return self.num_examples * self.repeats

    def numbers(self, positions: Indices) -> Indices:
        """The example at each position, from 0. positions: (n,) int64, ascending, counted from the start of the run."""
        if self.copies == 1:
            return self._numbers(positions)
        different = -(-self.batch_size // self.copies)
        step, place = np.divmod(positions, self.batch_size)
        entries, inverse = np.unique(step * different + place % different, return_inverse=True)
        return self._numbers(entries)[inverse]

    def _numbers(self, positions: Indices) -> Indices:
        """The same without copies."""
        parts, first = list[Indices](), 0
        while first < len(positions):
            epoch, offset = divmod(int(positions[first]), self.epoch_length)
            chunk = offset // self._chunk_length
            begin = epoch * self.epoch_length + chunk * self._chunk_length
            end = min(begin + self._chunk_length, (epoch + 1) * self.epoch_length)
            last = len(positions) if positions[-1] < end else int(np.searchsorted(positions, end))
            parts.append(_chunk(self, epoch, chunk)[positions[first:last] - begin])
            first = last
        return np.concatenate(parts or [positions]) % self.num_examples

    @property
    def _chunk_length(self) -> int:
        whole = self.block == 1 or self.epoch_length <= self.shuffle
        return self.epoch_length if whole else self.shuffle or 64 * self.block


@lru_cache(maxsize=4)
def _chunk(sampler: Sampler, epoch: int, chunk: int) -> Indices:
    """The entries of an epoch's chunk of positions, in order. Entry n stands for example n % num_examples."""
    length = sampler.epoch_length
    if sampler._chunk_length == length:
        return generator(sampler.seed, "order", epoch).permutation(length)
    first = chunk * sampler._chunk_length
    last = min(length, first + sampler._chunk_length)
    blocks, ends = _blocks(sampler, epoch)
    low, high = np.searchsorted(ends, [first, last - 1], side="right")
    entries = np.concatenate(
        [np.arange(b * sampler.block, min(length, (b + 1) * sampler.block)) for b in blocks[low : high + 1].tolist()]
    )
    begin = int(ends[low - 1]) if low else 0
    entries = entries[first - begin : last - begin]
    return generator(sampler.seed, "shuffle", epoch, chunk).permutation(entries) if sampler.shuffle else entries


@lru_cache(maxsize=2)
def _blocks(sampler: Sampler, epoch: int) -> tuple[Indices, Indices]:
    """(blocks of an epoch in order, where each ends among its positions)."""
    num_blocks = -(-sampler.epoch_length // sampler.block)
    blocks = generator(sampler.seed, "order", epoch).permutation(num_blocks)
    lengths = np.full(num_blocks, sampler.block)
    lengths[blocks == num_blocks - 1] -= num_blocks * sampler.block - sampler.epoch_length
    return blocks, np.cumsum(lengths)
