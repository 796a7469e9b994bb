"""Writes the report of a study while it runs: all that was measured, gathered from its folders."""

import importlib.metadata
import json
import platform
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fracgen.shards.errors import printable
from fracgen.shards.files import num_cores, write_atomically
from fracgen.shards.manifest import load_manifest
from fracgen.shards.reader import read_tar
from fracgen.shards.settings import parse_yaml, read_text
from fracgen.train.engine import metrics
from fracgen.train.engine.run_folder import CONFIG
from fracgen.train.experiments import nested, study_figure, tables
from fracgen.train.experiments.comparison import Comparison, FinetuneRun
from fracgen.train.experiments.plan import Plan, Start
from fracgen.train.experiments.report import curves, to_markdown, write_report
from fracgen.train.experiments.step_times import StepTimes
from fracgen.train.experiments.study_file import SizeName, Variant
from fracgen.train.experiments.study_report import FORMAT, NOTE, VERSION, study_tables
from fracgen.train.experiments.subprocesses import SubprocessRunner

REPORT, TIMES = "study", "times.json"
_PATHS = ("shards", "checkpoint", "data", "val", "test", "root")
_LIBRARIES = ("fracgen", "torch", "timm", "numpy", "pillow")
_LOGGED = ("loss", "clean_accuracy", "crop_accuracy", "images_per_second")
_MAX_READ = 5000
"""Images of a set up to which its fill rate is read, from all of them."""
_MAX_POINTS = 40


class StudyWriter:
    """Writes study.json, study.md and study.png into the folder of a study, and the report of its comparison."""

    def __init__(
        self,
        out: Path,
        plan: Plan,
        comparison: Comparison,
        *,
        about: str,
        size: SizeName,
        variants: Mapping[str, Variant],
        runner: SubprocessRunner,
    ) -> None:
        """Raises DataError where the file of times is damaged."""
        self.plan, self.comparison, self.times = plan, comparison, StepTimes(out / TIMES)
        self._out, self._about, self._size, self._variants, self._runner = out, about, size, variants, runner
        self._pretraining: dict[str, dict[str, Any]] = {}

    def write(self, finished: Collection[FinetuneRun], *, draw: bool) -> dict[str, Any]:
        """Write the report of finished runs, its figures too if `draw`; returns what study.json holds.

        Raises DataError for results that cannot be read, and files that cannot be written.
        """
        report = self._report(finished, write_report(self.comparison, finished, draw=draw))
        write_atomically(self._out / f"{REPORT}.json", json.dumps(report, separators=(",", ":")) + "\n")
        text = to_markdown(study_tables(report))
        write_atomically(self._out / f"{REPORT}.md", f"# {printable(self._about)}\n\n{text}\n\n{NOTE}\n")
        if draw:
            study_figure.draw(report, self._out / f"{REPORT}.png")
        return report

    def _report(self, finished: Collection[FinetuneRun], compared: Mapping[str, Any]) -> dict[str, Any]:
        """What study.json holds. compared: what compare.json holds."""
        by_step = [curves(self.comparison, finished, each["per_class"] or 0) for each in compared["sections"]]
        starts, runner = self.plan.starts, self._runner
        runs = [start.pretraining.folder for start in starts.values() if start.pretraining]
        settings = {"pretrain": read_settings(runs), "finetune": read_settings([run.path for run in finished])}
        return {
            "format": FORMAT,
            "version": VERSION,
            "about": self._about,
            "size": self._size,
            "seeds": compared["seeds"],
            "bases": 1 + max(start.base for start in starts.values()),
            "variants": {
                name: {
                    "render": variant.render,
                    "init": variant.init,
                    "pretrain": dict(variant.pretrain),
                    "published": dict(variant.published),
                }
                for name, variant in self._variants.items()
            },
            "split": compared["split"],
            "complete": compared["complete"],
            "sections": summarize_sections(compared["sections"], starts, by_step),
            "pretraining": self._measure_pretraining(),
            "settings": settings,
            "seconds": self.times.seconds([*self.plan.steps, self.plan.comparison]),
            "by_the_clock": self.times.by_the_clock(),
            "machine": describe_machine(
                jobs=runner.jobs,
                threads=runner.threads,
                device=settings["finetune"].get("run", {}).get("device", "cpu"),
            ),
        }

    def _measure_pretraining(self) -> dict[str, dict[str, Any]]:
        by_variant: dict[str, dict[str, Any]] = {}
        for name, start in self.plan.starts.items():
            step = start.pretraining
            if step is not None and name not in self._pretraining and self.times.is_finished(step):
                self._pretraining[name] = measure_pretraining(start, self.times.seconds([step])[step.name])
            if name in self._pretraining:
                by_variant.setdefault(start.variant, {})[str(start.base)] = self._pretraining[name]
        return by_variant


