"""Rendering a whole set beside the server: one at a time, with progress, stopped and gone on with."""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from fracgen.recipe import Recipe
from fracgen.registry import default_folder
from fracgen.render_shards import plan, write_shards
from fracgen.shards.errors import FracgenError, UsageError, one_line
from fracgen.shards.files import num_cores
from fracgen.shards.manifest import ShardRecord

State = Literal["none", "running", "done", "cancelled", "failed"]


class _CancelledError(FracgenError):
    """The user stopped it."""


class _Pool(ThreadPoolExecutor):
    """Threads that tell when the first work comes: what was finished by then is another run's."""

    def __init__(self, on_begin: Callable[[], None]) -> None:
        super().__init__(num_cores(), thread_name_prefix="rendering")
        self._on_begin: Callable[[], None] | None = on_begin

    def submit(self, *arguments: Any, **options: Any) -> Any:
        """Run a function by one of the threads."""
        if self._on_begin is not None:
            self._on_begin()
            self._on_begin = None
        try:
            return super().submit(*arguments, **options)
        except RuntimeError:  # it was shut down meanwhile
            raise _CancelledError("stopped") from None


class RenderJob:
    """The set that is being rendered, or was last. `status` says how far it is."""

    def __init__(self, place: Path) -> None:
        """place: the folder in which sets are written."""
        self._place = place
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._pool: _Pool | None = None
        self._cancelled = False
        self._state: State = "none"
        self._folder, self._error = "", ""
        self._done = self._total = self._earlier = 0
        self._started = self._seconds = 0.0

    def start(self, recipe: Recipe, provenance: Mapping[str, Any]) -> dict[str, Any]:
        """Render a resolved recipe into the folder of its name; one that was begun is gone on with.

        Raises UsageError where another set is being rendered.
        """
        with self._lock:
            if self._state == "running":
                raise UsageError(f"{self._folder} is being rendered; wait for it, or stop it first")
            self._folder, self._error = str(default_folder(recipe)), ""
            self._done, self._total, self._earlier, self._cancelled = 0, len(recipe), 0, False
            self._started, self._pool = time.monotonic(), _Pool(self._begin)
            thread = threading.Thread(target=self._run, args=(recipe, dict(provenance)), name="rendering")
            thread.start()
            self._thread, self._state = thread, "running"  # last: where no thread is to be had, nothing runs
        return self.status()

    def _run(self, recipe: Recipe, provenance: dict[str, Any]) -> None:
        folder = self._place / self._folder
        state: State = "failed"
        assert self._pool is not None
        try:
            layout = plan(recipe, folder=folder)
            write_shards(
                recipe, folder, layout=layout, provenance=provenance, executor=self._pool, on_shard=self._advance
            )
            state = "done"
        except FracgenError as error:
            state = "cancelled" if self._cancelled else "failed"
            self._error = "" if self._cancelled else one_line(str(error))
        except OSError as error:
            self._error = one_line(f"{error.strerror or error}; finished shards are kept, render again to go on")
        except MemoryError:
            self._error = "out of memory; lower size or points"
        except Exception as error:  # the page says so; the server lives on
            self._error = one_line(f"{type(error).__name__}: {error}")
        finally:
            self._pool.shutdown(cancel_futures=True)
            with self._lock:
                self._seconds = time.monotonic() - self._started
                self._state = state

    def _begin(self) -> None:
        self._earlier = self._done

    def _advance(self, record: ShardRecord) -> None:
        if self._cancelled:
            raise _CancelledError("stopped")
        self._done += record.samples

    def cancel(self) -> dict[str, Any]:
        """Stop; finished shards are kept, and `start` goes on from them."""
        with self._lock:
            if self._state == "running" and self._pool is not None:
                self._cancelled = True
                self._pool.shutdown(wait=False, cancel_futures=True)
        return self.status()

    def stop(self) -> str:
        """Stop and wait: the folder in which finished shards are kept, "" where nothing was being rendered."""
        was_running = self.cancel()["state"] == "running"
        if self._thread is not None:
            self._thread.join()
        return self._folder if was_running and self._state == "cancelled" else ""

    def status(self) -> dict[str, Any]:
        """How far it is, JSON-able. images_per_s counts what this run made; done counts the folder."""
        with self._lock:
            seconds = time.monotonic() - self._started if self._state == "running" else self._seconds
            return {
                "state": self._state,
                "done": self._done,
                "total": self._total,
                "folder": self._folder,
                "error": self._error,
                "seconds": round(seconds, 3),
                "images_per_s": round((self._done - self._earlier) / seconds, 1) if seconds else 0.0,
            }
