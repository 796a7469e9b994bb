"""One real image: its edges, warped into classes (Nakamura et al., ECCV 2024), or crops (Asano et al., ICLR 2020).

The paper gives that a photograph was turned gray, that its Canny edges (white on black) did better than its colours,
and that affine, polynomial and elastic warps were compared; its figures show quads on black. Which ranges, which
thresholds, which part of the photograph: all of that is our own, and stands in the recipe.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar

from fracgen import citations
from fracgen.photo import crops
from fracgen.photo.edges import CANNY_FIELDS, Blur, High, Look, Low, forget_derived, square
from fracgen.photo.opencv import opencv_version
from fracgen.photo.photographs import Photographs
from fracgen.photo.pictures import Pictures
from fracgen.photo.warps import WARPS, Cells, MinFill, Strength, Warp, WarpName
from fracgen.recipe import MAX_CLASSES, Column, OnTry, Recipe, Seed, UnmakeableError, spread
from fracgen.rng import generator
from fracgen.shards.errors import UsageError
from fracgen.shards.sample import Image, Sample
from fracgen.shards.settings import Setting
from fracgen.style import Size, check_range

PROBES, RENDERED_PROBES = 100_000, 256
"""Classes that `resolve` tries, at most: by their numbers, and where only the image tells (edges of crops)."""
PREVIEW_CLASSES = 5
_CROP_FIELDS = tuple(field.name for field in fields(crops.CropRanges))


@dataclass(frozen=True, kw_only=True)
class Photo(Recipe):
    """The recipe of photographs, resolved once it has Canny's numbers.

    Index: photograph * classes + warp, each a class. A look is of the centre square, scaled to size x size pixels;
    crops are of the whole photograph, and neither strength nor cells have a say in them.
    blur, low, high: see `edges.Canny`; None without Canny. derived: the names of those that were not given; `rebased`
    derives them again. min_fill: of a crop, the share that it must cover only.
    """

    NAME: ClassVar[str] = "photo"
    PAPER: ClassVar[str] = citations.SCALING_BACKWARDS
    HEADING: ClassVar[tuple[str, ...]] = ("look", "warp", "strength", "seed")
    SOURCE: ClassVar[str] = "photographs"
    PROVENANCE: ClassVar[frozenset[str]] = frozenset({"max_tries", "derived"})

    look: Annotated[Look, Setting("White edges, gray, or colours.", panel="Formula")] = "canny"
    warp: Annotated[WarpName, Setting("What makes a class.", panel="Formula")] = "affine"
    strength: Strength = 0.5
    classes: Annotated[
        int,
        Setting("Warps of each photograph, each a class.", at_least=1, at_most=MAX_CLASSES, panel="Formula"),
    ] = 1000
    seed: Seed = 0
    size: Size = 512
    blur: Blur = None
    low: Low = None
    high: High = None
    cells: Cells = 4
    min_fill: MinFill = 0.25
    max_tries: Annotated[int, Setting("Warps tried for a class.", at_least=1, at_most=10**6, panel="Rejection")] = 100
    min_scale: crops.MinScale = 0.002
    max_scale: crops.MaxScale = 0.25
    max_ratio: crops.MaxRatio = 4 / 3
    rotation: crops.Rotation = 30.0
    shear: crops.Shear = 30.0
    flip: crops.Flip = 0.5
    brightness: crops.Brightness = 0.4
    contrast: crops.Contrast = 0.4
    saturation: crops.Saturation = 0.4
    hue: crops.Hue = 0.1
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
        for name in CANNY_FIELDS:
            self._check_canny(name)
        if unknown := set(self.derived) - set(CANNY_FIELDS):
            raise UsageError(f"derived {min(unknown)!r}: must be of {', '.join(CANNY_FIELDS)}")
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
        """Number of photographs; 1 before there are any."""
        return len(self.photographs) if self.photographs is not None else 1

    @property
    def title(self) -> str:
        """Name, look, warp and classes."""
        return f"{self.NAME}-{self.look}-{self.warp}-{len(self)}"

    @property
    def num_classes(self) -> int:
        """Number of photographs times warps of each."""
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
        """The version of OpenCV: edges differ between its builds."""
        return opencv_version()

    def resolve(self, on_try: OnTry | None = None) -> tuple["Photo", dict[str, Any]]:
        """The recipe with Canny's numbers, and what is worth knowing: the share of edges, and how many warps were kept.

        Raises UsageError where there is no photograph, no edge in one, or a class that no warp is kept for: all
        classes are tried; of more than 100,000, and of more than 256 of edges of crops, some. on_try: called with each.
        """
        count, resolved = len(self._require_photographs()), self
        provenance: dict[str, Any] = {"photographs": count}
        if self.look == "canny":
            derived = tuple(name for name in CANNY_FIELDS if name in self.derived or getattr(self, name) is None)
            numbers: dict[str, Any] = self._pictures.canny_numbers()
            resolved = replace(self, **numbers, derived=derived)
            provenance["edge_share"] = [resolved._pictures.edge_share(number) for number in range(count)]
        provenance["probed_acceptance"] = resolved._probe(on_try)
        return resolved, provenance

    @classmethod
    def rebased(cls, values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
        """Without the numbers that were derived, where what they were derived from is another now; given ones stay."""
        if not {"size", "photographs", *CANNY_FIELDS} & set(overrides):
            return dict(values)
        return forget_derived(values, one_for_all="photographs" in overrides)

    def _probe(self, on_try: OnTry | None) -> float:
        """The share of warps that are kept; see `resolve`."""
        rendered = self.warp == "crops" and self.look == "canny"
        chosen = spread(len(self), RENDERED_PROBES if rendered else PROBES)
        tries = len(chosen)
        try:
            for index in chosen:
                if on_try:
                    on_try(index)
                warp, rejected = self._draw(index)
                while not self._pictures.shows(warp, index // self.classes):
                    rejected["flat"] += 1
                    warp, rejected = self._draw(index, rejected)
                tries += rejected.total()
        except UnmakeableError as error:
            raise UsageError(str(error)) from None
        return round(len(chosen) / tries, 4)

    def warnings(self, provenance: Mapping[str, Any]) -> list[str]:
        """Classes that nothing tells apart, photographs that are there twice or are blown up, values without effect."""
        lines = []
        pictures = [(photograph.shape, photograph.tobytes()) for photograph in self._require_photographs().images]
        for number, picture in enumerate(pictures):
            if (first := pictures.index(picture)) != number:
                lines.append(f"photographs {first} and {number} are the same; only warps tell their classes apart")
        lines += self._unused()
        if self.strength == 0 and self.warp != "crops":
            lines.append("strength 0: all classes of a photograph are the same image")
        sides = [min(photograph.shape[:2]) for photograph in self._require_photographs().images]
        if min(sides) < self.size and self.warp != "crops":
            lines.append(f"size {self.size}: a photograph has only {min(sides)} pixels along a side and is enlarged")
        return lines

    def _unused(self) -> list[str]:
        """Values other than the defaults that change nothing, a line each."""
        unused = {"strength", "cells"} if self.warp == "crops" else set(_CROP_FIELDS)
        unused |= set() if self.warp == "elastic" else {"cells"}
        unused |= set() if self.look == "rgb" else {"saturation", "hue"}
        lines = [f"{name}: changes nothing with {self.look}, only canny has it" for name in self._dropped]
        for name in sorted(unused):
            if (value := getattr(self, name)) != getattr(type(self), name):
                lines.append(f"{name.replace('_', '-')} {value}: changes nothing with {self.look} and {self.warp}")
        return lines

    def _require_photographs(self) -> Photographs:
        if self.photographs is None:
            raise UsageError("the recipe has no photograph; give one, as in `fracgen photo IMAGE`")
        return self.photographs

    @cached_property
    def _pictures(self) -> Pictures:
        return Pictures(self._require_photographs(), self.look, self.size, (self.blur, self.low, self.high))

    @cached_property
    def _ranges(self) -> crops.CropRanges:
        return crops.CropRanges(**{name: getattr(self, name) for name in _CROP_FIELDS})

    def base(self, photograph: int = 0) -> Image:
        """What is warped: the look of a photograph, (size, size) or (size, size, 3), the caller's own to write into."""
        return self._pictures.squares[photograph].copy()

    def draw_warp(self, index: int, attempt: int = 0) -> Warp | crops.Crop:
        """The warp of an image at an attempt; a pure function of (seed, index, attempt), kept or not."""
        if self.warp == "crops":
            random = generator(self.seed, index, "crop", attempt).random
            return self._ranges.draw(random, self._pictures.levels(index // self.classes), self.size)
        kind = WARPS[self.warp]
        random = generator(self.seed, index, "warp", attempt).random
        return kind(eps=self.strength * (random(kind.count(self.cells)) - 0.5) + 0.0, size=self.size)

    def _draw(self, index: int, rejected: Counter[str] | None = None) -> tuple[Warp | crops.Crop, Counter[str]]:
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
                image = self._pictures.apply(warp, photograph)
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

    def preview(self) -> Iterator[Column]:
        """The photograph, its look, some classes; below each class, where it differs from the look.

        Of edges, which are in which; else how far levels are apart. Crops differ everywhere: two rows of them.
        """
        self._require_photographs()
        for photograph in spread(self.num_photographs, 2):
            base, first = self._pictures.squares[photograph], photograph * self.classes
            whole = square(self._require_photographs().images[photograph], self.size)
            yield [(f"photograph {photograph}", whole), (f"its look: {self.look}", base)]
            rows = 2 if self.warp == "crops" else 1
            chosen = spread(self.classes, PREVIEW_CLASSES * rows)
            samples = list(self.render(first + number for number in chosen))
            for start in range(0, len(samples), rows):
                column = samples[start : start + rows]
                below = [] if rows == 2 else [self._pictures.difference(column[0].image, base)]
                yield [*((f"class {sample.label}", sample.image) for sample in column), *below]
