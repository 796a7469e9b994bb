"""1p-frac: one fractal, perturbed L times by amounts the eye does not see (Nakamura et al., ECCV 2024, section 3).

Class l is the base IFS with its 6N coefficients moved by eps_l, drawn from the LIEP distribution: uniform in
[-Delta/2, Delta/2]^(6N) and added (the paper, equation 4), or each coefficient multiplied by U(1 - Delta, 1 + Delta)
(the published code, whose Delta is a half-width). Probabilities stay those of the base.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np

from fracgen import citations
from fracgen.ifs import IFS, MAX_MAPS, Floats, check_sigma, maps_from_rows, sample_maps
from fracgen.recipe import Classes, Column, Difference, DrawnRecipe, OnTry, Seed
from fracgen.rng import generator, stream_key
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.sample import Sample
from fracgen.shards.settings import Setting, convert
from fracgen.style import Color, Draw, Pad, Patch, Points, Size
from fracgen.vetting import Vetting, describe_rejections, find_base, rejection

if TYPE_CHECKING:
    from fracgen.renderer import Renderer

LEAST_SIGMA = 3.0
"""Of base fractals that fill an image: at 2.6 (2 maps), 2.7 (3) and 2.8 (5), none of 600 filled 5 %; at 3, with 2 to 8
maps, some in a hundred did."""
PREVIEW_CLASSES = 5
MAX_WAITING = 16
"""Finished images that are held back, at most, for one that is still being drawn again."""


@dataclass(frozen=True, kw_only=True)
class OnePFrac(DrawnRecipe):
    """The recipe of 1p-frac, resolved once `ifs` holds the base fractal. Defaults are the published set.

    In the paper's letters delta is Delta, classes L, maps N and points T. Bases are compared by the share of 64
    perturbations that are kept.
    """

    NAME: ClassVar[str] = "1p-frac"
    PAPER: ClassVar[str] = citations.SCALING_BACKWARDS
    HEADING: ClassVar[tuple[str, ...]] = ("sigma", "delta", "perturbation", "seed")
    PROVENANCE: ClassVar[frozenset[str]] = frozenset(
        {"sigma", "maps", "max_tries", "base_candidates", "min_acceptance", "max_base_tries"}
    )

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
    classes: Classes = 1000
    seed: Seed = 0
    size: Size = 512
    pad: Pad = 6
    points: Points = 100_000
    maps: Annotated[
        int, Setting("Affine maps of the base fractal.", at_least=1, at_most=MAX_MAPS, panel="Base fractal")
    ] = 2
    perturbation: Annotated[
        Literal["additive", "multiplicative"],
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
    ifs: Annotated[IFS | None, Setting("The base fractal, instead of a search for one.", option="")] = None

    def __post_init__(self) -> None:
        """Raises UsageError where a value is not allowed. With a base fractal, sigma and maps are those of it."""
        if isinstance(self.ifs, IFS):
            object.__setattr__(self, "maps", len(self.ifs))
            if not math.isclose(self.sigma, self.ifs.sigma, rel_tol=1e-9):
                object.__setattr__(self, "sigma", self.ifs.sigma)
        super().__post_init__()
        if self.ifs is None:
            check_sigma(self.sigma, self.maps)

    @classmethod
    def rebased(cls, values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
        """Without the sigma and maps of a base fractal that another takes the place of.

        Raises UsageError where sigma or maps are not those of the base fractal beside them.
        """
        if overrides.get("ifs") is not None:
            return {name: value for name, value in values.items() if name not in ("sigma", "maps")}
        if values.get("ifs") is not None:
            base: IFS = convert(IFS, values["ifs"], "ifs")
            for name, own in (("maps", len(base)), ("sigma", base.sigma)):
                stated = convert(float, values.get(name, own), name)
                if not math.isclose(stated, own, rel_tol=1e-9):
                    raise UsageError(f"{name} {stated:g}: the ifs beside it has {own:g}; leave {name} out")
        return dict(values)

    @property
    def title(self) -> str:
        """Name, sigma and delta."""
        return f"{self.NAME}-sigma{self.sigma:g}-delta{self.delta:g}"

    @property
    def base(self) -> IFS:
        """The base fractal. Raises UsageError where the recipe is not resolved."""
        if self.ifs is None:
            raise UsageError("the recipe has no base fractal yet: call resolve() first")
        return self.ifs

    def candidate(self, number: int) -> IFS:
        """Base fractal `number` of this seed, sigma and maps. Raises UsageError where its determinants are all 0."""
        return IFS.from_maps(sample_maps(self.sigma, self.maps, generator(self.seed, number, "ifs")))

    def resolve(self, on_try: OnTry | None = None) -> tuple["OnePFrac", dict[str, Any]]:
        """The recipe with its base fractal, and how it was found: base_tries, base_rejections, base_acceptance.

        Base number k is drawn from (seed, k). Of the first `base_candidates` whose unperturbed image passes the fill
        test, the one is taken of whose perturbations most pass, at least `min_acceptance` (more bases are tried where
        none has that). A base that was given must pass the fill test only.
        on_try: called with the number of each base before it is tried; what it raises ends the search.
        Raises DataError with the counts where none is fit.
        """
        from fracgen.renderer import borrow_renderer

        with borrow_renderer(self.style) as renderer:
            if self.ifs is not None:
                acceptance = self.vetting(self.ifs, renderer).acceptance_of_users()
                return self, {"base_tries": 0, "base_rejections": {}, "base_acceptance": acceptance}

            def draw(number: int) -> Vetting:
                if on_try:
                    on_try(number)
                return self.vetting(self.candidate(number), renderer, number)

            mend = ""
            if self.sigma < LEAST_SIGMA:
                mend = f"give a --sigma of {LEAST_SIGMA:g} to {3 * self.maps}, as maps of less fill no image, "
            best, provenance = find_base(
                draw,
                self.base_candidates,
                self.min_acceptance,
                self.max_base_tries,
                source=f"sigma {self.sigma:g} and delta {self.delta:g}",
                mend=f"{mend}lower --min-fill or --min-acceptance, or try another --seed",
            )
            return replace(self, ifs=best.ifs), provenance

    def warnings(self, provenance: Mapping[str, Any]) -> list[str]:
        """Warn of a delta that tells no classes apart, and of a base from the user of which few perturbations pass."""
        lines = []
        if self.delta == 0:
            own = self.style.random_masks and self.masks == "class"
            texture = "they differ in their patch masks only" if own else "they are identical"
            lines.append(f"delta 0: all {self.classes} classes are the same fractal; {texture}")
        acceptance = provenance.get("base_acceptance", 1.0)
        if acceptance < self.min_acceptance:
            lines.append(f"only {acceptance:.2f} of this base's perturbations pass the fill test")
        return lines

    def render(self, indices: Iterable[int], pass_number: int = 0) -> Iterator[Sample]:
        """The samples of these indices, in their order. Pure: nothing else has a say in any of them.

        Two orbits are traced at a time; a rejected draw is tried again in the next pair.
        Raises DataError for a class that cannot be rendered within `max_tries`.
        """
        from fracgen.renderer import LANES, borrow_renderer

        with borrow_renderer(self.style) as renderer:
            queue, pending = enumerate(indices), list[tuple[int, _Draw]]()
            drawn, next_place = dict[int, Sample](), 0
            while True:
                num_new = max(min(LANES - len(pending), MAX_WAITING - len(drawn)), 0)
                pending += [(position, _Draw(self, index, pass_number)) for position, index in islice(queue, num_new)]
                if not pending:
                    return
                renderer.trace(self.base.p, *(draw.maps for _, draw in pending))
                judged = [(position, draw, draw.judge(renderer, lane)) for lane, (position, draw) in enumerate(pending)]
                pending = [(position, draw) for position, draw, sample in judged if sample is None]
                drawn.update((position, sample) for position, _, sample in judged if sample is not None)
                while next_place in drawn:
                    yield drawn.pop(next_place)
                    next_place += 1

    def preview(self) -> Iterator[Column]:
        """The base fractal and some classes; below each class, where it differs from the base in the same masks."""
        from fracgen.renderer import borrow_renderer

        with borrow_renderer(self.style) as renderer:
            renderer.trace(self.base.p, self.base.maps)
            base = renderer.draw(mask_key=self.mask_key(0))
            yield [("base fractal", base), ("", Difference(image=np.zeros_like(base), base=base, names=("", "base")))]
            shown = np.linspace(0, len(self) - 1, min(len(self), PREVIEW_CLASSES), dtype=int)
            for sample in self.render(shown.tolist()):
                base = renderer.draw(mask_key=self.mask_key(sample.index))
                difference = Difference(image=sample.image, base=base, names=(f"class {sample.label}", "base"))
                yield [(f"class {sample.label}", sample.image), ("", difference)]

    def perturb(self, eps: Floats, base: IFS | None = None) -> Floats:
        """The base's maps moved by eps, (6N,) in the order a, b, c, d, e, f of each map: (N, 2, 3) float64."""
        maps, step = (self.base if base is None else base).maps, maps_from_rows(eps.reshape(-1, 6))
        with np.errstate(over="ignore"):  # such a draw overflows, and is rejected
            return maps + step if self.perturbation == "additive" else maps * (1 + step)

    def draw_eps(self, rng: np.random.Generator) -> Floats:
        """One draw of the LIEP distribution, (6N,) float64; half-width Delta/2 (additive) or Delta (multiplicative)."""
        half_width = self.delta / 2 if self.perturbation == "additive" else self.delta
        return half_width * (2 * rng.random(6 * self.maps) - 1)

    def mask_key(self, index: int, pass_number: int = 0) -> int:
        """The 64-bit key of the patch masks of class `index`: from (seed, index, pass).

        From (seed, 0, pass) where all classes share them.
        """
        return stream_key(self.seed, index if self.masks == "class" else 0, "masks", pass_number)

    def vetting(self, ifs: IFS, renderer: "Renderer", number: int = 0) -> Vetting:
        """Whether base fractal `number` is fit: to be asked of a renderer of this recipe's style."""

        def perturb(probe: int) -> Floats:
            return self.perturb(self.draw_eps(generator(self.seed, probe, "vet", number)), ifs)

        return Vetting(number, ifs, perturb, renderer, self.mask_key(0), self.min_fill)


