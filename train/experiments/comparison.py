"""Fine-tuning runs of several starts under the same settings and seeds: which there are, which are done, what came out.

A run is a folder OUT/[per-class-N/]START/seed-K. Beside its results stands what was asked for (compared.json): while
that, the images and the start's weights are the same, the run is not done again; else train/finetune.py refuses it.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fracgen.shards.errors import DataError, UsageError
from fracgen.train import options
from fracgen.train.config import Model, differences, to_values
from fracgen.train.engine.results import RESULTS
from fracgen.train.engine.run_folder import read_json, told, write_text
from fracgen.train.experiments import contrast
from fracgen.train.finetune import Finetuning, fingerprint_of

if TYPE_CHECKING:
    from fracgen.train.data.old.splits import Splits
    from fracgen.train.engine.init_weights import Start

COMPARED = "compared.json"
REPORT = "compare"
SCRATCH = "none"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_OURS = {"data": "--data", "checkpoint": "--start", "per_class": "--per-class", "run.seed": "--seed"}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What all runs have in common, in a user's words: a YAML file, overrides "name=value", where the images are."""

    config: str | None
    overrides: tuple[str, ...]
    data: str
    model: str | None

    def __post_init__(self) -> None:
        """Refuse overrides of what differs from run to run."""
        for override in self.overrides:
            name = override.partition("=")[0]
            if name in _OURS:
                raise UsageError(f"{override}: differs from run to run; give {_OURS[name]}")

    def settings(self, given: Mapping[str, Any]) -> Finetuning:
        """As train/finetune.py reads them."""
        asked = options.resolve(Finetuning, self.config, {"data": self.data, **given}, list(self.overrides))
        if not asked.data:
            raise UsageError("--data: give an image folder, shards, or a name that timm knows, as torch/cifar100")
        return asked


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run. per_class: 0 for the recipe's own. model: given to starts that are no folder."""

    start: str
    checkpoint: str
    seed: int
    per_class: int
    model: Model | None = field(hash=False)
    path: Path

    @property
    def name(self) -> str:
        """In words."""
        few = f", {self.per_class} images a class" if self.per_class else ""
        return f"{self.start}, seed {self.seed}{few}"

    def words(self, recipe: Recipe) -> list[str]:
        """What train/finetune.py is given."""
        words = ["--config", recipe.config] if recipe.config is not None else []
        words += ["--data", recipe.data] if recipe.data else []
        words += ["--checkpoint", self.checkpoint, "--seed", str(self.seed), "--out", str(self.path)]
        words += ["--per-class", str(self.per_class)] if self.per_class else []
        words += ["--model", self.model.name] if self.model else []
        if self.model and self.model.options:
            words.append(f"model.options={json.dumps(dict(self.model.options))}")
        return [*words, *recipe.overrides]

    def settings(self, recipe: Recipe) -> Finetuning:
        """What these words mean."""
        given: dict[str, Any] = {"checkpoint": self.checkpoint, "run.seed": self.seed}
        given |= {"per_class": self.per_class} if self.per_class else {}
        if self.model:
            given |= {"model.name": self.model.name}
            given |= {"model.options": dict(self.model.options)} if self.model.options else {}
        return recipe.settings(given)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Starts (name: checkpoint) to be compared, in this order, over seeds, at numbers of images a class (0: all)."""

    recipe: Recipe
    starts: Mapping[str, str]
    seeds: Sequence[int]
    per_class: Sequence[int]
    out: Path
    model: Model | None

    def trials(self) -> list[Trial]:
        """Every run, seed by seed, so that what is there when it stops can be compared."""
        return [
            Trial(
                start=name,
                checkpoint=where,
                seed=seed,
                per_class=few,
                model=None if Path(where).is_dir() else self.model,
                path=self.section_path(few) / name / f"seed-{seed}",
            )
            for seed in self.seeds
            for few in self.per_class
            for name, where in self.starts.items()
        ]

    def section_path(self, per_class: int) -> Path:
        """Where the runs of a section lie."""
        return self.out / f"per-class-{per_class}" if per_class else self.out


def parse_starts(words: Sequence[str]) -> dict[str, str]:
    """NAME=WHERE, each name once. Raises UsageError for others."""
    starts: dict[str, str] = {}
    for word in words:
        name, _, where = word.partition("=")
        if not where:
            raise UsageError(f"--start {word}: give NAME=WHERE, as scratch=none or 1p-frac=runs/1p-frac")
        if not _NAME.fullmatch(name) or name.startswith(("per-class-", "seed-", f"{REPORT}.")):
            raise UsageError(f"--start {word}: {name!r} is to name a folder; letters, digits, - and _ do")
        if name in starts:
            raise UsageError(f"--start {name}: is given twice")
        starts[name] = where
    if not starts:
        raise UsageError("--start: give NAME=WHERE, once or more, as scratch=none")
    return starts


def compose(
    recipe: Recipe, starts: Mapping[str, str], *, seeds: Sequence[int], per_class: Sequence[int], out: Path
) -> Comparison:
    """The comparison, with every start and the images looked at, so that it fails before the first run or not at all.

    What is no folder has the architecture that the recipe names, else that of the first start that has one.
    Raises UsageError for what is missing or cannot be compared.
    """
    from fracgen.train.engine.init_weights import build, open_start

    asked = recipe.settings({"model.name": recipe.model})
    model: Model | None = None
    if recipe.model:
        model = Model(name=recipe.model)
    elif not asked.model.name:
        there = sorted(
            (where for where in starts.values() if where != SCRATCH), key=lambda where: not Path(where).is_dir()
        )
        if not there:
            raise UsageError("--model: give the architecture; every start is 'none', and the recipe names no model")
        model = open_start(there[0], asked.model).model
    num_classes = check_data(recipe, per_class)
    found = Comparison(recipe=recipe, starts=starts, seeds=seeds, per_class=per_class, out=out, model=model)
    for trial in {trial.start: trial for trial in found.trials()}.values():
        settings = trial.settings(recipe)
        start = open_start(trial.checkpoint, settings.model)
        build(start, num_classes=num_classes, size=settings.augment.size, keep_head=settings.keep_head)
    return found


def check_data(recipe: Recipe, per_class: Sequence[int]) -> int:
    """The number of classes. Raises UsageError where images are missing, too few, or without a split to report on."""
    asked = recipe.settings({})
    splits = _open_splits(replace(asked, per_class=max(per_class, default=0) or asked.per_class))
    if splits.test is None and asked.protocol == "published":
        raise UsageError(f"{asked.data}: has no test split, on which protocol=published chooses; give test=FOLDER")
    if splits.test is None and splits.val is None:
        raise UsageError(f"{asked.data}: has no split to report on; give test=FOLDER, or val=FOLDER")
    return len(splits.train.class_names)


def _open_splits(asked: Finetuning) -> "Splits":
    from fracgen.train.data.old.splits import open_splits

    return open_splits(
        asked.data,
        val=asked.val,
        test=asked.test,
        num_classes=asked.num_classes,
        root=asked.root,
        val_share=0.0 if asked.protocol == "published" else asked.val_share,
        per_class=asked.per_class,
        seed=asked.run.seed,
        skip_bad=asked.feed.skip_bad,
    )


class Ledger:
    """Which runs are done. Starts and splits are read once for all of them."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._starts: dict[str, Start] = {}
        self._splits: dict[tuple[int, int], Splits] = {}

    def is_done(self, trial: Trial) -> bool:
        """Whether it has its results, and what it was made of is the same now."""
        kept = _read(trial.path / COMPARED)
        if kept is None or not (trial.path / RESULTS).exists():
            return False
        now = self._about(trial)
        return kept.get("fingerprint") == now["fingerprint"] and not differences(kept.get("asked", {}), now["asked"])

    def record(self, trial: Trial) -> None:
        """It has ended: write down of what it was made. Raises DataError where something changed meanwhile."""
        about = self._about(trial)
        made_of = (_read(trial.path / RESULTS) or {}).get("fingerprint")
        if made_of != about["fingerprint"]:
            raise DataError(f"{trial.path}: the images or the start changed while it ran; give another --out")
        write_text(trial.path / COMPARED, json.dumps(about, indent=1))

    def _about(self, trial: Trial) -> dict[str, Any]:
        from fracgen.train.engine.init_weights import open_start

        asked = trial.settings(self._recipe)
        if trial.start not in self._starts:
            self._starts[trial.start] = open_start(trial.checkpoint, asked.model)
        place = (asked.run.seed, asked.per_class)
        if place not in self._splits:
            self._splits = {key: splits for key, splits in self._splits.items() if key[0] == place[0]}
            self._splits[place] = _open_splits(asked)
        return {
            "asked": told(to_values(asked)),
            "fingerprint": fingerprint_of(self._splits[place], self._starts[trial.start]),
        }


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path)
    except DataError:
        return None


