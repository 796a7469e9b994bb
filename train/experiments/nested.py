"""Statistics of nested runs: several starts ("bases") of a variant, each fine-tuned with the same seeds.

Two spreads are told apart. Within a base, accuracies differ by fine-tuning seed: another choice of training images,
another order, another head. Between bases, they differ by the set that was rendered and by the seed of pre-training.
"""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

Accuracies = Mapping[int | None, Mapping[int, float]]
"""Accuracy, 0 to 1, by base and fine-tuning seed. A variant without a set has one base, None, which JSON calls 0."""


def summarize(variants: Mapping[str, Accuracies], *, matched: bool = True) -> dict[str, dict[str, Any]]:
    """By variant, what `study.json` holds of it; differences are from the first variant.

    matched: bases of one number in two variants are compared with each other, as they have something in common: a
        fractal, or the seed of pre-training alone; else which of them has which number counts for nothing.

    accuracies: all of them, by base and seed. n_bases, n_runs: how many have results.
    mean: of the means of the bases, None where there is no run.
    std_within: standard deviation between seeds of one base, pooled over bases; None where no base has two seeds.
    std_base_means: standard deviation (of a sample) of the means of the bases; None for one base. Chance in
        fine-tuning adds to it.
    std_between: the same without that chance: sqrt(max(0, std_base_means^2 - residual / seeds)), the component of
        variance of a two-way layout without replication; None where bases do not all have the same two seeds or more.
    difference: of paired accuracies, or None for the first variant (see `_difference`).
    """
    first = next(iter(variants.values()), {})
    return {
        name: {
            "accuracies": {
                str(base or 0): {str(seed): each[seed] for seed in sorted(each)} for base, each in bases.items()
            },
            "n_bases": sum(bool(each) for each in bases.values()),
            "n_runs": sum(len(each) for each in bases.values()),
            **_spreads([each for each in bases.values() if each]),
            "difference": _difference(bases, first, matched) if number else None,
        }
        for number, (name, bases) in enumerate(variants.items())
    }


def _spreads(bases: Sequence[Mapping[int, float]]) -> dict[str, float | None]:
    means = [statistics.fmean(each.values()) for each in bases]
    squares = sum((value - mean) ** 2 for each, mean in zip(bases, means, strict=True) for value in each.values())
    freedom = sum(len(each) - 1 for each in bases)
    between = statistics.stdev(means) if len(means) > 1 else None
    return {
        "mean": _rounded(statistics.fmean(means) if means else None),
        "std_within": _rounded(math.sqrt(squares / freedom) if freedom else None),
        "std_base_means": _rounded(between),
        "std_between": _rounded(_between(bases, between)),
    }


def _between(bases: Sequence[Mapping[int, float]], std_base_means: float | None) -> float | None:
    seeds = sorted(bases[0]) if bases else []
    if std_base_means is None or len(seeds) < 2 or any(sorted(each) != seeds for each in bases):
        return None
    total = statistics.fmean(value for each in bases for value in each.values())
    by_seed = {seed: statistics.fmean(each[seed] for each in bases) - total for seed in seeds}
    squares = sum(
        (each[seed] - statistics.fmean(each.values()) - by_seed[seed]) ** 2 for each in bases for seed in seeds
    )
    residual = squares / ((len(bases) - 1) * (len(seeds) - 1))
    return math.sqrt(max(0.0, std_base_means**2 - residual / len(seeds)))


