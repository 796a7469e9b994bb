"""The report of a comparison: compare.json, compare.md and compare.png of the runs that are finished."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from fracgen.shards.errors import DataError
from fracgen.shards.files import write_atomically
from fracgen.train.engine.results import RESULTS
from fracgen.train.experiments import tables
from fracgen.train.experiments.comparison import Comparison, FinetuneRun
from fracgen.train.experiments.finished_runs import read_or_none

REPORT = "compare"
NOTE = "± is the standard deviation over seeds (of a sample); differences are from the first start, seed by seed."


def write_report(comparison: Comparison, finished: Collection[FinetuneRun], *, draw: bool = True) -> dict[str, Any]:
    """Write the three files; returns what compare.json holds. draw: whether to write the figure.

    Raises DataError for results that cannot be read.
    """
    report = summarize_runs(comparison, finished)
    write_atomically(comparison.out / f"{REPORT}.json", json.dumps(report, indent=1))
    write_atomically(comparison.out / f"{REPORT}.md", f"{to_markdown(report_tables(report))}\n\n{NOTE}\n")
    sections = [section for section in report["sections"] if section["measures"]]
    if sections and draw:
        bars = {section_title(report, each): list(each["measures"].items())[-1] for each in sections}
        by_step = {
            section_title(report, each): curves(comparison, finished, each["per_class"] or 0) for each in sections
        }
        tables.draw(bars, by_step, comparison.out / f"{REPORT}.png")
    return report


def summarize_runs(comparison: Comparison, finished: Collection[FinetuneRun]) -> dict[str, Any]:
    """What compare.json holds: a section for each number of images a class, in it `tables.summarize` by measure."""
    sections, splits = [], set()
    for per_class in comparison.per_class:
        scores: dict[str, dict[str, dict[int, float]]] = {
            measure: {name: {} for name in comparison.starts} for measure in tables.MEASURES
        }
        for run in (run for run in finished if run.per_class == per_class):
            results = _results(run)
            splits.add(results["split"])
            chosen = "best_test" if results["protocol"] == "published" else "chosen"
            for measure, entry in (("last", "last"), (chosen, "best")):
                if entry in results and (measure == "last" or results["split"] == "test"):
                    scores[measure][run.start][run.seed] = results[entry]["top1"]
        measures = {name: tables.summarize(each) for name, each in scores.items() if any(each.values())}
        sections.append({"per_class": per_class or None, "measures": measures})
    return {
        "split": next(iter(splits), None),
        "starts": dict(comparison.starts),
        "seeds": list(comparison.seeds),
        "complete": len(finished) == len(comparison.runs()),
        "sections": sections,
    }


def _results(run: FinetuneRun) -> dict[str, Any]:
    results = read_or_none(run.path / RESULTS)
    if results is None or "split" not in results:
        raise DataError(f"{run.path / RESULTS}: cannot be read; remove {run.path}, and the same command goes on")
    return results


def report_tables(
    report: Mapping[str, Any], extra_columns: Mapping[str, Mapping[str, str]] | None = None
) -> dict[str, list[list[str]]]:
    """By title, the table (`tables.table`) of each section that has results."""
    return {
        section_title(report, section): tables.table(section["measures"], extra_columns)
        for section in report["sections"]
        if section["measures"]
    }


def to_text(by_title: Mapping[str, list[list[str]]]) -> str:
    """Tables for the screen, each under its title."""
    return "\n\n".join(f"{title}\n{tables.aligned(rows)}" for title, rows in by_title.items())


def to_markdown(by_title: Mapping[str, list[list[str]]]) -> str:
    """Tables in Markdown, each under its title as a heading."""
    return "\n\n".join(
        f"## {title[0].upper()}{title[1:]}\n\n{tables.markdown(rows)}" for title, rows in by_title.items()
    )


def section_title(report: Mapping[str, Any], section: Mapping[str, Any]) -> str:
    """What a section's accuracies are of. report: what compare.json or study.json holds."""
    per_class = section["per_class"]
    return f"accuracy on {report['split']}" + (f", {per_class} training images a class" if per_class else "")


def curves(comparison: Comparison, finished: Collection[FinetuneRun], per_class: int) -> tuple[str, tables.Curves]:
    """(quantity, its curves): the accuracy that the epoch was chosen by where there is one, else the loss."""
    from fracgen.train.engine import metrics

    lines = {run: metrics.read(run.path / metrics.METRICS) for run in finished if run.per_class == per_class}
    names = {name for each in lines.values() for line in each for name in line}
    quantity = next((name for name in ("val_accuracy", "test_accuracy") if name in names), "loss")
    by_start = {
        start: [
            [(line["step"], line[quantity]) for line in each if quantity in line]
            for run, each in lines.items()
            if run.start == start
        ]
        for start in comparison.starts
    }
    return quantity.replace("_", " "), by_start
