"""What every formula is to the rest of the house."""

import operator
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self, TypeAlias

import numpy as np

from fracgen.rng import MAX_SEED
from fracgen.shards.data_card import FORMULAS
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.sample import Image, Sample
from fracgen.shards.sequence import Numbers, SampleSequence
from fracgen.shards.settings import Setting, check_settings
from fracgen.style import ColorMode, DrawMode, PatchMode, Style, check_range

MAX_CLASSES = 1_000_000
MAX_IMAGES = 1_000_000_000
PREVIEW_CLASSES, PREVIEW_INSTANCES = 6, 3
MAX_PASS = 2**32 - 1
"""Passes over the samples, each with masks of its own."""

Classes = Annotated[
    int, Setting("Number of classes, one image each.", at_least=1, at_most=MAX_CLASSES, panel="Formula")
]
Seed = Annotated[int, Setting("Seed of everything that is drawn.", at_least=0, at_most=MAX_SEED, panel="Formula")]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two images to be shown in one picture, by what is lit in which: a sheet chooses the colours.

    image, base: uint8, (H, W) or (H, W, 3), of one size. names: what the two are, for the caption.
    """

    image: Image
    base: Image
    names: tuple[str, str]


Column: TypeAlias = Sequence[tuple[str, Image | Difference]]
"""Captions and pictures, from top to bottom."""


OnTry: TypeAlias = Callable[[int], None]


class UnmakeableError(DataError):
    """A class of which no draw was kept; a folder that a run began is not left with a hole then."""


class Recipe(SampleSequence):
    """A frozen dataclass that holds every number that can change a pixel, and is a pure function of an index.

    Resolved, it is the sequence of its samples, each rendered when it is asked for: `recipe[3]`, `recipe[10:20]`.
    Labels are consecutive: sample i has label i // (samples of a class).

    SOURCE: what its images are made from, in a word. PAPER: BibTeX of the formula's paper, "" where there is none.
    NOTE: what the data card says of how the set compares with the published one, in sentences; "" where it is that.
    PROVENANCE: fields that lead to others, and bounds; no pixel of a finished set depends on them, nor does the hash.
    HEADING: fields that a sheet's heading states. LATER: fields that came after folders of the recipe were written. At
    their default they are left out of its plain values, so that hashes and folders stay what they were.
    size: width and height of an image in pixels. classes: one image each, where a recipe says nothing else.
    """

    NAME: ClassVar[str]
    SOURCE: ClassVar[str] = FORMULAS
    PAPER: ClassVar[str] = ""
    NOTE: ClassVar[str] = ""
    PROVENANCE: ClassVar[frozenset[str]] = frozenset()
    HEADING: ClassVar[tuple[str, ...]] = ("seed",)
    LATER: ClassVar[tuple[str, ...]] = ()
    size: int
    classes: int

    def __post_init__(self) -> None:
        """Check all fields by their `Setting`. Raises UsageError with field, value and what is allowed."""
        check_settings(self)

    @property
    @abstractmethod
    def title(self) -> str:
        """Names a folder: letters, digits, dots and dashes."""

    def __len__(self) -> int:
        return self.classes

    @property
    def group(self) -> int:
        """How many consecutive indices share work."""
        return 1

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return self.classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a label: its number, where it has no other."""
        return tuple(f"{label:0{len(str(self.num_classes - 1))}d}" for label in range(self.num_classes))

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W), or (H, W, 3) where a recipe has colours."""
        return (self.size, self.size)

    @property
    @abstractmethod
    def two_level(self) -> bool:
        """Whether all pixels are 0 or 127, so that one bit holds them."""

    def resolve(self, on_try: OnTry | None = None) -> tuple[Self, dict[str, Any]]:
        """The recipe with all that needed searching or reading, and its provenance.

        on_try: called again and again where that takes long, with the number of what is tried; what it raises ends it.
        """
        return self, {}

    @property
    def note(self) -> str:
        """What the data card says of how the set compares with the published one: NOTE."""
        return self.NOTE

    @classmethod
    def rebased(cls, values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
        """What stays of a stored recipe's values, by field, where these overrides win over them."""
        return dict(values)

    @classmethod
    def versions(cls) -> Mapping[str, str]:
        """Of what else can change a byte of this data set, beside the packages that all of them need."""
        return {}

    def warnings(self, provenance: Mapping[str, Any]) -> list[str]:
        """What a user should know before a resolved recipe is rendered."""
        return []

    @abstractmethod
    def render(self, indices: Iterable[int]) -> Iterator[Sample]:
        """The samples of these indices, in their order; the recipe must be resolved. Nothing else has a say in any."""

    def read(self, numbers: Iterable[int]) -> Iterator[Sample]:
        """The same as `render`: a sample's number is its index."""
        return self.render(numbers)

    @property
    def labels(self) -> Numbers:
        """The label of each sample, (N,) int64."""
        return np.arange(len(self)) // (len(self) // self.num_classes)

    @abstractmethod
    def preview(self) -> Iterator[Column]:
        """Columns of captioned pictures that show what the data set is."""

    @property
    def heading(self) -> str:
        """The formula and the values of the fields in HEADING, on one line."""
        values = [(name, getattr(self, name)) for name in self.HEADING]
        shown = [f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in values]
        return ", ".join([self.NAME, *shown])

    def check_index(self, index: int) -> int:
        """`index` as Python's int. Raises TypeError for no whole number, UsageError where there is no such image."""
        if not 0 <= (number := operator.index(index)) < len(self):
            raise UsageError(f"index {number}: there are images 0 to {len(self) - 1}")
        return number


