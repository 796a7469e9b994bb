"""A cache of fetched files: bounded in size, shared by processes, each file whole or not there.

    CACHE/KEY/NAME                a file that is whole; its time is that of its last use
    CACHE/KEY/.NAME.BYTES.part    one that is being fetched, by the process that holds flock on it
    CACHE/KEY/.lock               who uses what: fcntl's locks on a byte for each name, and on byte 0 for the folder
    CACHE/.lock                   held while room is made, or a folder is opened

The system frees all locks with the process. What a file of a key holds never changes, so any process may fetch it.
Whatever else lies in a folder that a user names as the cache is no part of it: not counted, and never removed.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated

from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.files import cache_folder, check_local, lock_file, shown_size, take_lock
from fracgen.shards.settings import Setting, check_settings


class CacheError(DataError):
    """The cache cannot take what is to be fetched: its disk or its limit is too small."""


_GIGABYTE = 1_000_000_000
_KEY = re.compile("[0-9a-f]{40}")
_PART = re.compile(r"\..+\.(\d+)\.part", re.DOTALL)
_NONCE = re.compile(r"^anew-\w+-")
"""Begins the name of a file that is fetched to be looked at once."""
_FOLDER_BYTE = 0
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """Where files of URLs are kept, and how many."""

    folder: Annotated[
        Path | None,
        Setting(
            "Folder that files of URLs are fetched to, and kept in for the next time.",
            option="--cache",
            panel="Cache, for URLs",
            default="shards in $FRACGEN_CACHE, or in the user's cache folder",
            identity=False,
        ),
    ] = None
    limit: Annotated[
        float,
        Setting(
            "Gigabytes that the cache may take; the least recently used files go first. 0: no limit.",
            option="--cache-limit",
            panel="Cache, for URLs",
            at_least=0,
            at_most=1e9,
            identity=False,
        ),
    ] = 50.0

    def __post_init__(self) -> None:
        """Raise UsageError for values out of range."""
        check_settings(self)


@dataclass
class _OpenFolder:
    """A folder of a cache that this process has open. pins: by name, how often it is in use here."""

    lock: IO[bytes]
    process: int
    pins: Counter[str] = field(default_factory=Counter)

    def is_current(self) -> bool:
        """Whether it is this process's own, and somebody has not removed the cache meanwhile."""
        return self.process == os.getpid() and os.fstat(self.lock.fileno()).st_nlink > 0


_open_folders: dict[Path, _OpenFolder] = {}
"""One for each folder of this process: closing a file frees all locks that its process has on it."""
_mutex = threading.Lock()


def _after_fork() -> None:
    global _mutex
    _mutex = threading.Lock()  # another thread of the parent may have held it


os.register_at_fork(after_in_child=_after_fork)


class FileCache:
    """A cache. Many processes and threads may use one at the same time."""

    def __init__(self, settings: CacheSettings) -> None:
        """Raises UsageError where the folder cannot be written."""
        folder = settings.folder or cache_folder() / "shards"
        check_local(folder)
        self.settings, self.limit = settings, round(settings.limit * _GIGABYTE)
        self.folder = Path(os.path.realpath(folder))
        try:
            with self.locked():
                pass
        except OSError as error:
            raise UsageError(f"{folder}: cannot be written ({error.strerror}); give another --cache") from None

    def folder_of(self, key: str) -> "CachedFolder":
        """The folder of what `key` stands for: the first 40 hex digits of a hash, another one for other content."""
        assert _KEY.fullmatch(key), key
        return CachedFolder(self, key)

    def make_room(self) -> None:
        """Remove files that nobody uses, the least recently used first, until the cache keeps to its limit.

        Raises CacheError where what is in use takes more.
        """
        with self.locked():
            files = sorted(self._files())
            total = sum(size for _, size, _ in files)
            for _, size, path in files:
                if not self.limit or total <= self.limit:
                    return
                if _remove_unused(path):
                    total -= size
            if self.limit and total > self.limit:
                raise CacheError(
                    f"{self.folder}: what is in use takes {shown_size(total)}, and the cache may have "
                    f"{shown_size(self.limit)}; give more by --cache-limit, or another --cache"
                )

    def __str__(self) -> str:
        with self.locked():
            total = sum(size for _, size, _ in self._files())
        return f"{self.folder} ({shown_size(total)}{f' of {shown_size(self.limit)}' if self.limit else ''})"

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """(time of the last use, bytes, path) of each file; one that is being fetched counts as if it were whole."""
        for folder in self.folder.iterdir():
            if _KEY.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
                for path in folder.iterdir():
                    with contextlib.suppress(FileNotFoundError):
                        status, part = path.lstat(), _PART.fullmatch(path.name)
                        size = max(status.st_size, int(part[1])) if part else status.st_size
                        if path.name != ".lock" and stat.S_ISREG(status.st_mode):
                            yield status.st_mtime, size, path

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the whole cache: no other process or thread makes room, or opens a folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with lock_file(self.folder / ".lock"):
            yield


