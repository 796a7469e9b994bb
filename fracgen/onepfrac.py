"""1p-frac: one fractal, perturbed L times by amounts the eye does not see (Nakamura et al., ECCV 2024, section 3).

Several base fractals, each perturbed L times, are ours: between 1p-frac (one) and OFDB (a thousand, one image each).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np

from fracgen import citations
from fracgen.base_fractals import Bases
from fracgen.base_recipe import BasesRecipe
from fracgen.ifs import MAX_MAPS, Floats
from fracgen.liep import PerturbationKind, PerturbedClass
from fracgen.recipe import MAX_CLASSES, Column, Difference, Seed, spread
from fracgen.rng import generator
from fracgen.shards.sample import Image, Sample
from fracgen.shards.settings import Setting
from fracgen.style import Color, Draw, Pad, Patch, Points, Size

if TYPE_CHECKING:
    from fracgen.renderer import Renderer

PREVIEW_CLASSES, PREVIEW_BASES = 5, 6
MAX_WAITING = 16
"""Finished images that are held back, at most, for one that is still being drawn again."""


@dataclass(frozen=True, kw_only=True)
class OnePFrac(BasesRecipe):
    """The recipe of 1p-frac, resolved once `ifs` holds the base fractals. Defaults are the published set, of one.

    In the paper's letters delta is Delta, classes L, maps N and points T. Index and label: base * classes +
    perturbation. Bases are compared by the share of 64 perturbations that are kept.
    """

    NAME: ClassVar[str] = "1p-frac"
    PAPER: ClassVar[str] = citations.SCALING_BACKWARDS
    HEADING: ClassVar[tuple[str, ...]] = ("sigma", "delta", "perturbation", "seed")
    PROVENANCE: ClassVar[frozenset[str]] = frozenset(
        {"sigma", "maps", "max_tries", "base_candidates", "min_acceptance", "max_base_tries"}
    )
    LATER: ClassVar[tuple[str, ...]] = ("bases",)

    sigma: Annotated[
        float,
        Setting(
            "Sigma-factor of the base fractal, at most 3 for each map. Published: 3.5, and 5 and 6 in a sweep, where "
            "it looks ever more like noise; Anderson and Farrell draw two maps with 3.5 to 4.",
            above=0,
            panel="Formula",
        ),
    ] = 3.5
    delta: Annotated[
        float,
        Setting(
            "Width of the perturbation. Published: 0.1, and 0.001 to 0.2 in a sweep. Another delta means another "
            "base fractal, since bases are vetted by their perturbations, unless --ifs gives one.",
            at_least=0,
            at_most=1e6,
            panel="Formula",
        ),
    ] = 0.1
    bases: Annotated[
        int,
        Setting(
            "Base fractals, each perturbed into classes of its own; the first of more are the same ones.",
            at_least=1,
            at_most=MAX_CLASSES,
            panel="Formula",
        ),
    ] = 1
    classes: Annotated[
        int,
        Setting(
            "Perturbations of each base, each a class of one image.", at_least=1, at_most=MAX_CLASSES, panel="Formula"
        ),
    ] = 1000
    seed: Seed = 0
    size: Size = 512
    pad: Pad = 6
    points: Points = 100_000
    maps: Annotated[
        int, Setting("Affine maps of the base fractal.", at_least=1, at_most=MAX_MAPS, panel="Base fractal")
    ] = 2
    perturbation: Annotated[
        PerturbationKind,
        Setting(
            "Add U(-delta/2, delta/2) to each coefficient (the paper), or multiply it by U(1-delta, 1+delta) (code).",
            panel="Formula",
        ),
    ] = "additive"
    draw: Draw = "patch"
    color: Color = "gray"
    patch: Patch = "random"
    masks: Annotated[
        Literal["class", "shared"],
        Setting("Random masks of each class's own, or one set that all classes share.", panel="Image"),
    ] = "class"
    min_fill: Annotated[
        float,
        Setting(
            "An image is kept if more than this share of its pixels is not black.",
            at_least=0,
            at_most=1,
            panel="Rejection",
        ),
    ] = 0.05
    max_tries: Annotated[
        int, Setting("Perturbations tried for a class.", at_least=1, at_most=10**6, panel="Rejection")
    ] = 100
    base_candidates: Annotated[
        int,
        Setting(
            "Base fractals of which the one is taken whose perturbations pass most.",
            at_least=1,
            at_most=10**6,
            panel="Base fractal",
        ),
    ] = 8
    min_acceptance: Annotated[
        float, Setting("Share of its perturbations that must pass.", at_least=0, at_most=1, panel="Base fractal")
    ] = 0.5
    max_base_tries: Annotated[int, Setting("Base fractals tried.", at_least=1, at_most=10**6, panel="Base fractal")] = (
        1000
    )
    ifs: Annotated[Bases | None, Setting("The base fractal, or several, instead of a search.", option="")] = None

    def __len__(self) -> int:
        return self.bases * self.classes

    @property
    def num_classes(self) -> int:
        """Number of base fractals times perturbations of each."""
        return len(self)

    @property
    def title(self) -> str:
        """Name, number of bases where there are several, sigma and delta."""
        bases = f"-bases{self.bases}" if self.bases > 1 else ""
        return f"{self.NAME}{bases}-sigma{self.sigma:g}-delta{self.delta:g}"

    @property
    def heading(self) -> str:
        """The formula and its values; of several bases, how many there are."""
        if self.bases == 1:
            return super().heading
        return super().heading.replace(",", f", {self.bases} bases x {self.classes} perturbations,", 1)

    def warnings(self, provenance: Mapping[str, Any]) -> list[str]:
        """Warn of classes that nothing tells apart, and of bases from the user of which few perturbations pass."""
        lines = []
        if self.delta == 0:
            own = self.style.random_masks and self.masks == "class"
            texture = "they differ in their patch masks only" if own else "they are identical"
            of_base = " of a base" if self.bases > 1 else ""
            lines.append(f"delta 0: all {self.classes} classes{of_base} are the same fractal; {texture}")
        systems = self.ifs.systems if self.ifs is not None else ()
        for number, ifs in enumerate(systems):
            if (first := systems.index(ifs)) != number:
                lines.append(f"bases {first} and {number} are the same; their classes are of one distribution")
        acceptances = provenance.get("base_acceptances", [provenance.get("base_acceptance", 1.0)])
        for number, acceptance in enumerate(acceptances):
            if acceptance < self.min_acceptance:
                base = "this base" if self.bases == 1 else f"base {number}"
                lines.append(f"only {acceptance:.2f} of {base}'s perturbations pass the fill test")
        return lines

    def render(self, indices: Iterable[int], pass_number: int = 0) -> Iterator[Sample]:
        """The samples of these indices, in their order. Pure: nothing else has a say in any of them.

        Two orbits are traced at a time; a rejected draw is tried again in the next pair.
        Raises DataError for a class that cannot be rendered within `max_tries`.
        """
        from fracgen.renderer import LANES, borrow_renderer

        with borrow_renderer(self.style) as renderer:
            queue, pending = enumerate(indices), list[tuple[int, PerturbedClass]]()
            drawn, next_place = dict[int, Sample](), 0
            while True:
                num_new = max(min(LANES - len(pending), MAX_WAITING - len(drawn)), 0)
                pending += [(position, self._begin(index)) for position, index in islice(queue, num_new)]
                if not pending:
                    return
                classes = [each for _, each in pending]
                renderer.trace(classes[0].base.p, *(each.maps for each in classes), second_p=classes[-1].base.p)
                pending, tried = [], pending
                for lane, (position, each) in enumerate(tried):
                    if each.judge(renderer, lane, min_fill=self.min_fill, max_tries=self.max_tries):
                        drawn[position] = self._sample(each, renderer, lane, pass_number)
                    else:
                        pending.append((position, each))
                while next_place in drawn:
                    yield drawn.pop(next_place)
                    next_place += 1

    def _begin(self, index: int) -> PerturbedClass:
        index = self.check_index(index)
        base = self.base_of(index)

        def perturb(index: int, attempt: int) -> tuple[Floats, Floats]:
            eps = self.draw_eps(generator(self.seed, index, "eps", attempt), base)
            return eps, self.perturb(eps, base)

        return PerturbedClass(index, base, perturb, mask_key=self.mask_key(index))

    def _sample(self, kept: PerturbedClass, renderer: "Renderer", lane: int, pass_number: int) -> Sample:
        """The sample of a class whose perturbation was kept, its image in the renderer; in the masks of the pass."""
        mask_key = kept.mask_key
        if pass_number:
            mask_key = self.mask_key(kept.index, pass_number)
            renderer.stamp(lane, mask_key)
        metadata: dict[str, Any] = {
            "formula": self.NAME,
            **({"base": kept.index // self.classes} if self.bases > 1 else {}),
            "perturbation": self.perturbation,
            "eps": kept.eps.tolist(),
            "maps": kept.maps.ravel().tolist(),
            "tries": kept.tries,
            "mask_key": f"{mask_key:016x}",
            "fill_rate": renderer.fill_rate(),
        }
        image, rejected = renderer.image(), dict(kept.rejected)
        return Sample(image=image, index=kept.index, label=kept.index, metadata=metadata, rejected=rejected)

    def preview(self) -> Iterator[Column]:
        """The base fractal and some classes; below each class, where it differs from the base in the same masks.

        Of several bases, some, each above two of its classes.
        """
        from fracgen.renderer import borrow_renderer

        with borrow_renderer(self.style) as renderer:
            if self.bases > 1:
                for number in spread(self.bases, PREVIEW_BASES):
                    first = number * self.classes
                    samples = list(self.render(range(first, first + min(self.classes, 2))))
                    base = self._draw_base(renderer, samples[-1].index)
                    difference = self._difference(samples[-1], base)
                    yield [
                        (f"base {number}", base),
                        *((f"class {each.label}", each.image) for each in samples),
                        difference,
                    ]
                return
            base = self._draw_base(renderer, 0)
            yield [("base fractal", base), ("", Difference(image=np.zeros_like(base), base=base, names=("", "base")))]
            shown = np.linspace(0, len(self) - 1, min(len(self), PREVIEW_CLASSES), dtype=int)
            for sample in self.render(shown.tolist()):
                difference = self._difference(sample, self._draw_base(renderer, sample.index))
                yield [(f"class {sample.label}", sample.image), difference]

    def _draw_base(self, renderer: "Renderer", index: int) -> Image:
        """The base fractal of an image, in its masks."""
        base = self.base_of(index)
        renderer.trace(base.p, base.maps)
        return renderer.draw(mask_key=self.mask_key(index))

    def _difference(self, sample: Sample, base: Image) -> tuple[str, Difference]:
        return "", Difference(image=sample.image, base=base, names=(f"class {sample.label}", "base"))
