"""The commands that a study stands for: they render, pre-train, fine-tune and compare its variants."""

import hashlib
import importlib.util
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fracgen.shards.errors import UsageError
from fracgen.shards.settings import Setting
from fracgen.train.engine.settings import SCRATCH
from fracgen.train.experiments.comparison import Comparison, FinetuneCommand, LogOfRuns, log_overrides
from fracgen.train.experiments.study_file import Size, Variant
from fracgen.train.experiments.subprocesses import Jobs, KeepGoing, Launcher, python_command
from fracgen.train.options import AsJson

PHOTO, SET_OF = "PHOTO", "@"
"""Words in a variant's `render`: PHOTO stands for the photograph's path, @NAME for the data set of variant NAME."""


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What the command line adds to a study. pretrain, finetune: overrides NAME=VALUE of the two programs."""

    data: Annotated[
        str,
        Setting(
            "Images to fine-tune on: class folders, a table, shards, or a timm name such as torch/cifar100.",
            panel="Data",
        ),
    ]
    out: Annotated[Path, Setting("Folder to write everything to, or to resume it from.", panel="Output")]
    photo: Annotated[
        Path | None,
        Setting("Photograph, for studies of one.", default="scikit-image's astronaut", panel="Data"),
    ] = None
    published: Annotated[
        bool, Setting("Run the study at its published size, not at that for a laptop.", panel="Protocol")
    ] = False
    per_class: Annotated[
        tuple[int, ...],
        Setting(
            "Number of training images of each class; repeat for another table.",
            at_least=1,
            default="the study's",
            panel="Protocol",
        ),
    ] = ()
    bases: Annotated[
        int | None,
        Setting(
            "Sets rendered and pre-trained on for each variant that has one, of seeds from 0 on.",
            at_least=1,
            default="the study's",
            panel="Protocol",
        ),
    ] = None
    seeds: Annotated[
        int | None,
        Setting("Fine-tuning runs of each start.", at_least=1, default="the study's", panel="Protocol"),
    ] = None
    seed: Annotated[
        int | None,
        Setting(
            "Seed of the first fine-tuning run; the others follow.",
            at_least=0,
            default="the recipe's",
            panel="Protocol",
        ),
    ] = None
    launcher: Launcher = ""
    log: LogOfRuns = "none"
    jobs: Jobs = 1
    keep_going: KeepGoing = False
    as_json: AsJson = False
    pretrain: Annotated[tuple[str, ...], Setting("", option="")] = ()
    finetune: Annotated[tuple[str, ...], Setting("", option="")] = ()

    @property
    def log_overrides(self) -> tuple[str, ...]:
        """The overrides by which every training is logged."""
        return log_overrides(self.log, self.out.absolute().name)

    def finetune_command(self, size: Size) -> FinetuneCommand:
        """What train/compare.py makes of the words of the last step."""
        overrides = (f"protocol={size.protocol}", *self.log_overrides, *self.finetune)
        return FinetuneCommand(config=size.finetune or None, overrides=overrides, data=self.data, model=None)

    def comparison(self, size: Size, starts: "Mapping[str, Start]") -> Comparison:
        """What train/compare.py makes of the words of the last step."""
        command = self.finetune_command(size)
        first = command.settings({"run.seed": self.seed}).run.seed
        return Comparison(
            command=command,
            starts={name: start.source for name, start in starts.items()},
            seeds=range(first, first + (self.seeds or size.seeds)),
            per_class=self.per_class or size.per_class or (0,),
            out=self.out / "compare",
        )


@dataclass(frozen=True, kw_only=True)
class Step:
    """A command of a study. product: a file that exists when it has ended. after: the steps that it needs.

    key: sha256 (hex) of its words, input files and the steps before it: of an equal key, the product is the same.
    """

    name: str
    argv: tuple[str, ...]
    product: Path
    after: "tuple[Step, ...]" = ()
    key: str = ""

    @property
    def folder(self) -> Path:
        """What it writes to."""
        return Path(self.argv[self.argv.index("--out") + 1])


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a variant's fine-tuning begins with. source: as `compare --start` takes it. base: which of several sets.

    rendering, pretraining: the steps that lead there; None where the variant has no set.
    """

    variant: str
    base: int
    source: str
    rendering: Step | None = None
    pretraining: Step | None = None


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """The commands of a study: all rendering, then all pre-training, base by base; then the comparison of the starts.

    starts: by the name that each has in the comparison, in the order of the table.
    """

    steps: tuple[Step, ...]
    starts: Mapping[str, Start]
    comparison: Step


