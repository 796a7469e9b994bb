"""Members of tars: ours as bytes and back, and those of any tar listed from its headers alone."""

import contextlib
import io
import mmap
import os
import tarfile
from array import array
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from fracgen.shards.errors import LFS_ADVICE, LFS_POINTER, DataError

BLOCK = tarfile.BLOCKSIZE
TAR_END = bytes(2 * BLOCK)
_ROWS = 1 << 15
"""Headers that are looked at in one piece: 16 MiB."""

_MAX_NAME = 1024
"""Letters of a member's name."""

Indices = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Names = npt.NDArray[np.bytes_]
Flags = npt.NDArray[np.bool_]


def encode_member(name: str, data: bytes) -> bytes:
    """A member of a tar: what tarfile writes for a plain file with owner, group and time 0, in a sixth of its time."""
    return b"".join([_header(name.encode("ascii"), b"%011o" % len(data)), data, bytes(-len(data) % BLOCK)])


def read_members(file: BinaryIO, tar_name: str) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of the members of a tar from here on; those of `encode_member` are read the fast way.

    tar_name: for messages.
    Raises DataError for a member that is no plain file, tarfile's errors, EOFError and OSError for no whole tar.
    """
    file = _Bounded(file)
    if (start := file.read(len(LFS_POINTER))) == LFS_POINTER:
        raise DataError(f"{tar_name}: {LFS_ADVICE}")
    file.seek(-len(start), os.SEEK_CUR)
    while (header := file.read(BLOCK)) and header != bytes(BLOCK):
        name, size = header[:100].rstrip(b"\0"), header[124:135]
        if not (name.isascii() and size.isdigit()) or header != _header(name, size):
            file.seek(-len(header), os.SEEK_CUR)
            yield from _other_members(file, tar_name)
            return
        length = int(size, 8)
        padded = file.read(length + -length % BLOCK)
        if len(padded) != length + -length % BLOCK:
            raise EOFError(f"ends within {name.decode()}")
        yield name.decode(), padded[:length]
    yield from _other_members(file, tar_name)


class _Bounded(io.RawIOBase, BinaryIO):
    """A file of which no more is asked for than it holds: a header that claims 8 GiB allocates nothing."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, start = file, file.tell()
        self._size = file.seek(0, os.SEEK_END)
        file.seek(start)

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._file.tell())
        return self._file.read(left if size is None or size < 0 else min(size, left))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _other_members(file: BinaryIO, tar_name: str) -> Iterator[tuple[str, bytes]]:
    """As tarfile reads them, which takes any tar and a while."""
    if not file.read(1):
        return
    file.seek(-1, os.SEEK_CUR)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in walk(tar):
            content = tar.extractfile(member) if member.isreg() and not member.issparse() else None
            if content is None:
                raise DataError(f"{tar_name}: member {member.name!r} is no plain file")
            yield member.name, content.read()


