"""The report of a suite: suite.json, and its tables, made of that alone.

suite.json, with accuracies from 0 to 1:

    format, version   "fracgen-suite", 1
    suite, about      its name and its own line
    protocol          name ("honest" or "published") and about
    starts            names, in the order of the table; differences are from the first
    seeds, complete   of fine-tuning; whether every run of every task is in it
    tasks             by name: group, in_mean, metric, classes, about, get; absent: why its images are not here, or "";
                      images: by role; difference: from the published numbers of images, in words; split: "test" or
                      "val"; measures: as of study.json, by `tables.MEASURES` and start; settings: of one run
    means             by group ("all" over several): of: how many tasks it has; by measure, tasks: those of which every
                      start has all seeds, and measures: as above, of the means over these seed by seed
    published         columns by name: source, tasks, means, in %
    machine           as of study.json
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fracgen.train.experiments import nested
from fracgen.train.experiments.suite_file import ProtocolName, Suite
from fracgen.train.experiments.suite_tasks import TaskData
from fracgen.train.experiments.tables import MEASURES, aligned, markdown

_NOTE = (
    "± is the standard deviation between fine-tuning seeds (of a sample); that of a mean is between the seeds' means "
    "over its tasks. Differences are in points, from the first start, seed by seed; intervals of 95 % by Student's t, "
    "over seeds."
)


@dataclass(frozen=True, kw_only=True)
class _Difference:
    mean: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class _Summary:
    accuracies: Mapping[str, Mapping[str, float]]
    n_runs: int
    mean: float | None
    std_within: float | None
    difference: _Difference | None


@dataclass(frozen=True, kw_only=True)
class EarlierReport:
    """What is read back of suite.json. tasks: entries by name, each to be checked as a `TaskEntry`."""

    suite: str
    protocol: Mapping[str, str]
    seeds: tuple[int, ...]
    tasks: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class TaskEntry:
    """What tables and figure need of a task's entry."""

    metric: str
    classes: int
    about: str
    get: str
    absent: str
    images: Mapping[str, int]
    difference: str
    measures: Mapping[str, Mapping[str, _Summary]]


def gather(
    suite: Suite,
    protocol: ProtocolName,
    *,
    starts: Sequence[str],
    seeds: Sequence[int],
    tasks: Iterable[TaskData],
    reports: Mapping[str, Mapping[str, Any]],
    kept: Mapping[str, Any],
    machine: Mapping[str, Any],
) -> dict[str, Any]:
    """What suite.json holds.

    reports: what `summarize_runs` says of the tasks that have runs, and `settings`. kept: entries of further tasks.
    """
    known = {**kept, **{data.name: _entry(data, reports.get(data.name)) for data in tasks}}
    entries = {name: known[name] for name in suite.tasks if name in known}
    groups = {group: names for group, names in suite.groups().items() if any(name in entries for name in names)}
    return {
        "format": "fracgen-suite",
        "version": 1,
        "suite": suite.name,
        "about": suite.about,
        "protocol": {"name": protocol, "about": getattr(suite.protocols, protocol).about},
        "starts": list(starts),
        "seeds": list(seeds),
        "complete": all(
            any(_has_all(entry, measure, starts, seeds) for measure in entry["measures"]) for entry in entries.values()
        ),
        "tasks": entries,
        "means": {group: _mean(names, entries, starts, seeds) for group, names in groups.items()},
        "published": {
            name: {"source": column.source, "tasks": dict(column.tasks), "means": dict(column.means)}
            for name, column in suite.published.items()
        },
        "machine": dict(machine),
    }


def _entry(data: TaskData, report: Mapping[str, Any] | None) -> dict[str, Any]:
    task = data.task
    return {
        "group": task.group,
        "in_mean": task.in_mean,
        "metric": task.metric,
        "classes": task.classes,
        "about": task.about,
        "get": task.get,
        "absent": data.absent,
        "images": data.images,
        "difference": data.difference,
        "split": report["split"] if report else None,
        "measures": report["sections"][0]["measures"] if report else {},
        "settings": report.get("settings", {}) if report else {},
    }