class CachedFolder:
    """A folder of a cache. What is in use here, by `using` or `keep`, stays there until it is not, or the process ends.

    After a fork the child opens it anew; it can be pickled.
    """

    def __init__(self, cache: FileCache, key: str) -> None:
        self.cache, self.path = cache, cache.folder / key
        self._state()

    def keep(self, names: Iterable[str]) -> None:
        """Let no file of these names be removed while this process lives."""
        for name in names:
            self._pin(name)

    @contextlib.contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Let no file of this name be removed meanwhile."""
        self._pin(name)
        try:
            yield
        finally:
            self._unpin(name)

    def get(self, name: str, num_bytes: int | None, fetch: Callable[[Path], None]) -> Path:
        """The path of a file that is in use, fetched where it is not there whole.

        num_bytes: its size, where that is known. fetch: writes it to the path that it is given, whole, or raises.
        Another process or thread that fetches it now is waited for.
        Raises CacheError where the disk is full or the limit is reached, and what `fetch` raises.
        """
        path = self.path / name
        if _is_whole(path, num_bytes):
            with contextlib.suppress(OSError):
                os.utime(path)
            return path
        part = self.path / f".{name}.{num_bytes or 0}.part"
        with lock_file(part):
            try:
                if not _is_whole(path, num_bytes):
                    self.cache.make_room()
                    fetch(part)
                    part.replace(path)
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                shown = _NONCE.sub("", name) + (f" ({shown_size(num_bytes)})" if num_bytes else "")
                raise CacheError(
                    f"{self.cache.folder}: the disk is full, {shown} does not fit; free some, or give another --cache"
                ) from None
            finally:
                part.unlink(missing_ok=True)
        return path

    def _state(self) -> _OpenFolder:
        state = _open_folders.get(self.path)
        if state is not None and state.is_current():
            return state
        with self.cache.locked(), _mutex:
            state = _open_folders.get(self.path)
            if state is None or not state.is_current():
                pins = Counter[str]()
                if state is not None:
                    state.lock.close()  # first: closing it later would free the locks that the new one takes
                    pins = state.pins if state.process == os.getpid() else pins
                self.path.mkdir(parents=True, exist_ok=True)
                lock = (self.path / ".lock").open("a+b")
                for byte in (_FOLDER_BYTE, *(_byte_of(name) for name in pins if pins[name])):
                    fcntl.lockf(lock, fcntl.LOCK_SH, 1, byte)
                state = _open_folders[self.path] = _OpenFolder(lock, os.getpid(), pins)
            return state

    def _pin(self, name: str) -> None:
        state = self._state()
        with _mutex:
            if not state.pins[name]:
                fcntl.lockf(state.lock, fcntl.LOCK_SH, 1, _byte_of(name))
            state.pins[name] += 1

    def _unpin(self, name: str) -> None:
        state = self._state()
        with _mutex:
            if state.pins[name] > 0:  # else this process was forked meanwhile
                state.pins[name] -= 1
                if not state.pins[name]:
                    fcntl.lockf(state.lock, fcntl.LOCK_UN, 1, _byte_of(name))


def _byte_of(name: str) -> int:
    """Which byte of the lock's file stands for a name; one of two names that share it stays longer than it must."""
    return 1 + int.from_bytes(hashlib.sha256(name.encode()).digest()[:6])


def _remove_unused(path: Path) -> bool:
    """Remove a file of the cache that no process uses, and its folder with the last one. Returns whether it is gone."""
    with _mutex:
        state = _open_folders.get(path.parent)
        if state is not None and state.process == os.getpid():
            return not state.pins[path.name] and _remove(path, state.lock)
        with (path.parent / ".lock").open("a+b") as lock:
            is_removed = _remove(path, lock)
            if is_removed and [each.name for each in path.parent.iterdir()] == [".lock"] and _try(lock, _FOLDER_BYTE):
                (path.parent / ".lock").unlink()
                path.parent.rmdir()
            return is_removed


def _remove(path: Path, lock: IO[bytes]) -> bool:
    if _PART.fullmatch(path.name):
        file = take_lock(path)  # held by whoever fetches it: this one was left by a process that was killed
        if file is None:
            return False
        with file:
            path.unlink(missing_ok=True)
        return True
    if not _try(lock, _byte_of(path.name)):
        return False
    try:
        path.unlink(missing_ok=True)
    finally:
        fcntl.lockf(lock, fcntl.LOCK_UN, 1, _byte_of(path.name))
    return True


def _try(lock: IO[bytes], byte: int) -> bool:
    """Take the lock of a byte alone, if that is possible at once."""
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_whole(path: Path, num_bytes: int | None) -> bool:
    """A file with its name is whole: it was renamed then. One of another size was changed by somebody."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return False
    return num_bytes is None or size == num_bytes
