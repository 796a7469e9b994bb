"""The data card `README.md` of a folder of shards: what the Hugging Face Hub, `datasets` and a reader want to know."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from fracgen.shards.errors import DataError
from fracgen.shards.manifest import Manifest, to_json

FORMULAS = "formulas"
FORMULA_LICENCE = "cc0-1.0"
"""Of images that a formula alone makes: nobody's rights are in them, and whoever rendered them claims none."""
UNKNOWN_LICENCE = "unknown"
"""The Hub's word for it: of images that come from photographs or files, only their owner can say."""
MAX_CLASS_NAMES = 1_000
"""Class names in the card; with more, labels are integers there, and the names are in `dataset.json` alone."""
THIS_FOLDER = "PATH/OF/THIS/FOLDER"
"""In the code of a card, for the reader to fill in."""
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
    (1_000_000_000, "100M<n<1B"),
)
_DTYPES = {bool: "bool", int: "int64", float: "float64", str: "string"}
_THIS = """@software{fracgen,
  title  = {fracgen: synthetic pre-training data from formulas},
  author = {{The fracgen developers}},
  year   = {2026}
}"""


@dataclass(frozen=True, kw_only=True)
class CardText:
    """What a card says that no manifest holds.

    source: what the images were made from, in a word. title: the set's name for people; "" is the layout's.
    paper: BibTeX of the formula's paper, or "". note: how the set compares with the published one, or "".
    carried: what else the folder has, by name, and what that holds. licence: an identifier of the Hub's; "" is the
    default of the source. metadata: of any one sample.
    """

    source: str = FORMULAS
    title: str = ""
    paper: str = ""
    note: str = ""
    carried: Mapping[str, str] = field(default_factory=dict)
    licence: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


def default_licence(source: str) -> str:
    """The licence of images that nobody has stated one for."""
    return FORMULA_LICENCE if source == FORMULAS else UNKNOWN_LICENCE


def size_category(num_samples: int) -> str:
    """The Hub's word for the size of a set."""
    return next((name for limit, name in _SIZES if num_samples < limit), "n>1B")


def card_head(manifest: Manifest, text: CardText) -> dict[str, Any]:
    """The YAML head as plain values: licence, task, tags, size, where the tars are, and the features of a sample."""
    layout = manifest.layout
    synthetic = ["synthetic", "formula-driven"] if text.source == FORMULAS else []
    split = {"name": layout.split, "num_bytes": manifest.num_bytes, "num_examples": manifest.num_samples}
    return {
        "license": text.licence or default_licence(text.source),
        "pretty_name": text.title or layout.name,
        "task_categories": ["image-classification"],
        **({"task_ids": ["multi-label-image-classification"]} if manifest.multi_label else {}),
        "size_categories": [size_category(manifest.num_samples)],
        "tags": [*synthetic, "webdataset", "fracgen"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": layout.split, "path": f"{layout.name}-{layout.split}-*.tar"}],
            }
        ],
        "dataset_info": {"features": features(manifest, text.metadata), "splits": [split]},
    }


