"""Which runs of a comparison are finished.

Beside a run's results lies compared.json: the settings, and the fingerprints of images and weights together, and of
the weights alone, that it was made of. While these are the same, the run is not repeated; a run of other settings is
refused by train/finetune.py.
"""

import json
from pathlib import Path
from typing import Any

from fracgen.shards.errors import DataError
from fracgen.shards.files import read_json, write_atomically
from fracgen.shards.settings import differences, to_plain
from fracgen.train.engine.results import RESULTS
from fracgen.train.experiments.comparison import Comparison, FinetuneRun
from fracgen.train.experiments.finetuning import Finetuning, images_fingerprint, join_fingerprints, splits_of

COMPARED = "compared.json"


class FinishedRuns:
    """Tells and records which runs are finished. Weights and splits are read once for all runs that share them."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison
        self._weights: dict[str, str] = {}
        self._images: dict[tuple[int, int], str] = {}

    def __contains__(self, run: FinetuneRun) -> bool:
        """Whether the run has results, and its settings, images and weights are the same now."""
        record = _read_record(run)
        if record is None or not (run.path / RESULTS).exists():
            return False
        now = self._identity(run)
        same_inputs = record.get("fingerprint") == now["fingerprint"]
        return same_inputs and not differences(Finetuning, record["asked"], now["asked"])

    def add(self, run: FinetuneRun) -> None:
        """Record that the run has ended. Raises DataError where images or weights changed while it ran."""
        identity = self._identity(run)
        results = read_or_none(run.path / RESULTS) or {}
        if results.get("fingerprint") != identity["fingerprint"]:
            raise DataError(f"{run.path}: the images or the start changed while it ran; give another --out")
        write_atomically(run.path / COMPARED, json.dumps(identity, indent=1))

    def changes(self, run: FinetuneRun) -> list[str] | None:
        """How the settings and weights of a run differ now from those that it was made with; its images are not read.

        None where it left no whole record. Not by `num_classes`, which follows from where the images lie, nor by the
        weights of a record that does not have their fingerprint.
        """
        if (record := _read_record(run)) is None:
            return None
        settings = self._comparison.settings(run)
        now, weights = to_plain(settings), self._fingerprint(run, settings)
        changes = differences(Finetuning, {**record["asked"], "num_classes": now["num_classes"]}, now)
        if record.get("weights", weights) != weights:
            changes.append(f"other weights in {run.source}")
        return changes

    def _identity(self, run: FinetuneRun) -> dict[str, Any]:
        settings = self._comparison.settings(run)
        split = (settings.run.seed, settings.per_class)
        if split not in self._images:
            self._images[split] = images_fingerprint(splits_of(settings))
        weights = self._fingerprint(run, settings)
        fingerprint = join_fingerprints(self._images[split], weights)
        return {"asked": to_plain(settings), "fingerprint": fingerprint, "weights": weights}

    def _fingerprint(self, run: FinetuneRun, settings: Finetuning) -> str:
        """That of the weights of a run's start."""
        from fracgen.train.engine.init_weights import load_init

        if run.start not in self._weights:
            self._weights[run.start] = load_init(settings.checkpoint, settings.model).fingerprint()
        return self._weights[run.start]


def _read_record(run: FinetuneRun) -> dict[str, Any] | None:
    """What compared.json of a run says; None where it is missing or damaged."""
    record = read_or_none(run.path / COMPARED)
    return record if record is not None and isinstance(record.get("asked"), dict) else None


def read_or_none(path: Path) -> dict[str, Any] | None:
    """A JSON object, None where it cannot be read."""
    try:
        return read_json(path)
    except DataError:
        return None
