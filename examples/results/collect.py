"""Collects what the runs of a study have left into one small JSON file, of which report.py makes tables and plots.

python examples/results/collect.py equal-budget examples/equal-budget/study.yaml runs/equal-budget
python examples/results/collect.py length examples/equal-budget/length.yaml runs/length-300 runs/length-1000

It writes equal-budget.json beside this file: a line for each pre-training run, a line for each fine-tuning run.
Runs that are not finished are left out, so that a study can be collected while it runs.
"""

import json
import math
import os
import platform
import re
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fracgen.shards.files import read_json, write_atomically
from fracgen.shards.reader import read_tar
from fracgen.train.engine.metrics import METRICS
from fracgen.train.engine.metrics import read as read_metrics
from fracgen.train.engine.results import RESULTS

HERE = Path(__file__).parent
_RUN = re.compile(r"compare/(?:per-class-\d+/)?(?P<variant>[^/]+?)(?:\.base-(?P<base>\d+))?/seed-\d+/results\.json")
VERSIONS = ("fracgen", "torch", "timm", "numpy", "numba")


def describe_machine() -> dict[str, Any]:
    """Processor, GPU and versions of libraries: of the machine that collects, which is to be that of the runs."""
    import torch

    cpu = next(
        (line.partition(":")[2].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")),
        platform.processor(),
    )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": cpu, "cores": os.cpu_count(), "gpu": gpu, "python": platform.python_version(), **_versions()}


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines() if path.exists() else []


def _versions() -> dict[str, str]:
    versions = {}
    for name in VERSIONS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # a clone that is not installed
            versions[name] = ""
    return versions


def pretraining_results(run: Path, shards: Path) -> dict[str, Any]:
    """The last metrics of a pre-training run, and what its set is: images, classes, and of 1p-frac the base fractal."""
    results: dict[str, Any] = {}
    for line in read_metrics(run / METRICS):
        kept = {"step", "loss", "clean_accuracy", "crop_accuracy", "images_per_second"}
        results |= {name: _rounded(value) for name, value in line.items() if name in kept}
    manifest = read_json(shards / "dataset.json")
    results |= {"images": manifest["num_samples"], "classes": manifest["num_classes"]}
    if "ifs" in manifest["recipe"]:
        results |= _base_fractal(manifest, shards)
    return results


def _base_fractal(manifest: Mapping[str, Any], shards: Path) -> dict[str, Any]:
    """What may make a base fractal good.

    acceptance: share of 64 perturbations that pass the fill test, when the base was vetted. fill: mean share of pixels
    that are not black, and its standard deviation over the classes. contraction: by how much a map shrinks lengths,
    |det|^(1/2), in the geometric mean over the maps as they are chosen.
    """
    recipe = manifest["recipe"]
    fills = [
        sample.metadata["fill_rate"]
        for shard in manifest["shards"]
        for sample in read_tar(shards / shard["name"], manifest["image"]["extension"])
        if "fill_rate" in sample.metadata
    ]
    determinants = np.abs(np.linalg.det(np.array(recipe["ifs"]["maps"])[:, :, :2]))
    contraction = math.exp(0.5 * float(np.dot(recipe["ifs"]["p"], np.log(determinants))))
    values = {
        "sigma": recipe["sigma"],
        "delta": recipe["delta"],
        "acceptance": manifest["provenance"].get("base_acceptance"),
        "base_tries": manifest["provenance"].get("base_tries"),
        "contraction": contraction,
    }
    if fills:
        values |= {"fill": statistics.fmean(fills), "fill_std": statistics.pstdev(fills)}
    return {name: _rounded(value) for name, value in values.items()}


def finetuning_results(run: Path) -> dict[str, Any]:
    """Accuracy of the last weights on the test images (0 to 1), name of that split, seconds that the run took."""
    results = read_json(run / RESULTS)
    return {"accuracy": results["last"]["top1"], "split": results["split"], "seconds": results["outcome"]["seconds"]}


def _rounded(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def write(
    path: Path,
    *,
    study: str,
    machine: Mapping[str, Any],
    pretraining: Sequence[Mapping[str, Any]],
    finetuning: Sequence[Mapping[str, Any]],
) -> None:
    """Write one study's file: JSON with a line for each run."""

    def order(run: Mapping[str, Any]) -> tuple[Any, ...]:
        base = -1 if run["base"] is None else run["base"]
        return run["variant"], base, run.get("steps", 0), run.get("per_class", 0), run.get("seed", 0)

    def rows(runs: Iterable[Mapping[str, Any]]) -> str:
        lines = (json.dumps(dict(run)) for run in sorted(runs, key=order))
        return "[\n  " + ",\n  ".join(lines) + "\n ]"

    head = {"study": study, "measured": f"{datetime.now(UTC):%Y-%m-%d}", "machine": dict(machine)}
    fields = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
    fields += [f' "pretraining": {rows(pretraining)}', f' "finetuning": {rows(finetuning)}']
    write_atomically(path, "{\n" + ",\n".join(fields) + "\n}\n")


def collect(folders: Sequence[Path]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The pre-training and the fine-tuning runs in the folders that `fracgen study --out` filled."""
    pretraining: dict[tuple[str, int], dict[str, Any]] = {}
    finetuning = []
    for folder in folders:
        for path in sorted((folder / "compare").rglob(RESULTS)):
            if (match := _RUN.fullmatch(path.relative_to(folder).as_posix())) is None:
                continue
            variant, base = match["variant"], int(match["base"]) if match["base"] else None
            trained = folder / "pretrained" / variant / ("" if base is None else f"base-{base}")
            if (trained / METRICS).exists():
                base = base or 0
                shards = yaml.safe_load((trained / "config.yaml").read_text("utf-8"))["shards"]
                facts = {"variant": variant, "base": base, **pretraining_results(trained, Path(shards))}
                pretraining.setdefault((variant, base), facts)
            config = read_json(path)["config"]
            run = {"variant": variant, "base": base, "per_class": config["per_class"], "seed": config["run"]["seed"]}
            finetuning.append({**run, "steps": config["schedule"]["steps"], **finetuning_results(path.parent)})
    return list(pretraining.values()), finetuning


def main(name: str, study: str, *folders: str) -> None:
    """Write NAME.json beside this file."""
    pretraining, finetuning = collect([Path(folder) for folder in folders])
    write(
        HERE / f"{name}.json", study=study, machine=describe_machine(), pretraining=pretraining, finetuning=finetuning
    )


if __name__ == "__main__":
    words = sys.argv[1:]
    if len(words) < 3 or not re.fullmatch(r"[a-z0-9-]+", words[0]) or not all(map(os.path.exists, words[1:])):
        print(__doc__.strip())
        sys.exit(0 if words == ["--help"] else 2)
    main(*words)
