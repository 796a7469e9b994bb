"""Files that are written whole or not at all, locks that a killed process cannot leave behind, and cores."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO
from weakref import WeakSet

from fracgen.shards.errors import DataError, FracgenError, UsageError
from fracgen.shards.urls import is_url, redact

_locked_files = WeakSet[TextIO]()
ONLY_LOCAL = "is a URL; only paths of this machine are supported"


def check_local(path: Path | str) -> None:
    """Raise UsageError for a URL where only a path can be: a folder of that name would be made."""
    if is_url(path):
        raise UsageError(f"{redact(str(path))}: {ONLY_LOCAL}")


def check_folder(path: Path) -> None:
    """Raise UsageError where there is no folder: nothing, or a file."""
    if not path.is_dir():
        raise UsageError(f"{path}: {'not a folder' if path.exists() else 'no such folder'}")


def write_atomically(
    path: Path,
    data: bytes | str,
    *,
    durable: bool = False,
    temporary: Path | None = None,
    error: type[FracgenError] | None = DataError,
) -> None:
    """Write a file as `replacing` does. data: text is stored as UTF-8, undecodable bytes of file names as they were."""
    with replacing(path, durable=durable, temporary=temporary, error=error) as file:
        file.write_bytes(data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data)


@contextlib.contextmanager
def replacing(
    path: Path,
    *,
    durable: bool = False,
    temporary: Path | None = None,
    error: type[FracgenError] | None = DataError,
) -> Iterator[Path]:
    """Yield a temporary path to write to, which replaces `path` at the end; after any error the old file stays.

    durable: flush the file to the disk before it is renamed, and its folder after.
    temporary: on the same file system; `.NAME.tmp` beside `path` by default, which is for one writer at a time. Where
        there may be several, give `unique_temporary(path)`.
    error: raised in place of an OSError, in one line that names `path`; None lets that pass.
    """
    check_local(path)
    temporary = temporary or path.with_name(f".{path.name}.tmp")
    try:
        try:
            yield temporary
            if durable:
                _sync(temporary)
            temporary.replace(path)
            if durable:
                _sync_folder(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    except OSError as failure:
        if error is None:
            raise
        raise error(f"{path}: cannot be written ({failure.strerror or failure})") from failure


def unique_temporary(path: Path, folder: Path | None = None) -> Path:
    """A temporary name that no other process uses, beside `path` or in another folder of its file system."""
    return (folder or path.parent) / f".{path.name}.{secrets.token_hex(4)}.tmp"


def _sync_folder(folder: Path) -> None:
    """Flush a folder's names to the disk; some file systems, those of shared folders, cannot, and call it invalid."""
    try:
        _sync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_plain(path: Path) -> bytes:
    """The bytes of a plain file. Raises OSError where it is none: a pipe would be waited for without end."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return path.read_bytes()


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises DataError where the file cannot be read, or holds something else."""
    try:
        values = json.loads(read_plain(path).decode())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: not what was written there")
    return values


def take_lock(path: Path, *, wait: bool = False) -> TextIO | None:
    """The lock at `path`, held until it is closed, dropped or this process ends; None where another process holds it.

    wait: until that gives it back.
    The file may hold anything, which stays; a link is refused, as what it names is another's.
    Raises DataError for a link, OSError where the file cannot be opened, or its file system has no locks.
    """
    if path.is_symlink():
        raise DataError(f"{path}: is a link, not a lock; remove it")
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666), "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:
        file.close()
        raise OSError(error.errno, f"cannot be locked: {error.strerror}", str(path)) from None
    _locked_files.add(file)
    return file


@contextlib.contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Hold the lock at `path`, waited for; again, where whoever held it has removed or renamed the file meanwhile."""
    while True:
        file = take_lock(path, wait=True)
        assert file is not None
        with file:
            if _is_named(file, path):
                yield
                return


def _is_named(file: TextIO, path: Path) -> bool:
    try:
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False


def forget_locks() -> None:
    """Close the locks that a forked worker has inherited: it would keep those of a parent that was killed."""
    for file in list(_locked_files):
        file.close()


def cache_folder() -> Path:
    """Where is kept what is worth keeping on this machine: $FRACGEN_CACHE, or the user's cache folder.

    Raises UsageError where that is a URL.
    """
    import platformdirs

    folder = Path(os.environ.get("FRACGEN_CACHE") or platformdirs.user_cache_path("fracgen"))
    check_local(folder)
    return folder


def shown_size(num_bytes: float) -> str:
    """As in 1.5 GB, of a thousand million bytes each."""
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} GB"


def num_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_threads(workers: int | None) -> int:
    """Number of threads that a caller asks for by `workers`; all cores for None and 0. Raises UsageError below 0."""
    if workers is not None and workers < 0:
        raise UsageError(f"workers {workers}: must be 1 or more; leave it out for all cores")
    return workers or num_cores()
