"""The report of a study: study.json, which holds everything that was measured, gathered from the study's folders.

study.json, with accuracies from 0 to 1 and times in seconds:

    format, version   "fracgen-study", 1
    about, size       the study's own line; "laptop" or "published"
    bases             number of bases of each variant with a set
    variants          by name, in the order of the table: render, init, program, after, pretrain, published, as in the
                    study's file
    seeds             of fine-tuning
    split, complete   what accuracy is of: "test" or "val"; whether every run is in it
    score             "top1", or "mean_per_class" where that is the metric
    sections          for each number of images a class: per_class (None: all); measures: by `tables.MEASURES`, by
                      variant, what `nested.summarize` says; curves: quantity, and by variant rows of
                      (step, mean, standard deviation or None) over all its runs
    pretraining       by variant and base: what pre-training and its set were like, as `measure_pretraining` says
    settings          pretrain, finetune: resolved settings of one run of each, without paths and seed
    seconds           by step, of its programs one after the other; by_the_clock: while the study ran
    machine           device, cores, jobs (programs at a time), threads (of each), versions of Python and libraries

compare.json has of these: seeds, split, score, complete, sections, where the variants are its starts; and where these
lie.
"""

import functools
import platform
import statistics
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fracgen.shards.errors import DataError
from fracgen.shards.files import num_cores
from fracgen.shards.manifest import load_manifest
from fracgen.shards.reader import read_tar
from fracgen.shards.settings import parse_yaml, read_text
from fracgen.shards.versions import version_of
from fracgen.train.engine import metrics
from fracgen.train.engine.run_folder import CONFIG
from fracgen.train.experiments.comparison import Comparison, FinetuneRun
from fracgen.train.experiments.plan import Start, StudyPlan
from fracgen.train.experiments.report import summarize_runs
from fracgen.train.experiments.step_times import StepTimes
from fracgen.train.experiments.study_file import SizeName, Variant
from fracgen.train.experiments.subprocesses import SubprocessRunner

_PATHS = ("shards", "checkpoint", "data", "val", "test", "split", "root")
_LIBRARIES = ("fracgen", "torch", "timm", "numpy", "pillow")
_LOGGED = ("loss", "clean_accuracy", "crop_accuracy", "images_per_second")
_MAX_READ = 5000
"""Images of a set up to which its fill rate is read, from all of them."""


@dataclass(frozen=True, kw_only=True)
class StudyReport:
    """What a study's report is made of, beside its folders."""

    about: str
    size: SizeName
    variants: Mapping[str, Variant]
    plan: StudyPlan
    comparison: Comparison
    times: StepTimes
    runner: SubprocessRunner

    def gather(self, finished: Collection[FinetuneRun]) -> dict[str, Any]:
        """What study.json holds. finished: runs of fine-tuning. Raises DataError for results that cannot be read."""
        starts, plan, runner = self.plan.starts, self.plan, self.runner
        trained = [start for start in starts.values() if start.pretraining]
        runs = [
            start.pretraining.folder
            for start in sorted(trained, key=lambda start: self.variants[start.variant].program != "pretrain")
            if start.pretraining
        ]
        settings = {"pretrain": read_settings(runs), "finetune": read_settings([run.path for run in finished])}
        pretraining: dict[str, dict[str, Any]] = {}
        for start in starts.values():
            if start.pretraining and self.times.is_finished(start.pretraining):
                pretraining.setdefault(start.variant, {})[str(start.base)] = measure_pretraining(start, self.times)
        named = ("render", "init", "program", "after", "pretrain", "published")
        return {
            "format": "fracgen-study",
            "version": 1,
            "about": self.about,
            "size": self.size,
            "bases": 1 + max(start.base for start in starts.values()),
            "variants": {
                name: {key: value for key, value in asdict(variant).items() if key in named}
                for name, variant in self.variants.items()
            },
            **summarize_runs(
                self.comparison,
                finished,
                {name: (each.variant, each.base if each.pretraining else None) for name, each in starts.items()},
            ),
            "pretraining": pretraining,
            "settings": settings,
            "seconds": self.times.seconds(step.name for step in (*plan.steps, plan.comparison)),
            "by_the_clock": self.times.by_the_clock(),
            "machine": describe_machine(settings["finetune"].get("run", {}).get("device", "cpu"), runner),
        }


def describe_machine(device: str, runner: SubprocessRunner) -> dict[str, Any]:
    """What runs were made on. device: "cpu" or "cuda"."""
    return {
        "device": _device(device),
        "cores": num_cores(),
        "jobs": runner.jobs,
        "threads": runner.threads,
        "versions": {"python": platform.python_version(), **{library: version_of(library) for library in _LIBRARIES}},
    }


def measure_pretraining(start: Start, times: StepTimes) -> dict[str, Any]:
    """What pre-training on a set was like, and the set.

    step, loss, clean_accuracy, crop_accuracy, images_per_second: as logged last (clean: the share of whole training
    images whose perturbation is told). recipe: resolved, without long values. acceptance: of the draws of its images.
    fill_rate: mean over its images of the share of pixels that are lit, None where they do not say or are too many.
    provenance: how its base was found.
    """
    if start.pretraining is None:
        return {}
    lines = metrics.read(start.pretraining.folder / metrics.METRICS)
    logged = {name: value for line in lines for name, value in line.items() if name in _LOGGED}
    run = {
        "seconds": times.seconds([start.pretraining.name])[start.pretraining.name],
        "step": lines[-1]["step"] if lines else None,
        **logged,
    }
    if start.rendering is None:
        return run
    manifest = load_manifest(start.rendering.folder)
    return {
        **run,
        "images": manifest.num_samples,
        "acceptance": round(manifest.acceptance, 6),
        "fill_rate": _fill_rate(start.rendering.folder),
        "provenance": dict(manifest.provenance),
        "recipe": {name: value for name, value in manifest.recipe.items() if len(str(value)) < 500},
    }


@functools.cache
def _fill_rate(folder: Path) -> float | None:
    """Cached: reports are written while a study runs, and this reads all images' files."""
    manifest = load_manifest(folder)
    if manifest.num_samples > _MAX_READ:
        return None
    rates = [
        sample.metadata["fill_rate"]
        for shard in manifest.shards
        for sample in read_tar(folder / shard.name, manifest.image.extension)
        if "fill_rate" in sample.metadata
    ]
    return round(statistics.fmean(rates), 6) if rates else None


def read_settings(runs: Iterable[Path]) -> dict[str, Any]:
    """The resolved settings of the first run that has any, without paths and seed; empty where none has.

    Raises DataError where the file holds something else.
    """
    path = next((run / CONFIG for run in runs if (run / CONFIG).is_file()), None)
    if path is None:
        return {}
    values: Any = parse_yaml(read_text(path), str(path))
    if not isinstance(values, Mapping) or not isinstance(values.get("run"), Mapping):
        raise DataError(f"{path}: not the settings of a run")
    settings = {name: value for name, value in values.items() if name not in _PATHS}
    return settings | {"run": {name: value for name, value in settings["run"].items() if name != "seed"}}


def _device(kind: str) -> str:
    """Name of the GPU for "cuda", else of the processor."""
    if kind == "cuda":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "a GPU"
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
