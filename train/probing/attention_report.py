"""What all networks of a probe look at: measured on test images, drawn, and told in probe.json."""

import re
import time
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any

from fracgen.train.probing import attention_figure
from fracgen.train.probing.attention import measure_attention, position_similarity
from fracgen.train.probing.backbones import Backbone
from fracgen.train.probing.features import read_images
from fracgen.train.probing.settings import ProbeSettings
from fracgen.train.probing.tasks import Task

_MEASURED = 64
"""Test images over which attention distances are means, where no more are drawn."""


def report_attention(
    task: Task, backbones: Sequence[Backbone], settings: ProbeSettings, out: Path, seconds: MutableMapping[str, float]
) -> tuple[dict[str, Any], list[str]]:
    """(the entry of attention in probe.json, the names of the figures that are drawn in `out`)."""
    began = time.perf_counter()
    nets, similar, figures = [], [], ["attention_distance.png"]
    for number, backbone in enumerate(backbones, start=1):
        images, pictures = read_images(
            backbone,
            task.test,
            max(_MEASURED, settings.attention_images),
            shown=settings.attention_images,
            crop=settings.crop,
            skip_bad=settings.skip_bad,
        )
        attention = measure_attention(backbone, images, num_maps=len(pictures))
        name = f"attention-{number}-{re.sub(r'[^A-Za-z0-9.+_-]+', '_', backbone.name)}.png"
        attention_figure.draw_maps(
            out / name,
            backbone.name,
            attention,
            pictures,
            blocks=[each - 1 for each in settings.blocks],
            heads=[each - 1 for each in settings.heads],
        )
        figures.append(name)
        nets.append({"name": backbone.name, "random": backbone.random, **attention.describe()})
        if (similarity := position_similarity(backbone)) is not None:
            similar.append((backbone.name, similarity))
    attention_figure.draw_distances(out / figures[0], nets)
    if similar:
        attention_figure.draw_position_similarity(out / "position_embeddings.png", similar)
        figures.append("position_embeddings.png")
    seconds["attention"] += time.perf_counter() - began
    return {"task": task.name, "images": len(images), "nets": nets}, figures
