"""Tables of a report, made of its JSON alone: accuracies, pre-training, times; for the screen and in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from fracgen.shards.errors import printable

MEASURES = {"last": "last epoch", "chosen": "chosen epoch", "best_test": "best test epoch"}
"""Which weights are scored: those at the end of training ("last"); those of the epoch with the best accuracy on the
validation split ("chosen"); those of the epoch with the best accuracy on the test split ("best_test": the published
protocol, a maximum over epochs and so too high)."""
_SEEDS_NOTE = (
    "± is the standard deviation between fine-tuning seeds (of a sample). Differences are in points, from the first "
    "start, seed by seed; intervals of 95 % by Student's t, over seeds."
)
_BASES_NOTE = (
    "Mean over bases of the means of their seeds. Within: standard deviation between fine-tuning seeds of one base, "
    "pooled. Between: standard deviation of bases without that chance. Differences are in points, from the first "
    "start, seed by seed; intervals of 95 % by Student's t, over bases or seeds, whichever is wider."
)


def report_tables(report: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """By title, rows of cells, headings first: accuracies for each number of images, pre-training, times."""
    by_title = {
        section_title(report, section): _accuracy_table(section["measures"], report.get("variants", {}))
        for section in report["sections"]
        if section["measures"]
    }
    if report.get("pretraining"):
        by_title["pre-training"] = _pretraining_table(report["pretraining"])
    if "seconds" in report:
        by_title["time"] = _time_table(report["seconds"], report["by_the_clock"], report["machine"]["jobs"])
    return by_title


def note(report: Mapping[str, Any]) -> str:
    """What the columns are, in words."""
    return _BASES_NOTE if any(_several_bases(section["measures"]) for section in report["sections"]) else _SEEDS_NOTE


def section_title(report: Mapping[str, Any], section: Mapping[str, Any]) -> str:
    """What a section's accuracies are of."""
    per_class = section["per_class"]
    score = "mean accuracy of the classes" if report.get("score") == "mean_per_class" else "accuracy"
    return f"{score} on {report['split']}" + (f", {per_class} training images a class" if per_class else "")


def to_text(report: Mapping[str, Any]) -> str:
    """A report's tables for the screen, each under its title, and what the columns are."""
    by_title = [f"{title}\n{aligned(rows)}" for title, rows in report_tables(report).items()]
    return "\n\n".join([*by_title, note(report)])


def to_markdown(by_title: Mapping[str, list[list[str]]]) -> str:
    """Tables in Markdown, each under its title as a heading."""
    return "\n\n".join(f"## {title[0].upper()}{title[1:]}\n\n{markdown(rows)}" for title, rows in by_title.items())


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A table for the screen: the first column aligned left, the others right; control characters are escapes."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(cells))
        for cells in (zip(row, widths, strict=True) for row in rows)
    )
    return "\n".join(line.rstrip() for line in lines)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; control characters and bars in cells are escapes."""
    rule = ["---", *["---:"] * (len(rows[0]) - 1)]
    first, *others = [[printable(cell).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (first, rule, *others))


def _several_bases(measures: Mapping[str, Any]) -> bool:
    return any(each["n_bases"] > 1 for summaries in measures.values() for each in summaries.values())


def _accuracy_table(measures: Mapping[str, Any], variants: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    several = _several_bases(measures)
    spreads = ["between", "within"] if several else ["±"]
    published = {name: each["published"] for name, each in variants.items()}
    data_sets = dict.fromkeys(name for each in published.values() for name in each)
    head = ["start", "runs"]
    for measure in measures:
        head += [f"{MEASURES[measure]}, %", *spreads, "difference", "95 % interval", "better in"]
    rows = [[*head, *(f"published, {name}" for name in data_sets)]]
    for name, first in next(iter(measures.values())).items():
        bases, runs = first["n_bases"], first["n_runs"]
        row = [name, f"{bases} x {runs / bases:.3g}" if bases > 1 else str(runs)]
        for summaries in measures.values():
            row += _cells(summaries[name], several)
        rows.append([*row, *(f"{published[name][each]:.1f}" if each in published[name] else "" for each in data_sets)])
    return rows


def _cells(summary: Mapping[str, Any], several: bool) -> list[str]:
    between = [_percent(summary["std_between"])] if several else []
    cells = [_percent(summary["mean"]), *between, _percent(summary["std_within"])]
    difference = summary["difference"]
    if difference is None:
        return [*cells, "", "", ""]
    ends = "-"
    if difference["interval"] is not None:
        ends = " to ".join(f"{100 * end:+.2f}" for end in difference["interval"])
        ends += f" ({difference['unit']})" if several else ""
    return [*cells, _percent(difference["mean"], "+.2f"), ends, f"{difference['better']} of {difference['n']}"]


def _percent(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else f"{100 * value:{form}}"


def _pretraining_table(pretraining: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[list[str]]:
    head = ["start", "base", "told apart, %", "on crops, %", "loss", "fill rate, %", "acceptance, %", "time"]
    rows = [
        [
            name,
            base,
            _percent(each.get("clean_accuracy"), ".1f"),
            _percent(each.get("crop_accuracy"), ".1f"),
            f"{each['loss']:.3f}" if "loss" in each else "-",
            _percent(each.get("fill_rate"), ".1f"),
            _percent(each.get("acceptance"), ".1f"),
            _duration(each["seconds"]),
        ]
        for name, bases in pretraining.items()
        for base, each in bases.items()
    ]
    return [head, *rows]


def _time_table(seconds: Mapping[str, float], by_the_clock: float, jobs: int) -> list[list[str]]:
    by_name: dict[str, float] = {}
    for name, each in seconds.items():
        short = name.rpartition(".base-")[0] or name
        by_name[short] = by_name.get(short, 0.0) + each
    rows = [[name, _duration(each)] for name, each in by_name.items()]
    clock = [["by the clock", _duration(by_the_clock)]] if jobs > 1 else []
    return [["step", "time"], *rows, ["in all", _duration(sum(seconds.values()))], *clock]


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
