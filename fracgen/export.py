"""Export a folder of shards: parquet, or an image folder."""

from pathlib import Path

from fracgen.publish import card_text_of
from fracgen.shards.cache import CacheSettings
from fracgen.shards.errors import DataError
from fracgen.shards.export_images import export_images
from fracgen.shards.export_parquet import export_parquet
from fracgen.shards.files import num_cores
from fracgen.shards.new_folder import new_folder
from fracgen.shards.reader import ShardFolder, open_shards
from fracgen.shards.urls import is_url
from fracgen.shards.verify import verify_hashes


def to_parquet(folder: Path | str, out: Path | str, *, cache: CacheSettings | None = None) -> list[str]:
    """Write a set as parquet to a new folder; returns the names of the files. Raises as `open_checked`."""
    shards = open_checked(folder, cache)
    with new_folder(out) as temporary:
        return export_parquet(shards, temporary, card_text_of(shards.files.folder, shards.manifest))


def to_image_folder(folder: Path | str, out: Path | str, *, cache: CacheSettings | None = None) -> int:
    """Write a set as an image folder to a new folder; returns the number of images. Raises as `open_checked`."""
    shards = open_checked(folder, cache)
    with new_folder(out) as temporary:
        return export_images(shards, temporary)


def open_checked(folder: Path | str, cache: CacheSettings | None = None) -> ShardFolder:
    """A set whose files are what its manifest says; what comes from a URL is checked as it is fetched.

    Raises UsageError where it is no folder of shards, DataError where it is damaged.
    """
    shards = open_shards(folder, cache=cache)
    if not is_url(folder):
        problems = verify_hashes(Path(folder), shards.manifest, workers=num_cores())
        if problems:
            raise DataError(f"{folder}: {problems[0]}; `fracgen verify` lists all that is wrong; nothing was written")
    else:
        shards.files.small_files()
    return shards
