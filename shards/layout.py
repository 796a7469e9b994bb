"""The layout of a data set: which sample lies in which shard, at which place, under which name."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fracgen.shards.errors import UsageError
from fracgen.shards.settings import as_dict, check_settings

Indices = npt.NDArray[np.int64]

MIN_SHARDS = 64
"""Enough for 8 ranks with 8 workers each, where there are that many groups."""
MIN_SHARD_SAMPLES = 8
"""Of a small set: readers gain nothing from tars of an image or two."""
MAX_SHARD_SAMPLES = 10_000
MAX_GROUPED_SAMPLES = 5_000
"""Less where samples share work, as they are made group by group and held, encoded, until their turn."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a data set is spread over shards. With the recipe it determines every byte of the folder.

    Groups of `group` consecutive indices are permuted over the shards, and the samples within each shard, both by
    `seed`. Shards differ by at most one group, and none is empty. split: as readers call the set, in the tars' names.
    multi_label: whether images have several labels, which stand in the metadata.
    """

    name: str
    num_samples: int
    num_shards: int
    group: int = 1
    seed: int = 0
    png_bits: int = 8
    metadata: bool = True
    split: str = "train"
    multi_label: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be laid out."""
        check_settings(self)
        if self.num_samples < 1 or self.group < 1 or self.seed < 0:
            raise UsageError(f"a layout of {self.num_samples} images in groups of {self.group}, seed {self.seed}")
        if not 1 <= self.num_shards <= self.num_groups:
            unit = "images" if self.group == 1 else f"groups of {self.group} images"
            raise UsageError(f"--shards {self.num_shards}: give 1 to {self.num_groups}, there are that many {unit}")
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):
            raise UsageError(f"name {self.name!r}: only letters, digits, - and _ (readers end a key at the first dot)")
        if not re.fullmatch(r"[A-Za-z0-9_]+", self.split):
            raise UsageError(
                f"split {self.split!r}: only letters, digits and _ (as Hugging Face datasets names splits)"
            )
        if self.png_bits not in (1, 8):
            raise UsageError(f"--png-bits {self.png_bits}: give 1 or 8")
        if self.multi_label and not self.metadata:
            raise UsageError("--no-metadata: labels of several classes stand in it; leave it out")

    @property
    def num_groups(self) -> int:
        """Number of groups; the last may be short."""
        return -(-self.num_samples // self.group)

    def filename(self, shard: int) -> str:
        """Name of the tar of shard number `shard`."""
        return f"{self.name}-{self.split}-{shard:06d}.tar"

    def key(self, index: int) -> str:
        """Key of a sample in its tar: its index, zero-padded, without a dot (readers end a key at the first dot)."""
        return f"{index:0{max(6, len(str(self.num_samples - 1)))}d}"

    def num_indices(self, shard: int) -> int:
        """Number of samples of one shard."""
        groups = self._groups(shard)
        short = self.num_groups * self.group - self.num_samples
        return len(groups) * self.group - (short if self.num_groups - 1 in groups else 0)

    def _groups(self, shard: int) -> Indices:
        each, longer = divmod(self.num_groups, self.num_shards)
        first = shard * each + min(shard, longer)
        return _permutation(self.num_groups, self.seed)[first : first + each + (shard < longer)]

    def indices(self, shard: int) -> Indices:
        """Indices of the samples of one shard, in the order in which they are written: (n,) int64."""
        starts = self._groups(shard) * self.group
        sizes = np.minimum(self.group, self.num_samples - starts)  # the last group of all may be short
        ends = np.cumsum(sizes)
        samples = np.repeat(starts - ends + sizes, sizes) + np.arange(ends[-1])
        return samples[_random_order(len(samples), self.seed, shard + 1)]

    def work_order(self, shard: int) -> Indices:
        """The indices of one shard in the order in which they are best made: group by group, where there are any."""
        indices = self.indices(shard)
        return indices if self.group == 1 else np.sort(indices)

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-able; the split where it is not "train", and whether there are several labels."""
        return as_dict(self, ("split", "multi_label"))


@dataclass(frozen=True)
class Part:
    """Part `number` of `count`, from 1: every count-th shard."""

    number: int
    count: int

    def __post_init__(self) -> None:
        """Raises UsageError where there is no such part."""
        check_settings(self)
        if not 1 <= self.number <= self.count:
            raise UsageError(f"part {self}: there are parts 1/{self.count} to {self.count}/{self.count}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """From "i/N". Raises UsageError where it is not that."""
        if not (match := re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)) or match[2] == "0":
            raise UsageError(f"part {text!r}: give i/N, as in 1/16 for the first of 16")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def slug(self) -> str:
        """Stands for it in names of files."""
        return f"{self.number:05d}-of-{self.count:05d}"

    def shards(self, num_shards: int) -> range:
        """Numbers of its shards. Raises UsageError where there are fewer shards than parts."""
        if self.count > num_shards:
            raise UsageError(f"part {self}: there are only {num_shards} shards; give at most {num_shards} parts")
        return range(self.number - 1, num_shards, self.count)


def default_num_shards(num_samples: int, group: int = 1) -> int:
    """64 shards; fewer where these would hold less than 8 samples each, more where they would hold over 10,000.

    Over 5,000 in groups, which a shard never splits.
    """
    most = MAX_SHARD_SAMPLES if group == 1 else MAX_GROUPED_SAMPLES
    few, many = -(-num_samples // MIN_SHARD_SAMPLES), -(-num_samples // most)
    return min(-(-num_samples // group), max(min(MIN_SHARDS, few), many))


def _random_order(count: int, seed: int, stream: int) -> Indices:
    """A permutation of 0..count-1: the order of 64-bit numbers from PCG64, a stream that numpy keeps stable."""
    numbers = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(stream,))).random_raw(count)
    return np.argsort(numbers, kind="stable")


@lru_cache(maxsize=2)
def _permutation(num_groups: int, seed: int) -> Indices:
    order = _random_order(num_groups, seed, 0)
    order.flags.writeable = False
    return order
