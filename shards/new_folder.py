"""A folder written whole or not at all: under another name beside its place, which it takes when it is finished."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.files import take_lock

_LOCK = ".lock"


@contextlib.contextmanager
def new_folder(out: Path | str) -> Iterator[Path]:
    """Yield an empty folder to write to, which becomes `out` at the end; after any error there is nothing.

    What a killed process left is removed by the next one. Raises UsageError where `out` holds anything, is the folder
    of this process, or is written by another one; DataError where it cannot be written.
    """
    out = Path(out)
    place = Path(os.path.realpath(out))  # a link to a folder cannot be replaced, but what it names
    if place == Path(os.path.realpath(os.curdir)):
        raise UsageError(f"{out}: is the current folder, which cannot be replaced; name another one in it with --out")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file; name a folder with --out")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out}: not empty; name another folder with --out, or remove it")
    temporary = place.with_name(f".{place.name}.unfinished")
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        lock = take_lock(temporary / _LOCK)
        if lock is None:
            raise UsageError(f"{out}: another process writes it; wait for it, or name another folder with --out")
        try:
            _empty(temporary)
            yield temporary
            temporary.replace(place)  # with the lock in it, or another process could take that, and empty the folder
            (place / _LOCK).unlink()
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        finally:
            lock.close()
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror or error})") from error


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != _LOCK:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
