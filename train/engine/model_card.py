"""The model card of an export, and what its config.json says beside timm's own: task, data, base, recipe, metrics."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from fracgen.shards.data_card import UNKNOWN_LICENCE, to_yaml_head
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.fields import fields_of
from fracgen.shards.files import read_json, write_atomically
from fracgen.shards.manifest import MANIFEST, PACK, load_manifest
from fracgen.shards.publish.release import CARD, CONFIG, read_card
from fracgen.shards.settings import to_yaml
from fracgen.shards.urls import is_url, redact

SECTION = "fracgen"
"""Of config.json, which timm passes over."""
PRE_TRAINED = "pre-trained"
"""A stage."""
OPEN_LICENCE = "mit"
"""Of weights that begin with nothing of anybody's, trained on what a formula makes."""
_METRIC_NAMES = {
    "accuracy": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "mean_per_class": "mean accuracy of the classes",
}
_TASK, _TASK_WITHOUT_HEAD = "image-classification", "image-feature-extraction"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One result. value: a share; of several seeds their mean, and std their standard deviation (of a sample).

    name: as in "top-1 accuracy". split: of the data. weights: which ones, and how they were chosen.
    """

    name: str
    value: float
    split: str
    weights: str
    seeds: tuple[int, ...]
    std: float | None = None


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """Data by name and sha256 (hex). recipe, recipe_sha256: of a set of shards, "" of other data."""

    name: str
    sha256: str
    recipe: str = ""
    recipe_sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How an exported model came to be. No path of a machine is in it.

    stage: "pre-trained" or "fine-tuned". base: the weights that it began with, in words. base_sha256: of them.
    recipe: the settings that determine the run, by group. protocol: how weights are chosen and reported on.
    licence, task: identifiers of the Hub's; licence "unknown" where others have rights in data or base. modules: those
    of the model that were trained, where the others are random; () for all.
    """

    stage: str
    data: TrainedOn
    base: str
    base_sha256: str
    protocol: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    metrics: tuple[Metric, ...] = ()
    licence: str = UNKNOWN_LICENCE
    task: str = _TASK
    modules: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for config.json, with the version of fracgen."""
        return {"version": metadata.version("fracgen"), **asdict(self)}


_STAGES = {"honest": "weights are chosen on validation images; the test images are looked at once, at the end"}
_STAGES["published"] = "weights are chosen on the test images, as papers do: a maximum, so too high"


def pretraining(
    shards: str,
    fingerprint: str,
    *,
    base: str,
    base_sha256: str,
    seed: int,
    accuracies: Mapping[str, float],
    metric: str = "top-1 accuracy",
) -> Training:
    """How a model was pre-trained. fingerprint: sha256 of the set. base_sha256: of the weights that it began with, ""
    from scratch. accuracies: the run's last ones, by their names. metric: what these are.
    """
    labels = {"clean_accuracy": "whole training images", "crop_accuracy": "crops of training images"}
    return Training(
        stage=PRE_TRAINED,
        data=describe_data(shards, fingerprint),
        base=describe_base(base),
        base_sha256=base_sha256,
        protocol="the classes of the set are told apart; accuracy is on training images",
        metrics=tuple(
            Metric(name=metric, value=accuracies[name], split=split, weights="last", seeds=(seed,))
            for name, split in labels.items()
            if name in accuracies
        ),
        licence=UNKNOWN_LICENCE if base_sha256 else licence_of(shards),
    )


def masked_pretraining(shards: str, fingerprint: str, *, base: str, base_sha256: str) -> Training:
    """How an encoder was pre-trained as a masked autoencoder; arguments as of `pretraining`."""
    return replace(
        pretraining(shards, fingerprint, base=base, base_sha256=base_sha256, seed=0, accuracies={}),
        protocol="masked autoencoding: hidden patches are predicted, and no label is used; the decoder is left out",
        task=_TASK_WITHOUT_HEAD,
    )


def warm_up(
    data: str, fingerprint: str, *, init: str, seed: int, accuracy: float, modules: tuple[str, ...]
) -> Training:
    """How blocks were warmed up on tokens. accuracy: on hidden ones. modules: as of `Training`."""
    metric = Metric(name="accuracy on hidden tokens", value=accuracy, split="fresh", weights="last", seeds=(seed,))
    return Training(
        stage="warmed up",
        data=TrainedOn(name=data, sha256=fingerprint),
        base="scratch" if init == "default" else f"scratch, {init} init",
        base_sha256="",
        protocol=f"hidden tokens are predicted; {' and '.join(modules)} were trained so, and all else is random",
        metrics=(metric,),
        licence=OPEN_LICENCE,
        task=_TASK_WITHOUT_HEAD,
        modules=modules,
    )


def finetuning(data: TrainedOn, *, base: str, base_sha256: str, protocol: str, outcome: Mapping[str, Any]) -> Training:
    """How a model was fine-tuned. base_sha256: of the weights that it began with, "" from scratch."""
    return Training(
        stage="fine-tuned",
        data=data,
        base=describe_base(base),
        base_sha256=base_sha256,
        protocol=f"{protocol}: {_STAGES[protocol]}",
        metrics=accuracies_of(outcome, seeds=[outcome["seed"]]),
    )


def describe_data(source: str, fingerprint: str) -> TrainedOn:
    """Data by the last part of its path, or by its name or URL. fingerprint: sha256 (hex) of it, or several."""
    sha256 = fingerprint if len(fingerprint) == 64 else hashlib.sha256(fingerprint.encode()).hexdigest()
    if is_url(source):
        return TrainedOn(name=redact(source), sha256=sha256)
    path = Path(source)
    name = path.absolute().name if path.exists() or path.is_absolute() else source
    if (path / MANIFEST).is_file():
        manifest = load_manifest(path)
        recipe = str(manifest.recipe.get("recipe", ""))
        return TrainedOn(name=name, sha256=sha256, recipe=recipe, recipe_sha256=manifest.recipe_hash)
    return TrainedOn(name=name, sha256=sha256)


def describe_base(name: str) -> str:
    """Initial weights in words: of a path its last part that says something."""
    path = Path(name)
    parts = [part for part in path.absolute().parts if part != "model"]
    return parts[-1] if path.exists() and len(parts) > 1 else redact(name)


def recipe_of(kind: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run's settings, as plain values, those that determine it: without paths, places and intervals of logs."""
    free = {field.name for field in fields_of(kind) if not field.setting.identity}
    groups = {
        name: {key: each for key, each in value.items() if f"{name}.{key}" not in free}
        if isinstance(value, Mapping)
        else value
        for name, value in config.items()
        if name not in free
    }
    return {name: value for name, value in groups.items() if value != {}}


