"""Scores the base fractals of bases.json as `fracgen score` does: scores.json beside this file.

python examples/results/score_bases.py

Each set is resolved again from its seed, and must be the one that was trained on: the same number of bases tried, the
same fill rate. Views are those of the laptop's pre-training, drawn with eight seeds, over which is averaged. Which
quantities are compared was set down before their correlations were computed.
"""

import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from collect import describe_machine

from fracgen.cli.score import comparison_of
from fracgen.onepfrac import OnePFrac
from fracgen.score import Score, ScoreSettings, score
from fracgen.score_sample import ImageSource
from fracgen.shards.errors import DataError
from fracgen.shards.files import write_atomically

HERE = Path(__file__).parent
CONFIG = HERE.parent / "pretrain-laptop.yaml"
SEEDS = range(8)
SMALL_DELTA = 0.01
"""At the set's own Delta, 0.2, all shapes are told apart."""


def set_of(base: int) -> tuple[OnePFrac, dict[str, Any]]:
    """The resolved recipe of a base's set, and its provenance."""
    return OnePFrac(sigma=3.5, perturbation="multiplicative", delta=0.2, classes=64, size=256, seed=base).resolve()


def scored(base: int, facts: Mapping[str, Any]) -> dict[str, float]:
    """The quantities of one base fractal. facts: its line in bases.json. Raises DataError where it is another set."""
    recipe, provenance = set_of(base)
    comparison, _ = comparison_of(CONFIG, None)
    scores = [
        score(
            ImageSource.of(recipe),
            ScoreSettings(seed=seed, delta=(SMALL_DELTA,), perturbations=0 if seed else 64),
            comparison,
            recipe=recipe,
        )
        for seed in SEEDS
    ]
    values = quantities(scores)
    if provenance["base_tries"] != facts["base_tries"] or abs(values["fill_rate"] - facts["fill"]) > 1e-5:
        raise DataError(f"base {base}: {provenance['base_tries']} tries, fill {values['fill_rate']}; it is another set")
    return values


def quantities(scores: list[Score]) -> dict[str, float]:
    """Means over the images of a set, and of how well classes are told apart over its scores; rounded."""
    measures = scores[0].measures()
    values = {name: float(np.mean(each)) for name, each in measures.items()}
    values["dimension_std"] = float(np.std(measures["dimension"]))
    separabilities = [each.separability for each in scores if each.separability]
    values["views_accuracy"] = statistics.fmean(each.accuracy for each in separabilities)
    values["views_auc"] = statistics.fmean(each.auc for each in separabilities)
    shapes = next(each.shapes for each in scores[0].neighbourhood if each.delta == SMALL_DELTA)
    if shapes is not None:
        values["small_shapes_accuracy"] = shapes.accuracy
    return {name: float(f"{value:.5g}") for name, value in values.items()}


def main() -> None:
    """Write scores.json."""
    pretraining = json.loads((HERE / "bases.json").read_text("utf-8"))["pretraining"]
    bases = [{"base": run["base"], **scored(run["base"], run)} for run in pretraining]
    lines = ",\n  ".join(json.dumps(each) for each in bases)
    machine = json.dumps(describe_machine())
    write_atomically(HERE / "scores.json", f'{{\n "machine": {machine},\n "bases": [\n  {lines}\n ]\n}}\n')
    print(json.dumps({"bases": len(bases)}))


if __name__ == "__main__":
    if sys.argv[1:]:
        print(__doc__.strip())
        sys.exit(0 if sys.argv[1:] == ["--help"] else 2)
    main()
