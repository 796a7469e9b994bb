"""Statistics of bases and seeds: what the two spreads and the intervals mean."""

import statistics

import numpy as np
import pytest

from fracgen.train.experiments.nested import interval, student_t, summarize, welch_interval


@pytest.mark.parametrize(
    ("freedom", "confidence", "expected"),
    [  # of printed tables
        (1, 0.95, 12.706), (2, 0.95, 4.303), (3, 0.95, 3.182), (4, 0.95, 2.776), (5, 0.95, 2.571), (8, 0.95, 2.306),
        (9, 0.99, 3.250), (10, 0.90, 1.812), (30, 0.95, 2.042), (120, 0.95, 1.980), (121, 0.95, 1.980),
    ],
)  # fmt: skip
def test_quantiles_of_student(freedom, confidence, expected):
    assert student_t(freedom, confidence) == pytest.approx(expected, abs=6e-4)


def test_an_interval():
    low, high = interval([1.0, 2.0, 3.0])
    assert (low + high) / 2 == pytest.approx(2) and high - low == pytest.approx(2 * 4.303 / 3**0.5, abs=1e-3)
    assert interval([1.0]) is None and interval([2.0, 2.0]) == (2.0, 2.0)


def test_both_spreads_are_found_again():
    """Planted spreads: bases 0.03, seeds shared by all 0.02, chance 0.01."""
    rng = np.random.default_rng(0)
    bases, seeds = rng.normal(0, 0.03, 400), rng.normal(0, 0.02, 30)
    table = 0.5 + bases[:, None] + seeds + rng.normal(0, 0.01, (400, 30))
    summary = summarize({"x": {base: dict(enumerate(row)) for base, row in enumerate(table.tolist())}})["x"]
    assert summary["mean"] == pytest.approx(table.mean(), abs=1e-6) and summary["difference"] is None
    assert summary["std_within"] == pytest.approx(np.std(table, axis=1, ddof=1).mean(), rel=0.05)
    assert summary["std_between"] == pytest.approx(0.03, rel=0.1) and summary["std_base_means"] > summary["std_between"]
    only_chance = {base: {seed: 0.5 + rng.normal(0, 0.01) for seed in range(9)} for base in range(50)}
    assert summarize({"x": only_chance})["x"]["std_between"] < 0.002


def test_differences_are_paired_by_seed_over_bases():
    scratch = {None: {0: 0.30, 1: 0.34, 2: 0.38}}
    bases = [{0: 0.33, 1: 0.36, 2: 0.42}, {0: 0.31, 1: 0.33, 2: 0.39}]
    summary = summarize({"scratch": scratch, "x": dict(enumerate(bases))})["x"]
    difference = summary["difference"]
    assert difference["by_base"] == {"0": 0.03, "1": pytest.approx(0.01 / 3, abs=1e-6)}
    assert difference["by_seed"] == {"0": 0.02, "1": 0.005, "2": 0.025}
    assert (difference["n"], difference["better"], difference["unit"]) == (6, 5, "bases")
    assert difference["mean"] == pytest.approx(statistics.fmean(difference["by_base"].values()), abs=1e-6)
    low, high = interval(list(difference["by_base"].values()))
    assert difference["interval"] == [pytest.approx(low, abs=1e-5), pytest.approx(high, abs=1e-5)]
    one = summarize({"scratch": scratch, "x": {0: bases[0]}})["x"]
    assert one["difference"]["unit"] == "seeds" and one["std_base_means"] is None is one["std_between"]
    assert one["difference"]["interval"][0] < 0.03 < one["difference"]["interval"][1]


def test_a_first_variant_of_several_bases_is_paired_base_by_base():
    first = {0: {0: 0.2, 1: 0.2}, 1: {0: 0.4, 1: 0.4}}
    summary = summarize({"a": first, "b": {0: {0: 0.3, 1: 0.3}, 1: {0: 0.5, 1: 0.5}}})["b"]
    assert summary["difference"]["interval"] == [0.1, 0.1] and summary["std_between"] == pytest.approx(0.141421)
    assert summary["difference"]["by_base"] == {"0": 0.1, "1": 0.1}
    one = summarize({"a": first, "b": {1: {0: 0.3, 1: 0.5}}})["b"]["difference"]
    assert one["by_seed"] == {"0": -0.1, "1": 0.1} and one["unit"] == "seeds", "of one base, from that of its number"


