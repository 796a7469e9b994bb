"""Settings of the loader."""

from dataclasses import dataclass
from typing import Annotated, Literal

from fracgen.shards.errors import UsageError
from fracgen.shards.settings import Setting, check_settings

LoaderMode = Literal["auto", "memory", "stream"]
AugmentPlace = Literal["device", "timm"]


@dataclass(frozen=True, kw_only=True)
class LoaderSettings:
    """How examples reach the model."""

    batch_size: Annotated[
        int, Setting("Images of a batch, of all processes together.", at_least=1, at_most=1 << 30, panel="Training")
    ] = 256
    repeats: Annotated[
        int,
        Setting(
            "Times that each image comes in an epoch, each time augmented anew (Hoffer et al. 2020).",
            at_least=1,
            at_most=1 << 30,
            option="",
        ),
    ] = 1
    mode: Annotated[
        LoaderMode,
        Setting(
            "Keep decoded images in memory, or stream them. auto: in memory where a quarter of it is enough.",
            option="--loader",
            panel="Data",
        ),
    ] = "auto"
    augment: Annotated[
        AugmentPlace, Setting("On the device, or by timm's own pipeline in the workers.", panel="Data")
    ] = "device"
    workers: Annotated[
        int,
        Setting(
            "Worker processes of each process; 0: a thread.", at_least=0, at_most=1024, panel="Machine", identity=False
        ),
    ] = 2
    shuffle: Annotated[
        int,
        Setting("Images of tars that are shuffled among each other.", at_least=0, at_most=1 << 30, option=""),
    ] = 8192
    resize: Annotated[
        int,
        Setting(
            "Bring images of other sizes to N x N pixels: shorter edge, then the central square. 0: do not.",
            at_least=0,
            at_most=1 << 16,
            panel="Data",
        ),
    ] = 0
    skip_bad: Annotated[
        bool, Setting("Leave out images that cannot be read, and count them; else they are errors.", panel="Data")
    ] = False

    def __post_init__(self) -> None:
        """Raises UsageError for values out of range, and for settings that exclude one another."""
        check_settings(self)
        if self.augment == "timm" and self.workers == 0:
            raise UsageError("--workers 0: timm's augmentation needs workers; give 1 or more, or --augment device")
