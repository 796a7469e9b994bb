import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import small_recipe, small_recipes

import fracgen
from fracgen.categories import load_categories
from fracgen.ifs import load_ifs, sample_maps
from fracgen.onepfrac import OnePFrac
from fracgen.registry import RECIPES, from_dict, load_recipe, recipe_hash, save_recipe, to_dict
from fracgen.render_shards import plan
from fracgen.search import find_categories
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.layout import Part


def test_yaml_round_trip(tmp_path):
    for recipe in (OnePFrac(), small_recipe(delta=0.07), small_recipe(perturbation="multiplicative", masks="shared")):
        save_recipe(recipe, tmp_path / "a.yaml")
        assert load_recipe(tmp_path / "a.yaml") == recipe
        assert from_dict(json.loads(json.dumps(to_dict(recipe)))) == recipe


def test_a_recipe_that_was_interrupted_while_it_was_saved_is_saved_again(tmp_path, monkeypatch):
    recipe, write = small_recipes()["1p-frac, bases"], Path.write_bytes

    def stop(path, data):
        write(path, data[: len(data) // 2])
        raise KeyboardInterrupt

    save_recipe(small_recipe(), tmp_path / "a.yaml")
    monkeypatch.setattr(Path, "write_bytes", stop)
    with pytest.raises(KeyboardInterrupt):
        save_recipe(recipe, tmp_path / "a.yaml")
    monkeypatch.undo()
    assert load_recipe(tmp_path / "a.yaml") == small_recipe()
    save_recipe(recipe, tmp_path / "a.yaml")
    assert load_recipe(tmp_path / "a.yaml") == recipe and {path.name for path in tmp_path.iterdir()} == {
        "a.yaml",
        "bases.csv",
    }


def test_a_recipe_is_saved_through_links_and_to_pipes(tmp_path):
    (tmp_path / "link.yaml").symlink_to("a.yaml")
    for _ in range(2):
        save_recipe(small_recipe(), tmp_path / "link.yaml")
    assert (tmp_path / "link.yaml").is_symlink() and load_recipe(tmp_path / "a.yaml") == small_recipe()
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    save_recipe(small_recipe(), tmp_path / "pipe")
    assert os.read(reader, 1 << 16) == (tmp_path / "a.yaml").read_bytes()
    os.close(reader)


def test_hash_names_pixels_not_how_they_were_found():
    recipe = small_recipe()
    assert recipe_hash(replace(recipe, sigma=3.4, max_tries=3, min_acceptance=0.1, max_base_tries=5)) == recipe_hash(
        recipe
    )
    changes = {
        "delta": 0.11,
        "seed": 4,
        "size": 49,
        "classes": 25,
        "masks": "shared",
        "min_fill": 0.11,
        "points": 1501,
        "color": "color",
        "draw": "point",
        "patch": "fill",
        "pad": 4,
        "perturbation": "multiplicative",
    }
    assert (
        len({recipe_hash(replace(recipe, **{key: value})) for key, value in changes.items()} | {recipe_hash(recipe)})
        == 13
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("simga: 3", "did you mean 'sigma'"),
        ("min-fil: 3", "did you mean 'min_fill'"),
        ("sigma: high", "sigma 'high': must be a number"),
        ("classes: 10.5", "classes 10.5: must be a whole number"),
        ("classes: true", "classes True: must be a whole number"),
        ("points: 1e5", "points 100000.0: must be a whole number"),
        ("draw: dots", "one of patch, point"),
        ("draw: [patch]", "one of patch, point"),
        ("recipe: 1pfrac", "did you mean '1p-frac'"),
        ("recipe: nothing", "unknown"),
        ("sigma: 9", r"sigma 9.0: must be in \(0, 6\]"),
        ("sigma: 3\nsigma: 4", "given twice"),
        ("min_fill: 0.9\nmin-fill: 0.1", "given twice"),
        ("seed: 12:30:45", "seed '12:30:45': must be a whole number"),
        ("seed: 010", "seed '010': must be a whole number"),
        ("- 1", "must be a mapping"),
        ("a: [", "not YAML"),
        ("ifs: x.csv", "an IFS is written"),
        ("sigma: " + "9" * 400, "too large"),
        ("seed: !!bool foo", "not YAML"),
        ("seed: !!timestamp foo", "not YAML"),
        ("sigma: !!float ''", "not YAML"),
        ("ifs: {maps: &a [*a]}", "an alias that holds itself"),
        ("a: &a [1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nsigma: [*b,*b,*b,*b]", "unknown key 'a'"),
    ],
)
def test_bad_recipes_name_file_key_and_mend(tmp_path, text, message):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        load_recipe(tmp_path / "r.yaml")
    assert "r.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_numbers_as_people_write_them(tmp_path):
    (tmp_path / "r.yaml").write_text("delta: 1e-3\nsigma: 3\npoints: 20_000\nmin-fill: .05\n")
    assert load_recipe(tmp_path / "r.yaml") == OnePFrac(delta=0.001, sigma=3.0, points=20_000)
    assert load_recipe(tmp_path / "r.yaml", {"delta": 0.2}).delta == 0.2


def test_overrides_win_however_they_are_spelt(tmp_path):
    recipe = small_recipe(sigma=3.5)
    save_recipe(recipe, tmp_path / "r.yaml")
    for name in ("max_tries", "max-tries"):
        assert load_recipe(tmp_path / "r.yaml", {name: 7}) == replace(recipe, max_tries=7)
    (tmp_path / "dashes.yaml").write_text("max-tries: 8\n")
    assert load_recipe(tmp_path / "dashes.yaml", {"max-tries": 7}).max_tries == 7
    for name, value in {"sigma": 3.2, "maps": 3}.items():
        other = load_recipe(tmp_path / "r.yaml", {name: value})
        assert other == replace(recipe, ifs=None, **{name: value}), "the base fractal in the file has another"


def test_a_number_of_bases_over_a_resolved_recipe(tmp_path):
    one = small_recipe()
    recipe = one.with_bases(one.base, replace(one, seed=1).resolve()[0].base)
    save_recipe(recipe, tmp_path / "r.yaml")
    assert load_recipe(tmp_path / "r.yaml", {"bases": 2}) == recipe, "as many as there are"
    for bases in (1, 3):
        other = load_recipe(tmp_path / "r.yaml", {"bases": bases})
        assert (other.bases, other.ifs) == (bases, None), "others are searched"


@pytest.mark.parametrize("text", ["", "# only a comment\n", "{}", "null"])
def test_an_empty_file_is_no_recipe(tmp_path, text):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"r\.yaml: empty; a recipe says at least `recipe: 1p-frac`"):
        load_recipe(tmp_path / "r.yaml")
    (tmp_path / "r.yaml").write_text("recipe: 1p-frac\n")
    assert load_recipe(tmp_path / "r.yaml") == OnePFrac()


