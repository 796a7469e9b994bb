"""The report of a study: study.json, which holds everything that was measured, and tables made of it alone.

study.json, with accuracies from 0 to 1 and times in seconds:

    format, version   "fracgen-study", 1
    about, size       the study's own line; "laptop" or "published"
    seeds, bases      fine-tuning seeds; number of bases of each variant with a set
    variants          by name, in the order of the table: render, init, pretrain, published, as in the study's file
    split, complete   what accuracy is of: "test" or "val"; whether every run is in it
    sections          for each number of images a class: per_class (None: all); measures: by `tables.MEASURES`, by
                      variant, what `nested.summarize` says; curves: quantity, and by variant rows of
                      (step, mean, standard deviation or None) over all its runs
    pretraining       by variant and base: what pre-training and its set were like, as `measure_pretraining` says
    settings          pretrain, finetune: resolved settings of one run of each, without paths and seed
    seconds           by step, of its programs one after the other; by_the_clock: while the study ran
    machine           device, cores, jobs (programs at a time), threads (of each), versions of Python and libraries
"""

from collections.abc import Mapping
from typing import Any

from fracgen.train.experiments import tables
from fracgen.train.experiments.report import section_title

FORMAT, VERSION = "fracgen-study", 1

NOTE = (
    "Mean over bases of the means of their seeds. Within: standard deviation between fine-tuning seeds of one base, "
    "pooled. Between: standard deviation of bases without that chance. Differences are from the first variant, seed by "
    "seed; intervals of 95 % by Student's t, over bases where there are several, else over seeds."
)


def study_tables(report: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """By title, rows of cells, headings first: accuracies for each number of images, pre-training, times."""
    published = {name: each["published"] for name, each in report["variants"].items()}
    by_title = {
        section_title(report, section): _accuracy_table(section["measures"], published)
        for section in report["sections"]
        if section["measures"]
    }
    if rows := _pretraining_rows(report["pretraining"]):
        by_title["pre-training"] = rows
    return {**by_title, "time": _time_table(report["seconds"], report["by_the_clock"], report["machine"]["jobs"])}


def _accuracy_table(measures: Mapping[str, Any], published: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    several = any(each["n_bases"] > 1 for summaries in measures.values() for each in summaries.values())
    spreads = ["between", "within"] if several else ["±"]
    data_sets = dict.fromkeys(name for each in published.values() for name in each)
    head = ["start", "runs"]
    for measure in measures:
        head += [f"{tables.MEASURES[measure]}, %", *spreads, "difference", "95 % interval", "better in"]
    rows = [[*head, *(f"published, {name}" for name in data_sets)]]
    for name in next(iter(measures.values()), {}):
        row, first = [name], next(iter(measures.values()))[name]
        row.append(
            f"{first['n_bases']} x {first['n_runs'] / first['n_bases']:.3g}"
            if first["n_bases"] > 1
            else str(first["n_runs"])
        )
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


def _pretraining_rows(pretraining: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[list[str]]:
    head = ["start", "base", "told apart, %", "on crops, %", "loss", "fill rate, %", "acceptance, %", "time"]
    rows = [
        [
            name,
            base,
            _percent(each.get("clean_accuracy"), ".1f"),
            _percent(each.get("crop_accuracy"), ".1f"),
            f"{each['loss']:.3f}" if "loss" in each else "-",
            _percent(each["fill_rate"], ".1f"),
            _percent(each["acceptance"], ".1f"),
            _duration(each["seconds"]),
        ]
        for name, bases in pretraining.items()
        for base, each in bases.items()
    ]
    return [head, *rows] if rows else []


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
