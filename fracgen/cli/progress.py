"""Progress on stderr, where that is a terminal: a spinner, and bars."""

import contextlib
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from fracgen.shards.errors import printable
from fracgen.shards.layout import Layout, Part
from fracgen.shards.manifest import ShardRecord

if TYPE_CHECKING:
    from fracgen.shards.publish.release import ReleaseFile
    from fracgen.shards.publish.upload import UploadPlan


@contextlib.contextmanager
def status(message: str) -> Iterator[None]:
    """A spinner on stderr while something runs; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(printable(message))):
        yield


class _Bar:
    """A progress bar on stderr; silent where that is no terminal."""

    def __init__(self, name: str, total: int, *, enabled: bool, **units: str) -> None:
        """units: of the numbers beside the bar, by the name of the task's field that holds each."""
        self._bar: Any = None
        if enabled and sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}", markup=False),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                *(progress.TextColumn(f"{{task.fields[{field}]}} {unit}") for field, unit in units.items()),
                progress.TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(printable(name), total=total, **dict.fromkeys(units, 0))

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()


class SearchProgress(_Bar):
    """Categories, candidates and the time left."""

    def __init__(self, categories: int, *, enabled: bool = True) -> None:
        super().__init__("categories", categories, enabled=enabled, candidates="candidates")

    def advance(self, categories: int, candidates: int) -> None:
        """Show how many categories were found, among how many candidates."""
        if self._bar:
            self._bar.update(self._task, completed=categories, candidates=candidates)


class RenderProgress(_Bar):
    """Images, images/s, rejects and the time left."""

    def __init__(self, layout: Layout, part: Part | None = None, *, enabled: bool = True) -> None:
        shards = part.shards(layout.num_shards) if part else range(layout.num_shards)
        total = sum(layout.num_indices(shard) for shard in shards)
        name = f"{layout.name} {part}" if part else layout.name
        super().__init__(name, total, enabled=enabled, speed="images/s", rejects="rejects")
        self._rejects = 0

    def advance(self, record: ShardRecord) -> None:
        """Add a shard that was committed."""
        if self._bar:
            self._rejects += sum(record.rejections.values())
            speed = f"{self._bar.tasks[0].speed or 0:.0f}"
            self._bar.update(self._task, advance=record.samples, rejects=self._rejects, speed=speed)


class UploadProgress(_Bar):
    """Files, and the time left; there is no bar before it is known how many there are."""

    def __init__(self, *, enabled: bool = True) -> None:
        super().__init__("uploading", 1, enabled=enabled)

    def begin(self, plan: "UploadPlan") -> None:
        """Show how many files there are."""
        if self._bar:
            self._bar.update(self._task, total=len(plan.upload))

    def advance(self, file: "ReleaseFile") -> None:
        """Add a file that has arrived."""
        if self._bar:
            self._bar.update(self._task, advance=1)