def plan_study(size: Size, variants: Mapping[str, Variant], options: StudyOptions) -> StudyPlan:
    """The commands that a study stands for. Variants of equal `render` share a data set, base by base.

    Raises UsageError for words and files that do not exist, and for seeds that bases are to count.
    """
    num_bases = options.bases or size.bases
    if num_bases > 1:
        _refuse_seeds(size, variants, options)
    by_base = [_plan_base(base, size, variants, options) for base in (range(num_bases) if num_bases > 1 else [None])]
    starts: dict[str, Start] = {}
    for name, variant in variants.items():
        for base, planned in enumerate(by_base if variant.is_trained else by_base[:1]):
            title = _title(name, base if variant.is_trained and num_bases > 1 else None)
            if title in starts:
                raise UsageError(f"variants.{title}: is a base of another variant too; give another name")
            starts[title] = planned[name]
    steps = [each for planned in by_base for each in planned.values()]
    rendering = dict.fromkeys(start.rendering for start in steps if start.rendering)
    pretraining = [start.pretraining for start in steps if start.pretraining]
    return StudyPlan(steps=(*rendering, *pretraining), starts=starts, comparison=_compare_step(size, options, starts))


def _plan_base(
    base: int | None, size: Size, variants: Mapping[str, Variant], options: StudyOptions
) -> dict[str, Start]:
    """The start of each variant. base: None for the only one, whose seeds are as the words and settings say."""
    rendering: dict[str, Step] = {}
    starts: dict[str, Start] = {}
    for name, variant in variants.items():
        if not variant.is_trained:
            starts[name] = Start(variant=name, base=0, source=SCRATCH if variant.init == "default" else variant.init)
            continue
        if variant.render:
            same = next((step for other, step in rendering.items() if variants[other].render == variant.render), None)
            rendering[name] = same or _render_step(name, variant, base, size, options, rendering)
        step = _pretrain_step(name, variant, base, size, options, rendering.get(name), starts)
        starts[name] = Start(
            variant=name, base=base or 0, source=str(step.folder), rendering=rendering.get(name), pretraining=step
        )
    return starts


def _refuse_seeds(size: Size, variants: Mapping[str, Variant], options: StudyOptions) -> None:
    """Raise UsageError where words or settings hold a seed that is a base's."""
    advice = "each base has its own; leave it out, or give bases: 1"
    for name, variant in variants.items():
        for word in shlex.split(f"{variant.render} {size.render}"):
            if word.partition("=")[0] == "--seed":
                raise UsageError(f"variants.{name}.render {word}: {advice}")
        if "run.seed" in variant.pretrain:
            raise UsageError(f"variants.{name}.pretrain.run.seed: {advice}")
    for word in options.pretrain:
        if word.startswith("run.seed="):
            raise UsageError(f"pretrain.{word}: {advice}")


def _render_step(
    name: str, variant: Variant, base: int | None, size: Size, options: StudyOptions, before: Mapping[str, Step]
) -> Step:
    words: list[str] = []
    inputs: list[Path] = []
    after: list[Step] = []
    out = _folder(options.out / "data" / name, base)
    product = out / "dataset.json"
    for word in shlex.split(f"{variant.render} {size.render}"):
        if word == PHOTO:
            if not product.exists() and importlib.util.find_spec("cv2") is None:  # now, not after hours of others
                raise UsageError(f"variants.{name}: photographs need OpenCV: pip install 'fracgen[photo]'")
            inputs.append(options.photo or _astronaut())
            words.append(str(inputs[-1]))
        elif word.startswith(SET_OF):
            if (other := word.removeprefix(SET_OF)) not in before:
                raise UsageError(f"variants.{name}.render {word}: {other!r} is no variant before it that has a set")
            after.append(before[other])
            words.append(str(before[other].product.parent))
        else:
            words.append(word)
    words += [] if base is None else ["--seed", str(base)]
    argv = (sys.executable, "-m", "fracgen", *words, "--out", str(out))
    return _step(f"render {_title(name, base)}", argv, product, inputs, *after)


