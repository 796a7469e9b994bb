"""Nested analysis of studies: arms, of each some bases (sets of other seeds), of each base some fine-tuning seeds.

What varies from one base to the next is the set and the pre-training seed; within a base, the fine-tuning seed: which
images of a class are taken, and everything random in the run. Differences are paired by fine-tuning seed.
"""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fracgen.train.experiments import nested

ROOT = Path(__file__).parents[2]
FEATURES = {
    "clean_accuracy": "told apart, %",
    "crop_accuracy": "of crops, %",
    "loss": "loss",
    "fill": "fill, %",
    "acceptance": "acceptance, %",
    "contraction": "contraction",
}
"""What a base fractal is, and how its pre-training ended: names in the files, and in words (with a % for a share)."""
SCORES = {
    "fill_rate": "fill rate, %",
    "dimension": "box-counting dimension",
    "dimension_std": "its standard deviation between images",
    "lacunarity": "lacunarity",
    "bytes_per_pixel": "bytes a pixel",
    "nearest_correlation": "correlation with the most alike",
    "views_accuracy": "told apart by views, %",
    "views_auc": "the same, AUC",
    "small_shapes_accuracy": "shapes told apart at Delta 0.01, %",
}
"""Of the sets of base fractals, before any training: names in scores.json, and in words."""
LENGTHS = {"equal-budget": 300, "length-1000": 1000, "length": 3000, "converged-100": 3000}
"""Studies of one fine-tuning at several lengths: the steps of those runs that count."""
PERMUTATIONS = 20_000
Run = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Study:
    """Runs of a study.

    arms: in the order of its file, then what was run beside it. published: accuracies in % by arm and data set.
    """

    arms: Sequence[str]
    runs: Sequence[Run]
    pretraining: Sequence[Run]
    published: Mapping[str, Mapping[str, float]]
    machine: str
    measured: str

    def select(self, arm: str, **where: Any) -> list[Run]:
        """The fine-tuning runs of an arm, of the given per_class, steps, base."""
        return [
            run
            for run in self.runs
            if run["variant"] == arm and all(run[name] == value for name, value in where.items())
        ]

    def accuracies(self, arm: str, **where: Any) -> dict[int | None, dict[int, float]]:
        """Accuracies of an arm, 0 to 1, by base (None for an arm without a set) and fine-tuning seed.

        Raises ValueError for several runs of one, as of several per_class or steps, of which one would stand for all.
        """
        by_base: dict[int | None, dict[int, float]] = {}
        for run in self.select(arm, **where):
            by_seed = by_base.setdefault(run["base"], {})
            if run["seed"] in by_seed:
                raise ValueError(f"{arm}, base {run['base']}, seed {run['seed']}: several runs; say per_class or steps")
            by_seed[run["seed"]] = run["accuracy"]
        return by_base

    def have_equal_fractals(self, arm: str, other: str) -> bool:
        """Whether bases of one number are the same fractal in two arms, as their contraction tells."""
        one, two = (
            {run["base"]: run.get("contraction") for run in self.pretraining if run["variant"] == each}
            for each in (arm, other)
        )
        return all(one[base] == two[base] is not None for base in one.keys() & two.keys())

    def size_of(self, arm: str, **where: Any) -> str:
        """How many bases and seeds there are, as in "3 x 3"; seeds alone for an arm without a set; "" of no runs.

        Where some were not run, how many were: "3 of 2 x 2".
        """
        runs = self.select(arm, **where)
        if not runs or runs[0]["base"] is None:
            return f"{len({run['seed'] for run in runs}) or ''}"
        pairs = {(run["base"], run["seed"]) for run in runs}
        num_bases, num_seeds = (len(set(each)) for each in zip(*pairs, strict=True))
        size = f"{num_bases} x {num_seeds}"
        return size if len(pairs) == num_bases * num_seeds else f"{len(pairs)} of {size}"


def load(folder: Path) -> dict[str, Study]:
    """Studies by name, from the JSON files of a folder."""
    studies = {}
    for path in sorted(folder.glob("*.json")):
        values = json.loads(path.read_text("utf-8"))
        if "study" not in values:  # what was measured of a machine
            continue
        variants = yaml.safe_load((ROOT / values["study"]).read_text("utf-8"))["variants"]
        tuned = {run["variant"] for run in values["finetuning"]}
        machine = values["machine"]
        studies[path.stem] = Study(
            arms=[*(name for name in variants if name in tuned), *sorted(tuned - set(variants))],
            runs=values["finetuning"],
            pretraining=values["pretraining"],
            published={name: (variants[name] or {}).get("published") or {} for name in variants},
            machine=machine["gpu"] or f"{machine['cores']} cores, {machine['cpu']}",
            measured=values["measured"],
        )
    return studies


