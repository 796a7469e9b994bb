"""Settings of augmentation: every number that changes a pixel or a target, with the published defaults."""

import math
import re
from dataclasses import dataclass
from typing import Annotated, Self

from fracgen.shards.errors import UsageError
from fracgen.shards.settings import Setting, check_settings


@dataclass(frozen=True)
class RandAugment:
    """timm's RandAugment: `num_layers` operations a sample, drawn with replacement, each done with probability `prob`.

    The magnitude of each is normal around `magnitude` with standard deviation `std` (uniform below it for an infinite
    `std`), clipped to [0, 10]. increasing: all operations get stronger with the magnitude. In timm's text these are m,
    n, p, mstd and inc, and the defaults here are timm's for what a text leaves out.
    """

    magnitude: int = 10
    num_layers: int = 2
    std: float = 0.0
    increasing: bool = False
    prob: float = 0.5

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read timm's text, as in "rand-m9-n2-mstd0.5-inc1". Raises UsageError for parts other than m n mstd inc p."""
        head, *parts = text.split("-")
        values = {}
        for part in parts:
            if not (match := re.fullmatch(r"(m|n|inc)(\d{1,3})|(mstd|p)(\d{1,3}(?:\.\d+)?)", part)):
                raise UsageError(
                    f"rand_augment {text!r}: {part!r} is not one of m9 n2 mstd0.5 inc1 p0.5 (whole m, n, inc)"
                )
            values[match[1] or match[3]] = float(match[2] or match[4])
        if head != "rand" or values.get("p", 0) > 1 or values.get("inc", 0) > 1:
            raise UsageError(
                f"rand_augment {text!r}: give rand and parts such as m9 n2 mstd0.5 inc1 p0.5, or '' for none"
            )
        std = values.get("mstd", 0.0)
        return cls(
            int(values.get("m", 10)),
            int(values.get("n", 2)),
            math.inf if std > 100 else std,
            bool(values.get("inc", 0)),
            values.get("p", 0.5),
        )


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Augmentation of one sample.

    In order: RandomResizedCrop to `size`, flips, a random texture, RandAugment or (only where that is '') colour
    jitter, normalisation, random erasing by N(0, 1) noise.
    """

    size: Annotated[
        int, Setting("Side of the square images that the model sees, in pixels.", at_least=1, at_most=1 << 12)
    ] = 224
    scale: Annotated[
        tuple[float, float], Setting("Smallest and largest area of a random crop, as shares of the image.", above=0)
    ] = (0.08, 1.0)
    ratio: Annotated[tuple[float, float], Setting("Smallest and largest width / height of a random crop.", above=0)] = (
        3 / 4,
        4 / 3,
    )
    hflip: Annotated[float, Setting("Probability of a horizontal flip.", at_least=0, at_most=1)] = 0.5
    vflip: Annotated[float, Setting("Probability of a vertical flip.", at_least=0, at_most=1)] = 0.5
    texture: Annotated[
        float,
        Setting("Probability that what is not black gets a random texture (our own).", at_least=0, at_most=1),
    ] = 0.0
    rand_augment: Annotated[str, Setting("RandAugment, as timm writes it; '' for none.")] = "rand-m9-n2-mstd0.5-inc1"
    color_jitter: Annotated[
        float, Setting("Strength of colour jitter, which is used only without RandAugment.", at_least=0)
    ] = 0.4
    erase: Annotated[float, Setting("Probability of random erasing.", at_least=0, at_most=1)] = 0.5
    mean: Annotated[
        tuple[float, float, float],
        Setting("Mean of each channel, subtracted from levels in [0, 1].", at_least=0, at_most=1),
    ] = (0.5, 0.5, 0.5)
    std: Annotated[
        tuple[float, float, float],
        Setting("Standard deviation of each channel, by which levels are divided then.", above=0),
    ] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        """Raise UsageError for values out of range, and for a RandAugment that we do not have."""
        check_settings(self)
        if self.scale[0] > self.scale[1] or self.ratio[0] > self.ratio[1]:
            raise UsageError(f"crops of scale {self.scale}, ratio {self.ratio}: give (least, most)")
        _ = self.rand_augment_rule

    @property
    def rand_augment_rule(self) -> RandAugment | None:
        """RandAugment's numbers, None where it is off."""
        return RandAugment.parse(self.rand_augment) if self.rand_augment else None

    @property
    def fill(self) -> tuple[int, ...]:
        """Levels of what comes into view from outside: the mean, as timm rounds it, 0 to 255."""
        return tuple(min(255, round(255 * mean)) for mean in self.mean)


@dataclass(frozen=True, kw_only=True)
class Mix:
    """timm's mixup and cutmix of a batch, and label smoothing."""

    mixup: Annotated[float, Setting("Alpha of mixup's beta distribution; 0: no mixup.", at_least=0, below=1e9)] = 0.8
    cutmix: Annotated[float, Setting("Alpha of cutmix's beta distribution; 0: no cutmix.", at_least=0, below=1e9)] = 1.0
    prob: Annotated[float, Setting("Probability that a batch is mixed.", at_least=0, at_most=1)] = 1.0
    switch: Annotated[
        float, Setting("Share of mixed batches that get cutmix, where both are on.", at_least=0, at_most=1)
    ] = 0.5
    smoothing: Annotated[
        float, Setting("Label smoothing: share of the target that is spread over all classes.", at_least=0, at_most=1)
    ] = 0.1

    def __post_init__(self) -> None:
        """Raise UsageError for values out of range."""
        check_settings(self)

    @property
    def mixes(self) -> bool:
        """Whether images are mixed at all."""
        return self.prob > 0 and (self.mixup > 0 or self.cutmix > 0)

    def check_batch(self, size: int) -> None:
        """Raise UsageError where a rank's batch is odd: timm pairs a batch with itself in reverse."""
        if self.mixes and size % 2:
            raise UsageError(f"a batch of {size} on each rank: mixup and cutmix pair images; make it even")
