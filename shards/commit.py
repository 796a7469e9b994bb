"""Commit a shard: whole or not at all, and only for a run that is still on.

Workers commit, in any process or machine that shares the folder; the run that asked for them is `folder.FolderWriter`.
"""

import contextlib
import fcntl
import os
import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO

from fracgen.shards.errors import DataError
from fracgen.shards.files import unique_temporary, write_atomically
from fracgen.shards.layout import Layout
from fracgen.shards.manifest import PARTIAL, ShardRecord
from fracgen.shards.plan import seal
from fracgen.shards.writer import Entry, write_tar

_commit_lock = threading.Lock()


def commit_shard(
    folder: Path, shard: int, samples: Iterable[Entry], layout: Layout, token: str, order: Sequence[int] | None = None
) -> ShardRecord:
    """Write one shard and commit it: temporary name, flush to disk, rename, then its record.

    token: of the run that asked for it. order: of the samples in the tar, where they do not come in it.
    Raises DataError, and commits nothing, where that run has ended; OSError (disk full) leaves only rubbish.
    """
    partial, name = folder / PARTIAL, layout.filename(shard)
    # Two workers may have the same shard: an executor gives it to another where it believes that the first is dead.
    temporary = partial / f"{name}.{token}.{secrets.token_hex(4)}.tmp"
    try:
        record = write_tar(temporary, name, samples, layout, order)
        with commit_guard(partial):
            if not (partial / f"run-{token}").exists():
                raise DataError(f"{name}: the run that asked for it has ended; nothing was committed")
            temporary.replace(folder / name)
            path = partial / f"{shard:06d}.json"
            write_atomically(path, seal(asdict(record)), temporary=unique_temporary(path), error=None)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return record


@contextlib.contextmanager
def commit_guard(partial: Path, *, make: bool = False) -> Iterator[None]:
    """Hold the folder's commit lock: a worker commits, or a run begins, and neither falls between the other's steps."""
    with _commit_lock, open_lasting(partial / "commit", make=make, kind=fcntl.LOCK_EX):
        yield


def open_lasting(path: Path, *, make: bool, kind: int | None = None) -> IO[bytes]:
    """Open a lock's file, and wait for the lock; again, where a run that finished has just removed the file."""
    while True:
        if make:
            path.parent.mkdir(exist_ok=True)
        file = path.open("a+b")
        if kind is not None:
            fcntl.lockf(file, kind)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file
        file.close()