def joined(studies: Mapping[str, Study], per_class: int) -> Study:
    """What was fine-tuned on so many images a class by the recipe of the equal-budget study, at each length.

    Arms are those of more lengths than one, or all where there is one; bases of one number are the same sets in all of
    them.
    """
    runs = [
        run
        for name, steps in LENGTHS.items()
        if name in studies
        for run in studies[name].runs
        if run["per_class"] == per_class and run["steps"] == steps
    ]
    study, num_steps = studies["equal-budget"], len({run["steps"] for run in runs})
    steps_of = {arm: {run["steps"] for run in runs if run["variant"] == arm} for arm in study.arms}
    arms = [arm for arm, steps in steps_of.items() if steps and (len(steps) > 1 or num_steps == 1)]
    return replace(study, arms=arms, runs=[run for run in runs if run["variant"] in arms])


def probed_arms(folder: Path) -> dict[str, list[Run]]:
    """The probed nets by arm, from probes.json: "linear" and "knn" are accuracies by block, 0 to 1."""
    by_arm: dict[str, list[Run]] = {}
    for net in json.loads((folder / "probes.json").read_text("utf-8"))["nets"]:
        by_arm.setdefault(net["arm"], []).append(net)
    return by_arm


def mean(values: Sequence[float]) -> float:
    """The mean; NaN of nothing."""
    return statistics.fmean(values) if values else math.nan


def summarize(study: Study, arm: str, other: str | None = None, **where: Any) -> dict[str, Any] | None:
    """`nested.summarize` of an arm, whose `difference` is that from another arm; None where the arm was not run.

    Bases are paired by number where they are the same fractals. where: per_class and steps, for a study with several of
    them.
    """
    accuracies = {name: study.accuracies(name, **where) for name in dict.fromkeys((other or arm, arm))}
    if not all(accuracies.values()):
        return None
    return nested.summarize(accuracies, matched=other is None or study.have_equal_fractals(arm, other))[arm]


def pearson(x: Sequence[float], y: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """The correlation of two quantities and its 95 % interval by Fisher's z; NaN where one does not vary.

    The interval is NaN for fewer than four pairs, and a point for a correlation of -1 or 1.
    """
    try:
        correlation = max(-1.0, min(1.0, statistics.correlation(x, y)))
    except statistics.StatisticsError:
        return math.nan, (math.nan, math.nan)
    if len(x) < 4:
        return correlation, (math.nan, math.nan)
    if abs(correlation) == 1:
        return correlation, (correlation, correlation)
    z, half = math.atanh(correlation), 1.96 / math.sqrt(len(x) - 3)
    return correlation, (math.tanh(z - half), math.tanh(z + half))


def ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 0, of equal values their mean."""
    levels = np.asarray(values)
    return ((levels[:, None] > levels).sum(1) + (levels[:, None] >= levels).sum(1) - 1) / 2


def spearman(x: Sequence[float], y: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Spearman's rank correlation and its 95 % interval by Fisher's z and the variance of Bonett and Wright (2000)."""
    rho, _ = pearson(ranks(x).tolist(), ranks(y).tolist())
    if math.isnan(rho) or abs(rho) == 1 or len(x) < 4:
        return rho, (rho, rho) if abs(rho) == 1 else (math.nan, math.nan)
    z, half = math.atanh(rho), 1.96 * math.sqrt((1 + rho**2 / 2) / (len(x) - 3))
    return rho, (math.tanh(z - half), math.tanh(z + half))


def permutation_p(columns: Sequence[Sequence[float]], y: Sequence[float]) -> list[tuple[float, float]]:
    """Of each column (p of its rank correlation with y, p of that among all columns), two-sided.

    By how often the rank correlation of a column, and the greatest of all columns, is as great where y is shuffled.
    """
    standard = np.array([(of_column - of_column.mean()) / of_column.std() for of_column in map(ranks, columns)])
    of_y = ranks(y)
    of_y = (of_y - of_y.mean()) / of_y.std()
    random = np.random.default_rng(0)
    shuffled = np.array([random.permutation(of_y) for _ in range(PERMUTATIONS)])
    correlations, by_chance = np.abs(standard @ of_y), np.abs(standard @ shuffled.T)
    least = correlations[:, None] - 1e-9
    alone, among = (by_chance >= least).sum(1), (by_chance.max(0) >= least).sum(1)
    return [
        ((1 + one) / (1 + PERMUTATIONS), (1 + other) / (1 + PERMUTATIONS))
        for one, other in zip(alone, among, strict=True)
    ]


def base_points(study: Study) -> list[dict[str, float]]:
    """What each base fractal of 1p-frac is, its mean accuracy in %, and its mean gain over the first arm in points."""
    summary = summarize(study, "1p-frac", study.arms[0])
    facts = {run["base"]: run for run in study.pretraining if run["variant"] == "1p-frac"}
    if summary is None:
        return []
    return [
        {
            "base": int(base),
            "gain": 100 * gain,
            "accuracy": 100 * mean(list(summary["accuracies"][base].values())),
            **{name: facts[int(base)].get(name, math.nan) for name in FEATURES},
        }
        for base, gain in summary["difference"]["by_base"].items()
    ]