def summarize_sections(
    sections: Sequence[Mapping[str, Any]], starts: Mapping[str, Start], curves: Sequence[tuple[str, tables.Curves]]
) -> list[dict[str, Any]]:
    """`sections` of study.json. sections: those of compare.json. curves: by section, of `report.curves`."""
    names = dict.fromkeys(start.variant for start in starts.values())
    summaries = []
    for section, (quantity, by_start) in zip(sections, curves, strict=True):
        measures = {}
        for measure, by_name in section["measures"].items():
            accuracies: dict[str, dict[int, dict[int, float]]] = {name: {} for name in names}
            for name, start in starts.items():
                each = by_name[name]["each"]
                accuracies[start.variant][start.base] = {int(seed): value for seed, value in each.items()}
            measures[measure] = nested.summarize(accuracies)
        runs = {
            variant: [points for name, start in starts.items() if start.variant == variant for points in by_start[name]]
            for variant in names
        }
        by_variant = {variant: _mean_curve(each) for variant, each in runs.items()}
        curve = {"quantity": quantity, "variants": by_variant}
        summaries.append({"per_class": section["per_class"], "measures": measures, "curves": curve})
    return summaries


def _mean_curve(runs: Iterable[Sequence[tuple[int, float]]]) -> list[list[float | None]]:
    """Rows of (step, mean, standard deviation of a sample), at most 40, evenly spaced."""
    by_step: dict[int, list[float]] = {}
    for points in runs:
        for step, value in points:
            by_step.setdefault(step, []).append(value)
    steps = sorted(by_step)
    chosen = sorted(
        {steps[round(each * (len(steps) - 1) / (_MAX_POINTS - 1))] for each in range(_MAX_POINTS)} if steps else ()
    )
    return [
        [
            step,
            round(statistics.fmean(by_step[step]), 5),
            round(statistics.stdev(by_step[step]), 5) if len(by_step[step]) > 1 else None,
        ]
        for step in chosen
    ]


def measure_pretraining(start: Start, seconds: float) -> dict[str, Any]:
    """What pre-training on a set was like, and the set.

    step, loss, clean_accuracy, crop_accuracy, images_per_second: as logged last (clean: the share of whole training
    images whose perturbation is told). recipe: resolved, without long values. acceptance: of the draws of its images.
    fill_rate: mean over its images of the share of pixels that are lit, None where they do not say or are too many.
    provenance: how its base was found.
    """
    if start.pretraining is None or start.rendering is None:
        return {}
    lines = metrics.read(start.pretraining.product.parents[1] / metrics.METRICS)
    logged = {name: value for line in lines for name, value in line.items() if name in _LOGGED}
    manifest = load_manifest(folder := start.rendering.product.parent)
    rates: list[float] = []
    if manifest.num_samples <= _MAX_READ:
        for shard in manifest.shards:
            samples = read_tar(folder / shard.name, manifest.image.extension)
            rates += [each.metadata["fill_rate"] for each in samples if "fill_rate" in each.metadata]
    return {
        "seconds": seconds,
        "step": lines[-1]["step"] if lines else None,
        **logged,
        "images": manifest.num_samples,
        "acceptance": round(manifest.acceptance, 6),
        "fill_rate": round(statistics.fmean(rates), 6) if rates else None,
        "provenance": dict(manifest.provenance),
        "recipe": {name: value for name, value in manifest.recipe.items() if len(str(value)) < 500},
    }


def read_settings(runs: Iterable[Path]) -> dict[str, Any]:
    """The resolved settings of the first run that has any, without paths and seed; empty where none has."""
    path = next((run / CONFIG for run in runs if (run / CONFIG).is_file()), None)
    if path is None:
        return {}
    values: Any = parse_yaml(read_text(path), str(path))
    settings = {name: value for name, value in values.items() if name not in _PATHS}
    return settings | {"run": {name: value for name, value in settings["run"].items() if name != "seed"}}


def describe_machine(*, jobs: int, threads: int, device: str) -> dict[str, Any]:
    """Device, cores, jobs, threads, versions. device: of the runs, "cuda" or "cpu"."""
    name = _processor()
    if device == "cuda":
        import torch

        name = torch.cuda.get_device_name() if torch.cuda.is_available() else "a GPU"
    versions = {library: _version(library) for library in _LIBRARIES}
    return {
        "device": name,
        "cores": num_cores(),
        "jobs": jobs,
        "threads": threads,
        "versions": {"python": platform.python_version(), **versions},
    }


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None  # of ours in a clone that is not installed


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
