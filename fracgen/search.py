"""FractalDB's category search: the published candidates in their order, judged side by side.

The candidates and the tests that they must pass are those of the code of Kataoka et al. (ACCV 2020).

The state of a search is kept in the user's cache, so that it goes on where it was stopped, and no data set searches
again for what another has found.
"""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fracgen import mersenne_kernels
from fracgen import search_kernels as kernels
from fracgen.categories import MAX_CATEGORIES, Categories
from fracgen.ifs import IFS, Floats, maps_from_rows
from fracgen.rng import legacy_state
from fracgen.search_settings import Search as Search
from fracgen.shards.errors import DataError
from fracgen.shards.files import replacing, unique_temporary
from fracgen.shards.settings import convert
from fracgen.style import check_range

_OUTCOMES = ("fill", "found", "overflow", "flat")
_SAVE_CANDIDATES = 10_000
_FRUITLESS = 1_000_000
"""Candidates in a row without a category after which a search is given up."""


@dataclass
class SearchState:
    """How far a search has come: a prefix of the candidates, all judged.

    outcomes: a code of `_OUTCOMES` for each candidate. systems: (candidate, system) of each category.
    state: raw words of the stream before the next candidate, (624,) uint32.
    """

    state: mersenne_kernels.Words
    outcomes: bytearray = field(default_factory=bytearray)
    systems: list[tuple[int, IFS]] = field(default_factory=list)

    @property
    def num_candidates(self) -> int:
        """Number of candidates that were judged."""
        return len(self.outcomes)

    def provenance(self, count: int) -> dict[str, Any]:
        """Candidates that the first `count` categories took, and why the others were rejected."""
        candidates = self.systems[count - 1][0] + 1
        rejections = {
            name: self.outcomes.count(code, 0, candidates) for code, name in enumerate(_OUTCOMES) if name != "found"
        }
        return {"candidates": candidates, "candidate_rejections": rejections}

    def save(self, path: Path) -> None:
        """Write the state, whole or not at all; a file that has come further is left. Raises OSError."""
        saved = SearchState.load(path)
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
                num_maps=np.array([len(ifs) for _, ifs in self.systems], np.int64),
                maps=np.concatenate([ifs.maps for _, ifs in self.systems] or [np.empty((0, 2, 3))]),
                p=np.concatenate([ifs.p for _, ifs in self.systems] or [np.empty(0)]),
            )

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """The state that `save` wrote; None where the file is missing or damaged."""
        try:
            with np.load(path, allow_pickle=False) as file:
                state, outcomes, ends = file["state"], file["outcomes"], np.cumsum(file["num_maps"])
                maps, p = np.split(file["maps"], ends[:-1]), np.split(file["p"], ends[:-1])
            if outcomes.ndim != 1 or outcomes.dtype != np.uint8 or (outcomes >= len(_OUTCOMES)).any():
                return None
            numbers = np.flatnonzero(outcomes == _OUTCOMES.index("found")).tolist()
            if state.shape != (mersenne_kernels.STATE_WORDS,) or state.dtype != np.uint32 or len(numbers) != len(ends):
                return None
            systems = [(number, IFS(*system)) for number, *system in zip(numbers, maps, p, strict=bool(numbers))]
        except Exception:  # a damaged file fails in many ways, and is searched again in every case
            return None
        return cls(state, bytearray(outcomes.tobytes()), systems)


def find_categories(
    count: int,
    search: Search | None = None,
    *,
    workers: int = 1,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Categories, dict[str, Any]]:
    """Find the first `count` categories, and what they took (`SearchState.provenance`).

    The result does not depend on the number of threads.

    cache: folder in which the state is kept; none by default. on_progress: called with the numbers of categories
    and of candidates.
    Raises UsageError for a count out of range, DataError where a million candidates in a row are no category.
    """
    search = search or Search()
    count = convert(int, count, "categories")
    check_range("categories", count, 1, MAX_CATEGORIES)
    path = None if cache is None else search.cache_path(cache)
    progress = (SearchState.load(path) if path else None) or SearchState(legacy_state(search.seed))
    if len(progress.systems) < count:
        _Run(search, progress, count, path, on_progress).search(workers)
    return Categories(tuple(ifs for _, ifs in progress.systems[:count])), progress.provenance(count)