def test_unreadable_files(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "binary.yaml", tmp_path / "absent.yaml", tmp_path, Path("/dev/zero")):
        with pytest.raises(UsageError):
            load_recipe(path)


def test_numbers_beside_a_base_fractal_are_its_own(tmp_path):
    path, maps = tmp_path / "r.yaml", sample_maps(4.5, 5, np.random.default_rng(0))
    base = {"recipe": "1p-frac", "ifs": {"maps": maps.tolist()}}
    for own in ({}, {"maps": 5}, {"maps": 5, "sigma": 4.5}):
        path.write_text(yaml.safe_dump({**base, **own}))
        recipe = load_recipe(path)
        assert (recipe.maps, len(recipe.base)) == (5, 5) and recipe.sigma == pytest.approx(4.5)
    for others, message in [
        ({"maps": 2}, "maps 2: the ifs beside it has 5"),
        ({"sigma": 3.5}, "sigma 3.5: .* has 4.5"),
    ]:
        path.write_text(yaml.safe_dump({**base, **others}))
        with pytest.raises(UsageError, match=rf"r\.yaml: {message}; leave {next(iter(others))} out"):
            load_recipe(path)
        assert load_recipe(path, {"ifs": small_recipe().base}).maps == 2, "another base fractal brings its own"


def test_the_recipe_of_a_damaged_data_set_is_never_taken(folder, tmp_path):
    """A number in it may be another than it was; the manifest tells by its own hash, whatever it is called."""
    text = (folder / "dataset.json").read_text()
    assert '"delta": 0.1,' in text
    for name in ("dataset.json", "copy.json"):
        (tmp_path / name).write_text(text)
        assert recipe_hash(load_recipe(tmp_path / name)) == recipe_hash(small_recipe())
        (tmp_path / name).write_text(text.replace('"delta": 0.1,', '"delta": 0.3,'))
        with pytest.raises(DataError, match=rf"{name}: damaged .* own sha256"):
            load_recipe(tmp_path / name)
    for path in (tmp_path, tmp_path / "dataset.json"):
        with pytest.raises(DataError, match="own sha256"):
            load_recipe(path)
        with pytest.raises(DataError, match="own sha256"):
            load_ifs(path)