def licence_of(shards: str) -> str:
    """The licence of weights that were pre-trained from scratch on a folder of shards.

    Ours to give where the set's card calls it synthetic; else nobody has said.
    """
    try:
        is_formula = load_manifest(Path(shards)).recipe.get("recipe") != PACK
        tags = read_card(Path(shards) / CARD)[0].get("tags", [])
    except (DataError, UsageError, OSError):
        return UNKNOWN_LICENCE
    return OPEN_LICENCE if is_formula and "synthetic" in tags else UNKNOWN_LICENCE


def model_card(config: Mapping[str, Any]) -> str:
    """The card of a model whose config.json has our section."""
    training = config[SECTION]
    data, metrics = training["data"], training["metrics"]
    title = f"{config['architecture']}, {training['stage']} on {data['name']}"
    head = {
        "license": training["licence"],
        "library_name": "timm",
        "pipeline_tag": training["task"],
        "tags": [training["task"], "timm", "safetensors", SECTION, *([data["recipe"]] if data["recipe"] else [])],
        **({"model-index": [{"name": title, "results": [_model_index(data, metrics)]}]} if metrics else {}),
    }
    labels = config.get("label_names") or config["pretrained_cfg"].get("label_names") or ()
    named = f", named in `config.json` ({', '.join(labels[:4])}{', ...' if len(labels) > 4 else ''})" if labels else ""
    size = config["pretrained_cfg"]["input_size"][1]
    classes = f"{config['num_classes']:,} classes" if config["num_classes"] else "without a head"
    recipe = f" (recipe {data['recipe']}, sha256 {data['recipe_sha256']})" if data["recipe"] else ""
    base = f" (sha256 {training['base_sha256']})" if training["base_sha256"] else ""
    return "\n".join(
        [
            f"{to_yaml_head(head)}\n# {title}\n",
            f"A timm model, `{config['architecture']}`, for images of {size} x {size} pixels, {classes}{named}; "
            f"trained by fracgen {training['version']}.\n",
            f"- data: {data['name']}{recipe}, sha256 {data['sha256']}",
            f"- began with: {training['base']}{base}",
            f"- seed of these weights: {training['recipe']['run']['seed']}",
            f"- protocol: {training['protocol']}\n",
            _results(metrics),
            '```python\nimport timm\n\nmodel = timm.create_model("local-dir:PATH/OF/THIS/FOLDER", pretrained=True)\n'
            "```\n\nOf a model on the Hub: `hf-hub:NAME/MODEL`; `num_classes=10` gives it a new head.\n",
            f"## Licence\n\n`{training['licence']}`. {_licence(training['licence'])}\n",
            f"## Recipe\n\n```yaml\n{to_yaml(training['recipe'])}```\n",
        ]
    )


