"""Which features of a data set that Hugging Face datasets saved hold images and labels, and the labels as classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.labels.class_labels import number_labels
from fracgen.shards.labels.labelled_images import Numbers
from fracgen.shards.labels.tables import LABEL_COLUMNS, Columns, pick

_UNSUPPORTED: Mapping[str, str] = {
    "Image": "images: masks (segmentation) are not supported",
    "List": "lists: several labels for an image (multi-label) are not supported",
    "dict": "objects: boxes and attributes are not supported",
}


def choose_features(features: Mapping[str, Any], columns: Columns, path: str) -> tuple[str, str]:
    """Names of the features of images and labels. Raises UsageError where they are not those of one class an image."""
    from datasets import ClassLabel, Image, Value

    names = list(features)
    images = [name for name in names if isinstance(features[name], Image)]
    usual = [name.lower() for name in images] if len(images) == 1 else ["image"]
    image = pick(names, columns.file_column, usual, "--file-column", path)
    if image is None or names[image] not in images:
        what = "several features of images" if len(images) > 1 else "no feature of images"
        raise UsageError(f"{path}: {what} ({_schema(features)}); name the one by --file-column")
    label = pick(names, columns.label_column, LABEL_COLUMNS, "--label-column", path)
    classes = [place for place, name in enumerate(names) if isinstance(features[name], ClassLabel)]
    label = classes[0] if label is None and len(classes) == 1 else label
    if label is None:
        rest = [_kind(each) for name, each in features.items() if name != names[image]]
        others = [_UNSUPPORTED[kind] for kind in rest if kind in _UNSUPPORTED]
        raise UsageError(
            f"{path}: no feature of labels ({', '.join(LABEL_COLUMNS)}) among {_schema(features)}; name it by "
            "--label-column" + (f"; {others[0]}" if others else "")
        )
    feature = features[names[label]]
    if not isinstance(feature, ClassLabel | Value):
        words = _UNSUPPORTED.get(_kind(feature), f"{_kind(feature)}; give one class for an image")
        raise UsageError(f"{path}: feature {names[label]!r} is of {words}")
    return names[image], names[label]


def _kind(feature: Any) -> str:
    """The name of a feature's type; "dict" for lists of objects too."""
    if isinstance(feature, list) or type(feature).__name__ in ("List", "LargeList", "Sequence"):
        element = feature[0] if isinstance(feature, list) else feature.feature
        return "dict" if isinstance(element, Mapping) else "List"
    return type(feature).__name__


def _schema(features: Mapping[str, Any]) -> str:
    words = [
        f"{name}: {feature.dtype if _kind(feature) == 'Value' else _kind(feature)}"
        for name, feature in features.items()
    ]
    return ", ".join(words[:8]) + (", ..." if len(words) > 8 else "")


def number_classes(
    values: Mapping[str, Sequence[Any]], feature: Any, path: Path
) -> tuple[tuple[str, ...], dict[str, Numbers], list[str]]:
    """(class names, the labels of each split with -1 for none, lines that are worth a word)."""
    names = getattr(feature, "names", None)
    if names is not None:
        labels = {
            name: np.array([-1 if each is None else each for each in column], np.int64)
            for name, column in values.items()
        }
        for column in labels.values():
            if len(column) and not -1 <= column.min() <= column.max() < len(names):
                raise DataError(f"{path}: labels {column.min()} to {column.max()}, and there are {len(names)} classes")
        if len(set(names)) < len(names):
            raise UsageError(f"{path}: two of its classes have one name")
        return tuple(names), labels, []
    rows = [(name, row) for name, column in values.items() for row in range(len(column))]
    joined = [each for column in values.values() for each in column]

    def describe(row: int) -> str:
        name, number = rows[row]
        return f"{name} row {number}".strip()

    class_names, numbers, notes = number_labels(joined, source=str(path), describe=describe, is_text=False)
    ends = np.cumsum([len(column) for column in values.values()])
    return class_names, dict(zip(values, np.split(numbers, ends[:-1]), strict=True)), notes
