"""Settings of the loader, and of a set of shards that a run is pre-trained on."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from fracgen.shards.cache import CacheSettings
from fracgen.shards.errors import UsageError
from fracgen.shards.settings import Setting, check_settings

LoaderMode = Literal["auto", "memory", "stream"]
AugmentPlace = Literal["device", "timm"]


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """What training needs of a loader: the size of its batches."""

    batch_size: Annotated[
        int, Setting("Images in a batch, over all processes.", at_least=1, at_most=1 << 20, panel="Training")
    ] = 256

    def __post_init__(self) -> None:
        """Raise UsageError for values out of range."""
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class LoaderSettings(BatchSettings):
    """How examples reach the model."""

    repeats: Annotated[
        int,
        Setting(
            "Times that each image comes in an epoch, each time augmented anew.",
            at_least=1,
            at_most=1 << 30,
            option="",
        ),
    ] = 1
    repeated_augmentation: Annotated[
        int,
        Setting(
            "Times that each image comes in a batch, augmented anew each time and, with several processes, on another "
            "of them (Hoffer et al. 2020; DeiT's is 3). An epoch is as many positions as without.",
            at_least=1,
            at_most=1 << 10,
            option="",
        ),
    ] = 1
    mode: Annotated[
        LoaderMode,
        Setting(
            "Keep the decoded images in memory, or stream them. auto: in memory if they fit into a quarter of it.",
            option="--loader",
            panel="Data",
        ),
    ] = "auto"
    augment: Annotated[
        AugmentPlace,
        Setting("Augment batches on the device, or by timm's own pipeline in worker processes.", panel="Data"),
    ] = "device"
    workers: Annotated[
        int,
        Setting(
            "Worker processes that load images, for each training process; 0: a thread instead.",
            at_least=0,
            at_most=1024,
            panel="Machine",
            identity=False,
        ),
    ] = 2
    shuffle: Annotated[
        int,
        Setting(
            "Size of the shuffle buffer for sets in tars, in images; smaller sets and folders are shuffled whole.",
            at_least=0,
            at_most=1 << 30,
            option="",
        ),
    ] = 8192
    resize: Annotated[
        int,
        Setting(
            "Resize images to N x N pixels first: the shorter edge to N, then the central square. 0: keep their size.",
            at_least=0,
            at_most=1 << 12,
            panel="Data",
        ),
    ] = 0
    squeeze: Annotated[
        bool,
        Setting("With resize: squeeze each image into the square, as VTAB does, and cut nothing off.", option=""),
    ] = False
    skip_bad: Annotated[
        bool, Setting("Leave out images that cannot be read, and count them; without it they are errors.", panel="Data")
    ] = False

    def __post_init__(self) -> None:
        """Raises UsageError for values out of range, and for settings that exclude one another."""
        check_settings(self)
        if self.squeeze and not self.resize:
            raise UsageError("loader.squeeze true: needs loader.resize, the side of the square")
        if self.augment == "timm" and self.workers == 0:
            raise UsageError("--workers 0: timm's augmentation needs workers; give 1 or more, or --augment device")


@dataclass(frozen=True, kw_only=True)
class ShardsSettings:
    """What every pre-training protocol on shards begins with: the set, how it is read, and initial weights."""

    shards: Annotated[
        str,
        Setting(
            "Shards to train on: a folder, its URL, or a pattern such as 'set-{000..063}.tar'.",
            panel="Data",
            identity=False,
        ),
    ] = ""
    num_classes: Annotated[
        int, Setting("Number of classes, for tars without our manifest.", at_least=0, default="", panel="Data")
    ] = 0
    checkpoint: Annotated[
        str,
        Setting(
            "Weights to begin with: a run's folder, a timm folder, or a .pth file; none: train from scratch.",
            panel="Data",
            identity=False,
        ),
    ] = "none"
    loader: LoaderSettings = field(default_factory=LoaderSettings)
    cache: CacheSettings = field(default_factory=CacheSettings)