class _Draw:
    """One class on its way to an accepted perturbation."""

    def __init__(self, recipe: OnePFrac, index: int, pass_number: int) -> None:
        self.recipe, self.index, self.pass_number = recipe, recipe.check_index(index), pass_number
        self.rejected = Counter[str]({"fill": 0, "overflow": 0})
        self.mask_key = recipe.mask_key(self.index)
        self._perturb()

    def _perturb(self) -> None:
        attempt = sum(self.rejected.values())
        self.eps = self.recipe.draw_eps(generator(self.recipe.seed, self.index, "eps", attempt))
        self.maps = self.recipe.perturb(self.eps)

    def judge(self, renderer: "Renderer", lane: int) -> Sample | None:
        """The sample if the traced draw is kept; else the next perturbation is drawn, within bounds."""
        reason = rejection(renderer, lane, self.mask_key, self.recipe.min_fill)
        if reason is None:
            if self.pass_number:
                self.mask_key = self.recipe.mask_key(self.index, self.pass_number)
                renderer.stamp(lane, self.mask_key)
            return Sample(
                image=renderer.image(),
                index=self.index,
                label=self.index,
                metadata=self._metadata(renderer.fill_rate()),
                rejected=dict(self.rejected),
            )
        self.rejected[reason] += 1
        if sum(self.rejected.values()) >= self.recipe.max_tries:
            raise DataError(
                f"class {self.index}: none of {self.recipe.max_tries} perturbations could be kept "
                f"({describe_rejections(self.rejected)}); lower --min-fill or --delta, raise --max-tries, or "
                "try another --seed"
            )
        self._perturb()
        return None

    def _metadata(self, fill_rate: float) -> Mapping[str, Any]:
        recipe = self.recipe
        return {
            "formula": recipe.NAME,
            "perturbation": recipe.perturbation,
            "eps": self.eps.tolist(),
            "maps": self.maps.ravel().tolist(),
            "tries": sum(self.rejected.values()) + 1,
            "mask_key": f"{self.mask_key:016x}",
            "fill_rate": fill_rate,
        }