def _pretrain_step(
    name: str,
    variant: Variant,
    base: int | None,
    size: Size,
    options: StudyOptions,
    rendered: Step | None,
    starts: Mapping[str, Start],
) -> Step:
    """starts: those of the variants before it, of which one may be what it begins with."""
    earlier = starts[variant.after].pretraining if variant.after in starts else None
    if variant.after and earlier is None:
        raise UsageError(f"variants.{name}.after: {variant.after!r} is no variant before it that is pre-trained")
    out = _folder(options.out / "pretrained" / name, base)
    config = variant.config or (size.pretrain if variant.program == "pretrain" else "")
    argv = [*python_command(variant.program, shlex.split(options.launcher))]
    argv += ["--config", config] if config else []
    argv += ["--shards", str(rendered.product.parent)] if rendered else []
    argv += ["--checkpoint", str(earlier.folder)] if earlier else []
    argv += ["--out", str(out), *options.log_overrides, *(options.pretrain if variant.program == "pretrain" else ())]
    argv += [f"{key}={json.dumps(value)}" for key, value in variant.pretrain.items()]
    argv += [f"model.init={variant.init}"] if variant.init != "default" else []
    argv += [] if base is None else [f"run.seed={base}"]
    before = [step for step in (rendered, earlier) if step]
    inputs = [Path(config)] if config else []
    return _step(f"pre-train {_title(name, base)}", argv, out / "model" / "config.json", inputs, *before)


def _folder(path: Path, base: int | None) -> Path:
    return path if base is None else path / f"base-{base}"


def _title(name: str, base: int | None) -> str:
    return name if base is None else f"{name}.base-{base}"


def _compare_step(size: Size, options: StudyOptions, starts: Mapping[str, Start]) -> Step:
    out, seeds = options.out / "compare", options.seeds or size.seeds
    argv = [*python_command("compare"), "--data", options.data, "--out", str(out), "--seeds", str(seeds)]
    argv += ["--seed", str(options.seed)] if options.seed is not None else []
    argv += ["--config", size.finetune] if size.finetune else []
    for name, start in starts.items():
        argv += ["--start", f"{name}={start.source}"]
    for per_class in options.per_class or size.per_class:
        argv += ["--per-class", str(per_class)]
    argv += ["--launcher", options.launcher] if options.launcher else []
    argv += options.finetune_command(size).overrides
    inputs = [Path(size.finetune)] if size.finetune else []
    before = [start.pretraining for start in starts.values() if start.pretraining]
    return _step("fine-tune", argv, out / "compare.json", inputs, *before)


def _step(name: str, argv: Sequence[str], product: Path, inputs: Sequence[Path], *before: Step) -> Step:
    words = [word for word in argv if not word.startswith("run.log")]  # no weight depends on them
    key = hashlib.sha256("\0".join([*words, *(step.key for step in before)]).encode())
    for path in inputs:
        if not path.is_file():
            raise UsageError(f"{path}: no such file, which '{name}' needs")
        key.update(path.read_bytes())
    return Step(name=name, argv=tuple(argv), product=product, after=before, key=key.hexdigest())


def _astronaut() -> Path:
    """scikit-image's photograph in the public domain. Raises UsageError where it is not installed."""
    spec = importlib.util.find_spec("skimage")
    folders = spec.submodule_search_locations if spec is not None else None
    path = Path(folders[0]) / "data" / "astronaut.png" if folders else None
    if path is None or not path.is_file():
        raise UsageError("--photo: give a photograph; or pip install scikit-image, which brings one")
    return path
