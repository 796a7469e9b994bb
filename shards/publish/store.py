"""Where folders are published to: what every such place can do, and that of fsspec's URLs."""

import contextlib
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from fracgen.shards.errors import FracgenError
from fracgen.shards.publish.release import ReleaseFile
from fracgen.shards.remote import MissingFileError, TransferError, Url, connect, retrying

_READ_BYTES = 1 << 22
_BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "oci")
"""Protocols of objects in buckets: names may have slashes, and there are no folders."""


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file that is there. sha256, git_blob: hex, where the place tells them without reading the file; else ""."""

    num_bytes: int
    sha256: str = ""
    git_blob: str = ""


class Store(Protocol):
    """A place for one folder. Each call is tried again where the failure may pass; else it raises as `retrying`.

    batch_files, batch_bytes: how many files, and bytes, are uploaded by one call at most.
    """

    batch_files: int
    batch_bytes: int

    def listing(self) -> dict[str, RemoteFile]:
        """The files that are there, by name; none where the place is not there yet."""

    def is_same(self, file: ReleaseFile, remote: RemoteFile) -> bool:
        """Whether a file that is there has the bytes that it is to have."""

    def read(self, name: str) -> bytes:
        """A small file. Raises MissingFileError where it is not there."""

    def create(self) -> None:
        """Make the place, where it is not there yet."""

    def upload(self, files: Sequence[ReleaseFile]) -> None:
        """Write files, in place of those of their names, and see that they arrived."""

    def delete(self, names: Iterable[str]) -> None:
        """Remove files."""


class FsspecStore:
    """A folder at a URL that fsspec opens. What arrived is read back, as not every place tells hashes."""

    batch_files, batch_bytes = 1, 1

    def __init__(self, url: Url) -> None:
        self.url = url

    def listing(self) -> dict[str, RemoteFile]:
        """The files at the URL, by name. Raises MissingFileError where S3 says that there is no such bucket."""

        def list_files() -> dict[str, RemoteFile]:
            file_system, path = connect(self.url)
            file_system.invalidate_cache()
            try:
                entries = file_system.ls(path, detail=True)
            except FileNotFoundError as error:
                if error.__cause__ is not None:  # the server's word, as of a bucket; else the library's, of a folder
                    raise
                return {}
            return {
                entry["name"].rstrip("/").rpartition("/")[2]: RemoteFile(num_bytes=int(entry["size"] or 0))
                for entry in entries
                if entry["type"] == "file"
            }

        try:
            return retrying(list_files, self.url)
        except MissingFileError:
            if self.url.scheme in ("s3", "s3a"):
                raise
            return {}

    def is_same(self, file: ReleaseFile, remote: RemoteFile) -> bool:
        """Whether the size is the same and, read from there, the sha256."""
        return remote.num_bytes == file.num_bytes and self._sha256(file.name) == file.sha256

    def _sha256(self, name: str) -> str:
        url = self.url / name

        def read() -> str:
            file_system, path = connect(url)
            digest = hashlib.sha256()
            with file_system.open(path, "rb") as stream:
                while block := stream.read(_READ_BYTES):
                    digest.update(block)
            return digest.hexdigest()

        return retrying(read, url)

    def read(self, name: str) -> bytes:
        """A small file."""
        url = self.url / name

        def read() -> bytes:
            file_system, path = connect(url)
            data: bytes = file_system.cat_file(path)
            return data

        return retrying(read, url)

    def create(self) -> None:
        """Make the folder, where there are folders. Buckets are not made: they must be there."""
        if self.url.scheme in _BUCKETS:
            return
        with contextlib.suppress(FracgenError, OSError, NotImplementedError):
            file_system, path = connect(self.url)
            file_system.makedirs(path, exist_ok=True)

    def upload(self, files: Sequence[ReleaseFile]) -> None:
        """Write each file, then compare what arrived."""
        for file in files:
            retrying(partial(self._upload, file), self.url / file.name)

    def _upload(self, file: ReleaseFile) -> None:
        file_system, path = connect(self.url / file.name)
        if file.data is not None:
            file_system.pipe_file(path, file.data)
        else:
            file_system.put_file(str(file.path), path)
        file_system.invalidate_cache()
        size, digest = file_system.size(path), hashlib.sha256()
        with file_system.open(path, "rb") as stream:
            while block := stream.read(_READ_BYTES):
                digest.update(block)
        if size != file.num_bytes or digest.hexdigest() != file.sha256:
            raise TransferError(f"{size:,} of {file.num_bytes:,} bytes arrived, or others than were sent")

    def delete(self, names: Iterable[str]) -> None:
        """Remove files."""
        for name in names:
            url = self.url / name

            def remove(url: Url = url) -> None:
                file_system, path = connect(url)
                file_system.rm_file(path)

            with contextlib.suppress(MissingFileError):
                retrying(remove, url)
