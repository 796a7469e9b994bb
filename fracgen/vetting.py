"""Vetting of 1p-frac's base fractals: by the unperturbed image, and by a sample of perturbations.

Of many systems of the published sigma few perturbations fill an image, of some none: a set of such a base would never
be finished. The rule is ours.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import heappush, heapreplace
from typing import TYPE_CHECKING, Any

from fracgen.ifs import IFS, Floats
from fracgen.shards.errors import DataError, UsageError

if TYPE_CHECKING:
    from fracgen.renderer import Renderer

PROBES = 64
"""Perturbations of a base that vetting tries."""


def rejection(renderer: "Renderer", lane: int, mask_key: int, min_fill: float) -> str | None:
    """Why a traced orbit is not kept; None where it is, and then its image is drawn in the renderer.

    "overflow": it runs into NaN. "fill": no more than `min_fill` of the pixels, 0 to 1, are not black.
    lane: which of the two orbits that the renderer traces at a time. mask_key: 64-bit key of the patch masks.
    """
    if renderer.diverged(lane):
        return "overflow"
    renderer.stamp(lane, mask_key)
    return None if renderer.fill_rate() > min_fill else "fill"


@dataclass(eq=False)
class Vetting:
    """Whether a base fractal is fit, and how many of its perturbations pass, of those that were tried.

    number: of the base, from 0. perturb: gives the maps of its perturbation number 0 to 63, (N, 2, 3) float64.
    mask_key: 64-bit key of the patch masks of all its images. min_fill: see `rejection`. tried, passed: perturbations,
    so far.
    """

    number: int
    ifs: IFS
    perturb: Callable[[int], Floats]
    renderer: "Renderer"
    mask_key: int
    min_fill: float
    tried: int = 0
    passed: int = 0

    def rejection(self) -> str | None:
        """Why the unperturbed image is not fit ("overflow", "fill"), or None."""
        self.renderer.trace(self.ifs.p, self.ifs.maps)
        return rejection(self.renderer, 0, self.mask_key, self.min_fill)

    def probe(self) -> None:
        """Try the next two perturbations: the renderer traces two orbits in the time of one."""
        self.renderer.trace(self.ifs.p, self.perturb(self.tried), self.perturb(self.tried + 1))
        self.tried += 2
        self.passed += sum(rejection(self.renderer, lane, self.mask_key, self.min_fill) is None for lane in range(2))

    @property
    def failed(self) -> int:
        """How many perturbations failed so far."""
        return self.tried - self.passed

    @property
    def acceptance(self) -> float:
        """Share of 64 perturbations that pass, once all were tried."""
        return self.passed / PROBES

    def acceptance_of_users(self) -> float:
        """The acceptance of a base from the user. Raises DataError where its own image is not fit."""
        if (reason := self.rejection()) is not None:
            why = "its orbit overflows"
            if reason == "fill":
                filled = self.renderer.fill_rate()
                why = f"it fills {filled:.4f} of the image, not more than {self.min_fill:g}; lower --min-fill"
            raise DataError(f"the base fractal given cannot be used: {why}")
        _best_of(iter([self]), 1)
        return self.acceptance


@dataclass(frozen=True, kw_only=True)
class BaseSearch:
    """The search for base fractals: the best, as `find_best` says, of those whose unperturbed image is fit.

    draw: gives base number k, from 0; UsageError where it is degenerate. count, min_acceptance: of `find_best`.
    max_tries: bases drawn for one, at most. source, mend: what is drawn from, and what to do where none is fit.
    """

    draw: Callable[[int], Vetting]
    count: int
    min_acceptance: float
    max_tries: int
    source: str
    mend: str

    def find(self, first: int = 0) -> tuple[Vetting, dict[str, Any]]:
        """(the base fractal to take, how it was found: base, base_tries, base_rejections, base_acceptance).

        first: number of the first base that is drawn. Raises DataError with the counts where none is fit.
        """
        rejections, least = Counter[str](), max(self.min_acceptance, 1 / PROBES)
        numbers = range(first, first + self.max_tries)
        drawn, best = find_best(fit_candidates(self.draw, numbers, rejections), self.count, least)
        acceptance = best.acceptance if best else 0.0
        if best and acceptance >= least and (len(drawn) >= self.count or acceptance == 1):
            tries = {"base_tries": drawn[-1].number + 1 - first, "base_rejections": dict(sorted(rejections.items()))}
            return best, {"base": best.number, **tries, "base_acceptance": acceptance}
        raise DataError(
            f"no base fractal in {self.max_tries} tries at {self.source} (failed themselves: "
            f"{describe_rejections(rejections) or 'none'}; of {len(drawn)} others at best {acceptance:.2f} of the "
            f"perturbations passed, at least {self.min_acceptance:g} must); {self.mend}"
        )

    def find_several(self, num_bases: int) -> tuple[list[Vetting], dict[str, Any]]:
        """(the base fractals to take, how they were found: bases, base_tries, base_rejections, base_acceptances).

        Each search begins where the one before ended, so that fewer bases are the first of more. Raises as `find`.
        """
        bases, searches, tries, rejections = list[Vetting](), list[dict[str, Any]](), 0, Counter[str]()
        for number in range(num_bases):
            try:
                best, provenance = self.find(tries)
            except DataError as error:
                raise DataError(f"base {number} of {num_bases}: {error}") from None
            bases.append(best)
            searches.append(provenance)
            tries += provenance["base_tries"]
            rejections.update(provenance["base_rejections"])
        return bases, {
            "bases": [each["base"] for each in searches],
            "base_tries": tries,
            "base_rejections": dict(sorted(rejections.items())),
            "base_acceptances": [each["base_acceptance"] for each in searches],
        }


def fit_candidates(
    draw: Callable[[int], Vetting], numbers: Iterable[int], rejections: Counter[str]
) -> Iterator[Vetting]:
    """The base fractals of these numbers whose unperturbed images are fit; the others are counted by reason."""
    for number in numbers:
        try:
            vetting = draw(number)
        except UsageError:  # determinants that underflow
            rejections["degenerate"] += 1
            continue
        if (reason := vetting.rejection()) is None:
            yield vetting
        else:
            rejections[reason] += 1


def find_best(candidates: Iterator[Vetting], count: int, min_acceptance: float) -> tuple[list[Vetting], Vetting | None]:
    """(the candidates that were drawn, the best of them; None where there is no candidate).

    The best is that of the first `count` with the highest acceptance, of equal ones the first. Where it has less than
    `min_acceptance` (0 to 1), more are drawn until one has that.
    """
    drawn, best = _best_of(candidates, count)
    while best and best.acceptance < min_acceptance and (candidate := next(candidates, None)):
        drawn.append(candidate)
        _, best = _best_of(iter([best, candidate]), 2)
    return drawn, best


def describe_rejections(rejections: Mapping[str, int]) -> str:
    """The counts by reason, as in "3 fill, 0 overflow"."""
    return ", ".join(f"{count} {reason}" for reason, count in rejections.items())


def _best_of(candidates: Iterator[Vetting], count: int) -> tuple[list[Vetting], Vetting | None]:
    """(the candidates that were drawn, of `count` at most; the one with the highest acceptance).

    Trying all perturbations of all candidates would take `count` times as long. So the next two are tried of whichever
    has failed least so far; once all of its perturbations were tried it is the best, as no other can pass more. Another
    candidate is drawn only where all before it have failed once.
    """
    drawn: list[Vetting] = []
    queue: list[tuple[int, int]] = []  # how often each has failed, and its place in `drawn`
    while True:
        if (not queue or queue[0][0]) and len(drawn) < count and (candidate := next(candidates, None)):
            drawn.append(candidate)
            heappush(queue, (candidate.failed, len(drawn) - 1))
            continue
        best = drawn[queue[0][1]] if queue else None
        if best is None or best.tried == PROBES:
            return drawn, best
        best.probe()
        heapreplace(queue, (best.failed, queue[0][1]))
