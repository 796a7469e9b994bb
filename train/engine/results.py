"""Results of a run that has ended, as files; of several seeds together, mean and standard deviation."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fracgen.shards.errors import DataError
from fracgen.shards.files import read_json, write_atomically
from fracgen.shards.settings import differences
from fracgen.train.engine.run_folder import MODEL

if TYPE_CHECKING:
    from fracgen.train.engine.evaluate import Scores

RESULTS, CONFUSION, CONFUSION_FIGURE = "results.json", "confusion.csv", "confusion.png"
CHOSEN_ON = {
    ("test", "test"): "the test split itself, as published",
    ("val", "test"): "the validation split",
    ("val", "val"): "the validation split, which is reported on too: a maximum, so too high",
}
"""How the weights were chosen, in words, by the split that this was on and the one that is reported on."""


def write(
    folder: Path, record: Mapping[str, Any], scores: "Scores | None", *, class_names: Sequence[str], split: str
) -> None:
    """Write results.json, and the confusion matrix of the chosen weights on `split` as CSV and PNG."""
    from fracgen.train.engine.evaluate import draw_confusion, write_confusion

    if scores is not None:
        write_confusion(scores, class_names, folder / CONFUSION)
        draw_confusion(scores, class_names, f"{split}: {scores.top1:.1%}", folder / CONFUSION_FIGURE)
    write_atomically(folder / RESULTS, json.dumps({**record, "classes": list(class_names)}, indent=1))


def read(folder: Path, kind: type, *, fingerprint: str, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The outcome of a run that has ended.

    None where there is none or it is damaged, where it is of other images or settings, or where its model is gone.
    kind, config: the class of its settings, and all of them, resolved, as plain values.
    """
    try:
        written = read_json(folder / RESULTS)
        same = written["fingerprint"] == fingerprint and not differences(kind, written["config"], config)
        outcome = {**written["outcome"], "run": str(folder), "model": str(folder / MODEL)}
        numbers = [outcome["seed"], *accuracies(outcome).values()]
        if not all(isinstance(each, int | float) for each in numbers) or not {"start", "ending"} <= outcome.keys():
            return None
    except (DataError, LookupError, TypeError, AttributeError):
        return None
    return outcome if same and (folder / MODEL / "config.json").exists() else None


def summary(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation (of a sample) of each accuracy, a share, of runs that differ in their seed."""
    together: dict[str, Any] = {"start": outcomes[0]["start"], "seeds": [each["seed"] for each in outcomes]}
    together["ending"] = "finished" if all(each["ending"] == "finished" for each in outcomes) else "stopped"
    if "chosen_on" in outcomes[0]:
        together["chosen_on"] = outcomes[0]["chosen_on"]
    for name in accuracies(outcomes[0]):
        if all(name in each for each in outcomes):
            values = [each[name] for each in outcomes]
            std = round(statistics.stdev(values), 4) if len(values) > 1 else None
            together[name] = {"mean": round(statistics.mean(values), 4), "std": std, "each": values}
    together["runs"] = [each["run"] for each in outcomes]
    return together


def accuracies(outcome: Mapping[str, Any]) -> dict[str, float]:
    """The accuracies in an outcome, shares by name."""
    kinds = ("_accuracy_", "_top5_", "_mean_per_class_")
    return {name: value for name, value in outcome.items() if any(kind in name for kind in kinds)}


def figures(folder: Path) -> dict[str, Path]:
    """The pictures of a run's results, as far as there are such: PNG files by name."""
    picture = folder / CONFUSION_FIGURE
    return {"confusion_matrix": picture} if picture.is_file() else {}


def in_words(summed: Mapping[str, Any]) -> dict[str, Any]:
    """A summary for the screen: "0.8412 +- 0.0021"."""
    words: dict[str, Any] = {}
    for name, value in summed.items():
        if isinstance(value, Mapping):
            words[name] = f"{value['mean']:.4f} +- {value['std']:.4f}"
        else:
            words[name] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return words