def test_a_variant_without_a_set_is_paired_with_each_base_in_either_order():
    bases, scratch = {0: {0: 0.2, 1: 0.25}, 1: {0: 0.4, 1: 0.41}}, {None: {0: 0.2, 1: 0.3}}
    from_scratch = summarize({"scratch": scratch, "a": bases})["a"]["difference"]
    from_bases = summarize({"a": bases, "scratch": scratch})["scratch"]["difference"]
    assert from_bases["unit"] == from_scratch["unit"] == "bases"
    assert from_bases["interval"] == [-end for end in from_scratch["interval"][::-1]]
    assert from_bases["by_base"] == {base: -value for base, value in from_scratch["by_base"].items()}
    assert from_bases["mean"] == -0.065
    alone = summarize({"scratch": scratch, "impulse": {None: {0: 0.3, 1: 0.3}}})["impulse"]
    assert alone["difference"]["by_base"] == {"0": 0.05} and list(alone["accuracies"]) == ["0"]


def test_bases_that_are_not_matched_may_have_any_numbers():
    """Welch's interval of two means: by hand, s2/n = 0.01/3 and 0.04/3, their sum's freedom 2.94, t(2) = 4.303."""
    first = {base: dict.fromkeys((0, 1), value) for base, value in enumerate((0.2, 0.3, 0.4))}
    bases = {base: dict.fromkeys((0, 1), value) for base, value in enumerate((0.3, 0.5, 0.7))}
    half = 4.30265 * (0.05 / 3) ** 0.5
    for order in ((0, 1, 2), (2, 0, 1)):
        other = {base: bases[at] for base, at in enumerate(order)}
        difference = summarize({"a": first, "b": other}, matched=False)["b"]["difference"]
        assert difference["mean"] == pytest.approx(0.2) and difference["unit"] == "bases"
        assert difference["interval"] == pytest.approx([0.2 - half, 0.2 + half], abs=1e-5)
    assert welch_interval([1.0], [1.0, 2.0]) is None and welch_interval([1.0, 1.0], [0.5, 0.5]) == (0.5, 0.5)
    one = summarize({"a": first, "b": {0: bases[0]}}, matched=False)["b"]["difference"]
    assert one["unit"] == "seeds" and one["mean"] == 0.0


def test_what_is_not_there_yet():
    summary = summarize({"a": {None: {}}, "b": {0: {3: 0.5}, 1: {}}})
    assert summary["a"]["mean"] is None and summary["a"]["n_runs"] == 0
    assert summary["b"]["n_bases"] == 1 and summary["b"]["std_within"] is None and summary["b"]["difference"] is None
    summary = summarize({"a": {None: {3: 0.25}}, "b": {0: {3: 0.5, 4: 0.7}, 1: {3: 0.25}}})["b"]
    assert summary["difference"]["by_base"] == {"0": 0.25, "1": 0.0} and summary["std_between"] is None
    assert summarize({}) == {}


@pytest.mark.parametrize("matched", [True, False])
def test_an_interval_lies_around_the_mean_where_runs_are_missing(matched):
    first = {0: {0: 0.2, 1: 0.4}, 1: {0: 0.3, 1: 0.5}}
    difference = summarize({"a": first, "b": {0: {0: 0.3, 1: 0.6}, 1: {1: 0.7}}}, matched=matched)["b"]["difference"]
    assert difference["mean"] == pytest.approx(statistics.fmean(difference["by_base"].values()))
    assert statistics.fmean(difference["interval"]) == pytest.approx(difference["mean"])


@pytest.mark.parametrize(("bases", "spread"), [(3, 0.0), (12, 0.01)])
def test_intervals_hold_the_true_difference(bases, spread):
    """Planted: scratch and each base with the same 3 seeds, chance 0.01, a true difference of 0.05; 200 studies.

    Of intervals over bases alone, 84 and 70 % would: the chance of the scratch runs is in all differences alike.
    """
    rng, hits = np.random.default_rng(0), 0
    for _ in range(200):
        scratch = {None: dict(enumerate(rng.normal(0.30, 0.01, 3).tolist()))}
        table = rng.normal(0.35, 0.01, (bases, 3)) + rng.normal(0, spread, (bases, 1))
        summaries = summarize({"scratch": scratch, "x": {base: dict(enumerate(row)) for base, row in enumerate(table)}})
        low, high = summaries["x"]["difference"]["interval"]
        hits += low <= 0.05 <= high
    assert hits >= 0.93 * 200
