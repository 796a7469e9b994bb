"""The lock of a run's folder: the system's, so that a killed process cannot leave it behind."""

import fcntl
from pathlib import Path
from typing import TextIO
from weakref import WeakSet

_held = WeakSet[TextIO]()


def take(path: Path) -> TextIO | None:
    """What holds the lock at `path` until it is closed or dropped, or this process ends; None where another has it."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    _held.add(file)
    return file


def forget() -> None:
    """For a forked worker: close what it has inherited, or it would keep the lock of a process that was killed."""
    for file in list(_held):
        file.close()
