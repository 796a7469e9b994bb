"""Stands in for fracgen.shards.tar.index_tar until that is there."""

import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fracgen.train.data.old.tars import index_samples

EXT = ("png", "jpg", "jpeg", "webp", "bmp")


class TarIndex(NamedTuple):
    """Columns."""

    sample_starts: npt.NDArray[np.int64]
    image_starts: npt.NDArray[np.int64]
    image_sizes: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    keys: npt.NDArray[np.bytes_]
    fault: str | None

    def __len__(self) -> int:
        return len(self.labels)


def index_tar(path: str) -> TarIndex:
    """Of a tar."""
    found = Path(path).stat()
    return _index(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=4096)
def _index(path: str, size: int, mtime: int) -> TarIndex:
    samples, fault = index_samples(path)
    rows = []
    with Path(path).open("rb") as file:
        for key, members in samples:
            image = next((members[e] for e in EXT if e in members), None)
            cls = members.get("cls")
            text = os.pread(file.fileno(), min(cls.size, 64), cls.start) if cls else b""
            label = int(text) if text.strip().isdigit() and len(text) <= 20 else -1
            rows.append(
                (
                    min(s.header for s in members.values()),
                    image.start if image else -1,
                    image.size if image else 0,
                    label,
                    os.fsencode(key),
                )
            )
    columns = list(zip(*rows, strict=True)) if rows else [()] * 5
    a, b, c, d = (np.array(column, np.int64) for column in columns[:4])
    return TarIndex(a, b, c, d, np.array(columns[4], np.bytes_), fault)
