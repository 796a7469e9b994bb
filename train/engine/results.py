"""What several seeds found together: mean and standard deviation."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fracgen.shards.errors import DataError
from fracgen.train.config import differences
from fracgen.train.engine.run_folder import MODEL, read_json, told

RESULTS = "results.json"


def read(folder: Path, *, fingerprint: str, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The outcome of a run that has ended, as it was told.

    None where there is none, where it is of other images or settings, or where its model is gone.
    config: all settings, resolved.
    """
    try:
        found = read_json(folder / RESULTS)
        same = found["fingerprint"] == fingerprint and not differences(told(found["config"]), told(config))
        outcome = {**found["outcome"], "run": str(folder), "model": str(folder / MODEL)}
    except (DataError, LookupError, TypeError, AttributeError):
        return None
    return outcome if same and (folder / MODEL / "config.json").exists() else None


def summary(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of runs that differ in their seed: mean and standard deviation (of a sample) of each accuracy, a share."""
    found: dict[str, Any] = {"start": outcomes[0]["start"], "seeds": [each["seed"] for each in outcomes]}
    found["ending"] = "finished" if all(each["ending"] == "finished" for each in outcomes) else "stopped"
    if "chosen_on" in outcomes[0]:
        found["chosen_on"] = outcomes[0]["chosen_on"]
    for name in [name for name in outcomes[0] if "_accuracy_" in name or "_top5_" in name]:
        if all(name in each for each in outcomes):
            values = [each[name] for each in outcomes]
            std = round(statistics.stdev(values), 4) if len(values) > 1 else None
            found[name] = {"mean": round(statistics.mean(values), 4), "std": std, "each": values}
    found["runs"] = [each["run"] for each in outcomes]
    return found


def in_words(summed: Mapping[str, Any]) -> dict[str, Any]:
    """A summary for the screen: "0.8412 +- 0.0021"."""
    words: dict[str, Any] = {}
    for name, value in summed.items():
        if isinstance(value, Mapping):
            words[name] = f"{value['mean']:.4f} +- {value['std']:.4f}"
        else:
            words[name] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return words
