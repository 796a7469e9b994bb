"""Settings of a fine-tuning run, and the fingerprint of its data and weights: of the script, and of comparisons."""

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from fracgen.shards.cache import CacheSettings
from fracgen.shards.labels.tables import Columns
from fracgen.shards.settings import Setting, check_settings
from fracgen.train.augment.settings import Augmentation, Mix
from fracgen.train.data.settings import LoaderSettings
from fracgen.train.engine.settings import Model, Optim, Run, Schedule

if TYPE_CHECKING:
    from fracgen.train.data.splits import Splits
    from fracgen.train.engine.init_weights import InitWeights

Metric = Literal["accuracy", "mean-per-class"]
COMPARABLE = ("protocol", "metric", "eval_crop", "augment.size", "augment.mean", "augment.std")
"""Settings without which accuracies of one run cannot be compared."""


@dataclass(frozen=True, kw_only=True)
class Finetuning:
    """A fine-tuning run."""

    checkpoint: Annotated[
        str,
        Setting(
            "Pre-trained weights: a run's folder, a timm folder, timm:NAME, or a .pth file; none: train from scratch.",
            panel="Data",
            identity=False,
        ),
    ] = "none"
    data: Annotated[
        str,
        Setting(
            "Labelled images: class folders, a table, shards, or a timm name such as torch/cifar100.",
            panel="Data",
            identity=False,
        ),
    ] = ""
    columns: Annotated[Columns, Setting("Columns of a table.", panel="Data", identity=False)] = field(
        default_factory=Columns
    )
    val: Annotated[
        str,
        Setting(
            "Validation images, which the epoch is chosen on, if they do not lie in --data.",
            panel="Data",
            identity=False,
        ),
    ] = ""
    test: Annotated[
        str,
        Setting(
            "Test images, which accuracy is reported on, if they do not lie in --data.", panel="Data", identity=False
        ),
    ] = ""
    split: Annotated[
        str,
        Setting(
            "File of sample ids, which says the images to train, to choose and to report on.",
            panel="Data",
            identity=False,
        ),
    ] = ""
    root: Annotated[
        str, Setting("Folder in which timm keeps the sets that it downloads.", panel="Data", identity=False)
    ] = "data"
    num_classes: Annotated[
        int, Setting("Number of classes, for tars without our manifest.", at_least=0, default="", panel="Data")
    ] = 0
    per_class: Annotated[int, Setting("Number of training images of each class; 0: all.", at_least=0, panel="Data")] = 0
    val_share: Annotated[
        float,
        Setting(
            "Share of the training images held out for validation, where there is no validation split.",
            at_least=0,
            below=1,
            panel="Protocol",
        ),
    ] = 0.1
    keep_head: Annotated[
        bool, Setting("Keep the checkpoint's classification head where its number of classes fits.", panel="Protocol")
    ] = False
    protocol: Annotated[
        Literal["honest", "published"],
        Setting(
            "honest: choose the epoch on validation images. published: on the test images, as papers do.",
            panel="Protocol",
        ),
    ] = "honest"
    metric: Annotated[
        Metric,
        Setting(
            "What the epoch is chosen by and tables show. accuracy: share of the images. mean-per-class: mean of the "
            "classes' shares.",
            panel="Protocol",
        ),
    ] = "accuracy"
    check_epochs: Annotated[float, Setting("Epochs between evaluations.", above=0, below=1e9, panel="Protocol")] = 1.0
    eval_crop: Annotated[
        float,
        Setting("Share of the shorter side that evaluation shows the model.", above=0, at_most=1, panel="Protocol"),
    ] = 0.875
    model: Model = field(default_factory=lambda: Model(name=""))
    optim: Optim = field(default_factory=lambda: Optim(name="sgd", lr=0.01, weight_decay=1e-4))
    schedule: Schedule = field(default_factory=lambda: Schedule(warmup_steps=0, warmup_epochs=10.0))
    augment: Augmentation = field(
        default_factory=lambda: Augmentation(
            vflip=0.0, erase=0.25, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
        )
    )
    mix: Mix = field(default_factory=Mix)
    loader: LoaderSettings = field(default_factory=lambda: LoaderSettings(batch_size=768))
    cache: CacheSettings = field(default_factory=CacheSettings)
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        """Raise UsageError for values out of range."""
        check_settings(self)


def splits_of(settings: Finetuning) -> "Splits":
    """The splits of a run's images, opened and divided as its settings say. Raises what `open_splits` raises."""
    from fracgen.train import cli
    from fracgen.train.data.splits import open_splits

    return open_splits(
        settings.data,
        val=settings.val,
        test=settings.test,
        split=settings.split,
        num_classes=settings.num_classes,
        root=settings.root,
        columns=settings.columns,
        val_share=0.0 if settings.protocol == "published" else settings.val_share,
        per_class=settings.per_class,
        seed=settings.run.seed,
        skip_bad=settings.loader.skip_bad,
        cache=settings.cache,
        progress=cli.bar("reading"),
    )


def fingerprint_of(splits: "Splits", init: "InitWeights") -> str:
    """sha256 (hex) of all that a run begins with: its images, as split, and its weights."""
    return join_fingerprints(images_fingerprint(splits), init.fingerprint())


def images_fingerprint(splits: "Splits") -> str:
    """What stands for the images of a run, as split, in its fingerprint."""
    return "".join(each.fingerprint for each in (splits.train, splits.val, splits.test) if each is not None)


def join_fingerprints(images: str, weights: str) -> str:
    """The fingerprint of a run from those of its images and of its weights; of its images alone where that is ""."""
    if not weights:
        return images
    return hashlib.sha256(f"{images}{weights}".encode()).hexdigest()
