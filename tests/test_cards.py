"""Data cards: what the Hub's own reader makes of them, and whether the libraries that they name load the set."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from conftest import PROVENANCE, contents, small_recipe, small_recipes

from fracgen.noise import Noise
from fracgen.pack import pack
from fracgen.pack import plan as pack_plan
from fracgen.photo.warps import WARPS
from fracgen.registry import RECIPES, card_text
from fracgen.render_shards import plan, write_shards
from fracgen.shards.data_card import MAX_CLASS_NAMES, THIS_FOLDER, CardText, card_head, data_card, size_category
from fracgen.shards.labels.imagefolder import list_images
from fracgen.shards.manifest import load_manifest
from fracgen.shards.reader import open_shards
from fracgen.shards.verify import verify_folder


@pytest.fixture
def rendered(tmp_path, monkeypatch):
    """Render the small recipe as a version of fracgen would."""

    def call(name, version="0.4.0", **changes):
        monkeypatch.setattr("fracgen.render_shards.versions", lambda name="": {"fracgen": version, "numpy": "1"})
        recipe = small_recipe(**changes)
        write_shards(recipe, tmp_path / name, layout=plan(recipe, num_shards=3), provenance=PROVENANCE)
        return tmp_path / name

    return call


@pytest.fixture
def offline(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def test_the_hubs_own_reader_takes_the_card(rendered):
    from huggingface_hub import DatasetCard

    path = rendered("set") / "README.md"
    card = DatasetCard.load(path)
    data = card.data.to_dict()
    assert data["license"] == "cc0-1.0" and data["size_categories"] == ["n<1K"]
    assert data["pretty_name"].startswith("1p-frac, sigma 3.5") and "image-classification" in data["task_categories"]
    names = data["dataset_info"]["features"][0]["dtype"]["class_label"]["names"]
    assert names == {str(label): f"{label:02d}" for label in range(24)}
    assert "'8': '08'" in path.read_text(), "or YAML 1.2 reads a number"
    assert "Scaling Backwards" in card.text and "](preview.png)" in card.text


def test_datasets_takes_features_and_class_names_from_the_card(rendered, offline):
    import datasets

    folder = rendered("set")
    rows = datasets.load_dataset(str(folder), split="train")
    assert rows.features["cls"] == datasets.ClassLabel(names=[f"{label:02d}" for label in range(24)])
    assert len(rows) == 24 and rows.features["cls"].int2str(rows[3]["cls"]) == f"{rows[3]['cls']:02d}"
    row = next(iter(datasets.load_dataset(str(folder), split="train", streaming=True)))
    sample = next(iter(open_shards(folder)))
    assert row["json"] == sample.metadata and row["png"].size == (48, 48)


@pytest.fixture(scope="module")
def recipes() -> dict:
    """One of each kind in the small, and photographs by each warp."""
    small = small_recipes()
    warped = {f"photo, {warp}": replace(small["photo"], warp=warp).resolve()[0] for warp in (*WARPS, "crops")}
    return {**small, **warped}


@pytest.mark.parametrize("name", [*RECIPES, *(f"photo, {warp}" for warp in (*WARPS, "crops"))])
def test_the_features_of_each_formula_are_those_that_datasets_finds(name, recipes, tmp_path, offline):
    import datasets

    recipe = recipes[name]
    write_shards(recipe, tmp_path / "set", layout=plan(recipe, num_shards=1))
    by_card = datasets.load_dataset(str(tmp_path / "set"), split="train")
    (tmp_path / "set" / "README.md").unlink()
    inferred = datasets.load_dataset(str(tmp_path / "set"), split="train")
    assert by_card.features["json"] == inferred.features["json"] and by_card.column_names == inferred.column_names
    assert by_card["json"] == inferred["json"] and recipe.PAPER.startswith("@inproceedings{")


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("rcdb", "the published distribution and drawing, not the published images"),
        ("rcdb, published", "Its random numbers are those of the published program"),
        ("exfractaldb", "the published distribution, not the published images"),
        ("multifractal", "the published distribution, not the published images"),
        ("visualatom", "the published distribution and drawing, not the published images"),
        ("perturbed", "is fracgen's own design"),
        ("noise", "those here are fracgen's own"),
    ],
)
def test_a_card_says_what_is_not_the_published_set(name, note, recipes, tmp_path):
    write_shards(recipes[name], tmp_path / "set", layout=plan(recipes[name], num_shards=1))
    assert note in " ".join((tmp_path / "set" / "README.md").read_text().split())


def run_code(folder: Path) -> dict:
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(compile(code.replace(THIS_FOLDER, str(folder)), "card", "exec"), names)
    return names


def test_the_code_of_the_card_loads_the_set(rendered, offline):
    images, labels = next(iter(run_code(rendered("set"))["batches"]))
    assert images.shape == (24, 3, 48, 48) and sorted(labels.tolist()) == list(range(24))


def test_packed_images_have_no_licence_by_default(tmp_path, offline):
    import datasets
    import numpy as np
    from PIL import Image

    for number in range(6):
        path = tmp_path / "images" / ("cat", "dog's: #1")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20 + number, 30, 3), number, np.uint8)).save(path)
    images = list_images(tmp_path / "images")
    pack(images, tmp_path / "set", pack_plan(images))
    text = (tmp_path / "set" / "README.md").read_text()
    assert "license: unknown\n" in text and "preview.png" not in text and "synthetic\n" not in text.split("---")[1]
    assert datasets.load_dataset(str(tmp_path / "set"), split="train").features["cls"].names == ["cat", "dog's: #1"]
    assert sum(1 for _ in run_code(tmp_path / "set")["batches"]) == 6


def test_folders_of_0_3_end_as_0_3_ends_them(rendered):
    from fracgen.shards.sidecars import _data_card_0_3

    old = rendered("old", "0.3.0")
    manifest = load_manifest(old)
    assert (old / "README.md").read_text() == _data_card_0_3(manifest, card_text(small_recipe()))
    assert "license" not in (old / "README.md").read_text()
    before = contents(old)
    (old / "README.md").unlink()
    assert contents(rendered("old", "0.4.0")) == before, "0.4 goes on with a folder of 0.3 as 0.3 would"
    assert not verify_folder(open_shards(old))
    assert "license: cc0-1.0" in (rendered("new") / "README.md").read_text()


def test_a_card_of_many_classes_stays_small(rendered):
    manifest = load_manifest(rendered("set"))
    many = replace(manifest, class_names=tuple(f"{label:05d}" for label in range(21_000)))
    few = replace(manifest, class_names=many.class_names[:MAX_CLASS_NAMES])
    assert len(data_card(many, CardText())) < 4_000 < len(data_card(few, CardText())) < 40_000
    assert card_head(many, CardText())["dataset_info"]["features"][0] == {"name": "cls", "dtype": "int64"}


def test_a_set_of_more_classes_than_the_card_names_loads(tmp_path, offline):
    import datasets

    recipe = Noise(classes=1_001, size=32, kind="uniform")
    write_shards(recipe, tmp_path / "set", layout=plan(recipe, num_shards=2))
    rows = datasets.load_dataset(str(tmp_path / "set"), split="train")
    assert len(rows) == 1_001 and rows.features["cls"] == datasets.Value("int64")
    assert len(json.loads((tmp_path / "set" / "dataset.json").read_text())["class_names"]) == 1_001


@pytest.mark.parametrize(
    ("count", "name"), [(1, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (21_000_000, "10M<n<100M"), (10**9, "n>1B")]
)
def test_size_categories(count, name):
    assert size_category(count) == name


def test_heads_are_yaml_of_any_class_names(rendered):
    names = ("yes", "null", "1e3", "a: b", "'", "#", "\u00e4", "\u732b", "0x1f")
    manifest = replace(load_manifest(rendered("set")), class_names=names)
    head = yaml.safe_load(data_card(manifest, CardText()).split("---\n")[1])
    assert tuple(head["dataset_info"]["features"][0]["dtype"]["class_label"]["names"].values()) == names
    assert head == json.loads(json.dumps(card_head(manifest, CardText())))
