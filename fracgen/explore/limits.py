"""How far the page goes: bounds that no request may pass, ranges of sliders, and the fields of each recipe.

Recipes allow more than can be drawn while somebody waits. What is bounded here is what a request costs in time or
memory; `fracgen render` knows no such bounds.
"""

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from typing import Any, Literal, NamedTuple

from fracgen.recipe import Recipe
from fracgen.shards.errors import UsageError
from fracgen.shards.fields import FieldInfo, can_be_written, fields_of
from fracgen.shards.settings import to_plain
from fracgen.sweep import FIXED

MAX_IMAGES = 64
"""Of one request."""
MAX_BYTES = 128 << 20
"""Of the pixels of one reply."""
MAX_VALUES = 12
"""Of one field in a sweep."""
AT_MOST: Mapping[str, float] = {
    "seed": 2**53 - 1,  # a browser rounds greater ones, and would show another set
    "size": 2048,
    "points": 2_000_000,
    "max_tries": 1000,
    "base_candidates": 64,
    "bases": 256,
    "max_base_tries": 10_000,
    "max_vertices": 5000,
    "min_vertices": 5000,
    "max_orbits": 1000,
    "min_orbits": 1000,
    "max_lines": 1000,
    "min_lines": 1000,
    "max_radius": 1024,
    "min_radius": 1024,
    "max_ellipse": 10,
    "min_ellipse": 10,
    "max_oval": 10,
    "min_oval": 10,
    "max_noise": 20,
    "max_line_offset": 10,
}


class Slider(NamedTuple):
    """A range for dragging, in which most of what is worth seeing lies; logarithmic where `log`."""

    min: float
    max: float
    step: float
    log: bool = False


SLIDERS: Mapping[str, Slider] = {
    "sigma": Slider(2.6, 6, 0.05),
    "delta": Slider(0.001, 1, 0.001, log=True),
    "bases": Slider(1, 64, 1, log=True),
    "seed": Slider(0, 100, 1),
    "size": Slider(64, 1024, 32),
    "pad": Slider(0, 64, 1),
    "points": Slider(1000, 400_000, 1000, log=True),
    "maps": Slider(2, 8, 1),
    "min_fill": Slider(0, 0.5, 0.01),
    "max_tries": Slider(1, 200, 1),
    "base_candidates": Slider(1, 64, 1),
    "min_acceptance": Slider(0, 1, 0.05),
    "classes": Slider(16, 21_000, 1, log=True),
    "categories": Slider(1, 1000, 1),
    "instances": Slider(1, 1000, 1, log=True),
    "weights": Slider(0.05, 1, 0.05),
    "std": Slider(0.02, 1, 0.01, log=True),
    "strength": Slider(0, 2, 0.05),
    "cells": Slider(1, 16, 1),
    "base": Slider(0, 100, 1),
    "min_vertices": Slider(3, 1000, 1),
    "max_vertices": Slider(3, 2000, 1),
    "min_orbits": Slider(1, 200, 1),
    "max_orbits": Slider(1, 400, 1),
    "max_noise": Slider(0, 20, 0.1),
    "max_line_offset": Slider(0, 5, 0.1),
    "min_radius": Slider(0, 200, 1),
    "max_radius": Slider(0, 200, 1),
    "max_waves": Slider(0, 40, 1),
    "min_ellipse": Slider(0, 4, 0.1),
    "max_ellipse": Slider(0, 4, 0.1),
    "mean_vertices": Slider(3, 1000, 1, log=True),
    "min_lines": Slider(1, 200, 1),
    "max_lines": Slider(1, 400, 1),
    "min_oval": Slider(0, 4, 0.1),
    "max_oval": Slider(0, 4, 0.1),
    "max_shift": Slider(0, 1000, 10),
}

UNSEEN = ("classes", "categories", "instances", "max_tries", "base_candidates", "min_acceptance")
"""Fields that change a set, and none of its images: a sweep of them shows nothing."""


def check_limits(recipe: Recipe) -> None:
    """Raises UsageError where a recipe costs more than the page draws."""
    for name, most in AT_MOST.items():
        value = getattr(recipe, name, None)
        if isinstance(value, int | float) and value > most:
            raise UsageError(f"{name} {value}: the page draws up to {most:g}; `fracgen render` takes more")


def check_pixels(recipe: Recipe, images: int) -> None:
    """Raises UsageError where so many images of a recipe are more than one reply holds."""
    height, width, *channels = recipe.image_shape
    num_bytes = images * height * width * (3 if channels else 1)
    if images > MAX_IMAGES or num_bytes > MAX_BYTES:
        raise UsageError(
            f"{images} images of {width} x {height} pixels: at most {MAX_IMAGES}, and {MAX_BYTES >> 20} MiB of pixels, "
            "at a time; ask for fewer, or lower size"
        )


def describe_fields(kind: type) -> list[dict[str, Any]]:
    """What controls are made of: the fields of a recipe, or of other settings, that plain values can say, JSON-able."""
    fields = [field for field in fields_of(kind) if field.option and can_be_written(field.type)]
    return [_describe(field) for field in fields]


def _describe(field: FieldInfo) -> dict[str, Any]:
    setting, slider = field.setting, SLIDERS.get(field.name)
    most = [bound for bound in (setting.at_most, AT_MOST.get(field.name)) if bound is not None]
    kind, optional = _without_none(field.type)
    return {
        "name": field.name,
        "help": setting.help,
        "panel": setting.panel,
        "type": _type_name(kind),
        "choices": list(typing.get_args(kind)) if typing.get_origin(kind) is Literal else None,
        "at_least": setting.at_least,
        "at_most": min(most, default=None),
        "above": setting.above,
        "below": setting.below,
        "default": None if field.default is MISSING else to_plain(field.default),
        "optional": optional,
        "slider": _within(slider, most)._asdict() if slider and _type_name(kind) in ("int", "float") else None,
        "sweeps": field.name not in (*FIXED, *UNSEEN)
        and (slider is not None or _type_name(kind) in ("choice", "bool")),
    }


def _within(slider: Slider, bounds: Sequence[float]) -> Slider:
    """A slider that ends at a field's greatest value: another recipe's field of the same name may reach further."""
    if slider.max <= (most := min(bounds, default=slider.max)):
        return slider
    width = most - slider.min
    return slider._replace(max=most, step=slider.step if 10 * slider.step <= width else width / 100)


def _without_none(kind: Any) -> tuple[Any, bool]:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        parts = [part for part in typing.get_args(kind) if part is not type(None)]
        return parts[0], len(parts) < len(typing.get_args(kind))
    return kind, False


def _type_name(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "choice"
    if typing.get_origin(kind) in (tuple, list):
        return "numbers"
    return {bool: "bool", int: "int", float: "float"}.get(kind, "text")
