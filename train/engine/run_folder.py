"""The folder of a run: one writer at a time, and the checkpoint that it goes on from."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.files import check_local, replacing, take_lock, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fracgen.train.engine.checkpoint import Checkpoint

Resume = Literal["auto", "never"]
CONFIG, MODEL = "config.yaml", "model"


class RunFolder:
    """A folder that one run writes to: config.yaml, metrics.jsonl, last.pt, previous.pt, curves.png, model/.

    warning: one line, where the run goes on from previous.pt, as last.pt is damaged; else "".
    """

    def __init__(self, path: Path, resume: Resume) -> None:
        """Raises UsageError where the folder holds something else, or a run and `resume` is "never"."""
        self.path = path
        self.warning = ""
        self._lock: TextIO | None = None
        self._seen: tuple[int, ...] = ()  # which last.pt `checkpoint` has looked at
        check_local(path)
        if file := next((each for each in (path, *path.parents) if each.exists() and not each.is_dir()), None):
            raise UsageError(f"{file}: is a file; --out names a folder")
        names = [each.name for each in path.iterdir()] if path.exists() else []
        files = sorted(name for name in names if name != ".lock" and not (name[0] == "." and name.endswith(".tmp")))
        if files and CONFIG not in files:
            raise UsageError(f"{path}: holds {files[0]} and no {CONFIG}, so no run; give another --out")
        if files and resume == "never":
            raise UsageError(f"{path}: holds a run already; give another --out, or --resume auto to go on with it")

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def lock(self) -> None:
        """Make the folder, and keep other runs out of it until this process ends, however it ends.

        Raises UsageError where another one is at work, or was since `checkpoint` looked: its steps would be lost.
        """
        from fracgen.train.engine.checkpoint import LAST, PREVIOUS

        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = take_lock(self.path / ".lock")
        if self._lock is None:
            raise UsageError(f"{self.path}: another process trains there; wait for it, or give another --out")
        if self._seen != _identity(self.path / LAST):
            raise UsageError(f"{self.path}: another process trained there meanwhile; the same command goes on")
        if self.warning:  # or the damaged one would become the previous one
            with replacing(self.path / LAST) as temporary:
                temporary.unlink(missing_ok=True)  # half a checkpoint, of a run that was killed while it wrote
                temporary.hardlink_to(self.path / PREVIOUS)

    def unlock(self) -> None:
        """Let other runs in."""
        if self._lock is not None:
            self._lock.close()

    def checkpoint(self) -> "Checkpoint | None":
        """The last checkpoint, or the previous one where the last is damaged; None where there is none yet.

        Raises DataError where both are damaged, UsageError where it is gone, or of fracgen 0.2.
        """
        from fracgen.train.engine.checkpoint import LAST, PREVIOUS, DamagedCheckpointError, load

        path, previous = self.path / LAST, self.path / PREVIOUS
        self._seen = _identity(path)
        if path.exists():
            try:
                return load(path)
            except DamagedCheckpointError as error:
                try:
                    checkpoint = load(previous)
                except DataError:
                    kept = f"{PREVIOUS} is damaged too" if previous.exists() else f"there is no {PREVIOUS}"
                    raise DataError(f"{error}, and {kept}; give another --out to begin again") from error
                self.warning = f"{error}; goes on from {PREVIOUS}, of step {checkpoint.step:,}"
                return checkpoint
        if (self.path / MODEL).exists():
            raise UsageError(f"{self.path}: holds a model, and no {LAST} to go on from; give another --out")
        return None

    def write(self, name: str, text: str) -> None:
        """A small file, whole or not at all."""
        write_atomically(self.path / name, text)


def _identity(path: Path) -> tuple[int, ...]:
    """What tells a file from one that took its place; () where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


@contextlib.contextmanager
def open_run_folder(out: Path | None, resume: Resume, *, benchmark: bool) -> Iterator[RunFolder | None]:
    """The folder that --out names, for other runs again in the end; None where the speed is measured and nothing kept.

    Raises UsageError where none is named, and what `RunFolder` raises.
    """
    if benchmark:
        yield None
        return
    if out is None:
        raise UsageError("--out: give a folder for the run")
    folder = RunFolder(out, resume)
    try:
        yield folder
    finally:
        folder.unlock()


def write_figure(path: Path, figure: "Figure") -> None:
    """A PNG, whole or not at all, of equal bytes for equal figures. Raises DataError where it cannot be written."""
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # class names in scripts that the font lacks: boxes
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})
