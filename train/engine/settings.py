"""Settings of a run that the engine owns: model, optimiser, schedule, and how it runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fracgen.shards.settings import Setting, check_settings
from fracgen.train.seeding import MAX_SEED

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
DEFAULT_MODEL = "vit_tiny_patch16_224"
_TRAINING, _MACHINE = "Training", "Machine"
"""Panels of the help."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A timm classification model."""

    name: Annotated[str, Setting("Name of a timm model.", option="--model", panel=_TRAINING)] = DEFAULT_MODEL
    drop_path: Annotated[float, Setting("Stochastic depth; 0 where the model has none.", at_least=0, below=1)] = 0.1
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
            "Learning rate for a batch of 512; lr x batch size / 512 is used.",
            above=0,
            at_most=1e30,
            panel=_TRAINING,
        ),
    ] = 1e-3
    weight_decay: Annotated[float, Setting("Of weights; not of biases, norms and tokens.", at_least=0, at_most=1e9)] = (
        0.05
    )
    momentum: Annotated[float, Setting("Of SGD; beta_1 of Adam stays timm's.", at_least=0, at_most=1)] = 0.9
    clip: Annotated[float, Setting("Largest norm of the gradients; 0: not clipped.", at_least=0, at_most=1e9)] = 0.0

    def __post_init__(self) -> None:
        """Raise UsageError for values out of range."""
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Length, in one of three units, and a cosine after a linear warm-up. All rates are scaled as `Optim.lr`."""

    steps: Annotated[
        int, Setting("Length in steps; or --samples, or --epochs.", at_least=0, default="", panel=_TRAINING)
    ] = 0
    samples: Annotated[int, Setting("Length in samples.", at_least=0, default="", panel=_TRAINING)] = 0
    epochs: Annotated[float, Setting("Length in epochs.", at_least=0, below=1e15, default="", panel=_TRAINING)] = 0.0
    warmup_steps: Annotated[int, Setting("Warm-up; at most 5 % of the run.", at_least=0)] = 5000
    warmup_epochs: Annotated[
        float, Setting("Warm-up in epochs, in place of warmup_steps where above 0.", at_least=0, below=1e15)
    ] = 0.0
    warmup_lr: Annotated[float, Setting("Learning rate of the first step.", at_least=0)] = 1e-6
    min_lr: Annotated[float, Setting("Learning rate of the last step.", at_least=0)] = 1e-5

    def __post_init__(self) -> None:
        """Raise UsageError for values out of range."""
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Seed, machine, and how often the run logs and saves."""

    seed: Annotated[int, Setting("Of every draw of the run.", at_least=0, at_most=MAX_SEED, panel=_MACHINE)] = 0
    device: Annotated[Device, Setting("auto: a GPU where there is one.", panel=_MACHINE)] = "auto"
    precision: Annotated[Precision, Setting("auto: bf16 where the processor has it.", panel=_MACHINE)] = "auto"
    compile: Annotated[bool, Setting("Compile the model.", panel=_MACHINE)] = False
    log_every: Annotated[int, Setting("Steps between logs; 0: never.", at_least=0, identity=False)] = 50
    checkpoint_every: Annotated[
        int, Setting("Steps between checkpoints; 0: only at the end.", at_least=0, identity=False)
    ] = 1000
    tensorboard: Annotated[bool, Setting("Write TensorBoard's events too.", identity=False, panel="Output")] = False

    def __post_init__(self) -> None:
        """Raise UsageError for values out of range."""
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class CleanRun(Run):
    """A run that also measures accuracy on whole, unaugmented training images."""

    clean_every: Annotated[
        int, Setting("Steps between two measurements of the clean accuracy; 0: at the end.", at_least=0, identity=False)
    ] = 5000
    clean_images: Annotated[
        int, Setting("Images that the clean accuracy is measured on; 0: none.", at_least=0, identity=False)
    ] = 1000
