"""What every formula is to the rest of the house."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self, TypeAlias

from fracgen.rng import MAX_SEED
from fracgen.shards.data_card import FORMULAS
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.sample import Image, Sample
from fracgen.shards.settings import Setting, check_settings
from fracgen.style import ColorMode, DrawMode, PatchMode, Style

MAX_CLASSES = 1_000_000

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


class UnmakeableError(DataError):
    """A class of which no draw was kept; a folder that a run began is not left with a hole then."""


class Recipe(ABC):
    """A frozen dataclass that holds every number that can change a pixel, and is a pure function of an index.

    SOURCE: what its images are made from, in a word. PAPER: BibTeX of the formula's paper, "" where there is none.
    PROVENANCE: fields that lead to others, and bounds; no pixel of a finished set depends on them, nor does the hash.
    HEADING: fields that a sheet's heading states.
    size: width and height of an image in pixels. classes: one image each, where a recipe says nothing else.
    """

    NAME: ClassVar[str]
    SOURCE: ClassVar[str] = FORMULAS
    PAPER: ClassVar[str] = ""
    PROVENANCE: ClassVar[frozenset[str]] = frozenset()
    HEADING: ClassVar[tuple[str, ...]] = ("seed",)
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

    def resolve(self) -> tuple[Self, dict[str, Any]]:
        """The recipe with all that needed searching or reading, and its provenance."""
        return self, {}

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
        """`index` as an int. Raises UsageError where there is no such image."""
        if not 0 <= index < len(self):
            raise UsageError(f"index {index}: there are images 0 to {len(self) - 1}")
        return int(index)


def spread(count: int, most: int) -> list[int]:
    """At most so many of the numbers below `count`, evenly spread."""
    return [number * (count - 1) // max(min(count, most) - 1, 1) for number in range(min(count, most))]


class DrawnRecipe(Recipe):
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
    def image_shape(self) -> tuple[int, ...]:
        """(size, size), or (size, size, 3) in colour."""
        return (self.size, self.size) if self.two_level else (self.size, self.size, 3)

    @property
    def two_level(self) -> bool:
        """Gray images have the levels 0 and 127 only."""
        return self.color == "gray"
