"""The report of a comparison or study: accuracies and training curves of its finished runs; NAME.json, .md and .png."""

import json
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fracgen.shards.errors import DataError, printable
from fracgen.shards.files import write_atomically
from fracgen.train.engine import metrics
from fracgen.train.engine.results import RESULTS
from fracgen.train.experiments import figure, nested, tables
from fracgen.train.experiments.comparison import Comparison, FinetuneRun
from fracgen.train.experiments.finished_runs import read_or_none

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
    results = {run: _results(run) for run in finished}
    return {
        "seeds": list(comparison.seeds),
        "split": next((each["split"] for each in results.values()), None),
        "score": next(map(score_of, results.values()), None),
        "complete": len(finished) == len(comparison.runs()),
        "sections": [
            _section(per_class, {run: each for run, each in results.items() if run.per_class == per_class}, bases)
            for per_class in comparison.per_class
        ],
    }


def _results(run: FinetuneRun) -> dict[str, Any]:
    results = read_or_none(run.path / RESULTS)
    if results is None or "split" not in results:
        raise DataError(f"{run.path / RESULTS}: cannot be read; remove {run.path}, and the same command goes on")
    return results


def _section(
    per_class: int, results: Mapping[FinetuneRun, Mapping[str, Any]], bases: Mapping[str, tuple[str, int | None]]
) -> dict[str, Any]:
    measures = {}
    for measure in tables.MEASURES:
        accuracies: dict[str, dict[int | None, dict[int, float]]] = {variant: {} for variant, _ in bases.values()}
        for run, each in results.items():
            variant, base = bases[run.start]
            best = "best_test" if each["protocol"] == "published" else "chosen"
            entry = "last" if measure == "last" else "best" if measure == best and each["split"] == "test" else ""
            if entry in each:
                accuracies[variant].setdefault(base, {})[run.seed] = each[entry][score_of(each)]
        if any(accuracies.values()):
            measures[measure] = nested.summarize(accuracies)
    return {"per_class": per_class or None, "measures": measures, "curves": _curves(results, bases)}


def score_of(results: Mapping[str, Any]) -> str:
    """The entry of a run's results that its metric is, as in "top1"."""
    return "mean_per_class" if results.get("config", {}).get("metric") == "mean-per-class" else "top1"


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
