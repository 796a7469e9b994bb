"""Model cards and config.json of exports: what timm and the Hub's own reader make of them; publishing models."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import contents
from hub_server import Hub
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from fracgen.cli.app import run
from fracgen.publish import publish
from fracgen.shards.errors import DataError, UsageError
from fracgen.train.engine.init_weights import load_init
from fracgen.train.engine.provenance import describe_data, finetuning
from fracgen.train.engine.settings import Model

MODEL = [f"model.options.{option}" for option in ("patch_size=8", "depth=2", "embed_dim=16", "num_heads=2")]
SMALL = ["--steps=2", "--batch-size=4", "--workers=0", "--device=cpu", "augment.size=32"]


@pytest.fixture(scope="module")
def runs(folder, tmp_path_factory) -> Path:
    """A pre-training, and a fine-tuning of two seeds."""
    place = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    for split, label, number in np.ndindex(2, 3, 8):
        path = place / "my-images" / ("train", "test")[split] / f"class{label}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    shutil.copytree(folder, place / "set")
    words = ["--shards", str(place / "set"), "--out", str(place / "pretrained"), "run.clean_images=8"]
    assert run(["pretrain", *words, *SMALL, *MODEL]) == 0
    words = ["--checkpoint", str(place / "pretrained"), "--data", str(place / "my-images"), "--seeds", "2"]
    assert run(["finetune", *words, *SMALL, "--out", str(place / "tuned")]) == 0
    return place


def config_of(model: Path) -> dict:
    return json.loads((model / "config.json").read_text())


def test_the_card_of_a_pre_trained_model(runs, folder):
    from huggingface_hub import ModelCard

    card = ModelCard.load(runs / "pretrained" / "model" / "README.md")
    assert card.data.license == "mit" and card.data.library_name == "timm"
    assert card.data.pipeline_tag == "image-classification" and "1p-frac" in card.data.tags
    names = [result.metric_name for result in card.data.eval_results]
    assert names == ["top-1 accuracy, whole training images, last", "top-1 accuracy, crops of training images, last"]
    recipe_hash = json.loads((folder / "dataset.json").read_text())["recipe_hash"]
    assert f"- data: set (recipe 1p-frac, sha256 {recipe_hash})" in card.text and "- began with: scratch\n" in card.text
    section = config_of(runs / "pretrained" / "model")["fracgen"]
    assert section["data"]["recipe_sha256"] == recipe_hash and section["task"] == "image-classification"
    assert section["recipe"]["model"]["options"]["depth"] == 2 and section["recipe"]["run"]["seed"] == 0


def test_the_card_of_a_fine_tuned_model_has_the_spread_over_seeds(runs):
    from huggingface_hub import ModelCard

    together = json.loads((runs / "tuned" / "results.json").read_text())["test_accuracy_best"]
    for seed in (0, 1):
        model = runs / "tuned" / f"seed-{seed}" / "model"
        card, config = ModelCard.load(model / "README.md"), config_of(model)
        assert card.data.license == "unknown" == config["pretrained_cfg"]["license"]
        assert f"- seed of these weights: {seed}\n" in card.text and "- began with: pretrained (sha256 " in card.text
        (best,) = [
            each
            for each in config["fracgen"]["metrics"]
            if each["weights"].startswith("best, chosen on the val")
            and each["split"] == "test"
            and each["name"] == "top-1 accuracy"
        ]
        assert (best["value"], best["std"], best["seeds"]) == (together["mean"], together["std"], [0, 1])
        values = {result.metric_name: result.metric_value for result in card.data.eval_results}
        name = "top-1 accuracy, test, best, chosen on the validation split, mean of 2 seeds ± "
        (value,) = [value for key, value in values.items() if key.startswith(name)]
        assert value == pytest.approx(100 * together["mean"], abs=1e-4)
        assert config["label_names"] == ["class0", "class1", "class2"] and "class0, class1, class2" in card.text


def test_initial_weights_from_a_formula_are_named_alike(runs, tmp_path):
    init, common = ["model.init=mimetic"], [*SMALL, *MODEL, "--steps=1"]
    assert run(["pretrain", "--shards", str(runs / "set"), "--out", str(tmp_path / "pretrained"), *common, *init]) == 0
    data = str(runs / "my-images")
    assert (
        run(
            [
                "finetune",
                "--data",
                data,
                "--out",
                str(tmp_path / "tuned"),
                *common,
                *init,
                "model.name=vit_tiny_patch16_224",
            ]
        )
        == 0
    )
    for name in ("pretrained", "tuned"):
        assert "- began with: scratch, mimetic init\n" in (tmp_path / name / "model" / "README.md").read_text()


@pytest.mark.parametrize(
    ("protocol", "accuracies", "said"),
    [
        ("honest", {"test_accuracy_last": 0.5}, "honest: weights are those of the last step"),
        ("honest", {"test_accuracy_best": 0.5}, "honest: weights are chosen on validation images"),
        ("published", {"test_accuracy_best": 0.5}, "published: weights are chosen on the test images"),
    ],
)
def test_the_card_says_how_weights_were_chosen_if_they_were(protocol, accuracies, said):
    outcome = {**accuracies, "seed": 0, "chosen_on": "the validation split"}
    data = describe_data("my-images", "0" * 64, None)
    assert finetuning(data, base="none", base_sha256="", protocol=protocol, outcome=outcome).protocol.startswith(said)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("s3://bucket/a/set", "set"),
        ("hf://datasets/me/set", "me/set"),
        ("https://me:pass@host/set?token=abcd", "set"),
        ("s3://key:pass@bucket", "***@bucket"),
        ("s3://key:pa/ss@bucket", "***@bucket"),
    ],
)
def test_a_set_at_a_url_is_named_without_secrets(url, name):
    assert describe_data(url, "0" * 64, None).name == name


def test_no_path_of_the_machine_is_in_an_export(runs):
    for model in runs.rglob("model"):
        texts = (model / "README.md").read_text() + (model / "config.json").read_text()
        assert (
            str(runs) not in texts
            and "/tmp" not in texts
            and "my-images" in texts + "my-images" * ("pre" in str(model))
        )


def test_plain_timm_loads_what_has_a_card(runs):
    model = timm.create_model(f"local-dir:{runs / 'tuned' / 'seed-0' / 'model'}", pretrained=True)
    assert model.num_classes == 3 and model.pretrained_cfg["license"] == "unknown"
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_a_model_goes_to_the_hub_and_back(runs, hub: Hub, tmp_path):
    model = runs / "pretrained" / "model"
    publish(model, "hf://me/net")
    assert hub.files("me/net") == contents(model) and hub.order[-1] == "file config.json"
    assert publish(model, "hf://me/net").plan.upload == ()
    (tmp_path / "back").mkdir()
    for name, data in hub.files("me/net").items():
        (tmp_path / "back" / name).write_bytes(data)
    timm.create_model(f"local-dir:{tmp_path / 'back'}", pretrained=True)
    other = runs / "tuned" / "seed-1" / "model"
    with pytest.raises(UsageError, match="nobody has said under which licence"):
        publish(other, "hf://me/net")
    with pytest.raises(UsageError, match=r"holds another data set or model \(model\.safetensors\)"):
        publish(other, "hf://me/net", licence="cc-by-nc-4.0")
    publish(other, "hf://me/net", licence="cc-by-nc-4.0", replace=True)
    card, config = hub.files("me/net")["README.md"].decode(), json.loads(hub.files("me/net")["config.json"])
    assert "license: cc-by-nc-4.0\n" in card and "`cc-by-nc-4.0`. As stated by who published it." in card
    assert "unknown" not in card and config["pretrained_cfg"]["license"] == "cc-by-nc-4.0"
    with pytest.raises(UsageError, match="the folder is a model; give hf://me/net"):
        publish(model, "hf://datasets/me/net")
    with pytest.raises(UsageError, match="is the folder of a run; its model is"):
        publish(runs / "pretrained", "hf://me/net")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("model.safetensors", None, "model.safetensors: missing"),
        ("model.safetensors", b"\x08\0\0\0\0\0\0\0{}", "damaged"),
        ("model.safetensors", b"\xff" * 64, "damaged"),
        ("model.safetensors", b'\x21\0\0\0\0\0\0\0{"w": {"data_offsets": [0, "4"]}}1234', "damaged"),
        ("config.json", b"{}", "names no architecture"),
        ("config.json", b"{", "cannot be read"),
        ("README.md", None, "missing; fracgen 0.4 writes it"),
        ("README.md", b"# A model", "does not begin with a YAML head"),
        ("README.md", b"---\n: [\n---\n", "does not begin with a YAML head"),
        ("README.md", b"---\nlicense: mit\ndate: 2026-99-99\n---\n", "does not begin with a YAML head"),
    ],
)
def test_damaged_models_are_not_published(runs, hub: Hub, tmp_path, name, data, message):
    model = Path(shutil.copytree(runs / "pretrained" / "model", tmp_path / "model"))
    (model / name).unlink()
    if data is not None:
        (model / name).write_bytes(data)
    with pytest.raises((UsageError, DataError), match=message):
        publish(model, "hf://me/net")
    assert not hub.repos


def test_weights_that_are_cut_short_are_not_published(runs, hub: Hub, tmp_path):
    model = Path(shutil.copytree(runs / "pretrained" / "model", tmp_path / "model"))
    with (model / "model.safetensors").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(DataError, match="bytes are not what its header says"):
        publish(model, "hf://me/net")


def test_what_is_published_is_read_by_its_name_on_the_hub(runs, hub: Hub, folder, tmp_path):
    """By timm, by datasets and by us, each in a process that knows the server by HF_ENDPOINT alone."""
    publish(runs / "pretrained" / "model", "hf://me/net")
    publish(folder, "hf://datasets/me/set")
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path)}
    environment["FRACGEN_CACHE"] = str(tmp_path / "fracgen")
    code = (
        "import datasets, timm, fracgen;"
        "model = timm.create_model('hf-hub:me/net', pretrained=True, num_classes=7);"
        "assert model.num_classes == 7 and model.pretrained_cfg['license'] == 'mit';"
        "rows = datasets.load_dataset('me/set', split='train');"
        "assert len(rows) == 24 and rows.features['cls'].names[9] == '09';"
        "assert len(fracgen.open_shards('hf://datasets/me/set')[3].metadata['eps']) == 12"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("change", "warned"), [({}, False), ({"licence": "unknown"}, True), ({"stage": "fine-tuned"}, True)]
)
def test_another_mean_and_std_than_of_a_rendered_set_is_no_matter(runs, tmp_path, change, warned):
    """1p-frac's own recipe pre-trains with a mean of 0.5, and fine-tunes with ImageNet's."""
    shutil.copytree(runs / "pretrained" / "model", tmp_path / "model")
    config = config_of(tmp_path / "model")
    config["fracgen"] |= change
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    init = load_init(str(tmp_path), Model(name=""))
    assert init.mean == (0.5, 0.5, 0.5)
    assert bool(init.normalisation_warning(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)) == warned


def test_what_was_fine_tuned_on_photographs_is_warned_of(runs):
    init = load_init(str(runs / "tuned" / "seed-0"), Model(name=""))
    assert "is fine-tuned with mean 0.5" in init.normalisation_warning((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
