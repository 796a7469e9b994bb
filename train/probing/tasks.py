"""The tasks of a probe: labelled images to fit to, to be neighbours, and to report on."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fracgen.shards.errors import UsageError
from fracgen.train.data.examples import Examples, Progress
from fracgen.train.data.splits import Splits, open_splits
from fracgen.train.data.subsets import stratified_subset
from fracgen.train.probing.few_shot import check_shots
from fracgen.train.probing.settings import ProbeSettings

_TRAIN, _TEST = 2, 3
"""Purposes of draws by `stratified_subset`; 0 and 1 are the splits' own, 4 is what is held out, 5 few-shot's."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A labelled set. name: for tables. description: for the screen. skipped: left out while opening, by reason."""

    name: str
    description: str
    train: Examples
    test: Examples
    skipped: Counter[str]
    notes: Mapping[str, str]


def open_tasks(settings: ProbeSettings, progress: Progress | None = None) -> list[Task]:
    """The task of each --data, in their order, with at most as many images as the settings say.

    Raises UsageError for sets that cannot be opened or are called alike, that have no test images, and for too few
    training images, of a class too.
    """
    names: dict[str, str] = {}
    for word in settings.data:
        name, data = parse_data(word)
        if name in names:
            raise UsageError(f"--data {word}: another is called {name!r}; give names: --data NAME={data}")
        names[name] = data
    return [_open(name, data, settings, progress) for name, data in names.items()]


def parse_data(word: str) -> tuple[str, str]:
    """(name, where) of a word [NAME=]WHERE; without a name, the last part of where the images are."""
    name, equals, data = word.partition("=")
    if equals and name and not {"/", ":", "?"} & set(name) and not Path(word).exists():
        return name, data
    return Path(word.partition("?")[0]).name or word, word


def _open(name: str, data: str, settings: ProbeSettings, progress: Progress | None) -> Task:
    splits = open_splits(
        data,
        test=settings.test,
        num_classes=settings.num_classes,
        root=settings.root,
        columns=settings.columns,
        val_share=0,
        seed=settings.seed,
        skip_bad=settings.skip_bad,
        cache=settings.cache,
        progress=progress,
    )
    train, test = choose_images(splits, settings, data)
    if settings.few_shot:
        check_shots(train.labels, train.class_names, max(settings.shots))
    return Task(
        name=name,
        description=splits.description,
        train=train,
        test=test,
        skipped=Counter(splits.skipped.counts),
        notes=splits.cache_notes,
    )


def choose_images(splits: Splits, settings: ProbeSettings, data: str) -> tuple[Examples, Examples]:
    """(training images, test images) of a task, class by class, at most as many as the settings say.

    Raises UsageError where there are no test images, or too few training images.
    """
    if splits.test is None:
        raise UsageError(f"{data}: has no test images to report on; give --test")

    def choose(examples: Examples, count: int, purpose: int) -> Examples:
        numbers = stratified_subset(examples.labels, count or len(examples), seed=settings.seed, purpose=purpose)
        return examples.subset(numbers)

    train = choose(splits.train, settings.images, _TRAIN)
    if len(train) < len(train.class_names):
        raise UsageError(f"--images {len(train)}: fewer than the {len(train.class_names)} classes")
    if settings.layers and settings.k > len(train):
        raise UsageError(f"--k {settings.k}: there are only {len(train)} training images")
    return train, choose(splits.test, settings.test_images, _TEST)
