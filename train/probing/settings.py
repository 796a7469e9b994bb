"""The settings of a probe."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from fracgen.shards.cache import CacheSettings
from fracgen.shards.errors import UsageError
from fracgen.shards.files import ONLY_LOCAL
from fracgen.shards.labels.tables import Columns
from fracgen.shards.settings import Setting, check_settings, fields_of
from fracgen.shards.urls import is_url
from fracgen.train.engine.settings import Device, Model, Precision
from fracgen.train.seeding import MAX_SEED

Feature = Literal["auto", "cls", "mean"]
_VIEWS = "What is looked at"


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """The settings of a probe. Raises UsageError for values out of their range."""

    checkpoints: Annotated[
        tuple[str, ...],
        Setting(
            "[NAME=]WHERE: a run, a timm folder, timm:NAME or a file of weights; give more than one to compare them.",
            option="--checkpoint",
            panel="Networks",
        ),
    ] = ()
    model: Annotated[Model, Setting("Architecture of nameless weights.", panel="Networks")] = field(
        default_factory=lambda: Model(name="", drop_path=0.0)
    )
    random: Annotated[
        bool, Setting("Probe a randomly initialised network of each architecture too.", panel="Networks")
    ] = True
    feature: Annotated[
        Feature,
        Setting("Class token, or mean over patches. auto: what the model classifies by.", panel="Networks"),
    ] = "auto"
    data: Annotated[
        tuple[str, ...],
        Setting(
            "[NAME=]WHERE: a folder of train/ and test/ with class folders or shards, a table, or a timm name; give "
            "more than one for several tasks.",
            option="--data",
            panel="Data",
        ),
    ] = ()
    columns: Annotated[Columns, Setting("Columns of a table.", panel="Data")] = field(default_factory=Columns)
    test: Annotated[str, Setting("Test images, where they do not lie in --data, of one task.", panel="Data")] = ""
    num_classes: Annotated[
        int, Setting("Number of classes, for tars without our manifest.", at_least=0, default="", panel="Data")
    ] = 0
    root: Annotated[str, Setting("Folder in which sets with timm names are kept.", panel="Data")] = "data"
    images: Annotated[int, Setting("Training images at most; 0: all.", at_least=0, panel="Data")] = 10_000
    test_images: Annotated[int, Setting("Test images at most; 0: all.", at_least=0, panel="Data")] = 0
    size: Annotated[
        int,
        Setting("Image size in pixels.", at_least=0, at_most=1 << 12, panel="Data", default="the checkpoint's own"),
    ] = 0
    crop: Annotated[float, Setting("Share of the shorter side that is visible.", above=0, at_most=1, panel="Data")] = (
        1.0
    )
    skip_bad: Annotated[bool, Setting("Leave out images that cannot be read, and count them.", panel="Data")] = False
    cache: CacheSettings = field(default_factory=CacheSettings)
    layers: Annotated[bool, Setting("Linear probe and nearest neighbours on each block.", panel=_VIEWS)] = True
    few_shot: Annotated[
        bool, Setting("Both on a few images of each class, drawn several times; of the last block.", panel=_VIEWS)
    ] = False
    shots: Annotated[
        tuple[int, ...], Setting("Few-shot: images of each class; repeat for more.", at_least=1, panel=_VIEWS)
    ] = (1, 2, 5, 10)
    draws: Annotated[int, Setting("Few-shot: how often they are drawn.", at_least=2, at_most=1000, panel=_VIEWS)] = 5
    attention: Annotated[
        bool, Setting("Draw attention maps, their distance by block, and position embeddings.", panel=_VIEWS)
    ] = False
    attention_images: Annotated[
        int, Setting("Attention: test images of the first task to draw.", at_least=1, at_most=32, panel=_VIEWS)
    ] = 4
    blocks: Annotated[
        tuple[int, ...],
        Setting(
            "Number of a block, from 1 on, for attention maps and few-shot; repeat for more.",
            option="--block",
            at_least=1,
            default="six at most, and the last",
            panel=_VIEWS,
        ),
    ] = ()
    heads: Annotated[
        tuple[int, ...],
        Setting(
            "Attention: number of a head, from 1 on; repeat for more.",
            option="--head",
            at_least=1,
            default="six at most",
            panel=_VIEWS,
        ),
    ] = ()
    k: Annotated[int, Setting("Number of nearest neighbours that vote.", at_least=1, panel="Classifiers")] = 20
    seed: Annotated[
        int,
        Setting("Seed of the chosen images and of random networks.", at_least=0, at_most=MAX_SEED, panel="Classifiers"),
    ] = 0
    batch_size: Annotated[int, Setting("Images in a batch.", at_least=1, panel="Machine")] = 64
    device: Annotated[Device, Setting("What computes.", panel="Machine")] = "auto"
    precision: Annotated[
        Precision,
        Setting("auto: bf16 on a GPU or CPU that has it; else fp16 on a GPU, fp32 on a CPU.", panel="Machine"),
    ] = "auto"

    def __post_init__(self) -> None:
        """Check types and ranges."""
        check_settings(self)
        if self.test and len(self.data) > 1:
            raise UsageError(f"--test {self.test}: is for one --data; of several, each has its own test/ beside train/")
        if not (self.layers or self.few_shot or self.attention):
            raise UsageError("--no-layers: nothing is left to look at; give --few-shot or --attention")
        for name in ("shots", "blocks", "heads"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise UsageError(f"--{name.removesuffix('s') if name != 'shots' else name}: each number once")
        for word in self.checkpoints:
            if is_url(word) or is_url(word.partition("=")[2]):
                raise UsageError(f"--checkpoint {word}: {ONLY_LOCAL}")


OPTIONS = [each.name for each in fields_of(ProbeSettings) if each.name not in ("model.init", "model.drop_path")]
"""The settings that have an option: drop path does nothing in evaluation, and random networks are timm's."""