def walk(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of a tar, of which none is kept. Raises ValueError for a size that leads back: it would never end."""
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]
        if tar.offset <= member.offset:
            raise ValueError(f"member {member.name[:100]!r} claims {member.size} bytes")
        yield member


def _header(name: bytes, size: bytes) -> bytes:
    """size: in octal, 11 digits."""
    checksum = b"%06o\0" % (_HEADER_SUM + sum(name) + sum(size))
    return b"".join([name, _HEADER[len(name) : 124], size, _HEADER[135:148], checksum, _HEADER[155:]])


# Without name and size; the checksum counts its own field as eight spaces.
_HEADER = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)
_HEADER = _HEADER[:124] + bytes(11) + _HEADER[135:148] + b" " * 8 + _HEADER[156:]
_HEADER_SUM = sum(_HEADER)


class Members(NamedTuple):
    """Members that are plain files. names; starts of their headers and of their data, sizes, in bytes."""

    names: Names
    headers: Indices
    starts: Indices
    sizes: Indices


_NO_HEADERS = np.empty(0, "S1"), *np.empty((2, 0), np.int64), np.empty(0, np.uint8)


def list_members(file: BinaryIO, size: int) -> tuple[Members, str | None, bool]:
    """(the plain files, what is wrong behind them, whether the last sample is whole all the same)."""
    file.seek(0)
    if file.read(len(LFS_POINTER)) == LFS_POINTER:
        return Members(np.empty(0, "S1"), *np.empty((3, 0), np.int64)), LFS_ADVICE, False
    members, end, last = _plain_members(file, size)
    if end > size:
        return members, f"ends within {last}", False
    file.seek(end)
    if file.read(BLOCK).strip(b"\0"):
        others, end, error = _tarfile_members(file, end)
        members = Members(*(np.concatenate(columns) for columns in zip(members, others, strict=True)))
        if error is not None:
            return members, error, False
    file.seek(end)
    closing = file.read(BLOCK)
    if closing == bytes(BLOCK):
        return members, None, True
    what = f"no header after {len(members.names)} members" if closing else "it ends without the block that closes a tar"
    return members, what, True


@contextlib.contextmanager
def mapped(file: BinaryIO, size: int) -> Iterator[mmap.mmap | bytes]:
    """The content of a file, mapped into memory; read into it on the file systems that cannot map."""
    try:
        content = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # ValueError for an empty file
        file.seek(0)
        yield file.read(size)
        return
    with content:
        yield content


def _plain_members(file: BinaryIO, size: int) -> tuple[Members, int, str]:
    """(members, where the next header lies, name of the last) of the tar's begin, up to what only tarfile reads.

    Where one header lies follows from the one before; all are then checked at once.
    """
    offsets, offset, pieces = array("q"), 0, [_NO_HEADERS]
    with mapped(file, size) as content:
        while offset + BLOCK <= size and (digits := content[offset + 124 : offset + 135]).isdigit():
            offsets.append(offset)
            try:
                offset += BLOCK + (int(digits, 8) + BLOCK - 1 & -BLOCK)
            except ValueError:
                break
        headers = np.array(offsets, np.int64)
        blocks = np.frombuffer(content, np.uint8, size // BLOCK * BLOCK).reshape(-1, BLOCK)
        for piece in range(0, len(headers), _ROWS):
            rows = headers[piece : piece + _ROWS]
            names, sizes, types, plain = _parse_headers(blocks[rows // BLOCK])
            num_plain = len(rows) if plain.all() else int(plain.argmin())
            pieces.append((names[:num_plain], rows[:num_plain], sizes[:num_plain], types[:num_plain]))
            if num_plain < len(rows):
                offset = int(rows[num_plain])
                break
        del blocks  # or the mapping cannot be closed
    names, headers, sizes, types = (np.concatenate(columns) for columns in zip(*pieces, strict=True))
    last = os.fsdecode(bytes(names[-1])) if len(names) else ""
    files = types != ord("5")
    return Members(names[files], headers[files], headers[files] + BLOCK, sizes[files]), offset, last


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


def _tarfile_members(file: BinaryIO, offset: int) -> tuple[Members, int, str | None]:
    """(members from here on, where they end, what is wrong there), as tarfile reads them, which takes any tar."""
    names, places, error = list[bytes](), array("q"), None
    file.seek(offset)
    try:
        with tarfile.open(fileobj=_Bounded(file), mode="r:") as tar:
            for member in walk(tar):
                if len(member.name) > _MAX_NAME:  # all names lie in one array
                    raise ValueError(f"a member's name has {len(member.name)} letters, at most {_MAX_NAME} are read")
                if member.issparse():
                    raise ValueError(f"member {member.name!r} is sparse; write the tar without --sparse")
                if member.isreg():
                    names.append(member.name.encode("utf-8", "surrogateescape"))
                    places.extend((member.offset, member.offset_data, member.size))
            offset = tar.offset
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError, RecursionError) as failure:
        error = str(failure)
    columns = np.array(places, np.int64).reshape(-1, 3).T
    return Members(np.array(names, np.bytes_), *columns), offset, error
