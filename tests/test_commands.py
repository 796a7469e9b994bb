"""The commands of the baselines, the search, parts and merging, as typed."""

import dataclasses
import json
import subprocess
import typing
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import contents, small_recipes, small_words, spatial_systems
from PIL import Image

from fracgen.categories import Categories, load_categories
from fracgen.cli.app import BASELINES, run
from fracgen.ifs import IFS, sample_maps
from fracgen.registry import RECIPES, load_recipe, save_recipe
from fracgen.rng import generator
from fracgen.shards.fields import FieldInfo, fields_of
from fracgen.shards.manifest import load_manifest
from fracgen.shards.reader import open_shards
from fracgen.spatial import SpatialCategories

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = ["--size", 48, "--pad", 3, "--points", 1500]
COMMANDS = {
    **{name: small_words(name) for name in BASELINES},
    "fractaldb": [*SMALL, "--instances", 2, "--categories-from", "csvs"],
    "ofdb": [*SMALL, "--categories-from", "csvs"],
    "exfractaldb": ["--size", 48, "--points", 1500, "--weights", "first", "--categories-from", "spatial"],
}
IMAGES = {
    **{name: (len(small_recipes()[name]), small_recipes()[name].num_classes) for name in BASELINES},
    "fractaldb": (600, 3),
    "ofdb": (3, 3),
    "exfractaldb": (36, 3),
}
UNTYPED = {"systems", "states"}
"""Fields of recipes that are not typed: they lie in files of their own."""


