"""What a path or name is: class folders, a table, a saved data set, shards, a pattern of tars, a name of timm's."""

import re
from pathlib import Path

from fracgen.shards.cache import CacheSettings
from fracgen.shards.errors import UsageError
from fracgen.shards.labels.image_sources import open_labelled
from fracgen.shards.labels.tables import Columns
from fracgen.shards.manifest import MANIFEST, PARTIAL
from fracgen.shards.remote import Url
from fracgen.shards.urls import is_url
from fracgen.train.data.examples import Examples, Progress
from fracgen.train.data.tars import is_pattern, open_shards_folder, open_tars

DEFAULT_COLUMNS = Columns()
_NAME = re.compile(r"(torch|hfds|tfds)/.", re.IGNORECASE)


def open_examples(
    source: str,
    *,
    num_classes: int = 0,
    root: str = "data",
    columns: Columns = DEFAULT_COLUMNS,
    skip_bad: bool = False,
    cache: CacheSettings | None = None,
    progress: Progress | None = None,
) -> Examples:
    """One set or split of labelled images: FOLDER/<class>/*.jpg, a table or a folder with one, what Hugging Face
    datasets saved, shards, "/d/train-{000..063}.tar", torch/cifar100.

    Of shards of ours no tar is opened, so a set of any size is there at once; those at a URL are fetched first. No
    image is decoded.
    num_classes: of tars without a manifest; else 0, or what the set has. root: where timm keeps sets that it gets by
    name; of these, it is the train split. columns: of a table, or of a saved data set. skip_bad: damaged tars are no
    error here. cache: of URLs. progress: called where fetching or counting takes a while.
    Raises UsageError for what is none of these, or holds nothing; DataError for damaged tars.
    """
    folder = Path(source)
    if is_url(source):
        open_remote = open_tars if is_pattern(source) else open_shards_folder
        examples = open_remote(source, num_classes=num_classes, skip_bad=skip_bad, cache=cache, progress=progress)
    elif is_name(source) and not folder.exists():
        from fracgen.train.data.catalog import open_named

        examples = open_named(source, root, progress)["train"]
    elif not is_shards_folder(folder) and (labelled := open_labelled(folder, columns)) is not None:
        from fracgen.train.data.folders import examples_of

        if labelled.split_names:
            raise UsageError(f"{source}: holds splits ({', '.join(labelled.split_names)}); --data takes them together")
        examples = examples_of(labelled.images(), source)
    elif holds_classes(folder):
        from fracgen.train.data.folders import open_folder

        if splits := _splits_in(folder):
            raise UsageError(f"{source}: holds splits ({', '.join(splits)}); give one of them, as {folder / splits[0]}")
        examples = open_folder(folder)
    elif folder.is_dir() and not is_shards_folder(folder) and not any(folder.glob("*.tar")):
        raise UsageError(f"{source}: no class folders in it, and no {MANIFEST}: neither images nor shards")
    elif folder.is_dir() or not is_pattern(source):
        examples = open_shards_folder(folder, num_classes=num_classes, skip_bad=skip_bad)
    else:
        examples = open_tars(source, num_classes=num_classes, skip_bad=skip_bad, progress=progress)
    if num_classes not in (0, len(examples.class_names)):
        raise UsageError(f"--num-classes {num_classes}: {examples.name} has {len(examples.class_names)} classes")
    if not len(examples):
        raise UsageError(f"{examples.name}: no image in it")
    return examples


def find_remote_splits(url: str) -> dict[str, str]:
    """Where the folders of shards of a set at a URL lie, by split: the URL itself is "train", or train/ and others.

    Raises UsageError where there is none, DataError where the server cannot be asked.
    """
    from fracgen.shards.folder_files import holds_shards
    from fracgen.shards.labels.imagefolder import SPLITS

    if is_pattern(url) or holds_shards(url):
        return {"train": url}
    candidates = ((split, (Url.parse(url) / name).full) for split, names in SPLITS.items() for name in names)
    places = dict[str, str]()
    for split, place in candidates:
        if split not in places and holds_shards(place):
            places[split] = place
    if "train" not in places:
        raise UsageError(
            f"{url}: no {MANIFEST} that can be read, in it or in train/; at a URL, folders of shards are read, which "
            "`fracgen pack` makes of images"
        )
    return places


def is_name(source: str) -> bool:
    """Whether it is a name of a set that timm opens."""
    return _NAME.match(source) is not None


def is_shards_folder(folder: Path) -> bool:
    """Whether a folder is one of shards of ours, be it unfinished."""
    return (folder / MANIFEST).exists() or (folder / PARTIAL).exists()


def holds_classes(folder: Path) -> bool:
    """Whether a folder is read as one of classes: it is none of shards, nor of tars alone."""
    if not folder.is_dir() or is_shards_folder(folder):
        return False
    return any(each.is_dir() and not each.name.startswith(".") for each in folder.iterdir())


def _splits_in(folder: Path) -> list[str]:
    """Names of the splits that a folder holds, where it holds no other folder."""
    from fracgen.shards.labels.imagefolder import find_splits

    splits = [path.name for path in find_splits(folder).values()]
    others = [each for each in folder.iterdir() if each.is_dir() and each.name not in splits]
    return [] if any(not each.name.startswith(".") for each in others) else splits
