"""FractalDB's category search: the published candidates in their order, judged side by side (REFERENCE section 4).

What is found is kept in the user's cache, so that a search goes on where one was stopped, and no data set searches
again what another has found.
"""

import contextlib
import math
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fracgen import search_kernels as judge
from fracgen.categories import MAX_CATEGORIES, Categories
from fracgen.ifs import IFS, Floats, maps_from_rows
from fracgen.rng import MAX_LEGACY_SEED, legacy_state
from fracgen.shards.errors import DataError
from fracgen.shards.files import replacing, unique_temporary
from fracgen.style import check_range

RULE = 1
"""Of the cache's files; another rule, another name."""
MAX_CANDIDATES = 100_000_000
_OUTCOMES = ("fill", "found", "overflow", "flat")
_SAVE_CANDIDATES = 10_000
_FRUITLESS = 1_000_000
"""Candidates in a row without a category after which a search is given up."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """Which categories are found. Defaults are the published search.

    seed: of numpy's legacy generator. min_fill: least share of the 512 x 512 pixels that 100,000 points light.
    """

    seed: int = 1
    min_fill: float = 0.2

    def __post_init__(self) -> None:
        """Raises UsageError where a value is not allowed."""
        check_range("seed", self.seed, 0, MAX_LEGACY_SEED)
        check_range("min_fill", self.min_fill, 0, 1)

    @property
    def least(self) -> int:
        """Least number of pixels that a category lights."""
        return math.ceil(self.min_fill * judge.SIZE**2)

    def cache_path(self, cache: Path) -> Path:
        """Where in a cache folder this search is kept."""
        return cache / f"categories-v{RULE}-seed{self.seed}-least{self.least}.npz"

    def is_cached(self, cache: Path) -> bool:
        """Whether something of this search is kept."""
        return self.cache_path(cache).is_file()


@dataclass
class Found:
    """How far a search has come: a prefix of the candidates, all judged.

    outcomes: a code of `_OUTCOMES` for each candidate. systems: (candidate, system) of each category.
    state: raw words of the stream before the next candidate, (624,) uint32.
    """

    state: judge.Words
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
        """Write it whole or not at all; a file that has come further is left. Raises OSError."""
        known = Found.load(path)
        if known is not None and known.num_candidates >= self.num_candidates:
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
        """What `save` wrote; None where there is nothing, or nothing that is whole."""
        try:
            with np.load(path, allow_pickle=False) as file:
                state, outcomes, ends = file["state"], file["outcomes"], np.cumsum(file["num_maps"])
                maps, p = np.split(file["maps"], ends[:-1]), np.split(file["p"], ends[:-1])
            if outcomes.ndim != 1 or outcomes.dtype != np.uint8 or (outcomes >= len(_OUTCOMES)).any():
                return None
            numbers = np.flatnonzero(outcomes == _OUTCOMES.index("found")).tolist()
            if state.shape != (judge.STATE_WORDS,) or state.dtype != np.uint32 or len(numbers) != len(ends):
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
    """The first `count` categories, and what they took (`Found.provenance`). Pure, however many threads there are.

    cache: folder in which what is found is kept; none by default. on_progress: called with the numbers of categories
    and of candidates.
    Raises UsageError for a count out of range, DataError where a million candidates in a row are no category.
    """
    search = search or Search()
    check_range("categories", count, 1, MAX_CATEGORIES)
    path = None if cache is None else search.cache_path(cache)
    found = (Found.load(path) if path else None) or Found(legacy_state(search.seed))
    if len(found.systems) < count:
        _Run(search, found, count, path, on_progress).search(workers)
    return Categories(tuple(ifs for _, ifs in found.systems[:count])), found.provenance(count)


class _Run:
    """Threads that take turns at the stream, which is serial, and judge side by side what they took."""

    def __init__(
        self,
        search: Search,
        found: Found,
        count: int,
        path: Path | None,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self._least, self._found, self._count, self._path = search.least, found, count, path
        self._on_progress = on_progress
        self._stream, self._results = threading.Lock(), threading.Lock()
        self._words, self._position = np.empty(judge.STATE_WORDS + judge.CHUNK_WORDS, np.uint32), judge.STATE_WORDS
        self._words[: judge.STATE_WORDS] = found.state
        judge.twist(self._words)
        self._next_batch, self._taken = 0, 0
        self._waiting: dict[int, tuple[npt.NDArray[np.int64], Floats, Floats, judge.Words]] = {}
        self._stop = False
        self._saved = found.num_candidates

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
                    state = self._words[self._position - judge.STATE_WORDS : self._position].copy()
                batch.judge(self._least)
                with self._results:
                    self._waiting[number] = (batch.lit.copy(), batch.rows.copy(), batch.p.copy(), state)
                    while self._taken in self._waiting and not self._stop:
                        self._take(*self._waiting.pop(self._taken))
        finally:
            self._stop = True

    def _take(self, lit: npt.NDArray[np.int64], rows: Floats, p: Floats, state: judge.Words) -> None:
        found = self._found
        first = found.num_candidates
        found.outcomes += _outcomes(lit, self._least)
        found.systems += [
            (first + lane, _system(rows[lane], p[lane])) for lane in np.flatnonzero(lit >= self._least).tolist()
        ]
        found.state = state
        self._taken += 1
        candidates = found.num_candidates
        if self._on_progress:
            self._on_progress(len(found.systems), candidates)
        if len(found.systems) >= self._count:
            self._stop = True
        elif candidates - (found.systems[-1][0] if found.systems else 0) > _FRUITLESS:
            raise DataError(f"no category among the last {_FRUITLESS} candidates; lower --min-fill")
        elif candidates - self._saved >= _SAVE_CANDIDATES:
            self._save()

    def _save(self) -> None:
        if self._path and self._found.num_candidates > self._saved:
            self._saved = self._found.num_candidates
            with contextlib.suppress(OSError):  # a cache that cannot be written is no reason to stop
                self._found.save(self._path)


class _Batch:
    """One thread's buffers: four candidates from the stream, and how many pixels each lights.

    rows: (4, 7, 6) a, b, c, d, e, f of the maps. p: (4, 7), 0 where there is no map. lit: (4,), see `judge.count_lit`.
    """

    def __init__(self) -> None:
        lanes, block = judge.LANES, judge.BLOCK
        self.rows, self.p = np.zeros((lanes, judge.MAX_MAPS, 6)), np.zeros((lanes, judge.MAX_MAPS))
        self.lit = np.empty(lanes, np.int64)
        self._choices = np.empty((lanes, judge.POINTS), np.uint8)
        self._coefficients = np.zeros((lanes, (judge.MAX_MAPS + 1) * judge.ROW))
        self._points = np.empty((2, lanes, block))
        self._signed, self._unsigned = self._points.view(np.int64), self._points.view(np.uint64)

    def read(self, words: judge.Words, position: int) -> int:
        """Take the next four candidates from the stream; returns its position after them."""
        for lane in range(judge.LANES):
            buffers = self.rows[lane], self.p[lane], self._choices[lane], self._coefficients[lane]
            position = judge.draw_candidate(words, position, *buffers)
        return position

    def judge(self, least: int) -> None:
        """Fill in how many pixels each lights, or why it is none."""
        orbits = self._coefficients, self._choices[:, :-1]
        place, greatest = np.zeros((judge.LANES, 2)), np.zeros((judge.LANES, 2, 2), np.int64)
        judge.find_extents(*orbits, place, *self._points, self._signed, self._unsigned, greatest)
        highest, lowest = np.moveaxis(greatest.view(np.float64), -1, 0)
        extents = np.stack([np.minimum(lowest, 0), highest], axis=-1).reshape(judge.LANES, 4)
        with np.errstate(invalid="ignore"):
            widths = extents[:, 1::2] - extents[:, ::2]
        self.lit[:] = 1
        self.lit[~((widths > 0) & (widths < np.inf)).all(axis=1)] = judge.FLAT
        self.lit[np.isnan(place).any(axis=1)] = judge.OVERFLOW
        canvases = np.zeros((judge.LANES, judge.SIZE**2 // 64), np.uint64)
        for lane in np.flatnonzero(self.lit > 0).tolist():
            judge.plot_block(np.zeros(1), np.zeros(1), extents[lane], np.empty(1, np.uint32), canvases[lane])
        judge.count_lit(*orbits, np.zeros_like(place), *self._points, extents, least, canvases, self.lit)


def _outcomes(lit: npt.NDArray[np.int64], least: int) -> bytes:
    codes = np.where(lit >= least, _OUTCOMES.index("found"), _OUTCOMES.index("fill"))
    codes[lit == judge.OVERFLOW] = _OUTCOMES.index("overflow")
    codes[lit == judge.FLAT] = _OUTCOMES.index("flat")
    return codes.astype(np.uint8).tobytes()


def _system(rows: Floats, p: Floats) -> IFS:
    num_maps = np.count_nonzero(p)
    return IFS(maps_from_rows(rows[:num_maps]), p[:num_maps])
