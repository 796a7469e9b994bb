"""Collects what the runs of a study have left into one small JSON file, of which report.py makes tables and plots.

python examples/results/collect.py equal-budget examples/equal-budget/study.yaml runs/equal-budget
python examples/results/collect.py length examples/equal-budget/length.yaml runs/length-300 runs/length-1000
python examples/results/collect.py length examples/equal-budget/length.yaml examples/results/length.json runs/more
python examples/results/collect.py --machine
python examples/results/collect.py --machine=machine.json length examples/equal-budget/length.yaml runs/length-300

It writes equal-budget.json beside this file: a line for each pre-training run, a line for each fine-tuning run.
Runs that are not finished are left out, so that a study can be collected while it runs. Runs that do not belong
together are refused: other settings than their neighbours have, results that are older than the weights that they began
with, numbers that are none. The third form adds runs to those of an earlier file: of the same machine and versions, and
where both have a run, with the same numbers to the last digit. The first form describes this machine; where the runs
were made on another, the fourth prints what the fifth reads. By which commits of fracgen the runs ended stands with the
machine, as far as their models say; runs of several may stand together.
"""

import json
import math
import os
import platform
import re
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fracgen.shards.errors import DataError
from fracgen.shards.files import read_json, write_atomically
from fracgen.shards.reader import read_tar
from fracgen.shards.versions import version_of
from fracgen.train.engine.metrics import METRICS
from fracgen.train.engine.metrics import read as read_metrics
from fracgen.train.engine.results import RESULTS
from fracgen.train.experiments.finished_runs import COMPARED

HERE = Path(__file__).parent
_RUN = re.compile(r"compare/(?:per-class-\d+/)?(?P<variant>[^/]+?)(?:\.base-(?P<base>\d+))?/seed-\d+/results\.json")
_PER_RUN = ("checkpoint", "data", "num_classes", "per_class", "model", "run.seed", "loader.mode")
"""Settings of fine-tuning that may differ from run to run of a study."""
_TIMES = ("images_per_second", "seconds")
VERSIONS = ("fracgen", "torch", "timm", "numpy", "numba")


