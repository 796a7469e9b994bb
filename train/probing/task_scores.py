"""Accuracies of frozen networks on one task: block by block, and from a few images of each class."""

import time
from collections import Counter
from collections.abc import MutableMapping, Sequence
from typing import Any

import torch

from fracgen.shards.errors import DataError
from fracgen.train import cli as console
from fracgen.train.data.subsets import stratified_subset
from fracgen.train.probing.backbones import Backbone
from fracgen.train.probing.block_scores import ProbeData, score_blocks
from fracgen.train.probing.features import Features, extract
from fracgen.train.probing.few_shot import score_few_shot
from fracgen.train.probing.settings import ProbeSettings
from fracgen.train.probing.tasks import Task

HELD_OUT = 0.1
"""Share of the training images that the penalty is chosen on; then the regression is fitted to all of them."""
_HELD_OUT = 4
"""Purpose of its draw by `stratified_subset`."""


def score_task(
    task: Task,
    backbones: Sequence[Backbone],
    settings: ProbeSettings,
    amp: torch.dtype | None,
    seconds: MutableMapping[str, float],
) -> dict[str, Any]:
    """The entry of a task in probe.json; seconds, by what they were spent on, are added."""
    result: dict[str, Any] = {
        "name": task.name,
        "data": task.description,
        "fingerprints": {"train": task.train.fingerprint, "test": task.test.fingerprint},
        "classes": len(task.train.class_names),
        "skipped": dict(task.skipped),
        "chance": float(max(Counter(task.test.labels.tolist()).values())) / len(task.test),
    }
    if not (settings.layers or settings.few_shot):
        return result
    reading: dict[str, Any] = {
        "crop": settings.crop,
        "batch_size": settings.batch_size,
        "skip_bad": settings.skip_bad,
        "amp": amp,
    }
    began = time.perf_counter()
    train = extract(backbones, task.train, **reading, progress=console.bar(f"{task.name}, train images"))
    test = extract(backbones, task.test, **reading, progress=console.bar(f"{task.name}, test images"))
    seconds["features"] += time.perf_counter() - began
    result |= {
        "train_images": len(train.labels),
        "test_images": len(test.labels),
        "skipped": dict(task.skipped + train.skipped + test.skipped),
        "chance": float(test.labels.bincount().max()) / len(test.labels),
    }
    if settings.layers:
        if settings.k > len(train.labels):
            raise DataError(f"--k {settings.k}: only {len(train.labels)} training images can be decoded")
        result |= _score_layers(task, backbones, train, test, settings, seconds)
    if settings.few_shot:
        began = time.perf_counter()
        result["few_shot"] = _score_few_shot(task, backbones, train, test, settings)
        seconds["few-shot"] += time.perf_counter() - began
    return result


def _score_layers(
    task: Task,
    backbones: Sequence[Backbone],
    train: Features,
    test: Features,
    settings: ProbeSettings,
    seconds: MutableMapping[str, float],
) -> dict[str, Any]:
    """Accuracy of both classifiers on each block of each network."""
    num_held_out = max(1, round(HELD_OUT * len(train.labels)))
    held_out = torch.zeros(len(train.labels), dtype=torch.bool)
    held_out[stratified_subset(train.labels.numpy(), num_held_out, seed=settings.seed, purpose=_HELD_OUT)] = True
    layers = []
    for number, backbone in enumerate(backbones):
        data = ProbeData(
            train=train.by_block[number],
            test=test.by_block[number],
            train_labels=train.labels.to(backbone.device),
            test_labels=test.labels.to(backbone.device),
            held_out=held_out.to(backbone.device),
            num_classes=len(task.train.class_names),
        )
        blocks, seconds_of = score_blocks(data, backbone.blocks, k=settings.k)
        for name, each in seconds_of.items():
            seconds[name] += each
        layers.append({"net": backbone.name, "blocks": blocks})
    return {"held_out_images": num_held_out, "layers": layers}


def _score_few_shot(
    task: Task, backbones: Sequence[Backbone], train: Features, test: Features, settings: ProbeSettings
) -> list[dict[str, Any]]:
    """Accuracy from a few images of each class, on the last block of each network or the chosen ones."""
    entries = []
    for number, backbone in enumerate(backbones):
        for block in [each - 1 for each in settings.blocks] or [len(backbone.blocks) - 1]:
            scores = score_few_shot(
                train.by_block[number][block].to(backbone.device),
                test.by_block[number][block].to(backbone.device),
                train.labels.to(backbone.device),
                test.labels.to(backbone.device),
                task.train.class_names,
                shots=settings.shots,
                draws=settings.draws,
                seed=settings.seed,
                k=settings.k,
            )
            entries.append({"net": backbone.name, "block": backbone.blocks[block], "scores": scores})
    return entries
