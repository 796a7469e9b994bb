"""The photographs of a data set in one look: centre squares or levels for crops, and warps of them."""

from functools import cached_property

import numpy as np

from fracgen.photo.crops import Crop, Level, levels_of
from fracgen.photo.edges import CANNY_FIELDS, Canny, Look, derive_canny, square, to_gray, to_rgb
from fracgen.photo.photographs import Photographs
from fracgen.photo.warps import Warp
from fracgen.recipe import Difference
from fracgen.shards.errors import UsageError
from fracgen.shards.sample import Image

Numbers = tuple[float, ...] | None


class Pictures:
    """Photographs in one look, by number; pixels are made when they are first used.

    size: width and height of a square in pixels. canny: (blur, low, high) of Canny, each of one number or one a
    photograph; None is derived from the photograph.
    """

    def __init__(
        self, photographs: Photographs, look: Look, size: int, canny: tuple[Numbers, Numbers, Numbers]
    ) -> None:
        self._photographs, self._look, self._size, self._numbers = photographs, look, size, canny

    @cached_property
    def _squares(self) -> list[Image]:
        """The centre squares, before edges are found in them."""
        squares = [square(photograph, self._size) for photograph in self._photographs.images]
        return [to_rgb(picture) if self._look == "rgb" else to_gray(picture) for picture in squares]

    @cached_property
    def squares(self) -> list[Image]:
        """The centre squares in the look, (size, size) or (size, size, 3)."""
        if self._look != "canny":
            return self._squares
        return [self.canny(number).edges(picture) for number, picture in enumerate(self._squares)]

    @cached_property
    def _levels(self) -> list[list[Level]]:
        """Each photograph and its reductions, for crops."""
        convert = to_rgb if self._look == "rgb" else to_gray
        return [levels_of(convert(photograph)) for photograph in self._photographs.images]

    def levels(self, number: int) -> list[Level]:
        """A photograph and its reductions, for crops."""
        return self._levels[number]

    def canny(self, number: int) -> Canny:
        """Canny's numbers for a photograph."""
        blur, low, high = (None if values is None else values[min(number, len(values) - 1)] for values in self._numbers)
        if blur is None or low is None or high is None:
            return derive_canny(self._squares[number], blur=blur, low=low, high=high)
        return Canny(blur=blur, low=low, high=high)

    def canny_numbers(self) -> dict[str, tuple[float, ...]]:
        """Canny's numbers by the name of the field, one a photograph."""
        numbers = [self.canny(number) for number in range(len(self._photographs))]
        return {name: tuple(getattr(canny, name) for canny in numbers) for name in CANNY_FIELDS}

    def edge_share(self, number: int) -> float:
        """Share of a square's pixels that are edges, to four digits. Raises UsageError where there are none."""
        edges, canny = self.squares[number], self.canny(number)
        if not edges.any():
            mend = (
                "lower them (--low, --high), or take another photograph" if canny.high else "it is flat; take another"
            )
            raise UsageError(
                f"photograph {number}: no edges found with blur {canny.blur:g} and thresholds low {canny.low:g} and "
                f"high {canny.high:g}; {mend}"
            )
        return round(int(np.count_nonzero(edges)) / edges.size, 4)

    def apply(self, warp: Warp | Crop, number: int) -> Image:
        """A photograph through a warp."""
        if isinstance(warp, Warp):
            return warp.apply(self.squares[number])
        image, covered = warp.apply(self._levels[number])
        if self._look == "canny":
            image = self.canny(number).edges(image)
            return image if covered is None else np.where(covered == 255, image, np.uint8(0))
        return image if covered is None else warp.on_black(image, covered)

    def shows(self, warp: Warp | Crop, number: int) -> bool:
        """Whether there is anything in the image; it is made only where a few of its samples do not tell."""
        if self._look != "canny":
            return True
        if isinstance(warp, Warp) and warp.meets(self.squares[number]):
            return True
        return bool(self.apply(warp, number).any())

    def difference(self, image: Image, base: Image) -> tuple[str, Image | Difference]:
        """Where an image differs from a square, with a caption: which has which edges, or how far levels are apart."""
        if self._look == "canny":
            return "", Difference(image=image, base=base, names=("class", "look"))
        return "difference", np.abs(image.astype(np.int16) - base).astype(np.uint8)
