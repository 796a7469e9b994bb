"""Where in a tar the samples lie, by webdataset's rules of what is one sample; and random access to them.

A sample is a run of members with one key, which is the name up to the first dot of its last part; what follows is the
extension, in any case of letters. Folders and links are passed over, and so are members named `__X__` and those
without an extension.
"""

import contextlib
import os
import re
import tarfile
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fracgen.shards.errors import DataError
from fracgen.shards.tar_members import BLOCK, Indices, Members, Names, list_members, mapped, walk

IMAGE_EXTENSIONS = ("png", "jpg", "jpeg", "webp", "bmp")
"""Of the image of a sample, in order of preference."""
_KEY = re.compile(rb"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)
_META = re.compile(rb"__[^/]*__($|/)")
_MAX_LABEL_BYTES = 20
_MAX_LABEL = (1 << 63) - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class TarIndex:
    """Where the samples of a tar lie, from its headers and labels alone: arrays of one length, not to be written to.

    starts: (N,) int64, bytes before the sample's first header. image_starts, image_sizes: (N,) int64, in bytes; -1
    where a sample has no image. labels: (N,) int64, the numbers in `.cls`; -1 where there is none.
    keys: (N,) bytes, UTF-8 in most tars.
    end: bytes before what follows the last sample.
    fault: what is wrong with the tar behind its last sample, in one line; None for a whole tar.
    """

    path: str
    starts: Indices
    image_starts: Indices
    image_sizes: Indices
    labels: Indices
    keys: Names
    end: int
    fault: str | None

    def __len__(self) -> int:
        return len(self.starts)

    def key(self, number: int) -> str:
        """The key of a sample as text."""
        return os.fsdecode(bytes(self.keys[number]))

    def read_image(self, number: int) -> bytes:
        """The encoded image of a sample that has one. Raises DataError where it cannot be read."""
        return self._read(number, int(self.image_starts[number]), int(self.image_sizes[number]))

    def read_members(self, number: int) -> bytes:
        """All members of a sample with their headers, and whatever lies before the next sample: a piece of the tar.

        Raises DataError where it cannot be read.
        """
        start = int(self.starts[number])
        end = int(self.starts[number + 1]) if number + 1 < len(self) else self.end
        return self._read(number, start, end - start)

    def _read(self, number: int, start: int, size: int) -> bytes:
        name = f"{Path(self.path).name}: sample {self.key(number)}"
        try:
            descriptor = os.open(self.path, os.O_RDONLY)  # each time: 10 us, and nothing for threads to share
            try:
                data = os.pread(descriptor, size, start)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise DataError(f"{name}: cannot be read ({error.strerror})") from None
        if len(data) < size:
            raise DataError(f"{name}: its tar ends within it")
        return data

    def read_sample(self, number: int) -> dict[str, bytes]:
        """All members of a sample, by extension. For the rare look: it takes 100 us and more.

        Raises DataError where they cannot be read.
        """
        members, key = dict[str, bytes](), self.keys[number]
        try:
            with Path(self.path).open("rb") as file:
                file.seek(int(self.starts[number]))
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    for member in walk(tar):
                        parts = _split(member.name.encode("utf-8", "surrogateescape")) if member.isreg() else None
                        if parts is None or (content := tar.extractfile(member)) is None:
                            continue
                        if parts[0] != key:
                            break
                        members[parts[1].decode("utf-8", "replace")] = content.read()
        except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError, RecursionError) as error:
            raise DataError(f"{Path(self.path).name}: sample {self.key(number)}: {error}") from error
        return members


@dataclass(frozen=True)
class TarSeries:
    """Tars one after the other: in which of them each sample of all lies. A tar is indexed when it is first needed.

    paths: of the tars. counts: samples that each is to hold. Many threads may use it at once; it can be pickled.
    """

    paths: tuple[str, ...]
    counts: tuple[int, ...]
    _ends: list[int] = field(default_factory=list, compare=False)
    _indexes: dict[int, TarIndex] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Where each tar ends among the samples."""
        self._ends.extend(np.cumsum(self.counts).tolist())

    def place(self, number: int) -> tuple[int, int]:
        """(which tar, which of its samples) of a sample, 0 and more."""
        tar = bisect_right(self._ends, number)
        return tar, number - self._ends[tar] + self.counts[tar]

    def numbers(self, tar: int) -> range:
        """The numbers of a tar's samples among all."""
        return range(self._ends[tar] - self.counts[tar], self._ends[tar])

    def index(self, tar: int) -> TarIndex:
        """Where in a tar its samples lie: as many as are there. Raises DataError where it cannot be read at all."""
        if (known := self._indexes.get(tar)) is not None:
            return known
        name = Path(self.paths[tar]).name
        try:
            index = self._indexes[tar] = index_tar(self.paths[tar])
        except FileNotFoundError:
            raise DataError(f"{name}: missing") from None
        except OSError as error:
            raise DataError(f"{name}: cannot be read ({error.strerror})") from None
        return index

    def describe(self, number: int) -> str:
        """As in "set-000.tar: sample s0007"; as "set-000.tar: sample number 7" where its key cannot be read."""
        tar, row = self.place(number)
        key = f"number {row}"
        with contextlib.suppress(DataError):
            index = self.index(tar)
            key = index.key(row) if row < len(index) else key
        return f"{Path(self.paths[tar]).name}: sample {key}"

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0


