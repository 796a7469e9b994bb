"""A set of images judged before it is trained on: what its images are, how many are equal, how well they differ.

Every number is defined in docs/quality.md. A score is a function of images, labels and settings; workers have no say.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import numpy.typing as npt

from fracgen.onepfrac import OnePFrac
from fracgen.rng import MAX_SEED
from fracgen.score_images import BLACK, ImageMeasures
from fracgen.score_sample import Comparison, ImageSource, Viewer, check_memory, choose_sample
from fracgen.separability import Bytes, Labels, Pairs, Separability, nearest_correlations, separability
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.files import num_threads
from fracgen.shards.sample import Image
from fracgen.shards.settings import Setting, check_settings

NEAR_DUPLICATE = 0.99
"""Correlation of pixels from which images are near duplicates."""


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """Which images are judged, and at which size they are compared."""

    images: Annotated[
        int, Setting("Images that are looked at, of all classes alike.", at_least=2, at_most=10_000, panel="Sample")
    ] = 1000
    seed: Annotated[
        int, Setting("Seed of the sample and of its views.", at_least=0, at_most=MAX_SEED, panel="Sample")
    ] = 0
    delta: Annotated[
        tuple[float, ...],
        Setting(
            "Delta, beside the set's own, at which 1p-frac's base is judged; repeat for others.",
            above=0,
            at_most=1e6,
            panel="1p-frac",
        ),
    ] = (0.001, 0.01, 0.05, 0.1, 0.2)
    perturbations: Annotated[
        int, Setting("Perturbations at each Delta; below 2: not judged.", at_least=0, at_most=10_000, panel="1p-frac")
    ] = 64

    def __post_init__(self) -> None:
        """Raises UsageError where a value is not allowed."""
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class Neighbourhood:
    """Perturbations of 1p-frac's base at one Delta.

    views: told apart by augmented views, as the set itself is; None without augmentation. shapes: by whole images,
    between those of the set and the same with fresh patch masks; None where there are no random masks. acceptance:
    share of draws that were kept. All are None where a class cannot be rendered; `error` says why.
    """

    delta: float
    views: Separability | None = None
    shapes: Separability | None = None
    fill_rate: float | None = None
    acceptance: float | None = None
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a sample of a set is.

    images: measures of each, by number. labels: (n,) of them. near: (n,) highest correlation of each with another.
    accuracies: (n,) of nearest neighbours; empty, and `separability` None, where there is nothing to compare: one
    class, or without augmentation one image of each class, which would find itself.
    """

    numbers: tuple[int, ...]
    labels: Labels
    images: tuple[ImageMeasures, ...]
    near: npt.NDArray[np.float64]
    accuracies: npt.NDArray[np.float64]
    separability: Separability | None
    augmented: bool
    neighbourhood: tuple[Neighbourhood, ...] = ()

    @property
    def blank(self) -> int:
        """Images on which nothing is drawn."""
        return sum(image.fill_rate == 0 for image in self.images)

    @property
    def exact_duplicates(self) -> int:
        """Images whose pixels an earlier one has."""
        return len(self.images) - len({image.digest for image in self.images})

    @property
    def mislabelled(self) -> int:
        """Images whose pixels an image of another class has too."""
        classes: dict[bytes, set[int]] = {}
        for image, label in zip(self.images, self.labels.tolist(), strict=True):
            classes.setdefault(image.digest, set()).add(label)
        return sum(len(classes[image.digest]) > 1 for image in self.images)

    @property
    def near_duplicates(self) -> int:
        """Images that correlate with another by NEAR_DUPLICATE or more."""
        return int((self.near >= NEAR_DUPLICATE).sum())

    def measures(self) -> dict[str, npt.NDArray[np.float64]]:
        """A number for each image, by the name of the measure; NaN where an image has none."""
        columns: dict[str, Callable[[ImageMeasures], float]] = {
            "fill_rate": lambda image: image.fill_rate,
            "dimension": lambda image: image.dimension,
            "lacunarity": lambda image: image.mean_lacunarity,
            "bytes_per_pixel": lambda image: image.bytes_per_pixel,
        }
        values = {name: np.array([column(image) for image in self.images]) for name, column in columns.items()}
        return {**values, "nearest_correlation": self.near}


def score(
    source: ImageSource,
    settings: ScoreSettings,
    comparison: Comparison,
    *,
    recipe: OnePFrac | None = None,
    workers: int | None = None,
) -> Score:
    """Judge a set of images by a sample of it.

    recipe: resolved, of 1p-frac with one base, which is judged too. Raises UsageError for fewer than two images and for
    more views than memory should hold, DataError where an image cannot be read.
    """
    if len(source.labels) < 2:
        raise UsageError(f"a score needs two images at least, and there is {len(source.labels)}")
    numbers = choose_sample(source.labels, settings.images, settings.seed)
    labels = source.labels[numbers]
    deltas = []
    if recipe is not None and settings.perturbations > 1:
        deltas = sorted({*settings.delta, recipe.delta} - {0.0})
        check_memory(settings.perturbations, comparison, "--perturbations")
    check_memory(len(numbers), comparison, "--images")
    with ThreadPoolExecutor(num_threads(workers)) as pool:
        viewer = Viewer(source, comparison, settings.seed, pool)
        images, thumbnails, pairs = viewer.look(numbers.tolist())
        near = nearest_correlations(thumbnails, pool)
        num_classes = len(np.unique(labels))
        are_comparable = num_classes > 1 and (comparison.views is not None or num_classes < len(labels))
        told_apart, accuracies = separability(pairs, labels, pool) if are_comparable else (None, np.empty(0))
        del thumbnails, pairs
        nearby = [_judge(recipe, delta, settings, comparison, pool) for delta in deltas if recipe is not None]
    return Score(
        numbers=tuple(numbers.tolist()),
        labels=labels,
        images=images,
        near=near,
        accuracies=accuracies,
        separability=told_apart,
        augmented=comparison.views is not None,
        neighbourhood=tuple(nearby),
    )


def _judge(
    recipe: OnePFrac, delta: float, settings: ScoreSettings, comparison: Comparison, pool: Executor
) -> Neighbourhood:
    """How well perturbations of a base at some Delta are told apart."""
    moved = replace(recipe, delta=delta, classes=settings.perturbations)
    rejected = list[int]()

    def read(numbers: Sequence[int]) -> Iterator[Image]:
        for sample in moved.render(numbers):
            rejected.append(sum(sample.rejected.values()))
            yield sample.image

    def look(source: ImageSource, compared: Comparison) -> tuple[tuple[ImageMeasures, ...], Bytes, Pairs]:
        return Viewer(source, compared, settings.seed, pool).look(range(len(moved)), ground=BLACK)

    try:
        images, whole, pairs = look(ImageSource(moved.labels, read), comparison)
        shapes = None
        if moved.random_masks:
            _, again, _ = look(ImageSource.of(moved.redrawn(1)), replace(comparison, views=None))
            shapes, _ = separability([(whole, again)], moved.labels, pool)
    except DataError as error:
        return Neighbourhood(delta=delta, error=str(error))
    return Neighbourhood(
        delta=delta,
        views=separability(pairs, moved.labels, pool)[0] if comparison.views is not None else None,
        shapes=shapes,
        fill_rate=float(np.mean([image.fill_rate for image in images])),
        acceptance=len(moved) / (len(moved) + sum(rejected)),
    )
