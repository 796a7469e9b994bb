"""Perturbations of an IFS: the LIEP distribution (Nakamura et al., ECCV 2024, section 3), and which are kept.

Class l is the base IFS with its 6N coefficients moved by eps_l: uniform in [-Delta/2, Delta/2]^(6N) and added (the
paper, equation 4), or each coefficient multiplied by U(1 - Delta, 1 + Delta) (the published code, whose Delta is a
half-width). Probabilities stay those of the base.
"""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from fracgen.ifs import IFS, Floats, maps_from_rows
from fracgen.shards.errors import DataError
from fracgen.vetting import describe_rejections, rejection

if TYPE_CHECKING:
    from fracgen.renderer import Renderer

PerturbationKind: TypeAlias = Literal["additive", "multiplicative"]


def draw_eps(rng: np.random.Generator, num_maps: int, delta: float, kind: PerturbationKind) -> Floats:
    """One draw of the distribution, (6 num_maps,) float64; half-width Delta/2 (additive) or Delta (multiplicative)."""
    half_width = delta / 2 if kind == "additive" else delta
    eps: Floats = half_width * (2 * rng.random(6 * num_maps) - 1)
    return eps


def move_maps(maps: Floats, eps: Floats, kind: PerturbationKind) -> Floats:
    """Maps (N, 2, 3) moved by eps, (6N,) in the order a, b, c, d, e, f of each: (N, 2, 3) float64."""
    step = maps_from_rows(eps.reshape(-1, 6))
    with np.errstate(over="ignore"):  # such a draw overflows, and is rejected
        return maps + step if kind == "additive" else maps * (1 + step)


class PerturbedClass:
    """One class on its way to an accepted perturbation.

    eps, maps: of the perturbation that is tried. rejected: those before it, by reason.
    """

    def __init__(
        self, index: int, base: IFS, perturb: Callable[[int, int], tuple[Floats, Floats]], *, mask_key: int
    ) -> None:
        """perturb: (eps, maps) of a class at an attempt. mask_key: of the patch masks by which draws are judged."""
        self.index, self.base, self.mask_key = index, base, mask_key
        self.rejected = Counter[str]({"fill": 0, "overflow": 0})
        self._perturb = perturb
        self.eps, self.maps = perturb(index, 0)

    @property
    def tries(self) -> int:
        """Perturbations so far."""
        return sum(self.rejected.values()) + 1

    def judge(self, renderer: "Renderer", lane: int, *, min_fill: float, max_tries: int) -> bool:
        """Whether the traced perturbation is kept, whose image the renderer has then; else the next one is drawn.

        Raises DataError after `max_tries` of them.
        """
        reason = rejection(renderer, lane, self.mask_key, min_fill)
        if reason is None:
            return True
        self.rejected[reason] += 1
        if self.tries > max_tries:
            raise DataError(
                f"class {self.index}: none of {max_tries} perturbations could be kept "
                f"({describe_rejections(self.rejected)}); lower --min-fill or --delta, raise --max-tries, or "
                "try another --seed"
            )
        self.eps, self.maps = self._perturb(self.index, self.tries - 1)
        return False