class _Run:
    """Threads that take turns at the stream, which is serial, and judge side by side what they took."""

    def __init__(
        self,
        search: Search,
        progress: SearchState,
        count: int,
        path: Path | None,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self._least, self._progress, self._count, self._path = search.least, progress, count, path
        self._on_progress = on_progress
        self._stream, self._results = threading.Lock(), threading.Lock()
        self._words = np.empty(mersenne_kernels.STATE_WORDS + mersenne_kernels.CHUNK_WORDS, np.uint32)
        self._position = mersenne_kernels.STATE_WORDS
        self._words[: mersenne_kernels.STATE_WORDS] = progress.state
        mersenne_kernels.twist(self._words)
        self._next_batch, self._taken = 0, 0
        self._waiting: dict[int, tuple[npt.NDArray[np.int64], Floats, Floats, mersenne_kernels.Words]] = {}
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
        batch = _Batch()
        try:
            while not self._stop:
                with self._stream:
                    number, self._next_batch = self._next_batch, self._next_batch + 1
                    self._position = batch.read(self._words, self._position)
                    state = self._words[self._position - mersenne_kernels.STATE_WORDS : self._position].copy()
                batch.judge(self._least)
                with self._results:
                    self._waiting[number] = (batch.lit.copy(), batch.rows.copy(), batch.p.copy(), state)
                    while self._taken in self._waiting and not self._stop:
                        self._take(*self._waiting.pop(self._taken))
        finally:
            self._stop = True

    def _take(self, lit: npt.NDArray[np.int64], rows: Floats, p: Floats, state: mersenne_kernels.Words) -> None:
        progress = self._progress
        first = progress.num_candidates
        progress.outcomes += _outcomes(lit, self._least)
        progress.systems += [
            (first + lane, _system(rows[lane], p[lane])) for lane in np.flatnonzero(lit >= self._least).tolist()
        ]
        progress.state = state
        self._taken += 1
        candidates = progress.num_candidates
        if self._on_progress:
            self._on_progress(len(progress.systems), candidates)
        if len(progress.systems) >= self._count:
            self._stop = True
        elif candidates - (progress.systems[-1][0] if progress.systems else 0) > _FRUITLESS:
            raise DataError(f"no category among the last {_FRUITLESS} candidates; lower --min-fill")
        elif candidates - self._saved >= _SAVE_CANDIDATES:
            self._save()

    def _save(self) -> None:
        if self._path and self._progress.num_candidates > self._saved:
            self._saved = self._progress.num_candidates
            with contextlib.suppress(OSError):  # a cache that cannot be written is no reason to stop
                self._progress.save(self._path)


class _Batch:
    """One thread's buffers: four candidates from the stream, and how many pixels each lights.

    rows: (4, 7, 6) a, b, c, d, e, f of the maps. p: (4, 7), 0 where there is no map. lit: (4,), see `count_lit`.
    """

    def __init__(self) -> None:
        lanes, block = kernels.LANES, kernels.BLOCK
        self.rows, self.p = np.zeros((lanes, kernels.MAX_MAPS, 6)), np.zeros((lanes, kernels.MAX_MAPS))
        self.lit = np.empty(lanes, np.int64)
        self._choices = np.empty((lanes, kernels.POINTS), np.uint8)
        self._coefficients = np.zeros((lanes, (kernels.MAX_MAPS + 1) * kernels.ROW))
        self._points = np.empty((2, lanes, block))
        self._signed, self._unsigned = self._points.view(np.int64), self._points.view(np.uint64)

    def read(self, words: mersenne_kernels.Words, position: int) -> int:
        """Take the next four candidates from the stream; returns its position after them."""
        for lane in range(kernels.LANES):
            buffers = self.rows[lane], self.p[lane], self._choices[lane], self._coefficients[lane]
            position = kernels.draw_candidate(words, position, *buffers)
        return position

    def judge(self, least: int) -> None:
        """Fill in how many pixels each lights, or why it is none."""
        orbits = self._coefficients, self._choices[:, :-1]
        position, greatest = np.zeros((kernels.LANES, 2)), np.zeros((kernels.LANES, 2, 2), np.int64)
        kernels.find_extents(*orbits, position, *self._points, self._signed, self._unsigned, greatest)
        highest, lowest = np.moveaxis(greatest.view(np.float64), -1, 0)
        extents = np.stack([np.minimum(lowest, 0), highest], axis=-1).reshape(kernels.LANES, 4)
        with np.errstate(invalid="ignore"):
            widths = extents[:, 1::2] - extents[:, ::2]
        self.lit[:] = 1
        self.lit[~((widths > 0) & (widths < np.inf)).all(axis=1)] = kernels.FLAT
        self.lit[np.isnan(position).any(axis=1)] = kernels.OVERFLOW
        canvases = np.zeros((kernels.LANES, kernels.SIZE**2 // 64), np.uint64)
        for lane in np.flatnonzero(self.lit > 0).tolist():
            kernels.plot_block(np.zeros(1), np.zeros(1), extents[lane], np.empty(1, np.uint32), canvases[lane])
        kernels.count_lit(*orbits, np.zeros_like(position), *self._points, extents, least, canvases, self.lit)


def _outcomes(lit: npt.NDArray[np.int64], least: int) -> bytes:
    codes = np.where(lit >= least, _OUTCOMES.index("found"), _OUTCOMES.index("fill"))
    codes[lit == kernels.OVERFLOW] = _OUTCOMES.index("overflow")
    codes[lit == kernels.FLAT] = _OUTCOMES.index("flat")
    return codes.astype(np.uint8).tobytes()


def _system(rows: Floats, p: Floats) -> IFS:
    num_maps = np.count_nonzero(p)
    return IFS(maps_from_rows(rows[:num_maps]), p[:num_maps])
