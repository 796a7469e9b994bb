"""Tars: members as bytes and back, and where in a tar the samples lie, by webdataset's rules of what is one sample.

A sample is a run of members with one key, which is the name up to the first dot of its last part; what follows is the
extension, in any case of letters. Folders and links are passed over, and so are members named `__X__` and those
without an extension.
"""

import mmap
import os
import re
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from fracgen.shards.errors import DataError

IMAGE_EXTENSIONS = ("png", "jpg", "jpeg", "webp", "bmp")
"""Of the image of a sample, in order of preference."""
_BLOCK = tarfile.BLOCKSIZE
TAR_END = bytes(2 * _BLOCK)
_KEY = re.compile(rb"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)
_META = re.compile(rb"__[^/]*__($|/)")
_MAX_LABEL_BYTES = 20
_MAX_LABEL = (1 << 63) - 1
_ROWS = 1 << 15
"""Headers that are looked at in one piece: 16 MiB."""

Indices = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Names = npt.NDArray[np.bytes_]
Flags = npt.NDArray[np.bool_]


def encode_member(name: str, data: bytes) -> bytes:
    """A member of a tar: what tarfile writes for a plain file with owner, group and time 0, in a sixth of its time."""
    return b"".join([_header(name.encode("ascii"), b"%011o" % len(data)), data, bytes(-len(data) % _BLOCK)])


def read_members(file: BinaryIO, tar_name: str) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of the members of a tar from here on; those of `encode_member` are read the fast way.

    tar_name: for messages.
    Raises DataError for a member that is no plain file, tarfile's errors, EOFError and OSError for no whole tar.
    """
    while (header := file.read(_BLOCK)) and header != bytes(_BLOCK):
        name, size = header[:100].rstrip(b"\0"), header[124:135]
        if not (name.isascii() and size.isdigit()) or header != _header(name, size):
            file.seek(-len(header), os.SEEK_CUR)
            yield from _other_members(file, tar_name)
            return
        length = int(size, 8)
        padded = file.read(length + -length % _BLOCK)
        if len(padded) != length + -length % _BLOCK:
            raise EOFError(f"ends within {name.decode()}")
        yield name.decode(), padded[:length]
    yield from _other_members(file, tar_name)


def _other_members(file: BinaryIO, tar_name: str) -> Iterator[tuple[str, bytes]]:
    """As tarfile reads them, which takes any tar and a while."""
    if not file.read(1):
        return
    file.seek(-1, os.SEEK_CUR)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() and not member.issparse() else None
            if content is None:
                raise DataError(f"{tar_name}: member {member.name!r} is no plain file")
            yield member.name, content.read()


def _header(name: bytes, size: bytes) -> bytes:
    """size: in octal, 11 digits."""
    checksum = b"%06o\0" % (_HEADER_SUM + sum(name) + sum(size))
    return b"".join([name, _HEADER[len(name) : 124], size, _HEADER[135:148], checksum, _HEADER[155:]])


# Without name and size; the checksum counts its own field as eight spaces.
_HEADER = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)
_HEADER = _HEADER[:124] + bytes(11) + _HEADER[135:148] + b" " * 8 + _HEADER[156:]
_HEADER_SUM = sum(_HEADER)


@dataclass(frozen=True, kw_only=True, eq=False)
class TarIndex:
    """Where the samples of a tar lie, from its headers and labels alone: arrays of one length, not to be written to.

    starts: (N,) int64, bytes before the sample's first header. image_starts, image_sizes: (N,) int64, in bytes; -1
    where a sample has no image. labels: (N,) int64, the numbers in `.cls`; -1 where there is none.
    keys: (N,) bytes, UTF-8 in most tars.
    fault: what is wrong with the tar behind its last sample, in one line; None for a whole tar.
    """

    path: str
    starts: Indices
    image_starts: Indices
    image_sizes: Indices
    labels: Indices
    keys: Names
    fault: str | None

    def __len__(self) -> int:
        return len(self.starts)

    def read_image(self, number: int) -> bytes:
        """The encoded image of a sample that has one. Raises DataError where it cannot be read."""
        size = int(self.image_sizes[number])
        name = f"{Path(self.path).name}: sample {os.fsdecode(bytes(self.keys[number]))}"
        try:
            descriptor = os.open(self.path, os.O_RDONLY)  # each time: 10 us, and nothing for threads to share
            try:
                data = os.pread(descriptor, size, int(self.image_starts[number]))
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
                    for member in tar:
                        parts = _split(_encoded(member.name)) if member.isreg() else None
                        if parts is None or (content := tar.extractfile(member)) is None:
                            continue
                        if parts[0] != key:
                            break
                        members[parts[1].decode("utf-8", "replace")] = content.read()
        except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError) as error:
            raise DataError(f"{Path(self.path).name}: sample {os.fsdecode(bytes(key))}: {error}") from error
        return members


def index_tar(path: Path | str, extensions: Sequence[str] = IMAGE_EXTENSIONS) -> TarIndex:
    """Find the samples of a tar. Headers and labels are read, images are not; the last 256 answers are kept.

    extensions: of a sample's image, the first that it has.
    Raises OSError where there is no such file or it cannot be read.
    """
    status = Path(path).stat()
    return _index_tar(str(path), status.st_size, status.st_mtime_ns, tuple(extensions))


class _Members(NamedTuple):
    """Members that are plain files. names; starts of their headers and of their data, sizes, in bytes."""

    names: Names
    headers: Indices
    starts: Indices
    sizes: Indices


_NO_MEMBERS = _Members(np.empty(0, "S1"), *np.empty((3, 0), np.int64))
_NO_HEADERS = np.empty(0, "S1"), *np.empty((2, 0), np.int64), np.empty(0, np.uint8)


@lru_cache(maxsize=256)
def _index_tar(path: str, size: int, mtime: int, extensions: tuple[str, ...]) -> TarIndex:
    with Path(path).open("rb") as file:
        members, fault, whole = _list_members(file, size)
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
        fault=fault and f"{Path(path).name}: no whole tar ({fault})",
    )


def _list_members(file: BinaryIO, size: int) -> tuple[_Members, str | None, bool]:
    """(the plain files, what is wrong behind them, whether the last sample is whole all the same)."""
    members, end, last = _plain_members(file, size)
    if end > size:
        return members, f"ends within {last}", False
    file.seek(end)
    if file.read(_BLOCK).strip(b"\0"):
        others, end, error = _tarfile_members(file, end)
        members = _Members(*(np.concatenate(columns) for columns in zip(members, others, strict=True)))
        if error is not None:
            return members, error, False
    file.seek(end)
    closing = file.read(_BLOCK)
    if closing == bytes(_BLOCK):
        return members, None, True
    what = f"no header after {len(members.names)} members" if closing else "it ends without the block that closes a tar"
    return members, what, True


def _plain_members(file: BinaryIO, size: int) -> tuple[_Members, int, str]:
    """(members, where the next header lies, name of the last) of the tar's begin, up to what only tarfile reads.

    Where one header lies follows from the one before; all are then checked at once.
    """
    offsets, offset, pieces = array("q"), 0, [_NO_HEADERS]
    if size < _BLOCK:
        return _NO_MEMBERS, 0, ""
    with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as content:
        while offset + _BLOCK <= size and (digits := content[offset + 124 : offset + 135]).isdigit():
            offsets.append(offset)
            try:
                offset += _BLOCK + (int(digits, 8) + _BLOCK - 1 & -_BLOCK)
            except ValueError:
                break
        headers = np.array(offsets, np.int64)
        blocks = np.frombuffer(content, np.uint8, size // _BLOCK * _BLOCK).reshape(-1, _BLOCK)
        for piece in range(0, len(headers), _ROWS):
            rows = headers[piece : piece + _ROWS]
            names, sizes, types, plain = _parse_headers(blocks[rows // _BLOCK])
            num_plain = len(rows) if plain.all() else int(plain.argmin())
            pieces.append((names[:num_plain], rows[:num_plain], sizes[:num_plain], types[:num_plain]))
            if num_plain < len(rows):
                offset = int(rows[num_plain])
                break
        del blocks  # or the mapping cannot be closed
    names, headers, sizes, types = (np.concatenate(columns) for columns in zip(*pieces, strict=True))
    last = os.fsdecode(bytes(names[-1])) if len(names) else ""
    files = types != ord("5")
    return _Members(names[files], headers[files], headers[files] + _BLOCK, sizes[files]), offset, last


def _parse_headers(headers: Bytes) -> tuple[Names, Indices, Bytes, Flags]:
    """(name, size, type, whether it is a plain file's or a folder's with a short name) of each header, (n, 512)."""
    used = np.flatnonzero(headers[:, :100].any(0))
    chars = np.ascontiguousarray(headers[:, : used[-1] + 1 if len(used) else 1])
    is_text = chars != 0
    sizes, digits = _octal(headers[:, 124:135])
    checksums, more_digits = _octal(headers[:, 148:154])
    sums = np.einsum("ij->i", headers, dtype=np.int64) - np.einsum("ij->i", headers[:, 148:156], dtype=np.int64)
    types, last = headers[:, 156], chars[np.arange(len(chars)), is_text.sum(1) - 1]
    plain = digits & more_digits & (checksums == sums + 8 * ord(" ")) & (headers[:, 345] == 0)
    plain &= ~(is_text[:, 1:] > is_text[:, :-1]).any(1)  # nothing behind the name's end
    plain &= ((types == ord("0")) | (types == 0)) & (last != ord("/")) | (types == ord("5")) & (sizes == 0)
    return chars.view(f"S{chars.shape[1]}")[:, 0], sizes, types, plain


def _octal(digits: Bytes) -> tuple[Indices, Flags]:
    """(number, whether it is one) of each row of octal digits."""
    values = np.zeros(len(digits), np.int64)
    for column in digits.T:
        values = np.add(values * 8, column & 7)
    return values, np.all((digits >= ord("0")) & (digits <= ord("7")), axis=1)


def _tarfile_members(file: BinaryIO, offset: int) -> tuple[_Members, int, str | None]:
    """(members from here on, where they end, what is wrong there), as tarfile reads them, which takes any tar."""
    names, places, error = list[bytes](), array("q"), None
    file.seek(offset)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # they would all be kept
                if member.isreg():
                    names.append(_encoded(member.name))
                    places.extend((member.offset, member.offset_data, member.size))
            offset = tar.offset
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError) as failure:
        error = str(failure)
    columns = np.array(places, np.int64).reshape(-1, 3).T
    return _Members(np.array(names, np.bytes_), *columns), offset, error


def _split_names(members: _Members) -> tuple[Names, Names, _Members]:
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
    return keys, suffixes, _Members(*(column[kept] for column in members))


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """(key, extension) of a member's name; None where it belongs to no sample."""
    match = None if _META.match(name) else _KEY.fullmatch(name)
    return (match[1], match[2].lower()) if match else None


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _read_labels(file: BinaryIO, size: int, starts: Indices, sizes: Indices) -> Indices:
    """The numbers in members of a few bytes each; -1 where there is none."""
    labels = np.full(len(starts), -1, np.int64)
    if not len(starts):
        return labels
    with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as content:
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
