"""Recipes of base fractals, given or found by a search: what 1p-frac does before it perturbs them."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fracgen.base_fractals import Bases
from fracgen.ifs import IFS, Floats, check_sigma, sample_maps
from fracgen.liep import PerturbationKind, draw_eps, move_maps
from fracgen.recipe import MAX_CLASSES, DrawnRecipe, OnTry
from fracgen.rng import generator, stream_key
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.settings import convert
from fracgen.style import check_range
from fracgen.vetting import BaseSearch, Vetting

if TYPE_CHECKING:
    from fracgen.renderer import Renderer

LEAST_SIGMA = 3.0
"""Of base fractals that fill an image: at 2.6 (2 maps), 2.7 (3) and 2.8 (5), none of 600 filled 5 %; at 3, with 2 to 8
maps, some in a hundred did."""


class BasesRecipe(DrawnRecipe):
    """A recipe of base fractals, resolved once `ifs` holds them, each perturbed into `classes`; it has these fields.

    Index and label: base * classes + perturbation. sigma, maps: those of the first base.
    """

    sigma: float
    delta: float
    bases: int
    seed: int
    maps: int
    perturbation: PerturbationKind
    masks: str
    min_fill: float
    base_candidates: int
    min_acceptance: float
    max_base_tries: int
    ifs: Bases | None

    def __post_init__(self) -> None:
        """Raises UsageError where a value is not allowed. With base fractals, sigma and maps are those of the first."""
        if self.ifs is not None and not isinstance(self.ifs, Bases):
            object.__setattr__(self, "ifs", Bases.from_plain(self.ifs))
        if self.ifs is not None:
            if self.bases not in (1, len(self.ifs)):
                raise UsageError(f"bases {self.bases}: {len(self.ifs)} are given as ifs; leave bases out")
            object.__setattr__(self, "bases", len(self.ifs))
            object.__setattr__(self, "maps", len(self.base))
            if not math.isclose(self.sigma, self.base.sigma, rel_tol=1e-9):
                object.__setattr__(self, "sigma", self.base.sigma)
        super().__post_init__()
        check_range("bases", self.bases, 1, MAX_CLASSES // self.classes, f"with {self.classes} classes of each")
        if self.ifs is None:
            check_sigma(self.sigma, self.maps)

    @classmethod
    def rebased(cls, values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
        """Without sigma, maps and number of base fractals that others take the place of; without these for other ones.

        Raises UsageError where sigma or maps are not those of the base fractal beside them.
        """
        if overrides.get("ifs") is not None:
            return {name: value for name, value in values.items() if name not in ("sigma", "maps", "bases")}
        is_other_number = overrides.get("bases", values.get("bases", 1)) != values.get("bases", 1)
        if is_other_number or {"sigma", "maps"} & set(overrides):
            return {name: value for name, value in values.items() if name != "ifs"}
        if isinstance(values.get("ifs"), Mapping) and "maps" in values["ifs"]:
            base: IFS = convert(IFS, values["ifs"], "ifs")
            for name, own in (("maps", len(base)), ("sigma", base.sigma)):
                stated = convert(float, values.get(name, own), name)
                if not math.isclose(stated, own, rel_tol=1e-9):
                    raise UsageError(f"{name} {stated:g}: the ifs beside it has {own:g}; leave {name} out")
        return dict(values)

    @property
    def base(self) -> IFS:
        """The base fractal; of several the first. Raises UsageError where the recipe is not resolved."""
        return self.base_of(0)

    def base_of(self, index: int) -> IFS:
        """The base fractal of an image. Raises UsageError where the recipe is not resolved."""
        if self.ifs is None:
            raise UsageError("the recipe has no base fractal yet: call resolve() first")
        return self.ifs[index // self.classes]

    def candidate(self, number: int) -> IFS:
        """Base fractal `number` of this seed, sigma and maps. Raises UsageError where its determinants are all 0."""
        return IFS.from_maps(sample_maps(self.sigma, self.maps, generator(self.seed, number, "ifs")))

    def resolve(self, on_try: OnTry | None = None) -> tuple[Self, dict[str, Any]]:
        """The recipe with its base fractal, and how it was found: base_tries, base_rejections, base_acceptance.

        Base number k is drawn from (seed, k). Of the first `base_candidates` whose unperturbed image passes the fill
        test, the one is taken of whose perturbations most pass, at least `min_acceptance` (more bases are tried where
        none has that). The next of several is searched likewise from there on. Those that were given must pass the fill
        test only. on_try: called with the number of each base before it is tried; what it raises ends the search.
        Raises DataError with the counts where none is fit.
        """
        from fracgen.renderer import borrow_renderer

        with borrow_renderer(self.style) as renderer:
            if self.ifs is not None:
                return self, self._vet_given(self.ifs, renderer)

            def draw(number: int) -> Vetting:
                if on_try:
                    on_try(number)
                return self.vetting(self.candidate(number), renderer, number)

            mend = ""
            if self.sigma < LEAST_SIGMA:
                mend = f"give a --sigma of {LEAST_SIGMA:g} to {3 * self.maps}, as maps of less fill no image, "
            search = BaseSearch(
                draw=draw,
                count=self.base_candidates,
                min_acceptance=self.min_acceptance,
                max_tries=self.max_base_tries,
                source=f"sigma {self.sigma:g} and delta {self.delta:g}",
                mend=f"{mend}lower --min-fill or --min-acceptance, or try another --seed",
            )
            if self.bases == 1:
                best, provenance = search.find()
                return self.with_bases(best.ifs), provenance
            several, provenance = search.find_several(self.bases)
            return self.with_bases(*(each.ifs for each in several)), provenance

    def with_bases(self, *systems: IFS) -> Self:
        """The recipe of these base fractals."""
        changes: dict[str, Any] = {"ifs": Bases(systems), "bases": len(systems)}
        return replace(self, **changes)  # type: ignore[type-var]

    def _vet_given(self, bases: Bases, renderer: "Renderer") -> dict[str, Any]:
        """The provenance of base fractals from the user. Raises DataError where one is not fit."""
        acceptances = []
        for number, ifs in enumerate(bases.systems):
            try:
                acceptances.append(self.vetting(ifs, renderer, number).acceptance_of_users())
            except DataError as error:
                raise DataError(f"base {number}: {error}" if self.bases > 1 else str(error)) from None
        of_one = {"base_acceptance": acceptances[0]}
        return {"base_tries": 0, "base_rejections": {}} | (
            of_one if self.bases == 1 else {"base_acceptances": acceptances}
        )

    def mask_key(self, index: int, pass_number: int = 0) -> int:
        """The 64-bit key of the patch masks of class `index`: from (seed, index, pass).

        From (seed, 0, pass) where all classes share them.
        """
        return stream_key(self.seed, index if self.masks == "class" else 0, "masks", pass_number)

    def draw_eps(self, rng: np.random.Generator, base: IFS | None = None) -> Floats:
        """One draw of the perturbation of a base, (6N,) float64: see `liep.draw_eps`."""
        return draw_eps(rng, len(self.base if base is None else base), self.delta, self.perturbation)

    def perturb(self, eps: Floats, base: IFS | None = None) -> Floats:
        """The maps of a base moved by eps, (N, 2, 3) float64: see `liep.move_maps`."""
        return move_maps((self.base if base is None else base).maps, eps, self.perturbation)

    def vetting(self, ifs: IFS, renderer: "Renderer", number: int = 0) -> Vetting:
        """Whether base fractal `number` is fit: to be asked of a renderer of this recipe's style."""

        def perturb(probe: int) -> Floats:
            return self.perturb(self.draw_eps(generator(self.seed, probe, "vet", number), ifs), ifs)

        return Vetting(number, ifs, perturb, renderer, self.mask_key(0), self.min_fill)