def index_tar(path: Path | str, extensions: Sequence[str] = IMAGE_EXTENSIONS) -> TarIndex:
    """Find the samples of a tar. Headers and labels are read, images are not; the last 256 answers are kept.

    extensions: of a sample's image, the first that it has.
    Raises OSError where there is no such file or it cannot be read.
    """
    status = Path(path).stat()
    return _index_tar(str(path), status.st_size, status.st_mtime_ns, tuple(extensions))


@lru_cache(maxsize=256)
def _index_tar(path: str, size: int, mtime: int, extensions: tuple[str, ...]) -> TarIndex:
    with Path(path).open("rb") as file:
        size = min(size, os.fstat(file.fileno()).st_size)
        members, fault, whole = list_members(file, size)
        keys, suffixes, members = _split_names(members)
        first = np.concatenate([[True], keys[1:] != keys[:-1]]) if len(keys) else np.empty(0, np.bool_)
        samples = np.cumsum(first) - 1
        num_samples = int(samples[-1]) + whole if len(keys) else 0  # the last one has a fault in it
        pairs = list(zip(samples.tolist(), suffixes.tolist(), strict=True))
        if len(set(pairs)) < len(pairs):
            seen = set[tuple[int, bytes]]()
            twice = next(i for i, pair in enumerate(pairs) if pair in seen or seen.add(pair))  # type: ignore[func-returns-value]
            num_samples, fault = pairs[twice][0], f"{os.fsdecode(bytes(members.names[twice]))} is in one sample twice"
        image_starts, image_sizes = np.full((2, num_samples), -1, np.int64)
        for extension in reversed(extensions):
            rows = np.flatnonzero((suffixes == extension.encode()) & (samples < num_samples))
            image_starts[samples[rows]], image_sizes[samples[rows]] = members.starts[rows], members.sizes[rows]
        labels = np.full(num_samples, -1, np.int64)
        rows = np.flatnonzero((suffixes == b"cls") & (samples < num_samples) & (members.sizes <= _MAX_LABEL_BYTES))
        labels[samples[rows]] = _read_labels(file, size, members.starts[rows], members.sizes[rows])
    ends = members.starts + (members.sizes + (BLOCK - 1) & -BLOCK)
    end = int(ends[samples < num_samples].max(initial=0))
    starts = members.headers[first][:num_samples]
    for values in (starts, image_starts, image_sizes, labels):
        values.flags.writeable = False
    return TarIndex(
        path=path,
        starts=starts,
        image_starts=image_starts,
        image_sizes=image_sizes,
        labels=labels,
        keys=keys[first][:num_samples],
        end=end,
        fault=fault and f"{Path(path).name}: no whole tar ({fault})",
    )


def _split_names(members: Members) -> tuple[Names, Names, Members]:
    """(keys, extensions in lower case, members) of the members that belong to samples."""
    if not len(members.names):
        return members.names, members.names, members
    width = members.names.dtype.itemsize
    chars = np.ascontiguousarray(members.names).view(np.uint8).reshape(-1, width)
    columns = np.arange(width)
    base = np.where(chars == ord("/"), columns + 1, 0).max(1)
    is_dot = (chars == ord(".")) & (columns >= base[:, None])
    has_dot, dot = is_dot.any(1), is_dot.argmax(1)
    keys = np.where(columns < dot[:, None], chars, np.uint8(0))
    after = np.minimum(dot[:, None] + 1 + columns[: width - int(dot[has_dot].min(initial=width - 1))], width)
    suffixes = np.take_along_axis(np.pad(chars, ((0, 0), (0, 1))), after, 1)
    suffixes += ((suffixes >= ord("A")) & (suffixes <= ord("Z"))).astype(np.uint8) * np.uint8(32)
    kept = has_dot & (dot > base)
    for row in np.flatnonzero((has_dot & (dot == base)) | (chars[:, :2] == ord("_")).all(1)):  # let the rules say
        kept[row] = _split(bytes(members.names[row])) is not None
    keys, suffixes = keys[kept].view(f"S{width}")[:, 0], suffixes[kept].view(f"S{suffixes.shape[1]}")[:, 0]
    return keys, suffixes, Members(*(column[kept] for column in members))


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """(key, extension) of a member's name; None where it belongs to no sample."""
    match = None if _META.match(name) else _KEY.fullmatch(name)
    return (match[1], match[2].lower()) if match else None


def _read_labels(file: BinaryIO, size: int, starts: Indices, sizes: Indices) -> Indices:
    """The numbers in members of a few bytes each; -1 where there is none."""
    labels = np.full(len(starts), -1, np.int64)
    if not len(starts):
        return labels
    with mapped(file, size) as content:
        data = np.frombuffer(content, np.uint8)
        columns = np.arange(sizes.max(initial=1))
        inside = columns < sizes[:, None]
        chars = data[np.minimum(starts[:, None] + columns, size - 1)]
        del data
    digits = (chars >= ord("0")) & (chars <= ord("9"))
    simple = (digits | ~inside).all(1) & (sizes > 0) & (sizes < 19)
    values = np.zeros(len(starts), np.int64)
    for column in range(chars.shape[1]):
        values = np.where(inside[:, column], values * 10 + (chars[:, column] & 15), values)
    labels[simple] = values[simple]
    for row in np.flatnonzero(~simple):
        text = chars[row, : sizes[row]].tobytes().strip()
        labels[row] = min(int(text), _MAX_LABEL) if text.isdigit() else -1
    return labels
