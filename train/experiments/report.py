"""The report of a comparison or study: accuracies and training curves of its finished runs; NAME.json, .md and .png."""

import json
import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fracgen.shards.errors import DataError, printable
from fracgen.shards.files import read_json, write_atomically
from fracgen.shards.settings import from_json
from fracgen.train.engine import metrics
from fracgen.train.engine.results import RESULTS
from fracgen.train.experiments import figure, nested, tables
from fracgen.train.experiments.comparison import Comparison, FinetuneRun

_MAX_POINTS = 40
"""Rows of a training curve."""


def write_report(report: Mapping[str, Any], path: Path, *, heading: str = "") -> None:
    """Write PATH.json, PATH.md under a heading, and PATH.png if there is any result.

    report: what `summarize_runs` returns, and of a study what `study_report` adds.
    Raises DataError for files that cannot be written.
    """
    write_atomically(path.with_name(f"{path.name}.json"), json.dumps(report, separators=(",", ":")) + "\n")
    head = f"# {printable(heading)}\n\n" if heading else ""
    text = tables.to_markdown(tables.report_tables(report))
    write_atomically(path.with_name(f"{path.name}.md"), f"{head}{text}\n\n{tables.note(report)}\n")
    figure.draw(report, path.with_name(f"{path.name}.png"))


def summarize_runs(
    comparison: Comparison,
    finished: Collection[FinetuneRun],
    bases: Mapping[str, tuple[str, int | None]] | None = None,
) -> dict[str, Any]:
    """What a report says of runs of fine-tuning: seeds, split, complete, sections (see `study_report`).

    bases: by start, the variant that it is a base of, and its number, None for one without a set; without `bases`, each
        start is a variant of its own.
    Raises DataError for results that cannot be read.
    """
    bases = bases or {name: (name, None) for name in comparison.starts}
    results = {run: _read_results(run) for run in finished}
    return {
        "seeds": list(comparison.seeds),
        "split": next((each.split for each in results.values()), None),
        "score": next((each.score for each in results.values()), None),
        "complete": len(finished) == len(comparison.runs()),
        "sections": [
            _section(per_class, {run: each for run, each in results.items() if run.per_class == per_class}, bases)
            for per_class in comparison.per_class
        ],
    }


@dataclass(frozen=True, kw_only=True)
class _Accuracies:
    top1: float
    mean_per_class: float = math.nan  # results of 0.3 have none


@dataclass(frozen=True, kw_only=True)
class _Results:
    """What is read of results.json. score: the entry of accuracies that its metric is."""

    protocol: str
    split: str
    last: _Accuracies
    best: _Accuracies | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def score(self) -> str:
        return "mean_per_class" if self.config.get("metric") == "mean-per-class" else "top1"


def _read_results(run: FinetuneRun) -> _Results:
    path = run.path / RESULTS
    try:
        return from_json(_Results, read_json(path))
    except (DataError, TypeError) as error:
        fault = str(error).removeprefix(f"{path}: ")
        raise DataError(f"{path}: damaged ({fault}); remove {run.path}, and the same command goes on") from None


def _section(
    per_class: int, results: Mapping[FinetuneRun, _Results], bases: Mapping[str, tuple[str, int | None]]
) -> dict[str, Any]:
    measures = {}
    for measure in tables.MEASURES:
        accuracies: dict[str, dict[int | None, dict[int, float]]] = {variant: {} for variant, _ in bases.values()}
        for run, each in results.items():
            variant, base = bases[run.start]
            best = "best_test" if each.protocol == "published" else "chosen"
            entry = each.last if measure == "last" else each.best if measure == best and each.split == "test" else None
            if entry is not None:
                accuracies[variant].setdefault(base, {})[run.seed] = getattr(entry, each.score)
        if any(accuracies.values()):
            measures[measure] = nested.summarize(accuracies)
    return {"per_class": per_class or None, "measures": measures, "curves": _curves(results, bases)}


def _curves(runs: Iterable[FinetuneRun], bases: Mapping[str, tuple[str, int | None]]) -> dict[str, Any]:
    """The accuracy that the epoch was chosen by where there is one, else the loss; by variant, over all its runs."""
    lines = {run: metrics.read(run.path / metrics.METRICS) for run in runs}
    logged = {name for each in lines.values() for line in each for name in line}
    quantity = next((name for name in ("val_accuracy", "test_accuracy") if name in logged), "loss")
    by_step: dict[str, dict[int, list[float]]] = {variant: {} for variant, _ in bases.values()}
    for run, each in lines.items():
        for line in each:
            if quantity in line:
                by_step[bases[run.start][0]].setdefault(line["step"], []).append(line[quantity])
    return {
        "quantity": quantity.replace("_", " "),
        "variants": {variant: _mean_curve(values) for variant, values in by_step.items()},
    }


def _mean_curve(by_step: Mapping[int, Sequence[float]]) -> list[list[float | None]]:
    """Rows of (step, mean, standard deviation of a sample), evenly spaced. by_step: values of the runs."""
    steps, last = sorted(by_step), len(by_step) - 1
    chosen = {steps[round(each * last / (_MAX_POINTS - 1))] for each in range(_MAX_POINTS)} if steps else set[int]()
    return [
        [
            step,
            round(statistics.fmean(by_step[step]), 5),
            round(statistics.stdev(by_step[step]), 5) if len(by_step[step]) > 1 else None,
        ]
        for step in sorted(chosen)
    ]
