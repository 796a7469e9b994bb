"""What several seeds found together: mean and standard deviation."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = "results.json"


def read(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """The outcome of a run that has ended, as it was told; None where there is none, or it is of other images."""
    try:
        found = json.loads((folder / RESULTS).read_text("utf-8"))
        outcome: dict[str, Any] | None = found["outcome"] if found["fingerprint"] == fingerprint else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return outcome


def summary(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of runs that differ in their seed: mean and standard deviation (of a sample) of each accuracy, a share."""
    told: dict[str, Any] = {"start": outcomes[0]["start"], "seeds": [each["seed"] for each in outcomes]}
    told["ending"] = "finished" if all(each["ending"] == "finished" for each in outcomes) else "stopped"
    if "chosen_on" in outcomes[0]:
        told["chosen_on"] = outcomes[0]["chosen_on"]
    for name in [name for name in outcomes[0] if "_accuracy_" in name or "_top5_" in name]:
        if all(name in each for each in outcomes):
            found = [each[name] for each in outcomes]
            std = round(statistics.stdev(found), 4) if len(found) > 1 else None
            told[name] = {"mean": round(statistics.mean(found), 4), "std": std, "each": found}
    told["runs"] = [each["run"] for each in outcomes]
    return told


def in_words(told: Mapping[str, Any]) -> dict[str, Any]:
    """A summary for the screen: "0.8412 +- 0.0021"."""
    words: dict[str, Any] = {}
    for name, value in told.items():
        if isinstance(value, Mapping):
            words[name] = f"{value['mean']:.4f} +- {value['std']:.4f}"
        else:
            words[name] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return words
