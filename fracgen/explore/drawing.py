"""Images for the page: those that `fracgen render` would write, drawn side by side on all cores."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np

from fracgen.explore.building import RecipeBuilder
from fracgen.explore.limits import check_pixels
from fracgen.explore.messages import ImagesRequest, Picture
from fracgen.explore.turns import Ticket
from fracgen.onepfrac import OnePFrac
from fracgen.photo.recipe import Photo
from fracgen.recipe import Recipe
from fracgen.shards.errors import FracgenError, UsageError, one_line
from fracgen.shards.files import num_cores
from fracgen.shards.sample import Sample
from fracgen.style import fill_rate

BASE = -1
"""Stands for the base in the place of an index."""
_TOGETHER = 2
"""Images that one thread draws before it looks whether a newer request has come; the renderer traces two at a time."""


def draw_images(
    request: ImagesRequest, recipe: Recipe, builder: RecipeBuilder, pool: Executor, ticket: Ticket
) -> list[Picture]:
    """The images of a request. What cannot be drawn is black, with `error` in its values; the others come all the same.

    Raises UsageError where they are too many, DroppedError where a newer request has come.
    """
    check_pixels(recipe, len(request.indices) * (1 + request.with_base))
    groups = [request.indices[start : start + _TOGETHER] for start in range(0, len(request.indices), _TOGETHER)]

    def draw(group: Sequence[int]) -> list[Picture]:
        ticket.check()
        pictures = []
        for index in group:
            pictures.append(_draw_base(recipe, request.mask_index) if index == BASE else None)
        samples = iter(_draw_samples(recipe, [index for index in group if index != BASE], builder))
        drawn = []
        for index, base in zip(group, pictures, strict=True):
            drawn.append(next(samples) if base is None else base)
            if request.with_base:
                drawn.append(_draw_base(recipe, index if index != BASE else request.mask_index))
        return drawn

    return [picture for pictures in side_by_side(pool, draw, groups) for picture in pictures]


def side_by_side(
    pool: Executor, draw: Callable[[Sequence[int]], list[Picture]], groups: Sequence[Sequence[int]]
) -> list[list[Picture]]:
    """What `draw` makes of each group, in their order; the first error ends those that have not begun.

    The caller's thread takes its share: on a busy machine another one may not run before all is drawn.
    """
    waiting, results = deque(enumerate(groups)), dict[int, list[Picture]]()

    def work() -> None:
        while waiting:
            try:
                number, group = waiting.popleft()
            except IndexError:  # another thread took the last one
                return
            results[number] = draw(group)

    futures = [pool.submit(work) for _ in range(min(num_cores(), len(groups)) - 1)]
    try:
        work()
    finally:
        waiting.clear()
        for future in futures:
            if not future.cancel():
                future.result()
    return [results[number] for number in range(len(groups))]


def _draw_samples(recipe: Recipe, indices: Sequence[int], builder: RecipeBuilder) -> list[Picture]:
    """Samples by index; one by one where one of them cannot be drawn."""
    if not indices:
        return []
    try:
        drawable = builder.drawable(recipe, max(category_of(recipe, index) for index in indices))
        return [sample_picture(recipe, sample) for sample in drawable.render(indices)]
    except FracgenError as error:
        if len(indices) == 1:
            return [black(recipe, indices[0], error)]
    return [picture for index in indices for picture in _draw_samples(recipe, [index], builder)]


def category_of(recipe: Recipe, index: int) -> int:
    """The category of an image; 0 of a recipe that has none. Raises UsageError where there is no such image."""
    index = recipe.check_index(index)  # or categories would be searched that no image of the recipe has
    return index // (len(recipe) // recipe.num_classes) if hasattr(recipe, "systems") else 0


def sample_picture(recipe: Recipe, sample: Sample) -> Picture:
    """A sample and what is said of it."""
    values = {
        "index": sample.index,
        "label": sample.label,
        "class_name": str(sample.label),
        "fill": fill_rate(sample.image),
        "rejected": dict(sample.rejected),
        "metadata": dict(sample.metadata),
    }
    return Picture(sample.image, values)


def black(recipe: Recipe, index: int, error: FracgenError) -> Picture:
    """What stands for an image that cannot be drawn."""
    label = index // (len(recipe) // recipe.num_classes)
    values = {"index": index, "label": label, "class_name": str(label), "fill": 0.0, "rejected": {}, "metadata": {}}
    return Picture(np.zeros(recipe.image_shape, np.uint8), {**values, "error": one_line(str(error))})


def _draw_base(recipe: Recipe, mask_index: int) -> Picture:
    """The base fractal of 1p-frac in the masks of a class, whether it is fit or not; the look of a photograph."""
    try:
        mask_index = recipe.check_index(mask_index)
        if isinstance(recipe, OnePFrac):
            return _draw_fractal(recipe, mask_index)
        if isinstance(recipe, Photo):
            image = recipe.base(mask_index // recipe.classes)
            return Picture(image, {"index": BASE, "mask_index": mask_index, "fill": fill_rate(image)})
        raise UsageError(f"{recipe.NAME} has no base")
    except FracgenError as error:
        return black(recipe, BASE, error)


def _draw_fractal(recipe: OnePFrac, mask_index: int) -> Picture:
    from fracgen.renderer import borrow_renderer

    with borrow_renderer(recipe.style) as renderer:
        base = recipe.base_of(mask_index)
        renderer.trace(base.p, base.maps)
        image = renderer.draw(mask_key=recipe.mask_key(mask_index))
        values = {
            "index": BASE,
            "mask_index": mask_index,
            "fill": renderer.fill_rate(),
            "extent": finite(renderer.extent()),
            "sigma": base.sigma,
            **({"maps": base.maps.tolist()} if recipe.bases > 1 else {}),  # which the page does not have
        }
    return Picture(image, values)


def finite(numbers: Iterable[float]) -> list[float | None]:
    """Numbers as JSON has them: None for those that are not finite."""
    return [number if math.isfinite(number) else None for number in numbers]


def finite_or_none(number: Any) -> float | None:
    """A number as JSON has it."""
    return float(number) if math.isfinite(number) else None
