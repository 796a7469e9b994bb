"""One real image: its edges, warped into classes (Nakamura et al., ECCV 2024), or crops (Asano et al., ICLR 2020).

The paper gives that a photograph was turned gray, that its Canny edges (white on black) did better than its colours,
and that affine, polynomial and elastic warps were compared; its figures show quads on black. Which ranges, which
thresholds, which part of the photograph: all of that is our own, and stands in the recipe.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from fracgen.photo.crops import (
    Brightness,
    Contrast,
    Crop,
    CropRanges,
    Flip,
    Hue,
    Level,
    MaxRatio,
    MaxScale,
    MinScale,
    Rotation,
    Saturation,
    Shear,
    levels_of,
)
from fracgen.photo.edges import Canny, Look, derive_canny, square, to_gray, to_rgb
from fracgen.photo.opencv import opencv_version
from fracgen.photo.photographs import Photographs
from fracgen.photo.warps import Affine, Elastic, Perspective, Polynomial, Warp
from fracgen.recipe import MAX_CLASSES, Column, Difference, Recipe, Seed, UnmakeableError, spread
from fracgen.rng import generator
from fracgen.shards.errors import UsageError
from fracgen.shards.sample import Image, Sample
from fracgen.shards.settings import Setting
from fracgen.style import Size, check_range

WarpName = Literal["affine", "perspective", "polynomial", "elastic", "crops"]
PROBES, RENDERED_PROBES = 100_000, 256
"""Classes that `resolve` tries, at most: by their numbers, and where only the image tells (edges of crops)."""
PREVIEW_CLASSES = 5


_CANNY_FIELDS = ("blur", "low", "high")
_CROP_FIELDS = tuple(field.name for field in fields(CropRanges))


@dataclass(frozen=True, kw_only=True)
class Photo(Recipe):
    """The recipe of photographs, resolved once it has Canny's numbers.

    Index: photograph * classes + warp, each a class.
    look: white edges on black, gray, or colours; of the centre square, scaled to size x size pixels.
    warp: of that look. Its numbers are uniform in [-strength/2, strength/2]; in the frame, where 1 is half the width:
      affine: the six coefficients about the identity; perspective: x and y of the four corners; polynomial: the twelve
      coefficients of a quadratic about the identity; elastic: x and y of the control points of cells x cells cells,
      here 1 is the width of a cell.
      crops: of the whole photograph; strength and cells have no say in them.
    classes: L, of each photograph. seed: of everything that is drawn.
    blur, low, high: see `looks.Canny`; one number, or one a photograph; derived from it where not given. Without
      Canny there are none. derived: the names of those that were; `rebased` derives them again.
    min_fill: a warp is kept if it covers this share of the image, and shows this share of the look; a crop only has
      to cover. max_tries: warps tried for one class.
    min_scale and all that follows: see `crops.CropRanges`.
    """

    NAME: ClassVar[str] = "photo"
    HEADING: ClassVar[tuple[str, ...]] = ("look", "warp", "strength", "seed")
    SOURCE: ClassVar[str] = "photographs"
    PROVENANCE: ClassVar[frozenset[str]] = frozenset({"max_tries", "derived"})

    look: Annotated[Look, Setting("White edges, gray, or colours.", panel="Formula")] = "canny"
    warp: Annotated[WarpName, Setting("What makes a class.", panel="Formula")] = "affine"
    strength: Annotated[
        float,
        Setting(
            "Width of the warps' numbers; 1 is half of the picture, for elastic a cell.",
            at_least=0,
            at_most=1e6,
            panel="Formula",
        ),
    ] = 0.5
    classes: Annotated[
        int,
        Setting("Warps of each photograph, each a class.", at_least=1, at_most=MAX_CLASSES, panel="Formula"),
    ] = 1000
    seed: Seed = 0
    size: Size = 512
    blur: Annotated[
        tuple[float, ...] | None,
        Setting(
            "Sigma of Canny's Gaussian in pixels; once, or once for each photograph.",
            at_least=0,
            at_most=100,
            panel="Edges",
            default="derived from the photograph",
        ),
    ] = None
    low: Annotated[
        tuple[float, ...] | None,
        Setting("Low threshold of Canny.", at_least=0, at_most=1e4, panel="Edges", default="0.4 of the high one"),
    ] = None
    high: Annotated[
        tuple[float, ...] | None,
        Setting(
            "High threshold of Canny.",
            at_least=0,
            at_most=1e4,
            panel="Edges",
            default="a fifth of the gradients exceed it",
        ),
    ] = None
    cells: Annotated[
        int, Setting("Cells of an elastic warp along a side.", at_least=1, at_most=16, panel="Formula")
    ] = 4
    min_fill: Annotated[
        float,
        Setting(
            "Share of the image that a warp must cover, and of the photograph that it must show.",
            at_least=0,
            at_most=1,
            panel="Rejection",
        ),
    ] = 0.25
    max_tries: Annotated[int, Setting("Warps tried for a class.", at_least=1, at_most=10**6, panel="Rejection")] = 100
    min_scale: MinScale = 0.002
    max_scale: MaxScale = 0.25
    max_ratio: MaxRatio = 4 / 3
    rotation: Rotation = 30.0
    shear: Shear = 30.0
    flip: Flip = 0.5
    brightness: Brightness = 0.4
    contrast: Contrast = 0.4
    saturation: Saturation = 0.4
    hue: Hue = 0.1
    derived: Annotated[tuple[str, ...], Setting("Numbers of Canny that were derived.", option="")] = ()
    photographs: Annotated[Photographs | None, Setting("The photographs.", option="")] = None

    _dropped: ClassVar[tuple[str, ...]] = ()
    """Canny's numbers that were given without Canny: of each recipe its own, but no field."""

    def __post_init__(self) -> None:
        """Raises UsageError where a value is not allowed."""
        super().__post_init__()
        check_range("classes", self.classes, 1, MAX_CLASSES // self.num_photographs)
        _ = self._ranges
        object.__setattr__(self, "_dropped", ())
        for name in _CANNY_FIELDS:
            self._check_canny(name)
        if unknown := set(self.derived) - set(_CANNY_FIELDS):
            raise UsageError(f"derived {min(unknown)!r}: must be of {', '.join(_CANNY_FIELDS)}")
        object.__setattr__(self, "derived", tuple(name for name in self.derived if getattr(self, name) is not None))
        for low, high in zip(self.low or (), self.high or (), strict=False):
            check_range("low", low, 0, high, f"(high is {high})")

    def _check_canny(self, name: str) -> None:
        values = getattr(self, name)
        if values is None or self.look != "canny":
            if values is not None and name not in self.derived:
                object.__setattr__(self, "_dropped", (*self._dropped, name))
            object.__setattr__(self, name, None)
            return
        if len(values) not in (1, self.num_photographs):
            raise UsageError(
                f"{name}: {len(values)} numbers for {self.num_photographs} photographs; give 1, or one each"
            )
        if self.photographs is not None and len(values) == 1:
            object.__setattr__(self, name, values * len(self.photographs))

    def __len__(self) -> int:
        return self.num_photographs * self.classes

    @property
    def num_photographs(self) -> int:
        """As far as is known: one."""
        return len(self.photographs) if self.photographs is not None else 1

    @property
    def title(self) -> str:
        """Name, look, warp and classes."""
        return f"{self.NAME}-{self.look}-{self.warp}-{len(self)}"

    @property
    def num_classes(self) -> int:
        """Photographs x L."""
        return len(self)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(size, size), or (size, size, 3) in colours."""
        return (self.size, self.size, 3) if self.look == "rgb" else (self.size, self.size)

    @property
    def two_level(self) -> bool:
        """Edges are white, and gray where they are warped."""
        return False

    @classmethod
    def versions(cls) -> Mapping[str, str]:
        """Of OpenCV: edges differ between its builds."""
        return opencv_version()

    def resolve(self) -> tuple["Photo", dict[str, Any]]:
        """The recipe with Canny's numbers, and what is worth knowing: the share of edges, and how many warps were kept.

        Raises UsageError where there is no photograph, no edge in one, or a class that no warp is kept for: all
        classes are tried; of more than 100,000, and of more than 256 of edges of crops, some.
        """
        count, resolved = len(self._given()), self
        provenance: dict[str, Any] = {"photographs": count}
        if self.look == "canny":
            found = [self._canny(number) for number in range(count)]
            resolved = replace(
                self,
                blur=tuple(canny.blur for canny in found),
                low=tuple(canny.low for canny in found),
                high=tuple(canny.high for canny in found),
                derived=tuple(name for name in _CANNY_FIELDS if name in self.derived or getattr(self, name) is None),
            )
            provenance["edge_share"] = [resolved._edge_share(number) for number in range(count)]
        provenance["probed_acceptance"] = resolved._probe()
        return resolved, provenance

    @classmethod
    def rebased(cls, values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
        """Without the numbers that were derived, where what they were derived from is another now; given ones stay.

        Of more photographs than one, a number that all have stays one for all.
        """
        kept = dict(values)
        if not {"size", "photographs", *_CANNY_FIELDS} & set(overrides):
            return kept
        derived = kept.pop("derived", None)
        for name in derived if isinstance(derived, list) else ():
            kept.pop(name, None)
        if "photographs" in overrides:
            for name in _CANNY_FIELDS:
                given = kept.get(name)
                if isinstance(given, list) and given and all(number == given[0] for number in given):
                    kept[name] = given[:1]
        return kept

    def _canny(self, number: int) -> Canny:
        blur, low, high = (
            None if values is None else values[min(number, len(values) - 1)]
            for values in (self.blur, self.low, self.high)
        )
        if blur is None or low is None or high is None:
            return derive_canny(self._pictures[number], blur=blur, low=low, high=high)
        return Canny(blur=blur, low=low, high=high)

    def _edge_share(self, number: int) -> float:
        edges, canny = self._looks[number], self._canny(number)
        if not edges.any():
            mend = (
                "lower them (--low, --high), or take another photograph" if canny.high else "it is flat; take another"
            )
            raise UsageError(
                f"photograph {number}: no edges found with blur {canny.blur:g} and thresholds low {canny.low:g} and "
                f"high {canny.high:g}; {mend}"
            )
        return round(int(np.count_nonzero(edges)) / edges.size, 4)

    def _probe(self) -> float:
        """The share of warps that are kept."""
        rendered = self.warp == "crops" and self.look == "canny"
        chosen = spread(len(self), RENDERED_PROBES if rendered else PROBES)
        tries = len(chosen)
        try:
            for index in chosen:
                warp, rejected = self._draw(index)
                while not self._shows(warp, index // self.classes):
                    rejected["flat"] += 1
                    warp, rejected = self._draw(index, rejected)
                tries += rejected.total()
        except UnmakeableError as error:
            raise UsageError(str(error)) from None
        return round(len(chosen) / tries, 4)

    def _shows(self, warp: Warp | Crop, photograph: int) -> bool:
        """Whether there is anything in the image; it is made only where a few of its samples do not tell."""
        if self.look != "canny":
            return True
        if isinstance(warp, Warp) and warp.meets(self._looks[photograph]):
            return True
        return bool(self._apply(warp, photograph).any())

    def warnings(self, provenance: Mapping[str, Any]) -> list[str]:
        """Classes that nothing tells apart, photographs that are there twice or are blown up, values without effect."""
        found = []
        pictures = [(photograph.shape, photograph.tobytes()) for photograph in self._given().images]
        for number, picture in enumerate(pictures):
            if (first := pictures.index(picture)) != number:
                found.append(f"photographs {first} and {number} are the same; only warps tell their classes apart")
        found += self._unused()
        if self.strength == 0 and self.warp != "crops":
            found.append("strength 0: all classes of a photograph are the same image")
        sides = [min(photograph.shape[:2]) for photograph in self._given().images]
        if min(sides) < self.size and self.warp != "crops":
            found.append(f"size {self.size}: a photograph has only {min(sides)} pixels along a side and is enlarged")
        return found

    def _unused(self) -> list[str]:
        """Values other than the defaults that change nothing, a line each."""
        unused = {"strength", "cells"} if self.warp == "crops" else set(_CROP_FIELDS)
        unused |= set() if self.warp == "elastic" else {"cells"}
        unused |= set() if self.look == "rgb" else {"saturation", "hue"}
        found = [f"{name}: changes nothing with {self.look}, only canny has it" for name in self._dropped]
        for name in sorted(unused):
            if (value := getattr(self, name)) != getattr(type(self), name):
                found.append(f"{name.replace('_', '-')} {value}: changes nothing with {self.look} and {self.warp}")
        return found

    def _given(self) -> Photographs:
        if self.photographs is None:
            raise UsageError("the recipe has no photograph; give one, as in `fracgen photo IMAGE`")
        return self.photographs

    @cached_property
    def _pictures(self) -> list[Image]:
        """The centre squares that the look is made of."""
        squares = [square(photograph, self.size) for photograph in self._given().images]
        return [to_rgb(picture) if self.look == "rgb" else to_gray(picture) for picture in squares]

    @cached_property
    def _looks(self) -> list[Image]:
        if self.look != "canny":
            return self._pictures
        return [self._canny(number).edges(picture) for number, picture in enumerate(self._pictures)]

    @cached_property
    def _levels(self) -> list[list[Level]]:
        """Each photograph and its reductions, for crops."""
        wanted = to_rgb if self.look == "rgb" else to_gray
        return [levels_of(wanted(photograph)) for photograph in self._given().images]

    @cached_property
    def _ranges(self) -> CropRanges:
        return CropRanges(**{name: getattr(self, name) for name in _CROP_FIELDS})

    def base(self, photograph: int = 0) -> Image:
        """What is warped: the look of a photograph, (size, size) or (size, size, 3)."""
        return self._looks[photograph]

    def draw_warp(self, index: int, attempt: int = 0) -> Warp | Crop:
        """The warp of an image at an attempt; a pure function of (seed, index, attempt), kept or not."""
        if self.warp == "crops":
            random = generator(self.seed, index, "crop", attempt).random
            return self._ranges.draw(random, self._levels[index // self.classes], self.size)
        kinds: Mapping[str, type[Warp]] = {
            "affine": Affine, "perspective": Perspective, "polynomial": Polynomial, "elastic": Elastic
        }  # fmt: skip
        kind = kinds[self.warp]
        random = generator(self.seed, index, "warp", attempt).random
        return kind(eps=self.strength * (random(kind.count(self.cells)) - 0.5) + 0.0, size=self.size)

    def _draw(self, index: int, rejected: Counter[str] | None = None) -> tuple[Warp | Crop, Counter[str]]:
        """The next warp of an image that is kept, and how many were not, by reason.

        Raises UnmakeableError where there is none within max_tries.
        """
        rejected = Counter(fill=0, flat=0, fold=0) if rejected is None else rejected
        while (tries := sum(rejected.values())) < self.max_tries:
            warp = self.draw_warp(index, tries)
            if warp.extent.folded:
                rejected["fold"] += 1
            elif warp.fill < self.min_fill:
                rejected["fill"] += 1
            else:
                return warp, rejected
        reasons = ", ".join(f"{count} {reason}" for reason, count in rejected.items())
        what, mend = "warps", "lower --strength or --min-fill"
        if self.warp == "crops":
            what, mend = "crops", "lower --min-fill, raise --min-scale and --max-scale"
        raise UnmakeableError(
            f"class {index}: none of {self.max_tries} {what} could be kept ({reasons}); "
            f"{mend}, raise --max-tries, or try another --seed"
        )

    def render(self, indices: Iterable[int]) -> Iterator[Sample]:
        """The samples of these indices, in their order. Pure: nothing else has a say in any of them.

        Raises UnmakeableError for a class for which no warp is kept within `max_tries`.
        """
        for index in map(self.check_index, indices):
            photograph, rejected = index // self.classes, None
            while True:
                warp, rejected = self._draw(index, rejected)
                image = self._apply(warp, photograph)
                if self.look != "canny" or image.any():
                    break
                rejected["flat"] += 1
            metadata = {
                "formula": self.NAME,
                "look": self.look,
                "warp": self.warp,
                "photograph": photograph,
                **warp.metadata(),
                "covered": warp.extent.covered,
                "visible": warp.extent.visible,
                "tries": sum(rejected.values()) + 1,
            }
            yield Sample(image=image, index=index, label=index, metadata=metadata, rejected=dict(rejected))

    def _apply(self, warp: Warp | Crop, photograph: int) -> Image:
        if isinstance(warp, Warp):
            return warp.apply(self._looks[photograph])
        image, covered = warp.apply(self._levels[photograph])
        if self.look == "canny":
            image = self._canny(photograph).edges(image)
            return image if covered is None else np.where(covered == 255, image, np.uint8(0))
        return image if covered is None else warp.on_black(image, covered)

    def preview(self) -> Iterator[Column]:
        """The photograph, its look, some classes; below each class, where it differs from the look.

        Of edges, which are in which; else how far levels are apart. Crops differ everywhere: two rows of them.
        """
        self._given()
        for photograph in spread(self.num_photographs, 2):
            base, first = self._looks[photograph], photograph * self.classes
            whole = square(self._given().images[photograph], self.size)
            yield [(f"photograph {photograph}", whole), (f"its look: {self.look}", base)]
            rows = 2 if self.warp == "crops" else 1
            chosen = spread(self.classes, PREVIEW_CLASSES * rows)
            samples = list(self.render(first + number for number in chosen))
            for start in range(0, len(samples), rows):
                column = samples[start : start + rows]
                below = [] if rows == 2 else [self._difference(column[0].image, base)]
                yield [*((f"class {sample.label}", sample.image) for sample in column), *below]

    def _difference(self, image: Image, base: Image) -> tuple[str, Image | Difference]:
        if self.look == "canny":
            return "", Difference(image=image, base=base, names=("class", "look"))
        return "difference", np.abs(image.astype(np.int16) - base).astype(np.uint8)
