"""Base fractals of 1p-frac as the page shows them: searched, given, the next one; fit or not, with the reason."""

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fracgen.explore.drawing import finite, finite_or_none
from fracgen.explore.turns import Ticket
from fracgen.ifs import IFS, rows_from_maps
from fracgen.onepfrac import OnePFrac
from fracgen.recipe import OnTry
from fracgen.renderer import Renderer, borrow_renderer
from fracgen.shards.errors import DataError, UsageError, one_line
from fracgen.vetting import PROBES, Vetting, fit_candidates

MAX_SECONDS = 8.0
"""After which a search for a base is given up. What it would have found is another matter: it is no recipe then."""
_MAX_STEPS = 2000


class _SlowError(DataError):
    """A search that takes longer than somebody waits."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """A base fractal and what vetting says of it.

    recipe: has it. number: of the base, None where it is no candidate of its seed. reason: why it is not to be used, or
    "". kept, tried: of its perturbations; none of a draft is tried. fill: share of its pixels that are not black.
    extent: of its orbit.
    """

    recipe: OnePFrac
    number: int | None
    provenance: Mapping[str, Any]
    reason: str
    kept: int
    tried: int
    fill: float
    extent: tuple[float, float, float, float]

    def describe(self) -> dict[str, Any]:
        """JSON-able; the coefficients of a map are a, b, c, d, e, f."""
        ifs = self.recipe.base
        with np.errstate(over="ignore", invalid="ignore"):
            singular = np.linalg.svd(ifs.maps[:, :, :2], compute_uv=False)
            determinants = np.linalg.det(ifs.maps[:, :, :2])
        return {
            "number": self.number,
            "sigma": finite_or_none(ifs.sigma),
            "maps": [
                {
                    "coefficients": row,
                    "probability": p,
                    "singular_values": finite(values),
                    "contracting": bool(values[0] < 1),
                    "determinant": finite_or_none(determinant),
                }
                for row, p, values, determinant in zip(
                    rows_from_maps(ifs.maps).tolist(), ifs.p.tolist(), singular.tolist(), determinants, strict=True
                )
            ],
            "extent": finite(self.extent),
            "fill": self.fill,
            "acceptance": {"kept": self.kept, "tried": self.tried},
            "passes": not self.reason,
            "reason": self.reason,
        }


def find_base(recipe: OnePFrac, ticket: Ticket) -> Base:
    """The base fractal that `resolve` finds, or the first candidate where it finds none; a given one as it is.

    Raises DroppedError where a newer request has come.
    """
    if recipe.ifs is not None:
        return vet(recipe, None, ticket)
    slow = (
        f"no base fractal in {{tries}} tries and {MAX_SECONDS:g} seconds; `fracgen render` goes on for "
        f"{recipe.max_base_tries} tries. Lower --min-fill or --delta, or try another --seed"
    )
    try:
        resolved, provenance = recipe.resolve(bounded(ticket, slow))
    except DataError as error:
        number, ifs = next(candidates(recipe, 0, 1, ticket))
        base = vet(recipe.with_bases(ifs), number, ticket)
        return replace(base, provenance={}, reason=one_line(str(error)))
    kept = round(provenance["base_acceptance"] * PROBES)
    return replace(vet(resolved, provenance["base"], ticket, kept), provenance=provenance)


def find_several(recipe: OnePFrac, ticket: Ticket) -> tuple[OnePFrac, dict[str, Any]]:
    """The recipe with its several base fractals, as `resolve` finds them, and how they were found.

    Raises DataError where that takes longer than somebody waits, or there are none.
    """
    slow = f"the search takes longer than {MAX_SECONDS:g} seconds; `fracgen render` goes on with it. Lower --bases"
    return recipe.resolve(bounded(ticket, slow))


def take_several(recipe: OnePFrac, numbers: Sequence[int], ticket: Ticket) -> tuple[OnePFrac, dict[str, Any]]:
    """The recipe with the bases of these numbers, to be drawn at once, and those; with the first where none are given.

    In the place of a degenerate one stands the next that is not.
    """
    bases = [next(candidates(recipe, number, 1, ticket)) for number in numbers[: recipe.bases]]
    first = bases[-1][0] + 1 if bases else 0
    bases += itertools.islice(candidates(recipe, first, 1, ticket), recipe.bases - len(bases))
    return recipe.with_bases(*(ifs for _, ifs in bases)), {"bases": [number for number, _ in bases]}


def take_base(recipe: OnePFrac, number: int, ticket: Ticket) -> Base:
    """Base fractal `number` of the recipe's seed, sigma and maps, or the next one that is not degenerate."""
    number, ifs = next(candidates(recipe, number, 1, ticket))
    return vet(recipe.with_bases(ifs), number, ticket)


