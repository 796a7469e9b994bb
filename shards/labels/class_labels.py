"""Labels of any kind as classes: their kind, their order, and what is no single class for an image.

Whole numbers are classes in the order of their values, words in the order of their code points.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fracgen.shards.errors import UsageError
from fracgen.shards.labels.labelled_images import EXTENSIONS, Numbers, suffix_of

_SHOWN = 3
"""Rows of a kind that a message names."""
_WHOLE = re.compile(r"[+-]?\d+")
_DECIMAL = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?")
_DIVIDERS = re.compile(r"[,;|/]")
_UNSUPPORTED: Mapping[str, str] = {
    "list": "lists: several labels for an image (multi-label) are not supported",
    "object": "objects: boxes, masks and attributes are not supported",
    "float": "decimal numbers: regression is not supported; write classes as whole numbers or words",
    "negative": "below 0, as images without a label are often marked; leave these rows out",
    "other": "of another type; give whole numbers or words",
}


def number_labels(
    labels: Sequence[Any], *, source: str, describe: Callable[[int], str], is_text: bool
) -> tuple[tuple[str, ...], Numbers, list[str]]:
    """(class names in order, the class of each row as int64 (N,), lines that are worth a word).

    labels: of each row, as a table has them. describe: the place of a row, for messages. is_text: whether the format
    has no types, so that "7" may be a number.
    Raises UsageError, with counts and the first rows, for rows without a label, for labels of mixed type, and for what
    is no single class: lists, objects, decimal numbers, names of mask files.
    """
    is_text = is_text or all(isinstance(label, str) for label in labels)
    kind_of_label = {label: _kind(label, is_text) for label in {each for each in labels if isinstance(each, str)}}
    kinds = [kind_of_label[label] if isinstance(label, str) else _kind(label, is_text) for label in labels]
    counts = Counter(kinds)

    def refuse(kind: str, words: str) -> None:
        rows = [row for row, each in enumerate(kinds) if each == kind]
        shown = ", ".join(describe(row) for row in rows[:_SHOWN]) + (", ..." if len(rows) > _SHOWN else "")
        raise UsageError(f"{source}: {len(rows):,} of {len(labels):,} labels are {words} ({shown})")

    if counts["empty"]:
        refuse("empty", "empty; fill them, or leave these rows out")
    if is_text and counts["word"]:
        kinds = ["word" if kind in ("float", "whole", "negative") else kind for kind in kinds]
    for kind, words in _UNSUPPORTED.items():
        if kind in kinds:
            refuse(kind, words)
    if not is_text and counts["word"] and counts["whole"]:
        fewer = min(("word", "whole"), key=counts.__getitem__)
        refuse(fewer, f"{'words' if fewer == 'word' else 'whole numbers'} among others: labels of mixed type")
    texts = [_text(label) for label in labels]
    names = sorted(set(texts)) if "word" in kinds else _sorted_numbers(set(texts), source)
    if names and all(suffix_of(name) in (*EXTENSIONS, ".tif", ".tiff", ".gif") for name in names):
        raise UsageError(f"{source}: its labels are files ({names[0]}): masks (segmentation) are not supported")
    notes = []
    if is_text and counts["word"] and (numbers := counts["whole"] + counts["float"] + counts["negative"]):
        notes.append(f"{numbers:,} labels are numbers and {counts['word']:,} are words: all are taken for words")
    if "word" not in kinds and names != [str(number) for number in range(len(names))]:
        notes.append(f"labels are numbers, and classes are in their order: {_some(names)} become 0 to {len(names) - 1}")
    if joined := _joined_names(names):
        notes.append(
            f"{len(joined):,} classes are called by several others ({_some([repr(name) for name in joined])}) and are "
            "classes of their own; several labels for an image (multi-label) are not supported"
        )
    if len(names) == len(labels) > 2:
        notes.append("each image has a class of its own; is it the column of the labels?")
    position = {name: number for number, name in enumerate(names)}
    return tuple(names), np.array([position[text] for text in texts], np.int64), notes


def _kind(label: Any, is_text: bool) -> str:
    if label is None or (isinstance(label, str) and not label.strip()):
        return "empty"
    if isinstance(label, bool):
        return "word"
    if isinstance(label, int):
        return "negative" if label < 0 else "whole"
    if isinstance(label, float):
        return "empty" if math.isnan(label) else "float"
    if isinstance(label, list | tuple):
        return "list"
    if not isinstance(label, str):
        return "object" if isinstance(label, dict) else "other"
    label = label.strip()
    if (label[0], label[-1]) in (("[", "]"), ("{", "}")):
        return "list" if label[0] == "[" else "object"
    if is_text and _WHOLE.fullmatch(label):
        return "negative" if label[0] == "-" else "whole"
    return "float" if is_text and _DECIMAL.fullmatch(label) else "word"


def _joined_names(names: Sequence[str]) -> list[str]:
    """Those of the names that are others with a divider between, as in "cat|dog" beside "cat" and "dog"."""
    known = {*names}
    return [name for name in names if {part.strip() for part in _DIVIDERS.split(name)} <= known - {name}]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names if len(names) <= 4 else [*names[:3], "...", names[-1]])


def _text(label: Any) -> str:
    return str(label).lower() if isinstance(label, bool) else str(label).strip()


def _sorted_numbers(texts: set[str], source: str) -> list[str]:
    by_value: dict[int, str] = {}
    for text in sorted(texts):
        if len(text) > 18:
            raise UsageError(f"{source}: label {text[:24]}...: too large a number for a class")
        if (other := by_value.setdefault(int(text), text)) != text:
            raise UsageError(f"{source}: labels {other!r} and {text!r} are one number; write it in one way")
    return [by_value[value] for value in sorted(by_value)]
