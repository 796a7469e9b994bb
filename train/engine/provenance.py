"""How an exported model came to be, as its config.json and its card say: data, base, recipe, metrics, licence."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fracgen.shards.data_card import UNKNOWN_LICENCE
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.fields import fields_of
from fracgen.shards.manifest import PACK, load_manifest
from fracgen.shards.publish.release import CARD, read_card
from fracgen.shards.remote import Url
from fracgen.shards.urls import is_url, redact
from fracgen.shards.versions import version_of

SECTION = "fracgen"
"""Of config.json, which timm passes over."""
FINE_TUNED = "fine-tuned"
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
    of the model that were trained, where the others are random; () for all. source: as of `source_revision`, of the
    process that ended the run.
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
    source: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for config.json, with the version of fracgen."""
        return {"version": version_of("fracgen"), **asdict(self)}


_STAGES = {"honest": "weights are chosen on validation images; the test images are looked at once, at the end"}
_STAGES["published"] = "weights are chosen on the test images, as papers do: a maximum, so too high"
_UNCHOSEN = "weights are those of the last step; the test images are looked at once, at the end"


def pretraining(
    data: TrainedOn,
    *,
    base: str,
    base_sha256: str,
    licence: str,
    seed: int,
    accuracies: Mapping[str, float],
    metric: str = "top-1 accuracy",
) -> Training:
    """How a model was pre-trained. base_sha256: of the weights that it began with, "" from scratch. accuracies: the
    run's last ones, by their names. metric: what these are.
    """
    labels = {"clean_accuracy": "whole training images", "crop_accuracy": "crops of training images"}
    return Training(
        stage="pre-trained",
        data=data,
        base=describe_base(base),
        base_sha256=base_sha256,
        protocol="the classes of the set are told apart; accuracy is on training images",
        metrics=tuple(
            Metric(name=metric, value=accuracies[name], split=split, weights="last", seeds=(seed,))
            for name, split in labels.items()
            if name in accuracies
        ),
        licence=licence,
    )


def masked_pretraining(data: TrainedOn, *, base: str, base_sha256: str, licence: str) -> Training:
    """How an encoder was pre-trained as a masked autoencoder; arguments as of `pretraining`."""
    return replace(
        pretraining(data, base=base, base_sha256=base_sha256, licence=licence, seed=0, accuracies={}),
        protocol="masked autoencoding: hidden patches are predicted, and no label is used; the decoder is left out",
        task=_TASK_WITHOUT_HEAD,
    )


def warm_up(
    data: str, fingerprint: str, *, init: str, seed: int, accuracy: float | None, modules: tuple[str, ...]
) -> Training:
    """How blocks were warmed up on tokens. accuracy: on hidden ones, None where it was not measured at the last step.

    modules: as of `Training`.
    """
    name = "accuracy on hidden tokens"
    return Training(
        stage="warmed up",
        data=TrainedOn(name=data, sha256=fingerprint),
        base="scratch" if init == "default" else f"scratch, {init} init",
        base_sha256="",
        protocol=f"hidden tokens are predicted; {' and '.join(modules)} were trained so, and all else is random",
        metrics=()
        if accuracy is None
        else (Metric(name=name, value=accuracy, split="fresh", weights="last", seeds=(seed,)),),
        licence=OPEN_LICENCE,
        task=_TASK_WITHOUT_HEAD,
        modules=modules,
    )


def finetuning(data: TrainedOn, *, base: str, base_sha256: str, protocol: str, outcome: Mapping[str, Any]) -> Training:
    """How a model was fine-tuned. base_sha256: of the weights that it began with, "" from scratch."""
    metrics = accuracies_of(outcome, seeds=[outcome["seed"]])
    is_last = protocol == "honest" and all(metric.weights == "last" for metric in metrics)
    return Training(
        stage=FINE_TUNED,
        data=data,
        base=describe_base(base),
        base_sha256=base_sha256,
        protocol=f"{protocol}: {_UNCHOSEN if is_last else _STAGES[protocol]}",
        metrics=metrics,
    )


def describe_data(source: str, fingerprint: str, folder: Path | None) -> TrainedOn:
    """Data by the last part of its path or URL, or by its name, there or on the Hub.

    fingerprint: sha256 (hex) of it, or several. folder: where the manifest of shards of ours lies.
    """
    sha256 = fingerprint if len(fingerprint) == 64 else hashlib.sha256(fingerprint.encode()).hexdigest()
    path = Path(source)
    if is_url(source):
        url = Url.parse(redact(source))  # where there is no path, the last part is the host, with user and password
        name = url.base.removeprefix("hf://datasets/") if url.scheme == "hf" else url.name
    else:
        name = path.absolute().name if path.exists() or path.is_absolute() else source
    if folder is None:
        return TrainedOn(name=name, sha256=sha256)
    manifest = load_manifest(folder)
    recipe = str(manifest.recipe.get("recipe", ""))
    return TrainedOn(name=name, sha256=sha256, recipe=recipe, recipe_sha256=manifest.recipe_hash)


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


def licence_of(folder: Path | None, *, from_formula: bool) -> str:
    """The licence of weights that were pre-trained on a folder of shards of ours; None for data of another origin.

    Ours to give where the set's card calls it synthetic, and nothing but formulas made the weights that they began
    with (`from_formula`); else nobody has said.
    """
    if folder is None or not from_formula:
        return UNKNOWN_LICENCE
    try:
        is_formula = load_manifest(folder).recipe.get("recipe") != PACK
        tags = read_card(folder / CARD)[0].get("tags", [])
    except (DataError, UsageError, OSError):
        return UNKNOWN_LICENCE
    return OPEN_LICENCE if is_formula and "synthetic" in tags else UNKNOWN_LICENCE


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
