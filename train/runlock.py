"""The lock of a run's folder: the system's, so that a killed process cannot leave it behind."""

import fcntl
from pathlib import Path
from typing import TextIO

_held: list[TextIO] = []


def take(path: Path) -> bool:
    """Take the lock at `path` until this process ends, however it ends; False where another process has it."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return False
    _held.append(file)
    return True


def forget() -> None:
    """For a forked worker: close what it has inherited, or it would keep the lock of a process that was killed."""
    while _held:
        _held.pop().close()
