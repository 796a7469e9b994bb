"""The model card of an export, and what its config.json says beside timm's own: task, data, base, recipe, metrics."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fracgen.shards.data_card import UNKNOWN_LICENCE, to_yaml_head
from fracgen.shards.files import read_json, write_atomically
from fracgen.shards.publish.release import CARD, CONFIG
from fracgen.shards.settings import to_yaml
from fracgen.train.engine.provenance import SECTION, Metric, Training


def model_card(config: Mapping[str, Any]) -> str:
    """The card of a model whose config.json has our section."""
    training = config[SECTION]
    data, metrics = training["data"], training["metrics"]
    title = f"{config['architecture']}, {training['stage']} on {data['name']}"
    head = {
        "license": training["licence"],
        "library_name": "timm",
        "pipeline_tag": training["task"],
        "tags": [training["task"], "timm", "safetensors", SECTION, *([data["recipe"]] if data["recipe"] else [])],
        **({"model-index": [{"name": title, "results": [_model_index(training)]}]} if metrics else {}),
    }
    labels = config.get("label_names") or config["pretrained_cfg"].get("label_names") or ()
    named = f", named in `config.json` ({', '.join(labels[:4])}{', ...' if len(labels) > 4 else ''})" if labels else ""
    size = config["pretrained_cfg"]["input_size"][1]
    classes = f"{config['num_classes']:,} classes" if config["num_classes"] else "without a head"
    recipe = f" (recipe {data['recipe']}, sha256 {data['recipe_sha256']})" if data["recipe"] else ""
    base = f" (sha256 {training['base_sha256']})" if training["base_sha256"] else ""
    return "\n".join(
        [
            f"{to_yaml_head(head)}\n# {title}\n",
            f"A timm model, `{config['architecture']}`, for images of {size} x {size} pixels, {classes}{named}; "
            f"trained by fracgen {training['version']}.\n",
            f"- data: {data['name']}{recipe}, sha256 {data['sha256']}",
            f"- began with: {training['base']}{base}",
            f"- seed of these weights: {training['recipe']['run']['seed']}",
            f"- protocol: {training['protocol']}\n",
            _results(metrics),
            '```python\nimport timm\n\nmodel = timm.create_model("local-dir:PATH/OF/THIS/FOLDER", pretrained=True)\n'
            "```\n\nOf a model on the Hub: `hf-hub:NAME/MODEL`; `num_classes=10` gives it a new head.\n",
            f"## Licence\n\n`{training['licence']}`. {_licence(training['licence'])}\n",
            f"## Recipe\n\n```yaml\n{to_yaml(training['recipe'])}```\n",
        ]
    )


def _licence(licence: str) -> str:
    if licence == UNKNOWN_LICENCE:
        return "Data or weights that it began with are others', and nobody has stated a licence yet."
    return "Formulas made all data that these weights come from, and they began from scratch."


def _results(metrics: Sequence[Mapping[str, Any]]) -> str:
    if not metrics:
        return "No accuracy was measured.\n"
    rows = [
        f"| {each['name']} | {each['split']} | {each['weights']} | {_share(each)} | {_seeds(each)} |"
        for each in metrics
    ]
    return "\n".join(["## Results\n", "| | split | weights | | seeds |", "| --- | --- | --- | ---: | --- |", *rows, ""])


def _share(metric: Mapping[str, Any]) -> str:
    spread = "" if metric["std"] is None else f" ± {100 * metric['std']:.2f}"
    return f"{100 * metric['value']:.2f}{spread} %"


def _seeds(metric: Mapping[str, Any]) -> str:
    return ", ".join(map(str, metric["seeds"]))


def _model_index(training: Mapping[str, Any]) -> dict[str, Any]:
    """As the Hub's `model-index` has results; values in %."""
    name = training["data"]["name"]
    described = [
        {
            "type": "accuracy",
            "value": round(100 * each["value"], 4),
            "name": f"{each['name']}, {each['split']}, {each['weights']}"
            + ("" if each["std"] is None else f", mean of {len(each['seeds'])} seeds ± {100 * each['std']:.2f}"),
        }
        for each in training["metrics"]
    ]
    dataset = {"name": name, "type": name.rpartition("/")[2].lower() or "data"}
    return {"task": {"type": training["task"]}, "dataset": dataset, "metrics": described}


def write_training(folder: Path, training: Training | None) -> None:
    """Write our section into config.json of a new export, and the card. None: of a model of which nothing is known."""
    if training is None:
        return
    config = read_json(folder / CONFIG)
    config[SECTION] = json.loads(json.dumps(training.to_dict()))
    config["pretrained_cfg"]["license"] = training.licence
    _write(folder, config)


def write_metrics(folder: Path, metrics: Sequence[Metric]) -> None:
    """Put other metrics into the card and config.json of an export, as those of several seeds. Keeps what it cannot.

    Raises DataError where the files cannot be written.
    """
    if not metrics or not (folder / CONFIG).is_file():
        return
    config = read_json(folder / CONFIG)
    if not isinstance(config.get(SECTION), dict):  # fracgen 0.3 exported it
        return
    config[SECTION]["metrics"] = json.loads(json.dumps([asdict(each) for each in metrics]))
    _write(folder, config)


def _write(folder: Path, config: Mapping[str, Any]) -> None:
    write_atomically(folder / CARD, model_card(config))
    write_atomically(folder / CONFIG, json.dumps(config, indent=2))