@pytest.fixture
def fracgen(capsys, tmp_path, monkeypatch):
    """Run a command in a folder that holds three categories; returns exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FRACGEN_CACHE", str(tmp_path / "cache"))
    systems = tuple(IFS.from_maps(sample_maps(3.5, 3, generator(number, 0, "ifs"))) for number in range(3))
    (tmp_path / "csvs").mkdir()
    for name, data in Categories(systems).files():
        (tmp_path / "csvs" / name).write_bytes(data)
    (tmp_path / "spatial").mkdir()
    for name, data in SpatialCategories(tuple(spatial_systems(3))).files():
        (tmp_path / "spatial" / name).write_bytes(data)

    def call(*arguments):
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.mark.parametrize("name", COMMANDS)
def test_render_verify_inspect_preview(fracgen, tmp_path, name):
    words = ["baseline", name, *COMMANDS[name]]
    code, out, err = fracgen(*words)
    assert (code, err) == (0, "")
    (folder,) = [path for path in tmp_path.iterdir() if path.name.startswith(name)]
    images, classes = IMAGES[name]
    assert f"{images} of {classes} classes" in out and "images/s on" in out and "fracgen verify" in out
    assert "nothing to do" in fracgen(*words)[1]
    code, out, err = fracgen("verify", folder, "--render")
    assert (code, err) == (0, "") and "all good" in out
    code, out, _ = fracgen("inspect", folder)
    assert code == 0 and f"{images} of {classes} classes" in out and load_manifest(folder).recipe_hash in out
    assert fracgen("preview", folder, "-o", "sheet.png")[0] == 0
    assert np.asarray(Image.open("sheet.png").convert("L")).std() > 10
    assert len({sample.label for sample in open_shards(folder)}) == classes


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_is_its_own_recipe(fracgen, tmp_path, name):
    assert fracgen("baseline", name, *COMMANDS[name], "--out", "set")[0] == 0
    (tmp_path / "csvs").rename(tmp_path / "moved")
    for command in (["render"], ["baseline", name]):
        assert fracgen(*command, "--recipe", "set", "--out", f"again-{command[0]}")[0] == 0
        assert contents(tmp_path / f"again-{command[0]}") == contents(tmp_path / "set")
    assert fracgen("baseline", name, "--recipe", "set", "--out", "other", "--seed", 5)[0] == 0
    assert load_manifest(tmp_path / "other").recipe_hash != load_manifest(tmp_path / "set").recipe_hash
    assert fracgen("verify", "set", "--render")[0] == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_without_metadata_and_with_other_options(fracgen, tmp_path, name):
    words = ["baseline", name, *COMMANDS[name], "--shards", 2, "--workers", 1]
    if name == "multifractal":
        code, out, err = fracgen(*words, "--no-metadata", "--out", "set")
        assert (code, out) == (2, "") and err.endswith(
            "--no-metadata: labels of several classes stand in it; leave it out\n"
        )
        words += ["--composition", "single"]
    assert fracgen(*words, "--no-metadata", "--out", "set")[0] == 0
    assert fracgen(*words, "--out", "more")[0] == 0
    bare, full = load_manifest(tmp_path / "set"), load_manifest(tmp_path / "more")
    assert [record.pixels_sha256 for record in bare.shards] == [record.pixels_sha256 for record in full.shards]
    assert bare.num_bytes <= full.num_bytes - 1024 * bare.num_samples
    assert all(not sample.metadata for sample in open_shards(tmp_path / "set"))
    assert fracgen("verify", "set", "--render")[0] == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_parts_and_merge(fracgen, tmp_path, name):
    words = ["baseline", name, *COMMANDS[name], "--shards", 3]
    fracgen(*words, "--out", "whole")
    code, out, err = fracgen(*words, "--out", "set", "--only", "2/2")
    assert (code, err) == (0, "") and "of this part" in out and "fracgen merge" in out
    code, out, err = fracgen("merge", "set")
    assert (code, out) == (1, "") and "2 shards are missing (000000, 000002); render part 1/2" in err
    values = json.loads(fracgen(*words, "--out", "set", "--only", "1/2", "--json")[1])
    assert values["new_images"] == values["images"] > 0
    code, out, err = fracgen("merge", "set")
    assert (code, err) == (0, "") and f"{IMAGES[name][0]} of" in out
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")
    assert fracgen("merge", "set")[0] == 0


@pytest.mark.parametrize("name", BASELINES)
def test_every_option_reaches_the_recipe(fracgen, name, monkeypatch):
    """Each alone, with another value than the default."""
    values = {}
    monkeypatch.setattr("fracgen.cli.baselines.render_recipe", lambda name, options, _: values.update({name: options}))
    fields = [info for info in fields_of(RECIPES[name]) if info.option]
    assert {info.name for info in fields} == {field.name for field in dataclasses.fields(RECIPES[name])} - UNTYPED
    for info in fields:
        value = another_value(info)
        assert fracgen("baseline", name, info.option, value) == (0, "", "") and value != info.default
        assert values.pop(name) == {info.name: value}


def another_value(info: FieldInfo) -> object:
    """A value of a field that is allowed, and not its default."""
    if type(info.default) in (int, float):
        step = 1 if type(info.default) is int else 0.25
        return next(value for value in (info.default + step, info.default - step) if info.setting.allows(value))
    choices = [choice for choice in typing.get_args(info.type) if isinstance(choice, str)]
    return next(choice for choice in choices if choice != info.default) if choices else 0.3


def test_examples_are_the_defaults(fracgen):
    for name in COMMANDS:
        values = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
        kind = RECIPES[name]
        assert set(values) == {"recipe", *(field.name for field in dataclasses.fields(kind))} - UNTYPED, (
            "every key is shown"
        )
        assert load_recipe(EXAMPLES / f"{name}.yaml") == kind()
    code, _, _ = fracgen("baseline", "noise", "--recipe", EXAMPLES / "noise.yaml", "--classes", 2, "--out", "set")
    assert code == 0


def test_search_writes_published_files_and_goes_on(fracgen, tmp_path):
    code, out, err = fracgen("search", "--categories", 1, "--out", "found")
    assert (code, err) == (0, "") and "of 24 candidates" in out
    assert [path.name for path in (tmp_path / "found").iterdir()] == ["00000.csv"]
    first = load_categories(tmp_path / "found")[0]
    assert (len(first), first.maps[0, 0, 0], first.p[0]) == (5, 0.1724223243171234543, 0.1414134307013419356)
    values = json.loads(fracgen("search", "--categories", 2, "--out", "found", "--json")[1])
    assert (
        values["categories"] == 2 and values["candidates"] == 24 + sum(values["candidate_rejections"].values()) - 23 + 1
    )
    assert load_categories(tmp_path / "found")[0] == first
    code, out, _ = fracgen("baseline", "ofdb", "--categories", 2, *SMALL, "--out", "set")
    assert code == 0 and f"searched, of {values['candidates']} candidates" in out
    assert fracgen("baseline", "ofdb", *SMALL, "--categories-from", "found", "--out", "same")[0] == 0
    assert load_manifest(tmp_path / "set").recipe_hash == load_manifest(tmp_path / "same").recipe_hash


def test_search_writes_categories_of_space(fracgen, tmp_path):
    code, out, err = fracgen("search", "--formula", "exfractaldb", "--categories", 2, "--out", "found")
    assert (code, err) == (0, "") and "of 176 candidates" in out, "candidates 60 and 176, as the published program's"
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == ["000000.csv", "000001.csv"]
    for options in (["--categories-from", "found"], ["--categories", 2]):
        views = ["--weights", "identity", "--num-views", 2, "--size", 32]
        assert fracgen("baseline", "exfractaldb", *views, *options, "--out", f"set{len(options[0])}")[0] == 0
    hashes = {load_manifest(folder).recipe_hash for folder in tmp_path.glob("set*")}
    assert len(hashes) == 1
    assert fracgen("search", "--out", "found")[2].count("000000.csv") == 1, "files of another formula are left"


@pytest.mark.parametrize(
    ("formula", "option", "owner"),
    [("exfractaldb", "--min-fill", "fractaldb"), ("fractaldb", "--min-variance", "exfractaldb")],
)
def test_conditions_of_another_search_are_refused(fracgen, formula, option, owner):
    code, _, err = fracgen("search", "--formula", formula, option, 0.1, "--out", "found")
    assert (code, err.count("\n")) == (2, 1) and f"{option}: a condition of {owner}'s search" in err


def test_a_cache_that_cannot_be_written_is_told(fracgen, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("FRACGEN_CACHE", str(tmp_path / "file" / "below"))
    code, _, err = fracgen("search", "--categories", 1)
    assert code == 0 and "cannot be written" in err and err.count("\n") == 1


BAD = [
    (["fractaldb", "--categories", 0], "categories 0: must be 1 to"),
    (["fractaldb", "--instances", 0], "instances 0: must be 1 to"),
    (["fractaldb", "--weights", 0], "weights 0.0"),
    (["fractaldb", "--weights", "nan"], "weights nan"),
    (["fractaldb", "--size", 4], "size 4"),
    (["fractaldb", "--seed", -1], "seed -1"),
    (["fractaldb", "--categories-from", "absent"], "absent: no such folder"),
    (["fractaldb", "--categories-from", "empty"], "empty: holds no category files"),
    (["fractaldb", "--categories-from", "gaps"], "00001.csv is missing and 1 more"),
    (["fractaldb", "--categories-from", "twice"], "category 0 is there twice"),
    (["fractaldb", "--categories-from", "malformed"], "00000.csv: line 1 has 3 columns"),
    (["fractaldb", "--categories-from", "named"], "weights.csv: a category file is named by its number"),
    (["fractaldb", "--categories-from", "csvs", "--categories", 4], "holds 3 categories, 4 are asked for"),
    (["fractaldb", "--categories-from", "csvs", "--only", "4/3"], "part 4/3: there are parts 1/3 to 3/3"),
    (["fractaldb", "--categories-from", "csvs", "--only", "one"], "part 'one': give i/N"),
    (["fractaldb", "--categories-from", "csvs", "--only", "1/1000"], "there are only 64 shards"),
    (["fractaldb", "--categories-from", "csvs", "--scheduler", "tcp://127.0.0.1:9"], "no Dask scheduler can be"),
    (["fractaldb", "--categories-from", "csvs", "--scheduler", "x", "--workers", 2], "--workers is for threads"),
    (["fractaldb", "--recipe", EXAMPLES / "noise.yaml"], "is a recipe of noise, not of fractaldb"),
    (["fractaldb", "--png-bits", 1, "--color", "color", "--categories-from", "csvs"], "--png-bits 1"),
    (["ofdb", "--weights", "other"], "--weights"),
    (["ofdb", "--categories-from", "csvs", "--shards", 4], "--shards 4: give 1 to 3"),
    (["visualatom", "--max-orbits", 0], "max-orbits 0"),
    (["visualatom", "--instances", 0], "instances 0"),
    (["rcdb", "--stream", "published", "--processes", 3], "multiple of processes, 3"),
    (["visualatom", "--png-bits", 1], "--png-bits 1"),
    (["noise", "--kind", "pink"], "--kind"),
    (["noise", "--std", 0], "std 0.0"),
    (["noise", "--kind", "pixel-uniform", "--png-bits", 1], "--png-bits 1"),
    (["nonsense"], "nonsense"),
]


@pytest.mark.parametrize(
    ("words", "message"), BAD, ids=lambda value: " ".join(map(str, value))[:60] if isinstance(value, list) else ""
)
def test_bad_input_is_one_line_exit_2_and_nothing_written(fracgen, tmp_path, monkeypatch, words, message):
    monkeypatch.setattr("fracgen.cluster.CONNECT_SECONDS", 1)
    good = (tmp_path / "csvs" / "00000.csv").read_bytes()
    files = {"gaps": ["00000", "00003"], "twice": ["a/00000", "b/0"], "named": ["00000", "weights"], "empty": []}
    for folder, names in {**files, "malformed": ["00000"]}.items():
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).parent.mkdir(exist_ok=True)
            (tmp_path / folder / f"{name}.csv").write_bytes(b"1,2,3\n" if folder == "malformed" else good)
    before = contents(tmp_path)
    code, out, err = fracgen("baseline", *words)
    assert (code, out) == (2, "")
    assert err.startswith("fracgen: ") and err.count("\n") == 1 and message in err
    assert contents(tmp_path) == before


def test_other_commands_with_bad_input(fracgen, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    before = contents(tmp_path)
    for words, message in [
        (["search", "--categories", 0], "categories 0"),
        (["search", "--seed", -1], "seed -1"),
        (["search", "--seed", 2**32], "seed 4294967296"),
        (["search", "--min-fill", 2], "--min-fill 2.0: must be 0 to 1"),
        (["merge", "absent"], "absent: no such folder"),
        (["merge", "full"], "full: holds no unfinished shards"),
        (["merge", "file"], "file: not a folder"),
        (["inspect", "file"], "file: not a folder"),
    ]:
        code, out, err = fracgen(*words)
        assert (code, out) == (2, ""), words
        assert err.startswith("fracgen: ") and err.count("\n") == 1 and message in err
    assert contents(tmp_path) == before
    for out in ("full", "file"):
        assert fracgen("search", "--categories", 1, "--out", out)[0] == 2
    assert (tmp_path / "full" / "thesis.tex").read_text() == "years of work"


def test_instances_that_nothing_tells_apart_are_told(fracgen):
    code, out, err = fracgen("baseline", "fractaldb", *COMMANDS["fractaldb"], "--draw", "point", "--out", "set")
    assert code == 0 and "identical" in err and err.count("\n") == 1 and "600 of 3" in out


def test_an_interrupted_search_keeps_what_it_found(fracgen, monkeypatch):
    from fracgen.cli import progress

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(progress.SearchProgress, "advance", interrupted)
    code, out, err = fracgen("search", "--categories", 2)
    assert (code, out) == (130, "") and "what was found is kept" in err


def test_help_lists_the_baselines():
    import sys

    shown = subprocess.run([sys.executable, "-m", "fracgen", "baseline"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("Usage: fracgen baseline") and shown.stderr == ""
    assert all(f"\n  {name} " in shown.stdout for name in COMMANDS)


def test_the_data_card_names_the_members(fracgen, tmp_path):
    for words, named in (([], True), (["--no-metadata"], False)):
        out = f"set-{named}"
        assert fracgen("baseline", "noise", *COMMANDS["noise"], *words, "--out", out)[0] == 0
        card = (tmp_path / out / "README.md").read_text()
        assert "<key>.cls" in card and "<key>.png" in card and ("<key>.json" in card) == named


PHOTO = ["--size", 48, "--classes", 6]


def astronaut(folder: Path, name: str = "cat.png") -> Path:
    from skimage.data import astronaut

    Image.fromarray(astronaut()[:200, :180]).save(folder / name)
    return folder / name


@pytest.mark.parametrize("warp", ["affine", "perspective", "polynomial", "elastic", "crops"])
def test_photo_render_verify_inspect_preview(fracgen, tmp_path, warp):
    words = ["photo", astronaut(tmp_path), *PHOTO, "--warp", warp]
    code, out, err = fracgen(*words)
    assert (code, err) == (0, "") and "6 of 6 classes" in out
    (folder,) = tmp_path.glob(f"photo-canny-{warp}-6-*")
    assert "nothing to do" in fracgen(*words)[1]
    (tmp_path / "cat.png").unlink()
    moved = folder.rename(tmp_path / "moved")
    code, out, err = fracgen("verify", moved, "--render")
    assert (code, err) == (0, "") and "all good" in out
    assert "opencv" in fracgen("inspect", moved)[1]
    assert fracgen("preview", moved, "-o", "sheet.png")[0] == 0
    assert np.asarray(Image.open("sheet.png").convert("L")).std() > 10
    for command in ("photo", "render"):
        assert fracgen(command, "--recipe", "moved", "--out", command)[0] == 0
        assert contents(tmp_path / command) == contents(moved)
    assert "cat" not in (moved / "dataset.json").read_text()


def test_photo_parts_several_photographs_and_overrides(fracgen, tmp_path):
    first, second = astronaut(tmp_path), tmp_path / "small.jpg"
    Image.open(first).crop((40, 0, 140, 60)).save(second)
    words = ["photo", first, second, *PHOTO, "--warp", "perspective", "--shards", 4]
    code, out, err = fracgen(*words, "--out", "whole")
    assert (code, err) == (0, "") and "12 of 12 classes" in out
    for part in ("1/2", "2/2"):
        assert fracgen(*words, "--out", "set", "--only", part)[0] == 0
    assert fracgen("merge", "set")[0] == 0
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")
    recipe = load_manifest(tmp_path / "set").recipe
    assert len(recipe["high"]) == len(recipe["low"]) == len(recipe["blur"]) == 2
    assert fracgen("photo", second, "--recipe", "set", "--out", "other", "--low", 2)[0] == 0
    other = load_manifest(tmp_path / "other").recipe
    assert other["low"] == [2.0] and other["high"] == recipe["high"][1:], "what the other photograph gave is not kept"
    code, _, err = fracgen("photo", first, *PHOTO, "--size", 300, "--max-side", 100, "--out", "tiny")
    assert code == 0 and "reduced to 90 x 100" in err and "is enlarged" in err and err.count("\n") == 2


def test_what_was_derived_is_derived_again_and_what_was_given_stays(fracgen, tmp_path):
    first, second = astronaut(tmp_path), tmp_path / "turned.png"
    Image.open(first).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(second)

    def recipe(out, *words):
        code, _, err = fracgen("photo", *words, "--out", out)
        assert code == 0, err
        recipe_values = load_manifest(tmp_path / out).recipe
        return [recipe_values[key] for key in ("blur", "low", "high", "derived")]

    blur, _, _, derived = recipe("a", first, *PHOTO)
    assert derived == ["blur", "low", "high"]
    assert recipe("copy", "--recipe", "a", "--look", "canny") == recipe("again", first, *PHOTO)
    assert recipe("large", "--recipe", "a", "--size", 640) == recipe("fresh", first, *PHOTO, "--size", 640)
    assert recipe("b", "--recipe", "a", "--high", 20) == [blur, [8.0], [20.0], ["blur", "low"]]
    assert recipe("c", "--recipe", "b", "--size", 640)[1:] == [[8.0], [20.0], ["blur", "low"]]
    expected = [[20.0], [40.0], ["blur"]]
    assert recipe("d", first, second, *PHOTO, "--low", 20, "--high", 40)[1:] == [[20.0] * 2, [40.0] * 2, ["blur"]]
    assert recipe("e", second, "--recipe", "d")[1:] == expected
    save_recipe(load_recipe(tmp_path / "e"), tmp_path / "e.yaml")
    assert recipe("f", first, "--recipe", "e.yaml")[1:] == expected


def test_every_option_of_photo_reaches_the_recipe(fracgen, tmp_path):
    options = {
        "look": "canny", "warp": "elastic", "strength": 0.25, "classes": 3, "size": 40, "seed": 7, "cells": 3,
        "min_fill": 0.5, "max_tries": 50, "min_scale": 0.1, "max_scale": 0.5, "max_ratio": 1.5, "rotation": 10.0,
        "shear": 5.0, "flip": 0.25, "brightness": 0.1, "contrast": 0.2, "saturation": 0.3, "hue": 0.05,
    }  # fmt: skip
    lists = {"blur": 1.5, "low": 20.0, "high": 60.0}
    kind = RECIPES["photo"]
    assert {*options, *lists, "photographs", "derived"} == {field.name for field in dataclasses.fields(kind)}
    words = [word for key, value in {**options, **lists}.items() for word in (f"--{key.replace('_', '-')}", value)]
    assert fracgen("photo", astronaut(tmp_path), *words, "--out", "set")[0] == 0
    recipe = load_manifest(tmp_path / "set").recipe
    assert {key: recipe[key] for key in options} == options
    assert {key: recipe[key] for key in lists} == {key: [value] for key, value in lists.items()}


def test_the_example_of_photo_is_the_defaults(fracgen, tmp_path):
    path, kind = EXAMPLES / "photo.yaml", RECIPES["photo"]
    values = yaml.safe_load(path.read_text())
    assert set(values) == {"recipe", *(field.name for field in dataclasses.fields(kind))} - {"photographs", "derived"}
    assert load_recipe(path) == kind()
    assert fracgen("photo", astronaut(tmp_path), "--recipe", path, *PHOTO, "--out", "set")[0] == 0


def test_photo_with_bad_input(fracgen, tmp_path):
    from test_photographs import bad_files

    good = astronaut(tmp_path)
    Image.new("RGB", (60, 60), (9, 9, 9)).save("flat.png")
    cases = [([path], message) for path, message in bad_files(tmp_path)]
    cases += [
        ([], "the recipe has no photograph"),
        (["flat.png"], "no edges found with blur 1 and thresholds low 0 and high 0; it is flat"),
        ([good, "flat.png"], "photograph 1: no edges found"),
        ([good, "--low", 9000, "--high", 9999], "thresholds low 9000 and high 9999"),
        ([good, "--strength", 1e5], "none of 100 warps could be kept"),
        ([good, "--warp", "elastic", "--strength", 50], "fold"),
        ([good, "--min-fill", 1], "fill"),
        ([good, "--strength", "nan"], "strength nan"),
        ([good, "--look", "sepia"], "--look"),
        ([good, "--png-bits", 1], "--png-bits 1"),
        ([good, "--recipe", EXAMPLES / "noise.yaml"], "is a recipe of noise, not of photo"),
        (["--max-side", 100], "--max-side is for photographs"),
        (["--recipe", EXAMPLES / "photo.yaml"], "give one, as in `fracgen photo IMAGE`"),
    ]
    before = contents(tmp_path)
    for words, message in cases:
        code, out, err = fracgen("photo", *words, *PHOTO)
        assert (code, out) == (2, ""), (words, err)
        assert err.startswith("fracgen: ") and err.count("\n") == 1 and message in err, (words, err)
    assert contents(tmp_path) == before


def test_photo_without_opencv(fracgen, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "cv2", None)
    code, out, err = fracgen("photo", astronaut(tmp_path), *PHOTO)
    assert (code, out) == (2, "") and "pip install 'fracgen[photo]'" in err and err.count("\n") == 1