def _difference(bases: Accuracies, first: Accuracies, matched: bool) -> dict[str, Any] | None:
    """Accuracies minus those of the first variant with the same fine-tuning seed.

    Bases are paired by number. A variant without a set is paired with each base of the other, and so is, where they are
    not matched, the mean of the first variant's bases.

    n, better: pairs, and how many of them are above 0. mean: of the means of the bases. by_base, by_seed: means.
    interval: 95 % interval around the mean by Student's t over `unit`: "bases" or "seeds", whichever is the wider; None
        for a single one of both. Over bases that are not matched it is Welch's, of two means. Over bases alone it would
        hold for these seeds only: the first variant's runs are three, say, whatever the number of bases, and their
        chance is in all differences alike. Simulated with 3 to 12 bases and 3 seeds it covered 70 to 94 %, the wider of
        both 95 to 98 %.
    Returns None where there is no pair.
    """
    pairs = _pair(bases, first, matched)
    if not pairs:
        return None
    by_base = {base: statistics.fmean(each.values()) for base, each in pairs.items()}
    by_seed = _mean_by_seed(pairs.values())
    over_bases = interval(list(by_base.values()))
    if not (matched or None in bases or None in first):
        means = [[statistics.fmean(each.values()) for each in of.values() if each] for of in (bases, first)]
        over_bases = welch_interval(means[0], means[1])
    ends = {"bases": over_bases, "seeds": interval(list(by_seed.values()))}
    widths = {unit: each[1] - each[0] for unit, each in ends.items() if each is not None}
    unit = max(widths, key=widths.__getitem__, default="seeds")
    mean = statistics.fmean(by_base.values())  # where runs are missing, not the middle of `ends`
    low_high = [mean - widths[unit] / 2, mean + widths[unit] / 2] if widths else None
    every = [value for each in pairs.values() for value in each.values()]
    return {
        "n": len(every),
        "better": sum(value > 0 for value in every),
        "mean": _rounded(mean),
        "unit": unit,
        "interval": None if low_high is None else [_rounded(each) for each in low_high],
        "by_base": {str(base or 0): _rounded(value) for base, value in by_base.items()},
        "by_seed": {str(seed): _rounded(value) for seed, value in by_seed.items()},
    }


def _pair(bases: Accuracies, first: Accuracies, matched: bool) -> dict[int | None, dict[int, float]]:
    """By base and seed, the differences of what is paired."""
    couples: dict[int | None, tuple[Mapping[int, float], Mapping[int, float]]]
    if None in first or not (matched or None in bases):
        together = _mean_by_seed(first.values())
        couples = {base: (each, together) for base, each in bases.items()}
    elif None in bases:
        couples = {base: (bases[None], each) for base, each in first.items()}
    else:
        couples = {base: (each, first[base]) for base, each in bases.items() if base in first}
    pairs = {
        base: {seed: one[seed] - other[seed] for seed in one if seed in other} for base, (one, other) in couples.items()
    }
    return {base: each for base, each in pairs.items() if each}


def _mean_by_seed(bases: Collection[Mapping[int, float]]) -> dict[int, float]:
    seeds = sorted({seed for each in bases for seed in each})
    return {seed: statistics.fmean(each[seed] for each in bases if seed in each) for seed in seeds}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """The interval of the mean of normal values by Student's t: (low, high); None for fewer than two values."""
    if len(values) < 2:
        return None
    mean = statistics.fmean(values)
    half = student_t(len(values) - 1, confidence) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def welch_interval(
    values: Sequence[float], others: Sequence[float], confidence: float = 0.95
) -> tuple[float, float] | None:
    """The interval of the mean of normal values less that of others (Welch, 1947): (low, high); None for one of either.

    The degrees of freedom are rounded down.
    """
    if min(len(values), len(others)) < 2:
        return None
    parts = [(statistics.variance(each) / len(each), len(each) - 1) for each in (values, others)]
    square = sum(part for part, _ in parts)
    freedom = square**2 / sum(part**2 / each for part, each in parts) if square else 1.0
    half = student_t(int(freedom + 1e-9), confidence) * math.sqrt(square)
    mean = statistics.fmean(values) - statistics.fmean(others)
    return mean - half, mean + half


def student_t(freedom: int, confidence: float) -> float:
    """The t with P(|T| < t) = confidence, for a whole number of degrees of freedom >= 1.

    By bisection of the closed form of that probability (Abramowitz and Stegun, 26.7.3 and 26.7.4) over
    atan(t / sqrt(freedom)), in which it rises from 0 to 1.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _probability(middle, freedom) < confidence else (low, middle)
    return math.tan((low + high) / 2) * math.sqrt(freedom)


def _probability(theta: float, freedom: int) -> float:
    """P(|T| < t) of Student's t, at theta = atan(t / sqrt(freedom))."""
    odd = freedom % 2
    term, total = (math.cos(theta) if odd else 1.0), 0.0
    for power in range(2 + odd, freedom + 1, 2):  # freedom // 2 terms in falling powers of the cosine
        total += term
        term *= math.cos(theta) ** 2 * (power - 1) / power
    return 2 / math.pi * (theta + math.sin(theta) * total) if odd else math.sin(theta) * total