def _licence(licence: str) -> str:
    if licence == UNKNOWN_LICENCE:
        return "Data or weights that it began with are others', and nobody has stated a licence yet."
    return "The weights began from scratch, and a formula made the data."


def _results(metrics: Sequence[Mapping[str, Any]]) -> str:
    if not metrics:
        return "No accuracy was measured.\n"
    rows = [
        f"| {each['name']} | {each['split']} | {each['weights']} | {_share(each)} | {_seeds(each)} |"
        for each in metrics
    ]
    return "\n".join(["## Results\n", "| | split | weights | | seeds |", "| --- | --- | --- | ---: | --- |", *rows, ""])


def _share(metric: Mapping[str, Any]) -> str:
    spread = "" if metric["std"] is None else f" ± {100 * metric['std']:.2f}"
    return f"{100 * metric['value']:.2f}{spread} %"


def _seeds(metric: Mapping[str, Any]) -> str:
    return ", ".join(map(str, metric["seeds"]))


def _model_index(data: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """As the Hub's `model-index` has results; values in %."""
    described = [
        {
            "type": "accuracy",
            "value": round(100 * each["value"], 4),
            "name": f"{each['name']}, {each['split']}, {each['weights']}"
            + ("" if each["std"] is None else f", mean of {len(each['seeds'])} seeds ± {100 * each['std']:.2f}"),
        }
        for each in metrics
    ]
    dataset = {"name": data["name"], "type": data["name"].rpartition("/")[2].lower() or "data"}
    return {"task": {"type": _TASK}, "dataset": dataset, "metrics": described}


def accuracies_of(outcome: Mapping[str, Any], *, seeds: Sequence[int]) -> tuple[Metric, ...]:
    """The accuracies of an outcome as metrics: of one run, or those of several seeds together (`results.summary`)."""
    metrics = []
    for name, value in outcome.items():
        split, _, rest = name.partition("_")
        kind, _, weights = rest.rpartition("_")
        if kind not in _METRIC_NAMES or weights not in ("last", "best"):
            continue
        is_summary = isinstance(value, Mapping)
        chosen = f"best, chosen on {outcome['chosen_on']}" if weights == "best" else "last"
        metrics.append(
            Metric(
                name=_METRIC_NAMES[kind],
                value=value["mean"] if is_summary else value,
                std=value["std"] if is_summary else None,
                split=split,
                weights=chosen,
                seeds=tuple(seeds),
            )
        )
    return tuple(metrics)


def write_training(folder: Path, training: Training | None) -> None:
    """Write our section into config.json of a new export, and the card. None: of a model of which nothing is known."""
    if training is None:
        return
    config = read_json(folder / CONFIG)
    config[SECTION] = json.loads(json.dumps(training.to_dict()))
    config["pretrained_cfg"]["license"] = training.licence
    _write(folder, config)


def write_metrics(folder: Path, metrics: Sequence[Metric]) -> None:
    """Put other metrics into the card and config.json of an export, as those of several seeds. Keeps what it cannot.

    Raises DataError where the files cannot be written.
    """
    if not metrics or not (folder / CONFIG).is_file():
        return
    config = read_json(folder / CONFIG)
    if not isinstance(config.get(SECTION), dict):  # fracgen 0.3 exported it
        return
    config[SECTION]["metrics"] = json.loads(json.dumps([asdict(each) for each in metrics]))
    _write(folder, config)


def _write(folder: Path, config: Mapping[str, Any]) -> None:
    write_atomically(folder / CARD, model_card(config))
    write_atomically(folder / CONFIG, json.dumps(config, indent=2))
