"""The small files beside the shards: for timm, open_clip and Hugging Face datasets, and whoever finds the folder."""

import contextlib
from dataclasses import replace
from pathlib import Path

from fracgen.shards.data_card import FORMULAS, CardText, data_card
from fracgen.shards.errors import DataError
from fracgen.shards.manifest import Manifest, to_json
from fracgen.shards.reader import read_tar

_OLD_CARDS = ("0.2.", "0.3.")
"""Versions of fracgen whose folders end with the card that those had: the manifest has the card's sha256."""


def sidecars(folder: Path, manifest: Manifest, text: CardText, *, has_preview: bool = True) -> dict[str, bytes]:
    """The small files by which stock tools find their way: timm, open_clip, Hugging Face datasets.

    folder: with its shards, of which a sample is read. text: of the card. has_preview: whether there is a preview.png.
    """
    names = [shard.name for shard in manifest.shards]
    lengths = [shard.samples for shard in manifest.shards]
    name = manifest.layout.split
    split = {"name": name, "num_samples": manifest.num_samples, "filenames": names, "shard_lengths": lengths}
    texts = {
        "_info.json": to_json({"splits": {name: split}}, indent=1) + "\n",
        "sizes.json": to_json(dict(zip(names, lengths, strict=True)), indent=1) + "\n",
        "README.md": _card(folder, manifest, text, has_preview),
    }
    return {name: text.encode() for name, text in texts.items()}


def _card(folder: Path, manifest: Manifest, text: CardText, has_preview: bool) -> str:
    if manifest.versions["fracgen"].startswith(_OLD_CARDS):
        return _data_card_0_3(manifest, text)
    return data_card(manifest, with_metadata(folder, manifest, text), has_preview=has_preview)


def with_metadata(folder: Path, manifest: Manifest, text: CardText) -> CardText:
    """The text of a card with the metadata of the folder's first sample; none where its tar is damaged."""
    with contextlib.suppress(DataError, StopIteration):  # the tar's sha256 is compared before a manifest is written
        sample = next(read_tar(folder / manifest.shards[0].name, manifest.image.extension))
        return replace(text, metadata=sample.metadata)
    return text


def _data_card_0_3(manifest: Manifest, text: CardText) -> str:
    """The card of fracgen 0.2 and 0.3."""
    carried, source = text.carried, text.source
    layout, image = manifest.layout, manifest.image
    recipe = "\n".join(
        f"| {name} | {value} |" for name, value in manifest.recipe.items() if not isinstance(value, dict | list)
    )
    metadata = "where it came from" if image.original else "what made it"
    members = ["`<key>.cls` (the label)", *([f"`<key>.json` ({metadata})"] if layout.metadata else [])]
    last = layout.filename(layout.num_shards - 1)
    split, training, tars = layout.split, layout.split == "train", f"{layout.name}-{layout.split}"
    pattern = f"{tars}-{{000000..{layout.num_shards - 1:06d}}}.tar" if layout.num_shards > 1 else last
    tag = "- synthetic\n" if source == FORMULAS else ""
    size = f"{'' if image.one_size else 'of up to '}{image.width} x {image.height} {image.mode}"
    if image.original:
        origin = f"Packed by fracgen {manifest.versions['fracgen']} as they were found, not encoded anew."
        hashed = "of\nevery shard and of what is in it"
    else:
        origin = f"made from {source} by fracgen {manifest.versions['fracgen']}."
        hashed = "of\nevery shard and of its pixels"
    carried_files = "".join(f"\n`{name}` holds {what}.\n" for name, what in carried.items())
    return f"""---
configs:
- config_name: default
  data_files:
  - split: {split}
    path: "{tars}-*.tar"
task_categories:
- image-classification
tags:
{tag}- webdataset
---

# {layout.name}

{manifest.num_samples} images of {manifest.num_classes} classes, {size}{"." if image.original else ","}
{origin} `dataset.json` holds the whole recipe, and sha256 sums {hashed}; `fracgen verify` checks them.
{carried_files}
| recipe | |
| --- | --- |
{recipe}

Every sample is {", ".join(members)} and `<key>.{image.extension}`.

```python
webdataset.WebDataset("{pattern}", shardshuffle=False).decode("pil").to_tuple("{image.extension}", "cls")
datasets.load_dataset("THIS_FOLDER", split="{split}")
timm.data.create_dataset("wds/x", "THIS_FOLDER", split="{split}", is_training={training}, batch_size=256)
```
"""