def test_equal_numbers_have_equal_hashes():
    hashes = {recipe_hash(small_recipe(delta=delta)) for delta in (0, 0.0, -0.0)}
    assert len(hashes) == 1


def test_every_recipe_builds_with_its_defaults():
    for name, kind in RECIPES.items():
        assert from_dict({"recipe": name}) == kind() and name == kind.NAME
        assert name in small_recipes(), "tests of all recipes take the small ones of tests/conftest.py"


def test_examples_load():
    paths = sorted((Path(__file__).parents[1] / "examples").rglob("*.yaml"))
    assert paths
    published = next(path for path in paths if path.name == "1p-frac.yaml")
    assert load_recipe(published) == OnePFrac()


def test_numbers_from_python_are_checked_as_in_yaml():
    numbers = {"classes": np.int64(4), "size": np.int32(32), "delta": np.float64(0.1), "seed": np.uint8(3)}
    recipe = OnePFrac(points=1000, **numbers)
    assert recipe == OnePFrac(points=1000, classes=4, size=32, delta=0.1, seed=3)
    assert json.dumps(to_dict(recipe)) == json.dumps(
        to_dict(OnePFrac(points=1000, classes=4, size=32, delta=0.1, seed=3))
    )
    for changes in (
        {"classes": "4"}, {"classes": 4.0}, {"classes": True}, {"seed": None}, {"sigma": "3"}, {"patch": "rnd"},
        {"patch": ["fill"]}, {"sigma": np.bool_(True)}, {"delta": [0.1]},
    ):  # fmt: skip
        with pytest.raises(UsageError, match=next(iter(changes))) as caught:
            OnePFrac(**changes)
        assert type(caught.value) is UsageError
    assert json.dumps(plan(recipe, num_shards=np.int64(2)).to_dict()) == json.dumps(
        plan(recipe, num_shards=2).to_dict()
    )
    for call in (
        lambda: plan(recipe, num_shards="2"), lambda: Part("1", 2), lambda: find_categories("2"),
        lambda: load_categories("nowhere", count="2"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=r"'\d': must be a whole number"):
            call()
    with pytest.raises(UsageError, match=r"systems .*: must be left out, or a Categories; --categories-from"):
        RECIPES["ofdb"](systems=[1, 2])


def test_every_recipe_is_public_and_in_the_reference():
    reference = (Path(__file__).parents[1] / "docs" / "api.md").read_text("utf-8").splitlines()
    for kind in RECIPES.values():
        assert getattr(fracgen, kind.__name__) is kind and kind.__name__ in fracgen.__all__
        assert f"::: fracgen.{kind.__name__}" in reference