def _mean(
    names: Sequence[str], entries: Mapping[str, Any], starts: Sequence[str], seeds: Sequence[int]
) -> dict[str, Any]:
    """The mean over a group's tasks that are complete, seed by seed, as summaries by measure and start."""
    known = {name: entries[name] for name in names if name in entries}
    complete = {
        measure: [name for name, entry in known.items() if _has_all(entry, measure, starts, seeds)]
        for measure in MEASURES
    }
    measures = {}
    for measure, tasks in complete.items():
        if tasks:
            by_start: dict[str, nested.Accuracies] = {}
            for start in starts:
                values = [_by_seed(entries[name]["measures"][measure], start) for name in tasks]
                by_start[start] = {None: {seed: statistics.fmean(each[str(seed)] for each in values) for seed in seeds}}
            measures[measure] = nested.summarize(by_start)
    return {"of": len(names), "tasks": complete, "measures": measures}


def _has_all(entry: Mapping[str, Any], measure: str, starts: Sequence[str], seeds: Sequence[int]) -> bool:
    """Whether a task has all runs by this measure."""
    summaries = entry["measures"].get(measure, {})
    return all({str(seed) for seed in seeds} <= set(_by_seed(summaries, start)) for start in starts)


def _by_seed(summaries: Mapping[str, Any], start: str) -> Mapping[str, float]:
    return summaries[start]["accuracies"].get("0", {}) if start in summaries else {}


def to_text(report: Mapping[str, Any]) -> str:
    """The tables for the screen, and what there is to say of them."""
    parts = [f"{title}\n{aligned(rows)}" for title, rows in suite_tables(report).items()]
    return "\n\n".join([*parts, *notes(report)])


def to_check(report: Mapping[str, Any]) -> str:
    """What is there of each task, without any run."""
    rows = [["task", "classes", "metric", "train", "val", "test"]]
    for name, entry in report["tasks"].items():
        images = [f"{entry['images'][role]:,}" if role in entry["images"] else "-" for role in ("train", "val", "test")]
        rows.append([name, str(entry["classes"]), entry["metric"], *images])
    return "\n\n".join([aligned(rows), *notes(report)])


def to_markdown(report: Mapping[str, Any]) -> str:
    """The same as a page."""
    parts = [f"## {title[0].upper()}{title[1:]}\n\n{markdown(rows)}" for title, rows in suite_tables(report).items()]
    return "\n\n".join([f"# {report['suite']}: {report['about']}", *parts, *notes(report)]) + "\n"