def spread(count: int, most: int) -> list[int]:
    """At most so many of the numbers below `count`, evenly spread."""
    return [number * (count - 1) // max(min(count, most) - 1, 1) for number in range(min(count, most))]


@dataclass(frozen=True, kw_only=True)
class InstancesRecipe(Recipe):
    """A recipe of classes with instances: image i is instance i % instances of class i // instances.

    RANGES: names of numbers that are drawn between `min_NAME` and `max_NAME`.
    """

    RANGES: ClassVar[tuple[str, ...]] = ()

    classes: Annotated[int, Setting("Number of classes.", at_least=1, at_most=MAX_CLASSES, panel="Formula")] = 1000
    instances: Annotated[int, Setting("Images of each class.", at_least=1, panel="Formula")] = 1000

    def __post_init__(self) -> None:
        """Raises UsageError where a value is not allowed."""
        super().__post_init__()
        check_range("instances", self.instances, 1, MAX_IMAGES // self.classes)
        for name in self.RANGES:
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if low > high:
                raise UsageError(f"max_{name} {high}: must be at least min_{name}, {low}")

    def __len__(self) -> int:
        return self.classes * self.instances

    @property
    def title(self) -> str:
        """Name, classes and images a class."""
        return f"{self.NAME}-{self.classes}x{self.instances}"

    @property
    def two_level(self) -> bool:
        """False: lines have many grays."""
        return False

    def preview(self) -> Iterator[Column]:
        """Some classes, the first instances of each."""
        instances = range(min(self.instances, PREVIEW_INSTANCES))
        for label in spread(self.classes, PREVIEW_CLASSES):
            samples = self.render(label * self.instances + instance for instance in instances)
            yield [(f"class {label} #{instance}", sample.image) for instance, sample in enumerate(samples)]


class MaskedRecipe(Recipe):
    """A recipe whose patches have random masks, which can be drawn anew in each pass over its samples."""

    @property
    @abstractmethod
    def random_masks(self) -> bool:
        """Whether any image depends on random masks."""

    @abstractmethod
    def render(self, indices: Iterable[int], pass_number: int = 0) -> Iterator[Sample]:
        """The samples of these indices, in their order; the recipe must be resolved. Nothing else has a say in any.

        pass_number: 0 for the masks of the data set itself; else those of that pass. Nothing else differs: which draws
        are kept is judged by the masks of the data set.
        """

    def redrawn(self, number: int) -> "RedrawnRecipe":
        """The same samples in pass `number`, 0 to 2^32 - 1, each with random patch masks of that pass's own.

        A mask is a pure function of (seed, index, pass); pass 0 is the data set as it is rendered.
        Raises UsageError where no image depends on random masks.
        """
        if not self.random_masks:
            raise UsageError(f"masks cannot be redrawn: this {self.NAME} draws no random patches")
        check_range("pass", number := operator.index(number), 0, MAX_PASS)
        return RedrawnRecipe(self, number)


class RedrawnRecipe(SampleSequence):
    """The samples of a recipe in one pass, with patch masks of that pass's own: see `MaskedRecipe.redrawn`."""

    def __init__(self, recipe: MaskedRecipe, pass_number: int) -> None:
        self.recipe, self.pass_number = recipe, pass_number

    def __len__(self) -> int:
        return len(self.recipe)

    def read(self, numbers: Iterable[int]) -> Iterator[Sample]:
        """The samples of these indices, in their order."""
        return self.recipe.render(numbers, self.pass_number)

    def redrawn(self, number: int) -> "RedrawnRecipe":
        """The same samples in another pass."""
        return self.recipe.redrawn(number)

    @property
    def labels(self) -> Numbers:
        """The label of each sample, (N,) int64."""
        return self.recipe.labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a label."""
        return self.recipe.class_names

    def __repr__(self) -> str:
        return f"<{self.recipe.title}, masks of pass {self.pass_number}>"


class DrawnRecipe(MaskedRecipe):
    """A recipe whose images are drawn in one `style.Style`, of which it has the fields."""

    pad: int
    points: int
    draw: DrawMode
    color: ColorMode
    patch: PatchMode

    def __post_init__(self) -> None:
        """Check all fields. Raises UsageError with field, value and what is allowed."""
        super().__post_init__()
        _ = self.style

    @property
    def style(self) -> Style:
        """How its orbits are drawn."""
        return Style(
            size=self.size, pad=self.pad, points=self.points, draw=self.draw, color=self.color, patch=self.patch
        )

    @property
    def random_masks(self) -> bool:
        """Whether the style has random masks."""
        return self.style.random_masks

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(size, size), or (size, size, 3) in colour."""
        return (self.size, self.size) if self.two_level else (self.size, self.size, 3)

    @property
    def two_level(self) -> bool:
        """Gray images have the levels 0 and 127 only."""
        return self.color == "gray"
