"""Who may write a folder of shards at the same time: fcntl's locks on files in `.partial`.

The system frees them with the process, and network file systems that know POSIX locks share them between machines.
"""

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from fracgen.shards.errors import UsageError
from fracgen.shards.layout import Part
from fracgen.shards.manifest import PARTIAL
from fracgen.shards.plan import num_parts

_commit_lock = threading.Lock()
_claimed: set[Path] = set()
_claimed_lock = threading.Lock()


def _after_fork() -> None:
    """In a forked process no other thread holds these locks, and nothing is written: POSIX locks stay the parent's."""
    global _commit_lock, _claimed_lock
    _commit_lock, _claimed_lock = threading.Lock(), threading.Lock()
    _claimed.clear()


os.register_at_fork(after_in_child=_after_fork)


class FolderLocks:
    """The locks of one run that writes a folder, or a part of it."""

    def __init__(self, folder: Path, part: Part | None) -> None:
        self.folder, self.part = folder, part
        self._key = Path(os.path.realpath(folder))  # which a loop of links does not stop
        self._files: list[IO[bytes]] = []

    def claim(self) -> None:
        """Let no other run of this process write the folder: closing a file frees all locks that its process has on it.

        Raises UsageError where one does.
        """
        with _claimed_lock:
            if self._key in _claimed:
                raise UsageError(f"{self.folder}: this process is writing it already")
            _claimed.add(self._key)

    def take(self) -> bool:
        """Take the folder's lock, alone, or for a part shared; returns whether no other run is on. Raises UsageError.

        The folder must be claimed, and its commit lock held.
        """
        lock = self._open("lock")
        is_alone = _lock(lock, fcntl.LOCK_EX)
        if self.part is None:
            if not is_alone:
                raise UsageError(f"{self.folder}: another run is writing it; wait, or name another --out")
            return True
        if not _lock(lock, fcntl.LOCK_SH):
            raise UsageError(f"{self.folder}: another run is writing all of it; wait, or name another --out")
        if not _lock(self._open(f"lock-{self.part.slug}"), fcntl.LOCK_EX):
            raise UsageError(f"{self.folder}: another run is writing part {self.part}")
        if not is_alone and (count := num_parts(self.folder)) != self.part.count:
            parts = f"{count} parts" if count else "parts of a number that is damaged"
            raise UsageError(f"{self.folder}: is being written in {parts}, this is one of {self.part.count}; wait")
        return is_alone

    def release(self) -> None:
        """Give all locks back."""
        for file in self._files:
            file.close()
        self._files = []
        with _claimed_lock:
            _claimed.discard(self._key)

    def _open(self, name: str) -> IO[bytes]:
        self._files.append(_open_lasting(self.folder / PARTIAL / name, make=True))
        return self._files[-1]


@contextlib.contextmanager
def commit_guard(partial: Path, *, make: bool = False) -> Iterator[None]:
    """Hold the folder's commit lock: a worker commits, or a run begins, and neither falls between the other's steps."""
    with _commit_lock, _open_lasting(partial / "commit", make=make, kind=fcntl.LOCK_EX):
        yield


def _open_lasting(path: Path, *, make: bool, kind: int | None = None) -> IO[bytes]:
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


def _lock(file: IO[bytes], kind: int) -> bool:
    """Take a lock, or turn one that is held into this kind, if that is possible at once."""
    try:
        fcntl.lockf(file, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