def describe_machine() -> dict[str, Any]:
    """Processor, GPU and versions of libraries: of the machine that collects, which is to be that of the runs."""
    import torch

    cpu = next(
        (line.partition(":")[2].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")),
        platform.processor(),
    )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    versions = {name: version_of(name) for name in VERSIONS}
    return {"cpu": cpu, "cores": os.cpu_count(), "gpu": gpu, "python": platform.python_version(), **versions}


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines() if path.exists() else []


def pretraining_results(run: Path, shards: Path | None) -> dict[str, Any]:
    """The last metrics of a pre-training run, and what its set is: images, classes, and of 1p-frac the base fractal.

    shards: None where it has none.
    """
    results: dict[str, Any] = {}
    for line in read_metrics(run / METRICS):
        kept = {"step", "loss", "clean_accuracy", "crop_accuracy", "masked_accuracy", "images_per_second"}
        results |= {name: _rounded(value) for name, value in line.items() if name in kept}
    if shards is None:
        return results
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
    accuracy = results["last"]["top1"]
    if not (isinstance(accuracy, float) and 0 <= accuracy <= 1):
        raise DataError(f"{run}: the accuracy {accuracy} is no share")
    return {"accuracy": accuracy, "split": results["split"], "seconds": results["outcome"]["seconds"]}


def check_run(run: Path, pretrained: Path | None) -> None:
    """Raise DataError for a run whose results are of other settings, images or weights than it was last asked for.

    pretrained: the folder of its pre-training, None for none.
    """
    results = read_json(run / RESULTS)
    if not (run / COMPARED).exists():
        raise DataError(f"{run}: is no run that a study has finished (no {COMPARED})")
    if read_json(run / COMPARED)["fingerprint"] != results["fingerprint"]:
        raise DataError(f"{run}: its results are of other images or weights than the study's; run the study again")
    config = results["config"]
    names = [run.name, *(name for name in (run.parent.parent.name,) if name.startswith("per-class-"))]
    if names != [f"seed-{config['run']['seed']}", f"per-class-{config['per_class']}"][: len(names)]:
        raise DataError(f"{run}: its settings say seed {config['run']['seed']}, {config['per_class']} images a class")
    if pretrained is None:
        return
    if (pretrained / METRICS).stat().st_mtime > (run / RESULTS).stat().st_mtime:
        raise DataError(f"{run}: is older than its weights, {pretrained}; run the study again")
    steps = yaml.safe_load((pretrained / "config.yaml").read_text("utf-8"))["schedule"]["steps"]
    if (last := _last_step(pretrained)) != steps:
        raise DataError(f"{pretrained}: ended at step {last} of {steps}")


def _last_step(run: Path) -> int:
    return max((line["step"] for line in read_metrics(run / METRICS)), default=0)


def check_alike(configs: Mapping[Path, Mapping[str, Any]]) -> None:
    """Raise DataError for settings of fine-tuning that are not those of the first run."""
    plain = {run: dict(_flat(config)) for run, config in configs.items()}
    for run, config in plain.items():
        first, settings = next(iter(plain.items()))
        differ = [name for name in sorted({*config, *settings}) if config.get(name) != settings.get(name)]
        if other := [name for name in differ if not name.startswith(_PER_RUN)]:
            raise DataError(
                f"{run}: its {other[0]} is {config.get(other[0])}, that of {first} {settings.get(other[0])}"
            )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted name."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _rounded(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def sources(folders: Iterable[Path]) -> set[str]:
    """The commits of fracgen by which the runs in these folders ended, of those that say (see `source_revision`)."""
    paths = (path for folder in folders for path in folder.rglob("model/config.json"))
    return {read_json(path).get("fracgen", {}).get("source", "") for path in paths} - {""}


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
    """The pre-training and the fine-tuning runs in the folders that `fracgen study --out` filled.

    Raises DataError for runs that do not belong together, and for numbers that are not finite.
    """
    pretraining: dict[tuple[str, int], dict[str, Any]] = {}
    finetuning = []
    for folder in folders:
        configs = {}
        for path in sorted((folder / "compare").rglob(RESULTS)):
            if (match := _RUN.fullmatch(path.relative_to(folder).as_posix())) is None:
                continue
            variant, base = match["variant"], int(match["base"]) if match["base"] else None
            trained = folder / "pretrained" / variant / ("" if base is None else f"base-{base}")
            has_set = (trained / METRICS).exists()
            check_run(path.parent, trained if has_set else None)
            if has_set:
                base = base or 0
                facts = {"variant": variant, "base": base, **pretraining_results(trained, _shards_of(trained))}
                _check_finite(trained, facts)
                if pretraining.setdefault((variant, base), facts) != facts:
                    raise DataError(
                        f"{trained}: is another pre-training of {variant}, base {base}, than a folder before has"
                    )
            config = configs[path.parent] = read_json(path)["config"]
            run = {"variant": variant, "base": base, "per_class": config["per_class"], "seed": config["run"]["seed"]}
            finetuning.append({**run, "steps": config["schedule"]["steps"], **finetuning_results(path.parent)})
        check_alike(configs)
        for trained in sorted((folder / "pretrained").glob("*/base-*")):  # of which nothing was fine-tuned
            if (trained / METRICS).exists() and (trained / "config.yaml").exists():
                config = yaml.safe_load((trained / "config.yaml").read_text("utf-8"))
                variant, base = trained.parent.name, int(trained.name.removeprefix("base-"))
                if (variant, base) not in pretraining and _last_step(trained) == config["schedule"]["steps"]:
                    results = pretraining_results(trained, _shards_of(trained))
                    pretraining[variant, base] = {"variant": variant, "base": base, **results}
                    _check_finite(trained, results)
    return list(pretraining.values()), finetuning


def add_to(
    path: Path,
    machine: Mapping[str, Any],
    pretraining: list[dict[str, Any]],
    finetuning: list[dict[str, Any]],
) -> set[str]:
    """Add the runs of an earlier file that are not in these lists; returns the commits that it names.

    Raises DataError where it is of another machine or other versions, or a run has other numbers, times left aside.
    """
    earlier = read_json(path)
    commits = set(earlier["machine"].pop("sources", ()))
    if earlier["machine"] != machine:
        raise DataError(f"{path}: is of {earlier['machine']}, not of {dict(machine)}")
    for name, runs in (("pretraining", pretraining), ("finetuning", finetuning)):
        ours = {_identity(run): run for run in runs}
        for run in earlier[name]:
            if (same := ours.get(_identity(run))) is None:
                runs.append(run)
            elif differ := [key for key in {*run, *same} - set(_TIMES) if run.get(key) != same.get(key)]:
                raise DataError(f"{path}: {run['variant']}, base {run['base']}: another {min(differ)} than now")
    return commits


def _identity(run: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(run.get(name) for name in ("variant", "base", "per_class", "seed", "steps"))


def _shards_of(trained: Path) -> Path | None:
    """The set of a pre-training run, as its settings name it; None for one on sequences."""
    shards = yaml.safe_load((trained / "config.yaml").read_text("utf-8")).get("shards")
    return Path(shards) if shards else None


def _check_finite(run: Path, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise DataError(f"{run}: {name} is {value}")


def main(name: str, study: str, *folders: str, machine: Path | None = None) -> None:
    """Write NAME.json beside this file. machine: a file that holds what `describe_machine` gave where the runs were."""
    described = read_json(machine) if machine else describe_machine()
    studies = [Path(folder) for folder in folders if not folder.endswith(".json")]
    pretraining, finetuning = collect(studies)
    commits = sources(studies)
    for folder in folders:
        if folder.endswith(".json"):
            commits |= add_to(Path(folder), described, pretraining, finetuning)
    if not finetuning:
        raise DataError(f"{' '.join(folders)}: no finished run")
    write(
        HERE / f"{name}.json",
        study=study,
        machine={**described, "sources": sorted(commits)} if commits else described,
        pretraining=pretraining,
        finetuning=finetuning,
    )


if __name__ == "__main__":
    words = sys.argv[1:]
    option, _, file = words[0].partition("=") if words else ("", "", "")
    if words == ["--machine"]:
        print(json.dumps(describe_machine()))
        sys.exit()
    machine = Path(file) if option == "--machine" and file else None
    words = words[1:] if machine else words
    paths = [*words[1:], *([file] if machine else [])]
    if len(words) < 3 or not re.fullmatch(r"[a-z0-9-]+", words[0]) or not all(map(os.path.exists, paths)):
        print(__doc__.strip())
        sys.exit(0 if words == ["--help"] else 2)
    try:
        main(*words, machine=machine)
    except DataError as error:
        sys.exit(f"collect.py: {error}")
