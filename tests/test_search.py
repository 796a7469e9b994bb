"""FractalDB's category search against numpy's own generator and a slow rendering, and its cache."""

import itertools
import math
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from fracgen import mersenne_kernels, search
from fracgen import search_kernels as kernels
from fracgen.chaos import NUM_BUCKETS, tabulate
from fracgen.rng import legacy_state
from fracgen.search import Search, SearchState, find_categories
from fracgen.search_batches import PlaneBatch
from fracgen.shards.errors import DataError, UsageError

POINTS, SIZE, PAD = 100_000, 512, 6
SEEDS = (0, 1, 7, 2**32 - 1)
GOLDEN = (0, 42)
NUM_FIRST = 32


# ---- the published search, slowly ------------------------------------------------------------------------------------


def candidates(seed):
    """The published candidates: (rows a, b, c, d, e, f of each map, the 100,000 random numbers of the rendering)."""
    random = np.random.RandomState(seed)
    while True:
        num_maps = random.randint(2, 8)
        rows = [random.uniform(-1, 1, 6).tolist() for _ in range(num_maps)]
        yield rows, random.random_sample(POINTS)


def probabilities(rows):
    determinants = [abs(a * d - b * c) for a, b, c, d, _, _ in rows]
    total = 0.0
    for determinant in determinants:
        total += determinant
    return [determinant / total for determinant in determinants]


def oracle_lit(rows, uniforms):
    """How many of 512 x 512 pixels the candidate lights; "overflow" with a NaN, "flat" without a finite extent.

    A step takes the first map j with r <= p_1 + ... + p_j, and none where r is larger than all of these sums.
    """
    limits = np.array(list(itertools.accumulate(probabilities(rows))))
    x = y = 0.0
    xs, ys = [x], [y]
    for j in np.searchsorted(limits, uniforms[:-1], side="left").tolist():
        if j < len(rows):
            a, b, c, d, e, f = rows[j]
            x, y = x * a + y * b + e, x * c + y * d + f
        xs.append(x)
        ys.append(y)
    if np.isnan(xs).any() or np.isnan(ys).any():
        return "overflow"
    places = []
    for axis in (np.array(xs), np.array(ys)):
        extent = axis.max() - axis.min() if np.isfinite(axis).all() else math.inf
        if not 0 < extent < math.inf:
            return "flat"
        places.append(((axis - axis.min()) / extent * (SIZE - 2 * PAD) + PAD).astype(np.uint16))
    image = np.zeros((SIZE, SIZE), bool)
    image[places[1], places[0]] = True
    return int(image.sum())


# ---- the random stream -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_words_are_numpys(seed):
    words = np.empty(624 + 5000, np.uint32)
    words[:624] = legacy_state(seed)
    mersenne_kernels.twist(words)
    expected = np.random.RandomState(seed).randint(0, 2**32, 5000, dtype=np.uint32)
    assert [int(mersenne_kernels.temper(word)) for word in words[624:]] == expected.tolist()


def test_the_stream_goes_on_from_any_624_words():
    words = np.empty(624 + 4000, np.uint32)
    words[:624] = legacy_state(1)
    mersenne_kernels.twist(words)
    for start in (1, 623, 624, 1777):
        again = np.empty(624 + 1000, np.uint32)
        again[:624] = words[start : start + 624]
        mersenne_kernels.twist(again)
        assert np.array_equal(again, words[start : start + 1624])


@pytest.mark.parametrize("seed", SEEDS)
def test_candidates_are_numpys(seed):
    state, published, numbers = legacy_state(seed), candidates(seed), set()
    words, rows, p = np.empty(624 + mersenne_kernels.CHUNK_WORDS, np.uint32), np.zeros((7, 6)), np.zeros(7)
    choices, coefficients = np.empty(kernels.POINTS, np.uint8), np.zeros(64)
    words[:624] = state
    mersenne_kernels.twist(words)
    position = 624
    for _ in range(60):
        position = kernels.draw_candidate(words, position, rows, p, choices, coefficients)
        expected, uniforms = next(published)
        num_maps = int(np.count_nonzero(p))
        assert rows[:num_maps].tolist() == expected and p[:num_maps].tolist() == probabilities(expected)
        for j, (a, b, c, d, e, f) in enumerate(expected):
            assert coefficients[8 * j : 8 * j + 6].tolist() == [a, b, e, c, d, f]
        assert coefficients[8 * num_maps : 8 * num_maps + 6].tolist() == [1, 0, 0, 0, 1, 0]
        sums = np.cumsum(probabilities(expected))
        assert np.array_equal(choices, 8 * np.searchsorted(sums, uniforms))
        numbers.add(num_maps)
    assert numbers == set(range(2, 8))


