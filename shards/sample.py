"""One sample of a shard: an image with its label, index and metadata, as pixels or as its file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

LABELS = "labels"
"""In the metadata of a shard's sample: all labels of an image that has several."""
Image = npt.NDArray[np.uint8]
"""uint8, (H, W) gray or (H, W, 3) RGB."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One labelled image.

    image: uint8, (H, W) gray or (H, W, 3) RGB.
    index: position in the data set, from 0; the shard's key is made from it.
    label: class number, from 0.
    labels: of an image of several classes all of them, ascending, `label` among them; else empty.
    metadata: JSON-able, one fixed schema per recipe, no nulls; floats are always floats.
    rejected: draws thrown away before this one, counted by reason.
    counts: what else a manifest should add up, by name (orbits that were trimmed, say).
    """

    image: Image
    index: int
    label: int
    labels: tuple[int, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    rejected: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FileSample:
    """One labelled image as the bytes of its file, which are stored as they are.

    data: a whole JPEG, PNG or WebP. extension: of its member in the tar, the same in the whole folder.
    width, height: of its pixels. The others are as in `Sample`.
    """

    data: bytes
    extension: str
    width: int
    height: int
    index: int
    label: int
    metadata: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SkippedFile:
    """A file that was left out of its shard. file: its name. reason: by which it is counted."""

    index: int
    file: str
    reason: str
