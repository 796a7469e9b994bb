"""Makes every table and plot of docs/results.md and docs/sweeps.md from the JSON files beside this script.

python examples/results/report.py

A table stands between `<!-- results: NAME -->` and `<!-- end -->`; what is there is replaced. Plots go to docs/plots.
Of a study that was not run, the page says so. collect.py makes the files from the folders of studies.
"""

import json
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis import (
    FEATURES,
    SCORES,
    Study,
    base_points,
    joined,
    load,
    mean,
    pearson,
    permutation_p,
    probed_arms,
    spearman,
    summarize,
)

from fracgen.shards.files import write_atomically
from fracgen.train.experiments import nested

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
BLOCK = re.compile(r"(<!-- results: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
PAGES = ("results.md", "sweeps.md")
SWEEPS = ("delta", "sigma", "classes", "noise", "photo", "augmentation", "masks", "perturbation", "formula")
Rows = list[list[str]]


def arms(study: Study) -> Rows:
    """Accuracy of each arm by images a class, and how far it is from the first arm."""
    counts = sorted({run["per_class"] for run in study.runs})
    rows = [["arm", "bases x seeds", "told apart, %"]]
    rows[0] += [each for count in counts for each in (f"{count} a class", "difference")]
    for arm in study.arms:
        row = [arm, study.size_of(arm), told_apart(study, arm)]
        for count in counts:
            row += [accuracy(study, arm, per_class=count), gap(study, arm, study.arms[0], per_class=count)]
        rows.append(row)
    return rows


def contrasts(study: Study) -> Rows:
    """Differences of two arms: set and initialisation, their sum and each of them, set and set."""
    counts = sorted({run["per_class"] for run in study.runs})
    pairs = [
        *(("1p-frac", arm) for arm in ("impulse", "mimetic")),
        ("impulse+1p-frac", "impulse"),
        ("impulse+1p-frac", "1p-frac"),
        ("mimetic+1p-frac", "mimetic"),
        ("mimetic+1p-frac", "1p-frac"),
        *(("1p-frac", arm) for arm in ("gaussian", "uniform", "ofdb", "fractaldb", "visualatom", "photo")),
        *(("ofdb", arm) for arm in ("impulse", "mimetic", "uniform")),
    ]
    rows = [["arm", "less arm", *(f"{count} a class" for count in counts)]]
    for one, other in pairs:
        cells = [gap(study, one, other, per_class=count) for count in counts]
        if any(cells):
            rows.append([one, other, *cells])
    return rows


def lengths(study: Study) -> Rows:
    """Accuracy of each arm by the length of fine-tuning, and how far it is from scratch."""
    steps = sorted({run["steps"] for run in study.runs})
    rows = [["arm", *(each for count in steps for each in ("bases x seeds", f"{count:,} steps", "difference"))]]
    for arm in study.arms:
        row = [arm]
        for count in steps:
            row += [study.size_of(arm, steps=count), accuracy(study, arm, steps=count)]
            row += [gap(study, arm, study.arms[0], steps=count)]
        rows.append(row)
    return rows


def bases(study: Study) -> Rows:
    """A row for each base fractal, the best first; all of them; how each quantity goes along with the gain."""
    points = base_points(study)
    rows = [["base", *FEATURES.values(), "accuracy", "difference from scratch"]]
    for point in sorted(points, key=lambda point: -point["gain"]):
        cells = [number(point[name], percent="%" in label) for name, label in FEATURES.items()]
        rows.append([str(point["base"]), *cells, f"{point['accuracy']:.1f}", f"{point['gain']:+.1f}"])
    rows.append(["all", *[""] * len(FEATURES), accuracy(study, "1p-frac"), gap(study, "1p-frac", study.arms[0])])
    if len(points) > 3:
        correlations = [pearson([p[name] for p in points], [p["gain"] for p in points]) for name in FEATURES]
        cells = [f"{r:+.2f} [{low:+.2f}, {high:+.2f}]" for r, (low, high) in correlations]
        rows.append(["correlation with the difference", *cells, "", ""])
    return rows


def variants(study: Study) -> Rows:
    """A sweep: how many classes were told apart, accuracy, differences from scratch and from the first variant."""
    published = {name: values for name, values in study.published.items() if values}
    data_set = next((name for values in published.values() for name in values), "")
    first = next(arm for arm in study.arms if arm != "scratch")
    rows = [["variant", "bases x seeds", "told apart, %", "accuracy", "from scratch", f"from {first}"]]
    rows[0] += [f"published, {data_set}"] if data_set else []
    for arm in study.arms:
        row = [arm, study.size_of(arm), told_apart(study, arm), accuracy(study, arm)]
        row += [gap(study, arm, "scratch"), "" if arm == "scratch" else gap(study, arm, first)]
        if data_set:
            row.append(f"{published[arm][data_set]:.1f}" if arm in published else "")
        rows.append(row)
    return rows


def search(study: Study) -> Rows:
    """The search for the recipe: how many classes each candidate told apart, and its accuracy."""
    rows = [["candidate", "bases x seeds", "told apart, %", "accuracy"]]
    for arm in study.arms:
        rows.append([arm, study.size_of(arm), told_apart(study, arm), accuracy(study, arm)])
    return rows


def told_apart(study: Study, arm: str, base: int | None = None) -> str:
    """The share of whole images whose class the net names, in %: of a base, or the mean of all; "" without classes."""
    runs = [run for run in study.pretraining if run["variant"] == arm and base in (None, run["base"])]
    clean = [run["clean_accuracy"] for run in runs if "clean_accuracy" in run]
    return number(mean(clean), percent=True) if clean else ""


def accuracy(study: Study, arm: str, **where: Any) -> str:
    """Mean over bases; standard deviations of the bases' means, and of seeds within a base, where there are several."""
    summary = summarize(study, arm, **where)
    if summary is None:
        return ""
    deviations = [100 * each for each in (summary["std_base_means"], summary["std_within"]) if each is not None]
    parts = " / ".join(f"{each:.1f}" for each in deviations)
    return f"{100 * summary['mean']:.1f}" + (f" ± {parts}" if parts else "")


def gap(study: Study, arm: str, other: str, **where: Any) -> str:
    """The mean difference of two arms in points and its 95 % interval.

    Bold where the interval holds no zero, and is over two seeds or more and, of each arm with a set, two bases or more.
    """
    summary = None if arm == other else summarize(study, arm, other, **where)
    if summary is None or summary["difference"] is None:
        return ""
    bases = [study.accuracies(each, **where).keys() - {None} for each in (arm, other)]
    return gap_text(summary["difference"], num_bases=min((len(each) for each in bases if each), default=None))


def gap_text(difference: Mapping[str, Any], *, num_bases: int | None) -> str:
    """A `difference` of `nested.summarize` as `gap` shows it.

    num_bases: of the arm that has the fewer; None where neither has a set.
    """
    text = f"{100 * difference['mean']:+.1f}"
    if difference["interval"] is None:
        return text
    low, high = (100 * each for each in difference["interval"])
    text += f" [{low:+.1f}, {high:+.1f}]"
    has_bases = num_bases is None or min(num_bases, len(difference["by_base"])) > 1
    is_over_enough = has_bases and len(difference["by_seed"]) > 1
    return f"**{text}**" if is_over_enough and (low > 0 or high < 0) else text


def number(value: float, *, percent: bool) -> str:
    """A share in percent, or a plain number."""
    return f"{100 * value:.0f}" if percent else f"{value:.2f}"


def replication(studies: Mapping[str, Study]) -> Rows:
    """Gains over the first arm in a study, and in the same study when it was run before."""
    now, before = studies["equal-budget"], studies["equal-budget-first"]
    counts = sorted({run["per_class"] for run in before.runs})
    rows = [["arm", *(each for count in counts for each in (f"{count} a class", "before"))]]
    for arm in before.arms[1:]:
        row = [arm]
        for count in counts:
            row += [gap(study, arm, study.arms[0], per_class=count) for study in (now, before)]
        rows.append(row)
    return rows


def sums(studies: Mapping[str, Study]) -> Rows:
    """What 1p-frac adds to impulse weights with 500 images a class, base by base: of the study, then of more bases."""
    less, more = "impulse", "impulse+1p-frac"
    runs = [studies[name] for name in ("equal-budget", "sum") if name in studies]
    pairs = {base: (study, study) for study in runs for base in study.accuracies(more, per_class=500)}
    return base_by_base(pairs, less, more, per_class=500)


def lengths_of(per_class: int) -> Callable[[Mapping[str, Study]], Rows]:
    """`lengths` of all studies that fine-tuned on so many images a class."""
    return lambda studies: lengths(joined(studies, per_class))


def redrawn(studies: Mapping[str, Study]) -> Rows:
    """Masks drawn anew in each pass against the sweep's masks of each class's own, base by base."""
    less, more = "own-masks", "redrawn-masks"
    anew = studies["redrawn"]
    return base_by_base(dict.fromkeys(anew.accuracies(more), (studies["masks"], anew)), less, more)


def base_by_base(pairs: Mapping[int | None, tuple[Study, Study]], less: str, more: str, **where: Any) -> Rows:
    """Two arms, base by base, each as its study has it, and their difference over all; by seeds that both have.

    pairs: of each base the studies of `less` (whose runs have no base where it has no set) and of `more`.
    """
    rows = [["base", "machine", "told apart, %", less, more, "difference"]]
    pooled: dict[str, dict[int | None, Mapping[int, float]]] = {less: {}, more: {}}
    for base, (of_less, of_more) in pairs.items():
        accuracies = of_less.accuracies(less, **where)
        one, other = accuracies.get(base, accuracies.get(None, {})), of_more.accuracies(more, **where)[base]
        both = one.keys() & other.keys()
        pooled[less][base] = {seed: one[seed] for seed in one if seed in both}
        pooled[more][base] = {seed: other[seed] for seed in other if seed in both}
    summary = nested.summarize(pooled)
    for base, (_, study) in pairs.items():
        cells = [f"{100 * mean(list(pooled[arm][base].values())):.1f}" for arm in (less, more)]
        difference = f"{100 * summary[more]['difference']['by_base'][str(base)]:+.1f}"
        rows.append([str(base), study.machine, told_apart(study, more, base=base), *cells, difference])
    return [*rows, ["all", "", "", "", "", gap_text(summary[more]["difference"], num_bases=len(pairs))]]


def probes(studies: Mapping[str, Study]) -> Rows:
    """Accuracy of linear classifiers on each block's frozen features, and of neighbours on the last block's."""
    arms = probed_arms(HERE)
    num_blocks = len(next(iter(arms.values()))[0]["linear"])
    rows = [["net", "nets", *(f"block {number + 1}" for number in range(num_blocks)), "neighbours, last block"]]
    for arm, nets in arms.items():
        columns = [*zip(*(net["linear"] for net in nets), strict=True), [net["knn"][-1] for net in nets]]
        rows.append([arm, str(len(nets)), *map(mean_and_deviation, columns)])
    return rows


def scores(studies: Mapping[str, Study]) -> Rows:
    """What `fracgen score` says of each base fractal's set, and how it goes along with the gain."""
    scored = {each["base"]: each for each in json.loads((HERE / "scores.json").read_text("utf-8"))["bases"]}
    points = base_points(studies["bases"])
    gains = [point["gain"] for point in points]
    columns = [[scored[point["base"]][name] for point in points] for name in SCORES]
    rows = [["of the set", "least", "greatest", "rank correlation with the gain", "p", "p among all"]]
    for label, column, chances in zip(SCORES.values(), columns, permutation_p(columns, gains), strict=True):
        factor = 100 if "%" in label else 1
        rho, (low, high) = spearman(column, gains)
        ends = [f"{factor * end:.3g}" for end in (min(column), max(column))]
        rows.append([label, *ends, f"{rho:+.2f} [{low:+.2f}, {high:+.2f}]", *(f"{p:.2f}" for p in chances)])
    return rows


def mean_and_deviation(shares: Sequence[float]) -> str:
    """In %, with the standard deviation of a sample where there are several."""
    text = f"{100 * mean(shares):.1f}"
    return f"{text} ± {100 * statistics.stdev(shares):.1f}" if len(shares) > 1 else text


def provenance(studies: Mapping[str, Study]) -> Rows:
    """Where, when, and how much was run."""
    rows = [["study", "pre-training runs", "fine-tuning runs", "machine", "date"]]
    for name, study in studies.items():
        rows.append([name, str(len(study.pretraining)), str(len(study.runs)), study.machine, study.measured])
    return rows


TABLES: dict[str, tuple[str, Callable[[Study], Rows]]] = {
    "arms": ("equal-budget", arms),
    "contrasts": ("equal-budget", contrasts),
    "converged": ("converged", lengths),
    "bases": ("bases", bases),
    "cnn": ("cnn", variants),
    "large": ("large", variants),
    "protocols": ("protocols", variants),
    "search": ("search", search),
    **{name: (name, variants) for name in SWEEPS},
}


OF_ALL: dict[str, Callable[[Mapping[str, Study]], Rows]] = {
    "full": lengths_of(5000),
    "length-100": lengths_of(100),
    "length-500": lengths_of(500),
    "provenance": provenance,
    "probes": probes,
    "redrawn": redrawn,
    "replication": replication,
    "scores": scores,
    "sums": sums,
}
"""Tables of several studies, or of none."""


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, its first column aligned left."""
    rule = ["---", *["---:"] * (len(rows[0]) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:]))


def fill(page: str, studies: Mapping[str, Study]) -> str:
    """The page with every table as the results are now."""

    def table(match: re.Match[str]) -> str:
        name = match[2]
        if name in OF_ALL:
            text = markdown(OF_ALL[name](studies))
        else:
            source, make = TABLES[name]
            text = markdown(make(studies[source])) if source in studies else "*Not run yet.*"
        return f"{match[1]}\n{text}\n\n{match[3]}"

    return BLOCK.sub(table, page)


def main() -> None:
    """Write the pages and the plots."""
    import plots

    studies = load(HERE)
    for name in PAGES:
        page = DOCS / name
        write_atomically(page, fill(page.read_text("utf-8"), studies))
    plots.draw(studies, DOCS / "plots", probed_arms(HERE))
    print(json.dumps({name: len(study.runs) for name, study in studies.items()}))


if __name__ == "__main__":
    if sys.argv[1:]:
        print(__doc__.strip())
        sys.exit(0 if sys.argv[1:] == ["--help"] else 2)
    main()
