"""The samples of a plain tar, from any sample on, by webdataset's rules of what belongs together."""

import os
import re
import tarfile
from array import array
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
from webdataset.tariterators import group_by_keys, tar_file_iterator

from fracgen.shards.errors import DataError, UsageError

_BLOCK = tarfile.BLOCKSIZE
_META = re.compile(r"__[^/]*__($|/)")


class BadSampleError(DataError):
    """A sample or tar that cannot be used. reason: one word, by which those that are skipped are counted.

    A label that the classes do not have is the user's mistake as often as the data's: exit code 2.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.exit_code = UsageError.exit_code if reason == "label" else DataError.exit_code


class RawSample(NamedTuple):
    """One sample, undecoded. tar: the name of its file. members: their bytes, by extension in lower case."""

    tar: str
    key: str
    members: dict[str, bytes]

    def __str__(self) -> str:
        return f"{self.tar}: sample {self.key}"


class Span(NamedTuple):
    """Where a member lies in its tar, in bytes: its header, its data, and how long these are."""

    header: int
    start: int
    size: int


def index_samples(path: str) -> tuple[list[tuple[str, dict[str, Span]]], str | None]:
    """((key, members by extension) of each sample, what is wrong behind the last that can be told), from headers alone.

    Raises FileNotFoundError where there is no such tar.
    """
    found: list[tuple[str, dict[str, Span]]] = []
    fault = _walk(
        path, lambda sample: found.append((sample["__key__"], {k: v for k, v in sample.items() if k[:2] != "__"}))
    )
    return found, fault


def read_samples(path: str, count: int, first: int = 0, last: int | None = None) -> Iterator[RawSample]:
    """Samples number first to last - 1 of a tar that is to hold `count` of them; those before are not read.

    0 <= first < last <= count.
    Raises BadSampleError where the tar is missing, cut short, corrupt, or holds another number of samples, behind the
    last sample that is whole.
    """
    name, last = Path(path).name, count if last is None else last
    number, key = first, ""
    try:
        with Path(path).open("rb") as file:
            if first:
                offsets, fault = _index(path)
                if first >= len(offsets):
                    told = fault or f"{name}: holds {len(offsets)} samples, not {count}: cut short or corrupt"
                    raise BadSampleError(told, "tar")
                file.seek(int(offsets[first]))
            for sample in group_by_keys(_members(file, path)):
                if number == last:
                    raise BadSampleError(f"{name}: holds more than the {count} samples that were counted", "tar")
                key = sample["__key__"]
                members = {k: v for k, v in sample.items() if not k.startswith("__")}
                yield RawSample(name, key, members)
                number += 1
                if number == last < count:
                    return
    except FileNotFoundError:
        raise BadSampleError(f"{name}: missing", "tar") from None
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError) as error:
        after = f" after sample {key}" if key else ""
        raise BadSampleError(f"{name}: no whole tar{after} ({_first_word(error)})", "tar") from error
    if number < last:
        raise BadSampleError(f"{name}: holds {number} samples, not {count}: cut short or corrupt", "tar")


def count_samples(path: str) -> tuple[int, str | None]:
    """(number of samples, what is wrong with the tar), from its headers alone.

    Where something is wrong, the number is that of the samples that can be told, and one more, so that whoever reads
    them meets the fault.
    """
    try:
        offsets, fault = _index(path)
    except FileNotFoundError:
        return 1, f"{Path(path).name}: missing"
    return len(offsets) + (fault is not None), fault


def first_sample(path: str) -> RawSample:
    """The first sample of a tar. Raises BadSampleError where there is none."""
    for sample in read_samples(path, 2, 0, 1):
        return sample
    raise AssertionError("read_samples gives a sample or raises")


def _members(file: BinaryIO, path: str) -> Iterator[dict[str, Any]]:
    """Members from here to the end as webdataset has them, plain ones in a sixth of the time that tarfile needs."""
    for name, _, size in _plain_headers(file):
        data = file.read(size)
        if len(data) < size:
            raise EOFError(f"ends within {name}")
        yield {"fname": name, "data": data, "__url__": path}
    start = file.tell()
    if file.read(_BLOCK).strip(b"\0"):
        file.seek(start)
        for member in tar_file_iterator(file):
            yield {**member, "__url__": path}


def _plain_headers(file: BinaryIO) -> Iterator[tuple[str, int, int]]:
    """(name, where its header lies, size) of members from here on; at each, the file stands before the data.

    Ends before the first header that is not a plain file's with a short name, or where the tar ends.
    """
    offset, end = file.tell(), os.fstat(file.fileno()).st_size
    while len(header := file.read(_BLOCK)) == _BLOCK:
        size, checksum = header[124:135], sum(header) - sum(header[148:156]) + 8 * ord(" ")
        plain = size.isdigit() and header[156] in b"\x000" and not header[345]
        if not plain or header[148:154] != b"%06o" % checksum:
            break
        name, length = header[:100].rstrip(b"\0").decode("utf-8", "surrogateescape"), int(size, 8)
        if not _META.match(name):
            yield name, offset, length
        offset += _BLOCK + length + -length % _BLOCK
        if offset > end:
            raise EOFError(f"ends within {name}")
        file.seek(offset)
    file.seek(offset)


def _index(path: str) -> tuple[npt.NDArray[np.int64], str | None]:
    """(where each sample begins, in bytes; what is wrong behind the last that can be told)."""
    found = Path(path).stat()
    return _index_of(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=1024)  # as many lanes begin in one tar, once an epoch; 8 bytes a sample
def _index_of(path: str, size: int, mtime: int) -> tuple[npt.NDArray[np.int64], str | None]:
    offsets = array("q")

    def note(sample: dict[str, Any]) -> None:
        offsets.append(min(span.header for key, span in sample.items() if not key.startswith("__")))

    fault = _walk(path, note)
    return np.array(offsets, np.int64), fault


def _walk(path: str, note: Callable[[dict[str, Any]], None]) -> str | None:
    """Hand each sample's spans on, by webdataset's names; returns what is wrong behind the last that can be told."""
    name, num, fault = Path(path).name, 0, None
    try:
        with Path(path).open("rb") as file:
            for sample in group_by_keys(_headers(file, path)):
                note(sample)
                num += 1
            end = file.read(_BLOCK)
        if end != bytes(_BLOCK):
            fault = f"no header after {num} samples" if end else "it ends without the block that closes a tar"
    except FileNotFoundError:
        raise
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError) as error:
        fault = _first_word(error)
    return fault and f"{name}: no whole tar ({fault})"


def _headers(file: BinaryIO, path: str) -> Iterator[dict[str, Any]]:
    for name, offset, size in _plain_headers(file):
        yield {"fname": name, "data": Span(offset, offset + _BLOCK, size), "__url__": path}
    start = file.tell()
    if file.read(_BLOCK).strip(b"\0"):
        file.seek(start)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # they would all be kept
                if member.isreg() and not _META.match(member.name):
                    span = Span(member.offset, member.offset_data, member.size)
                    yield {"fname": member.name, "data": span, "__url__": path}
            start = tar.offset
    file.seek(start)


def _first_word(error: BaseException) -> str:
    """What an error says, without what webdataset adds to its arguments."""
    return str(error.args[0]) if error.args and not isinstance(error, OSError) else str(error)