def collect(comparison: Comparison, done: Collection[Trial]) -> dict[str, Any]:
    """What compare.json holds: by section and measure, what `contrast.contrast` gives of the runs that are done."""
    sections, splits = [], set()
    for few in comparison.per_class:
        scores: dict[str, dict[str, dict[int, float]]] = {
            measure: {name: {} for name in comparison.starts} for measure in contrast.MEASURES
        }
        for trial in (each for each in done if each.per_class == few):
            results = _results(trial)
            splits.add(results["split"])
            chosen = "best_test" if results["protocol"] == "published" else "chosen"
            for measure, entry in (("last", "last"), (chosen, "best")):
                if entry in results and (measure == "last" or results["split"] == "test"):
                    scores[measure][trial.start][trial.seed] = results[entry]["top1"]
        measured = {name: contrast.contrast(each) for name, each in scores.items() if any(each.values())}
        sections.append({"per_class": few or None, "measures": measured})
    return {
        "split": next(iter(splits), None),
        "starts": dict(comparison.starts),
        "seeds": list(comparison.seeds),
        "complete": len(done) == len(comparison.trials()),
        "sections": sections,
    }


def _results(trial: Trial) -> dict[str, Any]:
    results = _read(trial.path / RESULTS)
    if results is None or "split" not in results:
        raise DataError(f"{trial.path / RESULTS}: cannot be read; remove {trial.path}, and the same command goes on")
    return results