def suite_tables(report: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """By title, rows of cells, headings first: accuracies by each measure, differences."""
    entries = report["tasks"]
    protocol = report["protocol"]["name"]
    measured = [each for each in MEASURES if any(each in entry["measures"] for entry in entries.values())]
    tables = {f"accuracy in %, {MEASURES[each]}, protocol {protocol}": _accuracies(report, each) for each in measured}
    if measured and len(report["starts"]) > 1:
        measure = main_measure(report)
        tables[f"difference from {report['starts'][0]} in points, {MEASURES[measure]}"] = _differences(report, measure)
    return tables


def notes(report: Mapping[str, Any]) -> list[str]:
    """What is worth a word: tasks without images, the protocol, sizes, where published numbers stand."""
    entries = report["tasks"]
    lines = [
        f"no images, {name}: {entry['absent']}" + (f"; {entry['get']}" if entry["get"] else "")
        for name, entry in entries.items()
        if entry["absent"]
    ]
    protocol = report["protocol"]
    lines += [f"protocol {protocol['name']}" + (f": {protocol['about']}" if protocol["about"] else "")]
    lines += [f"{name}: {entry['about']}" for name, entry in entries.items() if entry["about"]]
    lines += [f"{name}: {entry['difference']}" for name, entry in entries.items() if entry["difference"]]
    for name, column in report["published"].items():
        means = (
            "" if has_column(report, name) else f"{', '.join(f'{value:.1f}' for value in column['means'].values())}; "
        )
        lines.append(f"published{'' if not means else ' mean'}, {name}: {means}{column['source']}")
    text = "\n".join(f"- {line}" for line in lines)
    return [text, _NOTE] if any(entry["measures"] for entry in entries.values()) else [text]


def main_measure(report: Mapping[str, Any]) -> str:
    """The measure that most tasks have; of several, the one that is told last."""
    counts = {each: sum(each in entry["measures"] for entry in report["tasks"].values()) for each in MEASURES}
    return max(reversed(counts), key=counts.__getitem__)


def rows_of(report: Mapping[str, Any], measure: str) -> list[tuple[str, Mapping[str, Any], str, str]]:
    """(title, summaries by start, kind, key) of each row: kind is "tasks" or "means", key the task or the group."""
    rows = [(name, entry["measures"].get(measure, {}), "tasks", name) for name, entry in report["tasks"].items()]
    for group, mean in report["means"].items():
        count, of = len(mean["tasks"][measure]), mean["of"]
        title = "mean" if group == "mean" else f"mean, {group}"
        suffix = f" ({count})" if count == of else f" ({count} of {of})"
        rows.append((title + suffix, mean["measures"].get(measure, {}), "means", group))
    return rows


def has_column(report: Mapping[str, Any], column: str) -> bool:
    """Whether published numbers are of a task in the table; means alone are said below it."""
    return not report["tasks"].keys().isdisjoint(report["published"][column]["tasks"])


def published_of(report: Mapping[str, Any], column: str, measure: str, kind: str, key: str) -> float | None:
    """The published number beside a row, in %; None beside a mean over fewer tasks than the published one."""
    if kind == "means" and len(report["means"][key]["tasks"][measure]) < report["means"][key]["of"]:
        return None
    value: float | None = report["published"][column][kind].get(key)
    return value


def _accuracies(report: Mapping[str, Any], measure: str) -> list[list[str]]:
    starts, columns = report["starts"], [name for name in report["published"] if has_column(report, name)]
    by_metric = any(entry["metric"] != "accuracy" for entry in report["tasks"].values())
    head = ["task", *(["metric"] if by_metric else []), "train / test", *starts]
    rows = [[*head, *(f"published, {name}" for name in columns)]]
    for title, summaries, kind, key in rows_of(report, measure):
        entry = report["tasks"][key] if kind == "tasks" else None
        images = entry["images"] if entry else {}
        sizes = f"{images.get('train', 0):,} / {images.get('test', 0):,}" if images else ""
        metric = [entry["metric"] if entry else ""] if by_metric else []
        published = [published_of(report, name, measure, kind, key) for name in columns]
        rows.append(
            [
                title,
                *metric,
                sizes,
                *(_cell(summaries.get(start), len(report["seeds"])) for start in starts),
                *("" if value is None else f"{value:.1f}" for value in published),
            ]
        )
    return rows


def _cell(summary: Mapping[str, Any] | None, num_seeds: int) -> str:
    if summary is None or summary["mean"] is None:
        return "-"
    spread = "" if summary["std_within"] is None else f" ± {100 * summary['std_within']:.2f}"
    count = f" ({summary['n_runs']} of {num_seeds})" if summary["n_runs"] < num_seeds else ""
    return f"{100 * summary['mean']:.2f}{spread}{count}"


def _differences(report: Mapping[str, Any], measure: str) -> list[list[str]]:
    rows = [["task", *report["starts"][1:]]]
    for title, summaries, _, _ in rows_of(report, measure):
        rows.append([title, *(_difference(summaries.get(start)) for start in report["starts"][1:])])
    return rows


def _difference(summary: Mapping[str, Any] | None) -> str:
    if summary is None or summary["difference"] is None:
        return "-"
    difference = summary["difference"]
    ends = difference["interval"]
    interval = "" if ends is None else f" ({100 * ends[0]:+.2f} to {100 * ends[1]:+.2f})"
    return f"{100 * difference['mean']:+.2f}{interval}"
