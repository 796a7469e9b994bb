"""Categories of FractalDB, OFDB and ExFractalDB: given with the command, or searched a few at a time."""

import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from fracgen.categories import Categories
from fracgen.search_settings import CategorySearch
from fracgen.shards.errors import DataError, FracgenError
from fracgen.shards.files import cache_folder, num_cores
from fracgen.spatial import SpatialCategories

_STEP = 10
"""Categories after which those that were found can be drawn: a fourth of a second to two on two cores."""
AnyCategories: TypeAlias = Categories | SpatialCategories


class _StoppedError(FracgenError):
    """The server ends."""


class CategorySource:
    """Categories by number: those of the command, else those of a search, as far as it has come."""

    def __init__(self, search: CategorySearch[Any], from_command: AnyCategories | None = None) -> None:
        self._conditions: Any = search
        self._from_command, self._categories = from_command, from_command
        self._lock, self._changed = threading.Lock(), threading.Condition()
        self._thread: threading.Thread | None = None
        self._target, self._stop, self._error = 0, False, ""
        self._cache = cache_folder()
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    @property
    def from_command(self) -> AnyCategories | None:
        """The categories that came with the command."""
        return self._from_command

    def first(self, count: int) -> AnyCategories | None:
        """The first categories; None where they are not found yet: then they are searched from now on.

        Raises DataError where the search has failed.
        """
        if self._categories is not None and (len(self._categories) >= count or self._from_command is not None):
            return self._categories
        if self._error:
            raise DataError(self._error)
        with self._lock:
            self._target = max(self._target, count)
            if self._thread is None and not self._stop:
                self._thread = threading.Thread(target=self._search, name="category search", daemon=True)
                self._thread.start()
        return None

    def wait(self, count: int, seconds: float) -> AnyCategories | None:
        """As `first`, after at most so many seconds in which they may be found."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._error) or self.first(count) is not None, seconds)
        return self.first(count)

    def provenance(self, count: int) -> Mapping[str, Any]:
        """What the search for the first categories took, which are found already."""
        from fracgen.search import find_categories

        provenance: Mapping[str, Any]
        _, provenance = find_categories(count, self._conditions, workers=num_cores(), cache=self._cache)
        return provenance

    @property
    def num_found(self) -> int:
        """How many categories there are."""
        return len(self._categories) if self._categories is not None else 0

    def stop(self) -> None:
        """End the search; what was found is kept in the cache."""
        with self._lock:
            self._stop, thread = True, self._thread
        if thread is not None:
            thread.join()
        if self._scratch is not None:
            self._scratch.cleanup()

    def _search(self) -> None:
        from fracgen.search import find_categories

        def go_on(categories: int, candidates: int) -> None:
            if self._stop:
                raise _StoppedError("the server ends")

        while True:
            with self._lock:
                if self._stop or self.num_found >= self._target:
                    self._thread = None
                    return
                count = min(self.num_found + _STEP, self._target)
            try:
                categories, _ = find_categories(
                    count, self._conditions, workers=num_cores(), cache=self._cache, on_progress=go_on
                )
            except _StoppedError:
                return
            except Exception as error:  # nobody waits for this thread: those who ask next are told
                with self._changed:
                    self._error = str(error) if isinstance(error, FracgenError) else f"{type(error).__name__}: {error}"
                    self._changed.notify_all()
                return
            if self._scratch is None and not self._conditions.is_cached(self._cache):  # each step would begin anew
                self._scratch = tempfile.TemporaryDirectory()
                self._cache = Path(self._scratch.name)
            with self._changed:
                self._categories = categories
                self._changed.notify_all()