def bounded(ticket: Ticket, message: str) -> OnTry:
    """What ends a search that is not the newest, or takes longer than `MAX_SECONDS`: with this message, of {tries}."""
    started, tries = time.monotonic(), itertools.count()

    def check(number: int) -> None:
        ticket.check()
        count = next(tries)
        if time.monotonic() - started > MAX_SECONDS:
            raise _SlowError(message.format(tries=count))

    return check


def step_base(recipe: OnePFrac, number: int, step: int, ticket: Ticket) -> Base:
    """The next base fractal of the recipe's seed (step 1), or the one before (-1), that fills an image itself.

    number: that from which to step. Raises UsageError where there is none before it.
    """
    candidate, ifs = _next_fit(replace(recipe, ifs=None), number, step, ticket)
    return vet(recipe.with_bases(ifs), candidate, ticket)


def draft_base(recipe: OnePFrac, number: int | None, ticket: Ticket) -> Base:
    """The base of this number, or the first that fills an image, without its perturbations: to be drawn at once.

    Where none fills an image it is the first of all.
    """
    if number is None:
        with contextlib.suppress(UsageError, _SlowError):
            number, _ = _next_fit(recipe, -1, 1, ticket)
    number, ifs = next(candidates(recipe, number or 0, 1, ticket))
    return vet(recipe.with_bases(ifs), number, ticket, num_probes=0)


def _next_fit(recipe: OnePFrac, number: int, step: int, ticket: Ticket) -> tuple[int, IFS]:
    """The next base after `number`, or before it, that fills an image. Raises UsageError where there is none."""
    check, tried = bounded(ticket, f"none of the {{tries}} bases from {number} on fills an image"), Counter[str]()
    last = number + _MAX_STEPS + 1 if step > 0 else max(number - _MAX_STEPS, 0) - 1
    with borrow_renderer(recipe.style) as renderer:

        def draw(candidate: int) -> Vetting:
            check(candidate)
            return recipe.vetting(recipe.candidate(candidate), renderer, candidate)

        for vetting in fit_candidates(draw, range(number + step, last, step), tried):
            return vetting.number, vetting.ifs
    if last >= 0:
        raise UsageError(f"none of the {tried.total()} bases from {number} on fills an image")
    raise UsageError(f"base {number} is the first that fills an image")


def candidates(recipe: OnePFrac, number: int, step: int, ticket: Ticket) -> Iterator[tuple[int, IFS]]:
    """Numbers and systems of the bases from `number` on, without degenerate ones; as far as there are any."""
    while number >= 0:
        ticket.check()
        ifs = None
        with contextlib.suppress(UsageError):  # determinants that underflow
            ifs = recipe.candidate(number)
        if ifs is not None:
            yield number, ifs
        number += step


def vet(
    recipe: OnePFrac, number: int | None, ticket: Ticket, kept: int | None = None, num_probes: int = PROBES
) -> Base:
    """What vetting says of the recipe's base fractal.

    kept: of its perturbations, where that is known already. num_probes: how many of them are tried, 64 or none.
    """
    with borrow_renderer(recipe.style) as renderer:
        vetting = recipe.vetting(recipe.base, renderer, number or 0)
        rejected = vetting.rejection()
        fill, extent = _fill(renderer, rejected), renderer.extent()
        while kept is None and vetting.tried < num_probes:
            ticket.check()
            vetting.probe()
    kept = vetting.passed if kept is None else kept
    reason = ""
    if rejected == "overflow":
        reason = "its orbit overflows"
    elif rejected is not None:
        reason = f"it fills {fill:.4f} of the image, not more than {recipe.min_fill:g}"
    elif num_probes and not kept:
        reason = f"none of {PROBES} perturbations passes"
    provenance = {"base_tries": 0, "base_rejections": {}, "base_acceptance": kept / PROBES}
    return Base(
        recipe=recipe,
        number=number,
        provenance=provenance if num_probes else {},
        reason=reason,
        kept=kept,
        tried=num_probes,
        fill=fill,
        extent=extent,
    )


def _fill(renderer: Renderer, rejected: str | None) -> float:
    """Share of pixels that are not black; of an orbit that overflows, of what it drew before."""
    if rejected == "overflow":
        if not renderer.length():
            return 0.0
        renderer.stamp()
    return renderer.fill_rate()
