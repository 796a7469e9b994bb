"""The state of a run in one file, written whole or not at all.

No state of a random generator is kept: every draw is a function of seed, step and sample (`train/seeding.py`), so that
the step and the seed are the state of the sampler and of the generators.
"""

import contextlib
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.files import replacing

VERSION = 2
"""1 was fracgen 0.2's, whose samples came in another order."""
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"


class DamagedCheckpointError(DataError):
    """A checkpoint whose bytes are not as they were written."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a run goes on from.

    step: steps taken. config: resolved settings, as plain values. data: sha256 (hex) of what identifies the samples and
    their order. world: number of ranks. model, optimizer, scaler: state dicts. ema: that of the moving average, empty
    where there is none. losses: of the latest steps, as many as a logged average is taken over. scores: best accuracy
    so far, 0 to 1, and its step, where the protocol chooses weights. threads: of the CPU that computed it, on which
    the last bits of sums depend; 0 on a GPU.
    """

    step: int
    config: Mapping[str, Any]
    data: str
    world: int
    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    scaler: Mapping[str, Any]
    ema: Mapping[str, Any] = field(default_factory=dict)
    losses: Sequence[float] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    threads: int = 0


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write and sync beside `path`, then rename: whatever happens, `path` is the old checkpoint or the new one.

    An old last.pt is kept as previous.pt, where the file system has hard links: none is copied.
    Raises DataError where it cannot be written; the old one is kept.
    """
    with replacing(path, durable=True) as temporary:
        try:
            with temporary.open("wb") as file:
                torch.save({"version": VERSION, **vars(checkpoint)}, file)
        except RuntimeError as error:  # torch's word for a full disk
            raise DataError(f"{path}: cannot be written ({error}); the old checkpoint is kept") from error
        if path.name == LAST and path.exists():
            _keep_as_previous(path)


def _keep_as_previous(path: Path) -> None:
    linked = path.with_name(f".{PREVIOUS}.tmp")
    with contextlib.suppress(OSError):
        linked.unlink(missing_ok=True)
        linked.hardlink_to(path)
        linked.replace(path.with_name(PREVIOUS))
        linked.unlink(missing_ok=True)  # rename(2) leaves a link to what previous.pt is already where it was


def load(path: Path) -> Checkpoint:
    """Read a checkpoint, onto the CPU.

    Raises DamagedCheckpointError where it is none or damaged; DataError where it is of a later version, UsageError
    where it is fracgen 0.2's.
    """
    if not path.is_file():
        raise DamagedCheckpointError(f"{path}: no whole checkpoint (no plain file)")
    try:
        with zipfile.ZipFile(path) as file:  # torch does not look at the sums that it wrote
            if (damaged := file.testzip()) is not None:
                raise ValueError(f"{damaged} is damaged")
        values = torch.load(path, map_location="cpu", weights_only=True)
        version = values.pop("version")
    except MemoryError:
        raise
    except Exception as error:  # of zipfile, pickle or torch, for bytes that may be anything
        raise DamagedCheckpointError(f"{path}: no whole checkpoint ({first_line(error)})") from error
    if version == 1:
        raise UsageError(
            f"{path}: begun with fracgen 0.2, whose samples came in another order; give another --out to begin again, "
            "or finish the run with 0.2"
        )
    if version != VERSION:
        raise DataError(f"{path}: a checkpoint of version {version}; this fracgen reads version {VERSION}")
    try:
        return Checkpoint(**values)
    except TypeError as error:
        raise DamagedCheckpointError(f"{path}: no whole checkpoint ({error})") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without the escape codes and the advice that torch adds; else its name."""
    text = re.sub("\x1b\\[[0-9;]*m", "", str(error)).strip()
    if "weights_only" in text:  # torch's advice is to run whatever code the file holds
        return f"{type(error).__name__}: not what torch.save writes"
    if not text or isinstance(error, ValueError | RuntimeError | OSError):
        return text.splitlines()[0] if text else type(error).__name__
    return f"{type(error).__name__}: {text.splitlines()[0]}"


def describe(last: Checkpoint | None) -> str:
    """Where a run goes on, and whether its last bits may differ from a run without a stop: for the screen."""
    if last is None or last.step == 0:
        return ""
    now = torch.get_num_threads()
    other = (
        f" with {now} CPU threads, not {last.threads}: the last bits may differ" if last.threads not in (0, now) else ""
    )
    return f"; goes on at step {last.step:,}{other}"


def check_same(checkpoint: Checkpoint, *, config: list[str], data: str, world: int, path: Path) -> None:
    """Raises UsageError where settings, samples or ranks are not those that the run began with.

    config: settings that differ, in words.
    """
    changed = list(config)
    if data != checkpoint.data:
        changed.append(f"samples {data[:8]}, were {checkpoint.data[:8]}")
    if world != checkpoint.world:
        changed.append(f"{world} processes, were {checkpoint.world}")
    if changed:
        raise UsageError(
            f"{path}: is of another run ({'; '.join(changed)}); give another --out, or --allow-changes to go on so"
        )
