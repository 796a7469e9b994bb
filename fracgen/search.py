"""Category searches: the published candidates in their order, judged side by side.

The candidates and the tests that they must pass are those of the code of Kataoka et al. (ACCV 2020) for FractalDB, and
(CVPR 2022) for ExFractalDB.

The state of a search is kept in the user's cache, so that it goes on where it was stopped, and no data set searches
again for what another has found.
"""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, overload

import numpy as np
import numpy.typing as npt

from fracgen import mersenne_kernels
from fracgen.categories import MAX_CATEGORIES, Categories, CategorySet
from fracgen.rng import legacy_state
from fracgen.search_batches import PlaneBatch, SpatialBatch
from fracgen.search_settings import CategorySearch, SomeCategories
from fracgen.search_settings import Search as Search
from fracgen.search_settings import SpatialSearch as SpatialSearch
from fracgen.shards.errors import DataError
from fracgen.shards.files import cache_folder, num_cores, num_threads, replacing, unique_temporary
from fracgen.shards.settings import convert
from fracgen.style import check_range

_FOUND = 1
"""A category's outcome."""
_SAVE_CANDIDATES = 10_000
_FRUITLESS = 1_000_000
"""Candidates in a row without a category after which a search is given up."""


@dataclass
class SearchState:
    """How far a search has come: a prefix of the candidates, all judged.

    outcomes: a number of the search's OUTCOMES for each candidate. systems: (candidate, system) of each category.
    state: raw words of the stream before the next candidate, (624,) uint32.
    """

    state: mersenne_kernels.Words
    outcomes: bytearray = field(default_factory=bytearray)
    systems: list[tuple[int, Any]] = field(default_factory=list)
    search: CategorySearch[Any] = field(default_factory=Search)

    @property
    def num_candidates(self) -> int:
        """Number of candidates that were judged."""
        return len(self.outcomes)

    def provenance(self, count: int) -> dict[str, Any]:
        """Candidates that the first `count` categories took, and why the others were rejected."""
        candidates = self.systems[count - 1][0] + 1
        rejections = {
            name: self.outcomes.count(code, 0, candidates)
            for code, name in enumerate(self.search.OUTCOMES)
            if code != _FOUND
        }
        return {"candidates": candidates, "candidate_rejections": rejections}

    def save(self, path: Path) -> None:
        """Write the state, whole or not at all; a file that has come further is left. Raises OSError."""
        saved = SearchState.load(path, self.search)
        if saved is not None and saved.num_candidates >= self.num_candidates:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            replacing(path, temporary=unique_temporary(path), error=None) as temporary,
            temporary.open("wb") as file,  # a path would be given the ending that numpy expects
        ):
            np.savez_compressed(
                file,
                state=self.state,
                outcomes=np.frombuffer(bytes(self.outcomes), np.uint8),
                num_maps=np.array([len(system) for _, system in self.systems], np.int64),
                maps=np.concatenate([system.maps for _, system in self.systems] or [np.empty((0, 2, 3))]),
                p=np.concatenate([system.p for _, system in self.systems] or [np.empty(0)]),
            )

    @classmethod
    def load(cls, path: Path, search: CategorySearch[Any] = Search()) -> Self | None:  # noqa: B008  # frozen
        """The state that `save` wrote of a search; None where the file is missing or damaged."""
        try:
            with np.load(path, allow_pickle=False) as file:
                state, outcomes, ends = file["state"], file["outcomes"], np.cumsum(file["num_maps"])
                maps, p = np.split(file["maps"], ends[:-1]), np.split(file["p"], ends[:-1])
            if outcomes.ndim != 1 or outcomes.dtype != np.uint8 or (outcomes >= len(search.OUTCOMES)).any():
                return None
            numbers = np.flatnonzero(outcomes == _FOUND).tolist()
            if state.shape != (mersenne_kernels.STATE_WORDS,) or state.dtype != np.uint32 or len(numbers) != len(ends):
                return None
            read = zip(numbers, maps, p, strict=bool(numbers))
            systems = [(number, search.SYSTEM(*system)) for number, *system in read]
        except Exception:  # a damaged file fails in many ways, and is searched again in every case
            return None
        return cls(state, bytearray(outcomes.tobytes()), systems, search)


@overload
def find_categories(
    count: int,
    search: None = None,
    *,
    workers: int = 1,
    cache: Path | str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Categories, dict[str, Any]]: ...
