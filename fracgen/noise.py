"""Noise: the structure-free controls of "Scaling Backwards" (Nakamura et al., ECCV 2024, figure 5 and its table).

The paper shows patch clouds: the patches of 1p-frac, at Gaussian or at uniform places. Their numbers, and how a class
differs from another, were not published; those here are our own: as many points as 1p-frac, patches of its size, and
a cloud of its own for each class, or one cloud of which each class moves every point a little. The pixels of a patch
are fair coin flips, of one field of them for each image, so that overlapping patches agree; 1p-frac's later patches
hide earlier ones, which coin flips look no different for, and one patch in 512, the empty one, is never drawn there.
Pixel noise, which a remnant of the released configuration hints at, is apart: intensities, without patches.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from fracgen import citations
from fracgen.recipe import Classes, Column, MaskedRecipe, Seed, spread
from fracgen.rng import stream_key
from fracgen.shards.sample import Image, Sample
from fracgen.shards.settings import Setting
from fracgen.style import MAX_POINTS, Pad, Size, Style

NoiseKind = Literal["gaussian", "uniform", "pixel-gaussian", "pixel-uniform"]
Clouds = Literal["class", "shared"]
_PREVIEW_CLASSES = 12


@dataclass(frozen=True, kw_only=True)
class Noise(MaskedRecipe):
    """The recipe of the noise controls: one image a class; nothing is left to resolve.

    What a Gaussian puts beyond the border, or beyond the 256 levels, is cut off. The points of a shared cloud are moved
    by up to delta / 2 of the width along each axis.
    """

    NAME: ClassVar[str] = "noise"
    PAPER: ClassVar[str] = citations.SCALING_BACKWARDS
    NOTE: ClassVar[str] = (
        "The paper tells neither the numbers of its noise nor how its classes differ: those here are fracgen's own."
    )
    HEADING: ClassVar[tuple[str, ...]] = ("kind", "seed")

    kind: Annotated[
        NoiseKind, Setting("Patches at random places; or, without patches, random pixels.", panel="Formula")
    ] = "gaussian"
    classes: Classes = 1000
    seed: Seed = 0
    size: Size = 512
    pad: Pad = 6
    points: Annotated[int, Setting("Points of a cloud.", at_least=2, at_most=MAX_POINTS, panel="Image")] = 100_000
    std: Annotated[
        float,
        Setting(
            "Standard deviation of the Gaussian, as a share of the width or of the levels.",
            at_least=0.01,
            at_most=10,
            panel="Formula",
        ),
    ] = 0.125
    cloud: Annotated[
        Clouds, Setting("A cloud of each class's own, or one whose points each class moves.", panel="Formula")
    ] = "class"
    delta: Annotated[
        float,
        Setting(
            "Share of the width within which the points of a shared cloud move.",
            at_least=0,
            at_most=1,
            panel="Formula",
        ),
    ] = 0.1

    def __post_init__(self) -> None:
        """Raises UsageError where a value is not allowed."""
        super().__post_init__()
        _ = self.style

    @property
    def title(self) -> str:
        """Name, kind and classes."""
        return f"{self.NAME}-{self.kind}-{self.classes}"

    @property
    def two_level(self) -> bool:
        """Patches have the levels 0 and 127 only; intensities have all."""
        return not self.kind.startswith("pixel-")

    @property
    def random_masks(self) -> bool:
        """Whether it is made of patches."""
        return self.two_level

    @property
    def style(self) -> Style:
        """How clouds are drawn: as 1p-frac."""
        return Style(size=self.size, pad=self.pad, points=self.points)

    def warnings(self, provenance: Mapping[str, Any]) -> list[str]:
        """Warn of classes that only their patches tell apart, and of values that change nothing."""
        lines = []
        if self.two_level and self.cloud == "shared" and not self._reach:
            same = f"all {self.classes} classes are the same cloud; they differ in their patch masks only"
            lines.append(f"delta {self.delta:g}: moves no point by a pixel; {same}")
        unused = {"std"} if self.kind.endswith("uniform") else set()
        unused |= {"delta"} if self.cloud == "class" else set()
        unused |= set() if self.two_level else {"pad", "points", "cloud", "delta"}
        for name in sorted(unused):
            if (value := getattr(self, name)) != getattr(type(self), name):
                lines.append(f"{name} {value}: changes nothing in noise of kind {self.kind} and cloud {self.cloud}")
        return lines

    @property
    def _width(self) -> int:
        """Places along an axis."""
        return self.size - 2 * self.pad

    @property
    def _reach(self) -> int:
        """How far a class moves a point along an axis, at most."""
        return round(self.delta / 2 * self._width) if self.cloud == "shared" else 0

    def levels(self, count: int) -> npt.NDArray[np.uint16]:
        """The quantiles of the distribution, as whole numbers in 0..count-1, by 16-bit numbers: (65536,) uint16."""
        return _levels(self.std if self.kind.endswith("gaussian") else None, count)

    def render(self, indices: Iterable[int], pass_number: int = 0) -> Iterator[Sample]:
        """The samples of these indices, in their order. Pure: nothing else has a say in any of them."""
        for index in map(self.check_index, indices):
            shared = self.two_level and self.cloud == "shared"
            keys = {
                "noise_key": stream_key(self.seed, 0 if shared else index, "noise"),
                "moves_key": stream_key(self.seed, index, "moves") if shared else 0,
                "mask_key": stream_key(self.seed, index, "masks", pass_number) if self.two_level else 0,
            }
            image = self._draw_cloud(**keys) if self.two_level else self._draw_pixels(keys["noise_key"])
            metadata = {"formula": self.NAME, "kind": self.kind, **{name: f"{key:016x}" for name, key in keys.items()}}
            yield Sample(image=image, index=index, label=index, metadata=metadata)

    def _draw_pixels(self, noise_key: int) -> Image:
        from fracgen.noise_kernels import fill_pixels

        image = np.empty(self.image_shape, np.uint8)
        fill_pixels(np.uint64(noise_key), self.levels(256), image.reshape(-1))
        return image

    def _draw_cloud(self, *, noise_key: int, moves_key: int, mask_key: int) -> Image:
        from fracgen.canvas_kernels import unpack_gray
        from fracgen.noise_kernels import cover, scatter

        words = -(-self.size // 64)
        places, canvas = np.zeros((2, self.size, words), np.uint64)
        keys = np.uint64(noise_key), self.levels(self._width), np.uint64(moves_key)
        scatter(self.points, *keys, self._reach, self._width, self.pad, places)
        cover(places, np.uint64(mask_key), canvas)
        image = np.empty(self.image_shape, np.uint8)
        row = np.empty(8 * words, np.uint64)
        unpack_gray(canvas.reshape(-1), 64 * words, False, False, row, row.view(np.uint8), image)
        return image

    def preview(self) -> Iterator[Column]:
        """Columns of classes."""
        chosen = spread(self.classes, _PREVIEW_CLASSES)
        images = [(f"{self.kind} {sample.label}", sample.image) for sample in self.render(chosen)]
        for start in range(0, len(images), 2):
            yield images[start : start + 2]


@lru_cache(maxsize=8)
def _levels(std: float | None, count: int) -> npt.NDArray[np.uint16]:
    """std None: uniform. Else quantiles of N(1/2, std^2), cut off outside of [0, 1)."""
    ranks = (np.arange(65_536) + 0.5) / 65_536
    if std is not None:
        normal = NormalDist(0.5, std)
        below = normal.cdf(0.0)
        ranks = np.array([normal.inv_cdf(below + rank * (1 - 2 * below)) for rank in ranks.tolist()])
    levels = np.clip(ranks * count, 0, count - 1).astype(np.uint16)
    levels.flags.writeable = False
    return levels
