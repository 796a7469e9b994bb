"""Settings of a run that the engine owns: model, optimiser, schedule, and how it runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Protocol

from fracgen.shards.settings import Setting, check_settings
from fracgen.train.seeding import MAX_SEED

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
LogService = Literal["tensorboard", "wandb", "trackio"]
Log = Literal["none", "tensorboard", "wandb", "trackio"]
Init = Literal["default", "mimetic", "impulse"]
"""What a model begins with where no checkpoint is given: timm's random weights, or a closed form (`closed_form.py`)."""
CLOSED_FORMS: tuple[Init, ...] = ("mimetic", "impulse")
DEFAULT_MODEL = "vit_tiny_patch16_224"
SCRATCH = "none"
"""The value of --checkpoint that stands for no checkpoint."""
TIMM = "timm:"
"""What stands before the name of weights that timm knows, in the place of a checkpoint."""
_TRAINING, _MACHINE = "Training", "Machine"
"""Panels of the help."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A timm classification model."""

    name: Annotated[
        str,
        Setting(
            f"Name of a timm model; where none is given, the checkpoint's, or {DEFAULT_MODEL} from scratch.",
            option="--model",
            panel=_TRAINING,
        ),
    ] = DEFAULT_MODEL
    init: Annotated[
        Init,
        Setting(
            "Weights of a start from scratch. default: timm's random ones. mimetic: a ViT's attention much as after "
            "training. impulse: each of its heads looks at one neighbour.",
            panel=_TRAINING,
        ),
    ] = "default"
    drop_path: Annotated[
        float, Setting("Probability of stochastic depth; set 0 for models that have none.", at_least=0, below=1)
    ] = 0.1
    options: Annotated[
        Mapping[str, Any], Setting("More arguments of `timm.create_model`, such as patch_size or depth.")
    ] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise UsageError for values out of range."""
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class Optim:
    """A timm optimiser."""

    name: Annotated[str, Setting("Name of a timm optimiser.")] = "adamw"
    lr: Annotated[
        float,
        Setting(
            "Learning rate for batches of 512 images; it is scaled by batch size / 512.",
            above=0,
            at_most=1e30,
            panel=_TRAINING,
        ),
    ] = 1e-3
    weight_decay: Annotated[
        float, Setting("Weight decay; biases, norms and tokens have none.", at_least=0, at_most=1e9)
    ] = 0.05
    momentum: Annotated[float, Setting("Momentum of SGD; Adam has betas.", at_least=0, at_most=1)] = 0.9
    betas: Annotated[
        tuple[float, ...], Setting("Betas of Adam and its kin; none: timm's own.", at_least=0, below=1)
    ] = ()
    clip: Annotated[float, Setting("Norm to which gradients are clipped; 0: no clipping.", at_least=0, at_most=1e9)] = (
        0.0
    )
    layer_decay: Annotated[
        float,
        Setting(
            "Factor of the learning rate from each layer to the one below it; 1: all have the same.", above=0, at_most=1
        ),
    ] = 1.0
    decay_all: Annotated[
        bool, Setting("Weight decay of biases and norms too, as recipes of ResNets have it; of tokens never.")
    ] = False
    ema: Annotated[
        float,
        Setting(
            "Decay, a step, of a moving average of the weights, which is then evaluated and exported; 0: no average.",
            at_least=0,
            below=1,
        ),
    ] = 0.0

    def __post_init__(self) -> None:
        """Raise UsageError for values out of range."""
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Length, in one of three units; a linear warm-up, then a cosine or steps. All rates are scaled as `Optim.lr`."""

    steps: Annotated[
        int,
        Setting(
            "Length of the run in steps (give one of --steps, --samples, --epochs).",
            at_least=0,
            at_most=1 << 40,
            default="",
            panel=_TRAINING,
        ),
    ] = 0
    samples: Annotated[
        int,
        Setting(
            "Length of the run in samples: images that the model is trained on, repeats counted.",
            at_least=0,
            at_most=1 << 60,
            default="",
            panel=_TRAINING,
        ),
    ] = 0
    epochs: Annotated[
        float,
        Setting(
            "Length of the run in epochs: passes over the training images.",
            at_least=0,
            below=1e15,
            default="",
            panel=_TRAINING,
        ),
    ] = 0.0
    warmup_steps: Annotated[int, Setting("Warm-up in steps.", at_least=0)] = 5000
    warmup_epochs: Annotated[
        float, Setting("Warm-up in epochs; above 0 it replaces warmup_steps.", at_least=0, below=1e15)
    ] = 0.0
    warmup_share: Annotated[
        float, Setting("Longest warm-up, in steps or epochs, as a share of the run.", at_least=0, at_most=1)
    ] = 0.05
    warmup_lr: Annotated[float, Setting("Learning rate of the first step, scaled as --lr is.", at_least=0)] = 1e-6
    min_lr: Annotated[float, Setting("Learning rate of the last step, scaled as --lr is.", at_least=0)] = 1e-5
    milestones: Annotated[
        tuple[float, ...],
        Setting("Shares of the run after which the rate is a tenth of before, instead of a cosine.", above=0, below=1),
    ] = ()

    def __post_init__(self) -> None:
        """Raise UsageError for values out of range."""
        check_settings(self)

    @property
    def has_length(self) -> bool:
        """Whether one of steps, samples and epochs is given."""
        return bool(self.steps or self.samples or self.epochs)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Seed, machine, and how often the run logs and saves."""

    seed: Annotated[
        int, Setting("Seed of everything random in the run.", at_least=0, at_most=MAX_SEED, panel=_TRAINING)
    ] = 0
    device: Annotated[
        Device, Setting("Where the model is trained. auto: on a GPU where there is one.", panel=_MACHINE)
    ] = "auto"
    precision: Annotated[
        Precision,
        Setting(
            "Precision of training. auto: bf16 on a GPU or CPU that has it; else fp16 on a GPU, fp32 on a CPU.",
            panel=_MACHINE,
        ),
    ] = "auto"
    compile: Annotated[bool, Setting("Compile the model with torch.compile.", panel=_MACHINE)] = False
    cuda_graph: Annotated[
        bool,
        Setting("Record the kernels of a step once, and launch them together; for one GPU.", panel=_MACHINE),
    ] = False
    accumulate: Annotated[
        int,
        Setting(
            "Parts, one after the other, in which a process computes the gradients of its batch, to save memory.",
            at_least=1,
            panel=_MACHINE,
        ),
    ] = 1
    grad_checkpointing: Annotated[
        bool,
        Setting(
            "Compute activations again in the backward pass, to save memory; a third more work, the same gradients.",
            identity=False,
            panel=_MACHINE,
        ),
    ] = False
    log_every: Annotated[int, Setting("Steps between logs; 0: never.", at_least=0, identity=False)] = 50
    checkpoint_every: Annotated[
        int, Setting("Steps between checkpoints; 0: only at the end.", at_least=0, identity=False)
    ] = 1000
    log: Annotated[
        Log,
        Setting("Where the run is logged too, beside metrics.jsonl and curves.png.", identity=False, panel="Output"),
    ] = "none"
    log_project: Annotated[
        str, Setting("Project of the run in Weights & Biases or trackio.", identity=False, option="")
    ] = "fracgen"
    log_group: Annotated[
        str,
        Setting(
            "Group of the run there.",
            identity=False,
            option="",
            default="the folder of several seeds, a comparison or a study",
        ),
    ] = ""
    tensorboard: Annotated[
        bool, Setting("How files of settings of fracgen 0.3 say log: tensorboard.", identity=False, option="")
    ] = False

    def __post_init__(self) -> None:
        """Raise UsageError for values out of range."""
        check_settings(self)
        if self.tensorboard:
            object.__setattr__(self, "log", "tensorboard" if self.log == "none" else self.log)
            object.__setattr__(self, "tensorboard", False)


@dataclass(frozen=True, kw_only=True)
class CleanRun(Run):
    """A run that also measures accuracy on whole, unaugmented training images."""

    clean_every: Annotated[
        int, Setting("Steps between two measurements of the clean accuracy; 0: at the end.", at_least=0, identity=False)
    ] = 5000
    clean_images: Annotated[
        int, Setting("Images that the clean accuracy is measured on; 0: none.", at_least=0, identity=False)
    ] = 1000


class ModelInput(Protocol):
    """Side (px), mean and standard deviation of the images that the model sees: `Augmentation` has them."""

    @property
    def size(self) -> int:
        """Side in pixels."""

    @property
    def mean(self) -> tuple[float, float, float]:
        """Of levels in [0, 1], by channel."""

    @property
    def std(self) -> tuple[float, float, float]:
        """Of levels in [0, 1], by channel."""


@dataclass(frozen=True, kw_only=True)
class ImageInput:
    """Images that a model is for, where it is trained without any: timm's plain mean and standard deviation."""

    size: Annotated[
        int, Setting("Side of the images that the model is for, in pixels.", at_least=1, at_most=1 << 12, panel="Data")
    ] = 224
    mean: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.5)
    std: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        """Raise UsageError for values out of range."""
        check_settings(self)


class BatchSize(Protocol):
    """Images in a batch, over all ranks: `LoaderSettings` has it."""

    @property
    def batch_size(self) -> int:
        """Images in a batch."""


class ProtocolSettings(Protocol):
    """What a trainer needs of a protocol's settings: a frozen dataclass with these groups, and any others."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def model(self) -> Model:
        """The model that is trained."""

    @property
    def optim(self) -> Optim:
        """Its optimiser."""

    @property
    def schedule(self) -> Schedule:
        """Length and learning rate."""

    @property
    def augment(self) -> ModelInput:
        """Augmentation of the training images."""

    @property
    def loader(self) -> BatchSize:
        """How images reach the model."""

    @property
    def run(self) -> Run:
        """Seed, machine, and how often the run logs and saves."""
