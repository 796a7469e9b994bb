"""The categories of FractalDB and OFDB: given with the command, or searched beside the server, a few at a time."""

import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fracgen.categories import Categories
from fracgen.search_settings import Search
from fracgen.shards.errors import DataError, FracgenError
from fracgen.shards.files import cache_folder, num_cores

_STEP = 25
"""Categories after which those that were found can be drawn: about half a second on two cores."""


class _StoppedError(FracgenError):
    """The server ends."""


class CategorySource:
    """Categories by number; those of the published search, as far as it has come, where none are given."""

    def __init__(self, given: Categories | None) -> None:
        self._given, self._found = given, given
        self._lock, self._changed = threading.Lock(), threading.Condition()
        self._thread: threading.Thread | None = None
        self._wanted, self._stop, self._error = 0, False, ""
        self._cache = cache_folder()
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    @property
    def given(self) -> Categories | None:
        """The categories that came with the command."""
        return self._given

    def first(self, count: int) -> Categories | None:
        """The first categories; None where they are not found yet: then they are searched from now on.

        Raises DataError where the search has failed.
        """
        if self._found is not None and (len(self._found) >= count or self._given is not None):
            return self._found
        if self._error:
            raise DataError(self._error)
        with self._lock:
            self._wanted = max(self._wanted, count)
            if self._thread is None and not self._stop:
                self._thread = threading.Thread(target=self._search, name="category search", daemon=True)
                self._thread.start()
        return None

    def wait(self, count: int, seconds: float) -> Categories | None:
        """As `first`, after at most so many seconds in which they may be found."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._error) or self.first(count) is not None, seconds)
        return self.first(count)

    def provenance(self, count: int) -> Mapping[str, Any]:
        """What the search for the first categories took, which are found already."""
        from fracgen.search import find_categories

        return find_categories(count, workers=num_cores(), cache=self._cache)[1]

    @property
    def num_found(self) -> int:
        """How many categories there are."""
        return len(self._found) if self._found is not None else 0

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
                if self._stop or self.num_found >= self._wanted:
                    self._thread = None
                    return
                count = min(self.num_found + _STEP, self._wanted)
            try:
                found, _ = find_categories(count, workers=num_cores(), cache=self._cache, on_progress=go_on)
            except _StoppedError:
                return
            except FracgenError as error:
                with self._changed:
                    self._error = str(error)
                    self._changed.notify_all()
                return
            if self._scratch is None and not Search().is_cached(self._cache):  # each step would begin anew
                self._scratch = tempfile.TemporaryDirectory()
                self._cache = Path(self._scratch.name)
            with self._changed:
                self._found = found
                self._changed.notify_all()
