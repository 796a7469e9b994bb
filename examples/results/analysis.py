"""Nested analysis of studies: arms, of each some bases (sets of other seeds), of each base some fine-tuning seeds.

What varies from one base to the next is the set and the pre-training seed; within a base, the fine-tuning seed: which
images of a class are taken, and everything random in the run. Differences are paired by fine-tuning seed.
"""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""Student's t, 97.5 %, of 1, 2, ... degrees of freedom."""
FEATURES = {
    "clean_accuracy": "told apart, %",
    "fill": "fill, %",
    "acceptance": "acceptance, %",
    "contraction": "contraction",
}
"""What a base fractal is: names in the files, and in words."""
Run = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Study:
    """Runs of a study. arms: in the order of its file. published: accuracies in % by arm and data set."""

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

    def size_of(self, arm: str) -> str:
        """How many bases and seeds there are, as in "3 x 3"; seeds alone for an arm without a set."""
        runs = self.select(arm)
        num_bases, num_seeds = (len({run[name] for run in runs}) for name in ("base", "seed"))
        return f"{num_seeds}" if runs and runs[0]["base"] is None else f"{num_bases} x {num_seeds}"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Difference of two arms in points. by_unit: by base, or by seed where no arm has bases.

    half_width: of the 95 % interval of the mean, by Student's t over the units; None for one unit.
    """

    mean: float
    half_width: float | None
    by_unit: Mapping[int, float]


def load(folder: Path) -> dict[str, Study]:
    """Studies by name, from the JSON files of a folder."""
    studies = {}
    for path in sorted(folder.glob("*.json")):
        values = json.loads(path.read_text("utf-8"))
        variants = yaml.safe_load((ROOT / values["study"]).read_text("utf-8"))["variants"]
        there = {run["variant"] for run in values["finetuning"]}
        machine = values["machine"]
        studies[path.stem] = Study(
            arms=[name for name in variants if name in there],
            runs=values["finetuning"],
            pretraining=values["pretraining"],
            published={name: (variants[name] or {}).get("published") or {} for name in variants},
            machine=machine["gpu"] or f"{machine['cores']} cores, {machine['cpu']}",
            measured=values["measured"],
        )
    return studies


def mean(values: Sequence[float]) -> float:
    """The mean; NaN of nothing."""
    return statistics.fmean(values) if values else math.nan


def spread(runs: Sequence[Run]) -> tuple[float, float | None, float | None]:
    """(mean over bases, standard deviation of the bases' means, standard deviation of seeds within a base), in %.

    An arm without bases has no second one, and one seed a base has no third.
    """
    by_base: dict[int | None, list[float]] = {}
    for run in runs:
        by_base.setdefault(run["base"], []).append(100 * run["accuracy"])
    means = [mean(values) for values in by_base.values()]
    variances = [statistics.variance(values) for values in by_base.values() if len(values) > 1]
    between = statistics.stdev(means) if len(means) > 1 else None
    return mean(means), between, math.sqrt(mean(variances)) if variances else None


def difference(study: Study, arm: str, other: str, **where: Any) -> Difference | None:
    """The difference of two arms, each run held against the other arm's of the same seed, and base where it has any."""
    against = {(run["base"], run["seed"], run["per_class"], run["steps"]): run for run in study.select(other, **where)}
    units: dict[int, list[float]] = {}
    for run in study.select(arm, **where):
        rest = run["seed"], run["per_class"], run["steps"]
        pair = against.get((run["base"], *rest)) or against.get((None, *rest))
        if pair is not None:
            unit = run["seed"] if run["base"] is None else run["base"]
            units.setdefault(unit, []).append(100 * (run["accuracy"] - pair["accuracy"]))
    by_unit = {unit: mean(values) for unit, values in sorted(units.items())}
    if not by_unit:
        return None
    values, half_width = list(by_unit.values()), None
    if len(values) > 1:
        half_width = T_975[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))
    return Difference(mean=mean(values), half_width=half_width, by_unit=by_unit)


def pearson(x: Sequence[float], y: Sequence[float]) -> float:
    """The correlation of two quantities; NaN where one does not vary."""
    try:
        return statistics.correlation(x, y)
    except statistics.StatisticsError:
        return math.nan


def base_points(study: Study) -> list[dict[str, float]]:
    """What each base fractal of 1p-frac is, and its mean gain over the first arm in points."""
    found = difference(study, "1p-frac", study.arms[0])
    facts = {run["base"]: run for run in study.pretraining if run["variant"] == "1p-frac"}
    if found is None:
        return []
    return [
        {"base": base, "gain": gain, **{name: facts[base].get(name, math.nan) for name in FEATURES}}
        for base, gain in found.by_unit.items()
    ]