def title(report: Mapping[str, Any], section: Mapping[str, Any]) -> str:
    """The heading of a section's table."""
    few = section["per_class"]
    return f"accuracy on {report['split'] or 'nothing yet'}" + (f", {few} training images a class" if few else "")


def tables(
    report: Mapping[str, Any], beside: Mapping[str, Mapping[str, str]] | None = None
) -> dict[str, list[list[str]]]:
    """By title, the table of each section that has results."""
    return {
        title(report, section): contrast.table(section["measures"], beside)
        for section in report["sections"]
        if section["measures"]
    }


def write_report(comparison: Comparison, done: Collection[Trial]) -> dict[str, Any]:
    """compare.json, compare.md and compare.png of the runs that are done; returns what the first one holds."""
    report = collect(comparison, done)
    write_text(comparison.out / f"{REPORT}.json", json.dumps(report, indent=1))
    texts = [f"## {name[0].upper()}{name[1:]}\n\n{contrast.markdown(rows)}\n" for name, rows in tables(report).items()]
    texts.append(f"{NOTE}\n")
    write_text(comparison.out / f"{REPORT}.md", "\n".join(texts))
    there = [section for section in report["sections"] if section["measures"]]
    if there:
        bars = {title(report, each): list(each["measures"].items())[-1] for each in there}
        curves = {title(report, each): _curves(comparison, done, each["per_class"] or 0) for each in there}
        contrast.draw(bars, curves, comparison.out / f"{REPORT}.png")
    return report


NOTE = "± is the standard deviation over seeds (of a sample); differences are from the first start, seed by seed."


def _curves(comparison: Comparison, done: Collection[Trial], per_class: int) -> tuple[str, contrast.Curves]:
    """The accuracy that was chosen on where there is one, else the loss, over steps."""
    from fracgen.train.engine import metrics

    runs = [(trial.start, metrics.read(trial.path / metrics.METRICS)) for trial in done if trial.per_class == per_class]
    names = {name for _, lines in runs for line in lines for name in line}
    shown = next((name for name in ("val_accuracy", "test_accuracy") if name in names), "loss")
    found = {
        start: [
            [(line["step"], line[shown]) for line in lines if shown in line] for name, lines in runs if name == start
        ]
        for start in comparison.starts
    }
    return shown.replace("_", " "), found