def features(manifest: Manifest, metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The features of a sample as `datasets` writes them in YAML, in the order in which it has the columns."""
    members: list[dict[str, Any]] = [{"name": "cls", "dtype": label_feature(manifest)}]
    if manifest.layout.metadata and metadata:
        members.append({"name": "json", **feature(metadata)})
    members.append({"name": manifest.image.extension, "dtype": "image"})
    return [*members, {"name": "__key__", "dtype": "string"}, {"name": "__url__", "dtype": "string"}]


def label_feature(manifest: Manifest) -> Any:
    """The feature of the labels: with the class names, where these are few enough for a card."""
    if manifest.num_classes > MAX_CLASS_NAMES:
        return "int64"
    return {"class_label": {"names": {str(label): _Quoted(name) for label, name in enumerate(manifest.class_names)}}}


def feature(value: Any) -> dict[str, Any]:
    """The feature of a value of a sample's metadata, which has one type in the whole set.

    Raises DataError for null, which has none.
    """
    if isinstance(value, Mapping):
        return {"struct": [{"name": name, **feature(each)} for name, each in value.items()]}
    if isinstance(value, list | tuple):
        inner = feature(value[0]) if value else {"dtype": "float64"}
        if "struct" in inner:
            return {"list": inner["struct"]}
        return {"sequence": inner["dtype"] if set(inner) == {"dtype"} else inner}
    if type(value) not in _DTYPES:
        raise DataError(f"metadata holds {value!r}: must be numbers, texts, truth values, lists or mappings")
    return {"dtype": _DTYPES[type(value)]}


class _Quoted(str):
    """A text that stands in quotes: 08 is a text for YAML 1.1, and a number for the 1.2 of others."""


class _Dumper(yaml.SafeDumper):
    """PyYAML's, with quotes around `_Quoted`."""


_Dumper.add_representer(_Quoted, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'"))


def to_yaml_head(values: Mapping[str, Any]) -> str:
    """The head of a card, with its two lines of dashes."""
    text: str = yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)
    return f"---\n{text}---\n"


def data_card(manifest: Manifest, text: CardText, *, has_preview: bool = True) -> str:
    """The whole card. has_preview: whether the folder has a `preview.png`."""
    image = manifest.image
    head = to_yaml_head(card_head(manifest, text))
    size = f"{'' if image.one_size else 'of up to '}{image.width} x {image.height} {image.mode}"
    version = manifest.versions["fracgen"]
    if image.original:
        origin = f".\nPacked by fracgen {version} as they were found, not encoded anew."
    else:
        origin = f",\nmade from {text.source} by fracgen {version}."
    parts = [
        f"{head}\n# {text.title or manifest.layout.name}\n",
        "![Some of the classes](preview.png)\n" if has_preview else "",
        f"{manifest.num_samples:,} images of {manifest.num_classes:,} classes, {size}{origin}\n"
        "`dataset.json` holds the whole recipe, every class name, and sha256 sums of every shard and of what is\n"
        "in it; `fracgen verify` checks them.\n",
        f"{text.note}\n" if text.note else "",
        *(f"`{name}` holds {what}.\n" for name, what in text.carried.items()),
        _loading(manifest),
        _licence(text),
        _recipe(manifest),
        "## Citation\n\n```bibtex\n" + "\n".join(filter(None, [text.paper.strip(), _THIS])) + "\n```\n",
    ]
    return "\n".join(part for part in parts if part)


def _loading(manifest: Manifest) -> str:
    """How to load a set by four libraries, from the folder that holds the card."""
    layout, image, training = manifest.layout, manifest.image, manifest.layout.split == "train"
    last = layout.num_shards - 1
    tars = layout.filename(0)
    if last:
        tars = f"{layout.name}-{layout.split}-{{000000..{last:06d}}}.tar"
    metadata = "where it came from" if image.original else "what made it"
    label = "the label"
    if manifest.multi_label:
        label, metadata = "one of its labels", f"`labels`, all of them; {metadata}"
    members = [f"`<key>.cls` ({label})", *([f"`<key>.json` ({metadata})"] if layout.metadata else [])]
    batch = 64 if image.one_size else None  # of images of several sizes, torch makes no batches
    return f"""## Loading

Every sample is {", ".join(members)} and `<key>.{image.extension}`. `folder` is where this card lies:

```python
import datasets, timm, torch, webdataset

folder = "{THIS_FOLDER}"
tars = folder + "/{tars}"
rows = datasets.load_dataset(folder, split="{layout.split}")  # streaming=True too; or the name of a set on the Hub
rows = webdataset.WebDataset(tars, shardshuffle=False).decode("pil").to_tuple("{image.extension}", "cls")
rows = timm.data.create_dataset("wds/x", folder, split="{layout.split}", is_training={training}, batch_size=64)
pixels = webdataset.WebDataset(tars, shardshuffle=False).decode("torchrgb").to_tuple("{image.extension}", "cls")
batches = torch.utils.data.DataLoader(pixels, batch_size={batch})
```
"""


def _licence(text: CardText) -> str:
    licence = text.licence or default_licence(text.source)
    if text.licence:
        why = "As stated by who published it."
    elif text.source == FORMULAS:
        why = "Every pixel follows from numbers in the recipe; no picture of anybody's is in it."
    else:
        why = f"It was made from {text.source}, whose rights their owners have; nobody has stated a licence yet."
    return f"## Licence\n\n`{licence}`. {why}\n"


def _recipe(manifest: Manifest) -> str:
    rows = [
        f"| {name} | {_cell(value)} |"
        for name, value in manifest.recipe.items()
        if not isinstance(value, dict | list) and len(_cell(value)) <= 200
    ]
    return "\n".join(["## Recipe\n", "| recipe | |", "| --- | --- |", *rows, f"| hash | {manifest.recipe_hash} |", ""])


def _cell(value: Any) -> str:
    return value.replace("|", "\\|") if isinstance(value, str) else to_json(value)
