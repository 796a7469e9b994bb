"""The folder of a run: who may write there, and where it goes on."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.files import take_lock

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fracgen.train.engine.checkpoint import Checkpoint

Resume = Literal["auto", "never"]
CONFIG, MODEL = "config.yaml", "model"
_PLACES = ("shards", "data", "val", "test", "root", "checkpoint")


class RunFolder:
    """A folder that one run writes to: config.yaml, metrics.jsonl, last.pt, curves.png, model/."""

    def __init__(self, path: Path, resume: Resume) -> None:
        """Raises UsageError where the folder is something else's, or holds a run that is not to be resumed."""
        self.path = path
        self._lock: TextIO | None = None
        if file := next((each for each in (path, *path.parents) if each.exists() and not each.is_dir()), None):
            raise UsageError(f"{file}: is a file; --out names a folder")
        names = [each.name for each in path.iterdir()] if path.exists() else []
        held = sorted(name for name in names if name != ".lock" and not (name[0] == "." and name.endswith(".tmp")))
        if held and CONFIG not in held:
            raise UsageError(f"{path}: holds {held[0]} and no {CONFIG}, so no run; give another --out")
        if held and resume == "never":
            raise UsageError(f"{path}: holds a run already; give another --out, or --resume auto to go on with it")

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def lock(self) -> None:
        """Make the folder, and keep other runs out of it until this process ends, however it ends.

        Raises UsageError where another one is at work.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = take_lock(self.path / ".lock")
        if self._lock is None:
            raise UsageError(f"{self.path}: another process trains there; wait for it, or give another --out")

    def unlock(self) -> None:
        """Let others in."""
        if self._lock is not None:
            self._lock.close()

    def checkpoint(self) -> "Checkpoint | None":
        """The last one, None where there is none yet.

        Raises DataError where it is damaged, UsageError where it is gone.
        """
        from fracgen.train.engine.checkpoint import LAST, load

        path = self.path / LAST
        if path.exists():
            return load(path)
        if (self.path / MODEL).exists():
            raise UsageError(f"{self.path}: holds a model, and no {LAST} to go on from; give another --out")
        return None

    def write(self, name: str, text: str) -> None:
        """A small file, whole or not at all."""
        write_text(self.path / name, text)


def write_text(path: Path, text: str) -> None:
    """A small file, whole or not at all. Raises DataError where it cannot be written."""
    with _whole(path) as temporary:
        temporary.write_text(text, "utf-8", "surrogateescape")  # class names may be those of any folder


def read_json(path: Path) -> dict[str, Any]:
    """An object that was written as JSON. Raises DataError where it cannot be read, or is none."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: not what was written there")
    return values


def write_figure(path: Path, figure: "Figure") -> None:
    """A PNG, whole or not at all, of equal bytes for equal figures. Raises DataError where it cannot be written."""
    with _whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of `path` once it is written."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error


def told(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that tell one run from another: without places, for which the fingerprint of what lies there stands."""
    return {name: value for name, value in values.items() if name not in _PLACES}
