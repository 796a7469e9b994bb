"""Which runs of a comparison are finished.

Beside a run's results lies compared.json: the settings, and the fingerprint of images and weights, that it was made
of. While these are the same, the run is not repeated; a run of other settings is refused by train/finetune.py.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fracgen.shards.errors import DataError
from fracgen.shards.files import read_json, write_atomically
from fracgen.shards.settings import differences, to_plain
from fracgen.train.engine.results import RESULTS
from fracgen.train.experiments.comparison import FinetuneCommand, FinetuneRun, open_run_splits
from fracgen.train.experiments.finetuning import Finetuning, fingerprint_of

if TYPE_CHECKING:
    from fracgen.train.data.splits import Splits
    from fracgen.train.engine.init_weights import InitWeights

COMPARED = "compared.json"


class FinishedRuns:
    """Tells and records which runs are finished. Weights and splits are read once for all runs that share them."""

    def __init__(self, command: FinetuneCommand) -> None:
        self._command = command
        self._inits: dict[str, InitWeights] = {}
        self._splits: dict[tuple[int, int], Splits] = {}

    def __contains__(self, run: FinetuneRun) -> bool:
        """Whether the run has results, and its settings, images and weights are the same now."""
        record = read_or_none(run.path / COMPARED)
        if record is None or not (run.path / RESULTS).exists():
            return False
        now = self._identity(run)
        same_inputs = record.get("fingerprint") == now["fingerprint"]
        return same_inputs and not differences(Finetuning, record.get("asked", {}), now["asked"])

    def add(self, run: FinetuneRun) -> None:
        """Record that the run has ended. Raises DataError where images or weights changed while it ran."""
        identity = self._identity(run)
        results = read_or_none(run.path / RESULTS) or {}
        if results.get("fingerprint") != identity["fingerprint"]:
            raise DataError(f"{run.path}: the images or the start changed while it ran; give another --out")
        write_atomically(run.path / COMPARED, json.dumps(identity, indent=1))

    def _identity(self, run: FinetuneRun) -> dict[str, Any]:
        from fracgen.train.engine.init_weights import load_init

        settings = run.settings(self._command)
        if run.start not in self._inits:
            self._inits[run.start] = load_init(run.checkpoint, settings.model)
        split = (settings.run.seed, settings.per_class)
        if split not in self._splits:
            self._splits = {key: splits for key, splits in self._splits.items() if key[0] == split[0]}
            self._splits[split] = open_run_splits(settings)
        return {
            "asked": to_plain(settings),
            "fingerprint": fingerprint_of(self._splits[split], self._inits[run.start]),
        }


def read_or_none(path: Path) -> dict[str, Any] | None:
    """A JSON object, None where it cannot be read."""
    try:
        return read_json(path)
    except DataError:
        return None
