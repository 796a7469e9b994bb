"""Vetting of 1p-frac's base fractals: by the unperturbed image, and by a sample of perturbations."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fracgen.ifs import IFS, Floats
from fracgen.shards.errors import DataError

if TYPE_CHECKING:
    from fracgen.renderer import Renderer

PROBES = 64
"""Perturbations of a base that vetting tries."""


@dataclass(frozen=True, kw_only=True)
class Vetting:
    """Whether a base fractal is fit.

    perturb: gives the maps of perturbation number 0 to 63 of it, (N, 2, 3). mask_key: that of all its images.
    """

    ifs: IFS
    perturb: Callable[[int], Floats]
    renderer: "Renderer"
    mask_key: int
    min_fill: float

    def rejection(self) -> str | None:
        """Why the unperturbed image is not fit ("overflow", "fill"), or None."""
        self.renderer.trace(self.ifs.p, self.ifs.maps)
        if self.renderer.diverged():
            return "overflow"
        return None if self._passes(0) else "fill"

    def acceptance(self, better_than: float = -1.0) -> float:
        """Share of 64 perturbations that pass; 0 as soon as it cannot exceed `better_than`."""
        from fracgen.renderer import LANES

        passed = 0
        for done in range(0, PROBES, LANES):
            if passed + PROBES - done <= better_than * PROBES:
                return 0.0
            self.renderer.trace(self.ifs.p, *(self.perturb(number) for number in range(done, done + LANES)))
            passed += sum(self._passes(lane) for lane in range(LANES))
        return passed / PROBES

    def acceptance_of_users(self) -> float:
        """The acceptance of a base from the user. Raises DataError where its own image is not fit."""
        if (reason := self.rejection()) is not None:
            why = "its orbit overflows"
            if reason == "fill":
                self.renderer.stamp(0, self.mask_key)
                filled = self.renderer.fill_rate()
                why = f"it fills {filled:.4f} of the image, not more than {self.min_fill:g}; lower --min-fill"
            raise DataError(f"the base fractal given cannot be used: {why}")
        return self.acceptance()

    def _passes(self, lane: int) -> bool:
        """Whether the image of an orbit that is traced is kept."""
        least = least_lit(self.min_fill, self.renderer.style.size**2)
        return not self.renderer.diverged(lane) and self.renderer.lights(lane, self.mask_key, least)


def least_lit(min_fill: float, num_pixels: int) -> int:
    """The least number of pixels that is more than a share `min_fill` of all."""
    count = max(int(min_fill * num_pixels) - 1, 0)
    while count / num_pixels <= min_fill:
        count += 1
    return count