@pytest.mark.parametrize("seed", SEEDS)
def test_choices_are_of_numpys_random_numbers(seed):
    count = 5000
    words = np.empty(624 + 2 * count, np.uint32)
    words[:624] = legacy_state(seed)
    mersenne_kernels.twist(words)
    uniforms = np.random.RandomState(seed).random_sample(count)
    for rows, _ in itertools.islice(candidates(seed), 4):
        limits, table = np.empty(len(rows)), np.empty(NUM_BUCKETS, np.uint8)
        tabulate(np.array(probabilities(rows)), limits, table)
        sums = list(itertools.accumulate(probabilities(rows)))
        expected = [sum(r > limit for limit in sums) for r in uniforms.tolist()]
        chosen = np.empty(1000, np.uint8)
        for start in range(0, count, 1000):
            kernels.choose(words[624 + 2 * start : 624 + 2 * (start + 1000)], limits, table, chosen)
            assert (chosen // kernels.ROW).tolist() == expected[start : start + 1000] and not (
                chosen % kernels.ROW
            ).any()


def test_a_random_number_above_the_last_sum_takes_no_map():
    """p that sums to less than 1: the point stays."""
    words = np.empty(624 + 2000, np.uint32)
    words[:624] = legacy_state(3)
    mersenne_kernels.twist(words)
    uniforms = np.random.RandomState(3).random_sample(1000)
    limits, table, chosen = np.empty(2), np.empty(NUM_BUCKETS, np.uint8), np.empty(1000, np.uint8)
    tabulate(np.array([0.25, 0.5]), limits, table)
    kernels.choose(words[624:], limits, table, chosen)
    assert (chosen // kernels.ROW).tolist() == [0 if r <= 0.25 else 1 if r <= 0.75 else 2 for r in uniforms.tolist()]


# ---- verdicts --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """The cache after a search for 43 categories; not to be changed."""
    path = tmp_path_factory.mktemp("cache")
    find_categories(43, workers=2, cache=path)
    return path


@pytest.fixture(scope="module")
def first() -> list[tuple]:
    """(rows, lit of the oracle) of the first candidates."""
    return [(rows, oracle_lit(rows, uniforms)) for rows, uniforms in itertools.islice(candidates(1), NUM_FIRST)]


def kernel_lit(least):
    """What the kernels give for the first candidates when they may stop at `least` pixels."""
    batch, lit, position = PlaneBatch(least), [], 624
    words = np.empty(624 + mersenne_kernels.CHUNK_WORDS, np.uint32)
    words[:624] = legacy_state(1)
    mersenne_kernels.twist(words)
    for _ in range(NUM_FIRST // kernels.LANES):
        position = batch.read(words, position)
        batch.judge()
        lit += batch.lit.tolist()
    return lit


def test_numbers_of_pixels_are_the_oracles(first):
    """Each number exactly: as many pixels are lit as the oracle says, and not one more."""
    counts = [lit for _, lit in first if isinstance(lit, int)]
    assert len(set(counts)) > 25 and max(counts) > 52_429
    for number, (_, lit) in enumerate(first):
        if isinstance(lit, int):
            assert kernel_lit(lit)[number] >= lit > 0
            assert kernel_lit(lit + 1)[number] < lit + 1
        else:
            expected = kernels.OVERFLOW if lit == "overflow" else kernels.FLAT
            assert kernel_lit(1)[number] == kernel_lit(50_000)[number] == expected


@pytest.mark.parametrize("least", [1, 2, 100, 3000, 20_000, 52_428, 52_429, 52_430, 100_000, 2**18 + 1])
def test_verdicts_are_the_oracles(first, least):
    verdicts = [lit >= least for lit in kernel_lit(least)]
    assert verdicts == [isinstance(lit, int) and lit >= least for _, lit in first]


def test_overflows_and_flat_candidates_are_the_oracles(cache):
    """The first of each kind among some 1900 candidates."""
    codes = list(SearchState.load(Search().cache_path(cache)).outcomes)
    names = [Search.OUTCOMES[code] for code in codes]
    assert names.count("overflow") > 30 and names.count("flat") > 5
    seen = dict.fromkeys(Search.OUTCOMES, 0)
    most = {"overflow": 8, "flat": 6, "found": 4, "fill": 4}
    for name, (rows, uniforms) in zip(names, candidates(1), strict=False):
        if seen[name] < most[name]:
            seen[name] += 1
            lit = oracle_lit(rows, uniforms)
            assert (lit if isinstance(lit, str) else "found" if lit >= 52_429 else "fill") == name
    assert seen == most


# ---- categories ------------------------------------------------------------------------------------------------------


def test_the_first_category_is_the_published_one(first):
    categories, provenance = find_categories(1)
    (ifs,) = categories.systems
    assert len(ifs) == 5
    assert float(ifs.maps[0, 0, 0]) == 0.1724223243171234543
    assert float(ifs.p[0]) == 0.1414134307013419356
    rows, _ = first[23]
    assert ifs.maps.tolist() == [[[a, b, e], [c, d, f]] for a, b, c, d, e, f in rows]
    assert ifs.p.tolist() == probabilities(rows)
    rejected = [lit for _, lit in first[:23]]
    assert provenance == {
        "candidates": 24,
        "candidate_rejections": {
            "fill": sum(isinstance(lit, int) for lit in rejected),
            "overflow": rejected.count("overflow"),
            "flat": rejected.count("flat"),
        },
    }


def test_files_are_the_published_ones(cache, golden):
    categories, _ = find_categories(43, cache=str(cache))
    files = dict(categories.files())
    assert len(files) == 43
    for number in GOLDEN:
        assert files[f"{number:05d}.csv"] == (golden / f"{number:05d}.csv").read_bytes()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_categories_are_the_same_for_any_number_of_workers(cache, workers):
    categories, provenance = find_categories(9, workers=workers)
    assert (categories, provenance) == find_categories(9, cache=cache)


def test_without_a_threshold_all_are_found_that_can_be_drawn(first):
    drawn = [rows for rows, lit in first if isinstance(lit, int)]
    everything, provenance = find_categories(len(drawn), Search(min_fill=0.0))
    assert provenance["candidate_rejections"]["fill"] == 0
    assert [ifs.maps.tolist() for ifs in everything.systems] == [
        [[[a, b, e], [c, d, f]] for a, b, c, d, e, f in rows] for rows in drawn
    ]


@pytest.mark.parametrize("count", [1, 2, 10, 43])
def test_provenance_adds_up(cache, count):
    _, provenance = find_categories(count, cache=cache)
    assert provenance["candidates"] == count + sum(provenance["candidate_rejections"].values())
    assert set(provenance["candidate_rejections"]) == {"fill", "overflow", "flat"}


def test_another_seed_finds_others(cache):
    systems = find_categories(2, Search(seed=2))[0].systems
    drawn = [rows for rows, _ in itertools.islice(candidates(2), 200)]
    assert all([[a, b, c, d, e, f] for (a, b, e), (c, d, f) in ifs.maps.tolist()] in drawn for ifs in systems)
    assert systems != find_categories(2, cache=cache)[0].systems


def test_the_least_number_of_pixels():
    assert Search().least == 52_429, "a fifth of 512 x 512 pixels, rounded up"
    assert [Search(min_fill=fill).least for fill in (0.0, 1.0, 0.5, 1e-9)] == [0, 512 * 512, 256 * 512, 1]


# ---- cache -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_search(monkeypatch):
    def fail(*_):
        raise AssertionError("searched, although it is known")

    def forbid():
        monkeypatch.setattr(search._Run, "search", fail)

    return forbid


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_search_that_was_stopped_goes_on(tmp_path, cache, error, workers):
    calls = []

    def stop(categories, candidates):
        calls.append((categories, candidates))
        if categories >= 2:
            raise error

    with pytest.raises(error):
        find_categories(6, workers=workers, cache=tmp_path, on_progress=stop)
    categories_then, candidates_then = calls[-1]
    known = SearchState.load(Search().cache_path(tmp_path))
    assert (len(known.systems), known.num_candidates) == (categories_then, candidates_then)
    assert calls == sorted(calls) and candidates_then < 200

    going_on = []
    result = find_categories(
        6, workers=workers, cache=tmp_path, on_progress=lambda *progress: going_on.append(progress)
    )
    assert going_on[0][1] == candidates_then + kernels.LANES, "not from the beginning"
    assert result == find_categories(6, cache=cache)


def test_control_c_keeps_what_was_found(tmp_path, cache):
    """Also where it hits the thread that waits, which does not search."""
    calls, sent = [], []

    def press(categories, candidates):
        calls.append((categories, candidates))
        if categories >= 3 and not sent:
            sent.append(True)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        assert candidates < 50_000, "never stops"

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            find_categories(10_000, workers=2, cache=tmp_path, on_progress=press)
    finally:
        signal.signal(signal.SIGINT, before)
    known = SearchState.load(Search().cache_path(tmp_path))
    assert (len(known.systems), known.num_candidates) == calls[-1]
    assert find_categories(5, cache=tmp_path) == find_categories(5, cache=cache)


def test_stopped_again_and_again(tmp_path, cache):
    """Even where each run gets a few candidates further only."""
    for _ in range(100):
        calls = itertools.count()

        def stop(*_, calls=calls):
            if next(calls) == 4:
                raise KeyboardInterrupt

        try:
            result = find_categories(3, cache=tmp_path, on_progress=stop)
            break
        except KeyboardInterrupt:
            continue
    assert result == find_categories(3, cache=cache)


def test_what_is_known_is_not_searched(tmp_path, cache, no_search):
    many = find_categories(5, cache=tmp_path)
    no_search()
    assert find_categories(5, cache=tmp_path) == many
    for fewer in (1, 3):
        categories, provenance = find_categories(fewer, cache=tmp_path)
        assert categories.systems == many[0].systems[:fewer]
        assert provenance["candidates"] < many[1]["candidates"]
    with pytest.raises(AssertionError, match="searched"):
        find_categories(1, Search(seed=2), cache=tmp_path)
    with pytest.raises(AssertionError, match="searched"):
        find_categories(1, Search(min_fill=0.3), cache=tmp_path)


def test_a_larger_request_goes_on(tmp_path, cache):
    find_categories(2, cache=tmp_path)
    known, calls = SearchState.load(Search().cache_path(tmp_path)).num_candidates, []
    larger = find_categories(9, cache=tmp_path, on_progress=lambda *progress: calls.append(progress))
    assert calls[0][1] == known + kernels.LANES
    assert larger == find_categories(9, cache=cache)
    assert [path.name for path in tmp_path.iterdir()] == [Search().cache_path(tmp_path).name]


def test_two_searches_keep_their_own(tmp_path, no_search):
    searches = [Search(), Search(seed=2), Search(min_fill=0.1)]
    assert not any(each.is_cached(tmp_path) for each in searches)
    categories = [find_categories(2, each, cache=tmp_path) for each in searches]
    assert all(each.is_cached(tmp_path) for each in searches)
    no_search()
    assert [find_categories(2, each, cache=tmp_path) for each in searches] == categories


def test_a_search_without_categories_is_kept_too(tmp_path, cache):
    """A stop before the first category keeps the candidates that were judged."""

    def stop(categories, candidates):
        if candidates >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_categories(1, cache=tmp_path, on_progress=stop)
    known = SearchState.load(Search().cache_path(tmp_path))
    assert (known.num_candidates, known.systems) == (8, [])
    assert find_categories(1, cache=tmp_path) == find_categories(1, cache=cache)


def test_a_file_that_has_come_further_is_left(tmp_path, cache):
    path = Search().cache_path(tmp_path)
    find_categories(3, cache=tmp_path)
    further, stopped = path.read_bytes(), SearchState(legacy_state(1), [np.zeros(4, np.uint8)])
    stopped.save(path)
    assert path.read_bytes() == further


def other(**changes):
    def damage(data, path):
        with np.load(path) as file:
            values = {name: file[name] for name in file.files}
        np.savez(path, **{**values, **{name: change(values[name]) for name, change in changes.items()}})

    return damage


def only(*names):
    def damage(data, path):
        with np.load(path) as file:
            values = {name: file[name] for name in names}
        np.savez(path, **values)

    return damage


DAMAGES = {
    "empty": lambda data, path: path.write_bytes(b""),
    "garbage": lambda data, path: path.write_bytes(b"no such thing" * 100),
    "half": lambda data, path: path.write_bytes(data[: len(data) // 2]),
    "without its end": lambda data, path: path.write_bytes(data[:-1]),
    "a flipped byte": lambda data, path: path.write_bytes(data[:300] + bytes([data[300] ^ 255]) + data[301:]),
    "a folder": lambda data, path: (path.unlink(), path.mkdir()),
    "other keys": lambda data, path: np.savez(path, a=np.zeros(3)),
    "one key": only("state"),
    "pickled": lambda data, path: np.savez(path, **dict.fromkeys(("state", "outcomes", "maps", "p"), np.array([{}]))),
    "short state": other(state=lambda state: state[:-1]),
    "signed state": other(state=lambda state: state.astype(np.int64)),
    "another table": other(maps=lambda maps: maps.reshape(-1, 3, 2)),
    "fewer maps": other(maps=lambda maps: maps[:-1]),
    "more maps": other(maps=lambda maps: np.concatenate([maps, maps])),
    "p of other maps": other(p=lambda p: p / 2),
    "NaN": other(maps=lambda maps: maps * np.nan),
    "fewer systems": other(num_maps=lambda num_maps: num_maps[:-1]),
    "more outcomes": other(outcomes=lambda outcomes: np.ones_like(outcomes)),
    "no outcomes": other(outcomes=lambda outcomes: outcomes[:0]),
    "outcomes in columns": other(outcomes=lambda outcomes: outcomes.reshape(-1, 4)),
    "outcomes that are none": other(outcomes=lambda outcomes: np.where(outcomes == 1, 1, 9).astype(np.uint8)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_searched_again(tmp_path, cache, damage):
    find_categories(2, cache=tmp_path)
    path = Search().cache_path(tmp_path)
    damage(path.read_bytes(), path)
    assert find_categories(2, cache=tmp_path) == find_categories(2, cache=cache)
    assert find_categories(3, cache=tmp_path) == find_categories(3, cache=cache)


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path, cache, below):
    (tmp_path / "file").write_bytes(b"")
    assert find_categories(2, cache=tmp_path / "file" / below) == find_categories(2, cache=cache)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# ---- bad values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**32}, "seed 4294967296"),
        ({"min_fill": 1.5}, r"min_fill 1\.5"),
        ({"min_fill": -0.1}, r"min_fill -0\.1"),
        ({"min_fill": float("nan")}, "min_fill nan"),
    ],
)
def test_impossible_values(changes, message):
    with pytest.raises(UsageError, match=message):
        Search(**changes)


@pytest.mark.parametrize("count", [0, -3, 10**6 + 1])
def test_impossible_counts(count):
    with pytest.raises(UsageError, match=f"categories {count}"):
        find_categories(count)
    with pytest.raises(UsageError, match="workers -1: must be 1 or more"):
        find_categories(1, workers=-1)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_hopeless_search_is_given_up(monkeypatch, workers):
    monkeypatch.setattr(search, "_FRUITLESS", 60)
    with pytest.raises(DataError, match="60 candidates; lower --min-fill"):
        find_categories(1, Search(min_fill=1.0), workers=workers)
    assert len(find_categories(2)[0]) == 2, "counted from the last category"