@overload
def find_categories(
    count: int,
    search: CategorySearch[SomeCategories],
    *,
    workers: int = 1,
    cache: Path | str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[SomeCategories, dict[str, Any]]: ...
def find_categories(
    count: int,
    search: CategorySearch[Any] | None = None,
    *,
    workers: int = 1,
    cache: Path | str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[CategorySet[Any], dict[str, Any]]:
    """Find the first `count` categories, FractalDB's by default, and what they took (`SearchState.provenance`).

    The result does not depend on `workers`, the number of threads.

    cache: folder in which the state is kept; none by default. on_progress: called with the numbers of categories
    and of candidates.
    Raises UsageError for a count out of range, DataError where a million candidates in a row are no category.
    """
    search, threads = search or Search(), num_threads(workers)
    count = convert(int, count, "categories")
    check_range("categories", count, 1, MAX_CATEGORIES)
    path = None if cache is None else search.cache_path(Path(cache))
    progress = (SearchState.load(path, search) if path else None) or SearchState(
        legacy_state(search.seed), search=search
    )
    if len(progress.systems) < count:
        _Run(progress, count, path, on_progress).search(threads)
    systems = tuple(system for _, system in progress.systems[:count])
    return search.CATEGORIES(systems), progress.provenance(count)


def find_for_recipe(count: int, search: Any, on_try: Callable[[int], None] | None) -> tuple[Any, dict[str, Any]]:
    """`find_categories` as recipes are resolved: on all cores, kept in the user's cache.

    on_try: called with the number of candidates; what it raises ends the search.
    """

    def go_on(_: int, candidates: int) -> None:
        if on_try:
            on_try(candidates)

    return find_categories(count, search, workers=num_cores(), cache=cache_folder(), on_progress=go_on)


class Batch(Protocol):
    """One thread's buffers: some candidates from the stream, and what each is."""

    @property
    def outcomes(self) -> npt.NDArray[np.uint8]:
        """Numbers of the search's OUTCOMES, (n,) uint8, once judged."""

    def read(self, words: mersenne_kernels.Words, position: int) -> int:
        """Take the next candidates from the stream; returns its position after them, 624 or more."""

    def judge(self) -> None:
        """Fill in their outcomes."""

    def system(self, lane: int) -> Any:
        """A candidate's system."""


class _Run:
    """Threads that take turns at the stream, which is serial, and judge side by side what they took."""

    def __init__(
        self,
        progress: SearchState,
        count: int,
        path: Path | None,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self._progress, self._count, self._path = progress, count, path
        self._on_progress = on_progress
        self._stream, self._results = threading.Lock(), threading.Lock()
        self._words = np.empty(mersenne_kernels.STATE_WORDS + mersenne_kernels.CHUNK_WORDS, np.uint32)
        self._position = mersenne_kernels.STATE_WORDS
        self._words[: mersenne_kernels.STATE_WORDS] = progress.state
        mersenne_kernels.twist(self._words)
        self._next_batch, self._taken = 0, 0
        self._waiting: dict[int, tuple[bytes, list[tuple[int, Any]], mersenne_kernels.Words]] = {}
        self._stop = False
        self._saved = progress.num_candidates

    def search(self, workers: int) -> None:
        """Until there are enough; what was judged is saved however it ends."""
        try:
            with ThreadPoolExecutor(workers) as pool:
                futures = [pool.submit(self._work) for _ in range(workers)]
                try:
                    wait(futures, return_when=FIRST_EXCEPTION)
                finally:
                    self._stop = True
            for future in futures:
                future.result()
        finally:
            self._save()

    def _work(self) -> None:
        search = self._progress.search
        batch: Batch
        if isinstance(search, SpatialSearch):
            batch = SpatialBatch(search.min_variance)
        else:
            assert isinstance(search, Search)
            batch = PlaneBatch(search.least)
        try:
            while not self._stop:
                with self._stream:
                    number, self._next_batch = self._next_batch, self._next_batch + 1
                    self._position = batch.read(self._words, self._position)
                    state = self._words[self._position - mersenne_kernels.STATE_WORDS : self._position].copy()
                batch.judge()
                systems = [(lane, batch.system(lane)) for lane in np.flatnonzero(batch.outcomes == _FOUND).tolist()]
                with self._results:
                    self._waiting[number] = batch.outcomes.tobytes(), systems, state
                    while self._taken in self._waiting and not self._stop:
                        self._take(*self._waiting.pop(self._taken))
        finally:
            self._stop = True

    def _take(self, outcomes: bytes, systems: list[tuple[int, Any]], state: mersenne_kernels.Words) -> None:
        progress = self._progress
        first = progress.num_candidates
        progress.outcomes += outcomes
        progress.systems += [(first + lane, system) for lane, system in systems]
        progress.state = state
        self._taken += 1
        candidates = progress.num_candidates
        if self._on_progress:
            self._on_progress(len(progress.systems), candidates)
        if len(progress.systems) >= self._count:
            self._stop = True
        elif candidates - (progress.systems[-1][0] if progress.systems else 0) > _FRUITLESS:
            raise DataError(f"no category among the last {_FRUITLESS} candidates; {progress.search.MEND}")
        elif candidates - self._saved >= _SAVE_CANDIDATES:
            self._save()

    def _save(self) -> None:
        if self._path and self._progress.num_candidates > self._saved:
            self._saved = self._progress.num_candidates
            with contextlib.suppress(OSError):  # a cache that cannot be written is no reason to stop
                self._progress.save(self._path)
