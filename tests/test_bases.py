"""1p-frac of several base fractals: which they are, which images belong to which, and how they travel."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import SMALL, contents, small_recipe
from hypothesis import given
from hypothesis import strategies as st

from fracgen.base_fractals import Bases, load_bases
from fracgen.cli.app import run
from fracgen.explore.explorer import Explorer
from fracgen.explore.inputs import read_source
from fracgen.explore.shell_command import base_csv
from fracgen.ifs import IFS, sample_maps
from fracgen.onepfrac import OnePFrac
from fracgen.plain import draw_plain
from fracgen.recipe import Difference
from fracgen.registry import load_recipe, recipe_hash, save_recipe, to_dict
from fracgen.render_shards import merge, plan, write_shards
from fracgen.rng import generator
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.layout import Part
from fracgen.shards.reader import open_shards
from fracgen.sweep import base_number, sweep_cells

FEW = {**SMALL, "classes": 5, "min_fill": 0.05}
MIXED = Bases(tuple(IFS.from_maps(sample_maps(3.4, maps, generator(0, maps, "ifs"))) for maps in (2, 3, 2)))
"""Of two maps and of three."""


@pytest.fixture(scope="module")
def three() -> OnePFrac:
    return OnePFrac(**FEW, bases=3).resolve()[0]


def test_one_base_is_what_it_was():
    """No `bases` in the recipe's plain values, so that hash, manifest and card stay as they were."""
    recipe = small_recipe()
    assert "bases" not in to_dict(recipe) and to_dict(recipe)["ifs"] == recipe.base.to_plain()
    assert recipe_hash(recipe) == "8813666699d92dd83df6973991eae422d29455bd59be65c2a4e8e9c632034fb7"
    assert "base" not in next(recipe.render([0])).metadata and "base_acceptance" in OnePFrac(**SMALL).resolve()[1]


def test_fewer_bases_are_the_first_of_more(three):
    one, provenance = OnePFrac(**FEW).resolve()
    assert three.ifs[:1] == one.ifs.systems and len(set(three.ifs.systems)) == 3
    assert replace(three, ifs=None, bases=2).resolve()[0].ifs.systems == three.ifs[:2]
    for sample, alone in zip(three.render(range(5)), one.render(range(5)), strict=True):
        assert np.array_equal(sample.image, alone.image) and sample.metadata == {**alone.metadata, "base": 0}
    _, found = OnePFrac(**FEW, bases=3).resolve()
    assert found["bases"][0] == provenance["base"] and found["base_acceptances"][0] == provenance["base_acceptance"]
    assert all(three.candidate(number) == ifs for number, ifs in zip(found["bases"], three.ifs.systems, strict=True))


def test_each_base_is_searched_where_the_search_before_it_ended():
    recipe, tries = OnePFrac(**{**FEW, "base_candidates": 4, "min_fill": 0.1}), 0
    _, found = replace(recipe, bases=3).resolve()
    for number, acceptance in zip(found["bases"], found["base_acceptances"], strict=True):
        tried = _shifted(recipe, tries).resolve()[1]
        assert (tried["base"] + tries, tried["base_acceptance"]) == (number, acceptance)
        tries += tried["base_tries"]
    assert tries == found["base_tries"]


def _shifted(recipe, first):
    """The recipe with its candidates, and what they are vetted by, counted from another number."""

    class Shifted(OnePFrac):
        def candidate(self, number):
            return super().candidate(first + number)

        def vetting(self, ifs, renderer, number=0):
            vetting = super().vetting(ifs, renderer, first + number)
            vetting.number = number
            return vetting

    return Shifted(**{**FEW, "base_candidates": recipe.base_candidates, "min_fill": recipe.min_fill})


@given(st.lists(st.integers(0, 14), max_size=20), st.sampled_from(["gray", "map"]))
def test_images_of_several_bases_depend_on_their_index_only(indices, color):
    """In any order two orbits of one base or of two, with two maps or three, are traced beside each other."""
    recipe = replace(OnePFrac(**{**FEW, "min_fill": 0.0}), ifs=MIXED, color=color)
    for index, sample in zip(indices, recipe.render(indices), strict=True):
        maps = np.array(sample.metadata["maps"]).reshape(-1, 2, 3)
        base = MIXED[index // 5]
        assert (sample.index, sample.label, sample.metadata["base"]) == (index, index, index // 5)
        assert np.abs(maps - base.maps).max() <= recipe.delta / 2 and len(maps) == len(base)
        key = int(sample.metadata["mask_key"], 16)
        assert np.array_equal(sample.image, draw_plain(maps, base.p, recipe.style, key))


def test_a_folder_ends_the_same_in_parts_and_is_read_back(three, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    layout = plan(three, num_shards=4)
    write_shards(three, whole, layout=layout)
    for part in (Part(2, 2), Part(1, 2)):
        write_shards(three, parts, layout=layout, part=part)
    merge(parts)
    assert contents(whole) == contents(parts) and "bases.csv" in contents(whole)
    assert run(["verify", str(whole), "--render"]) == 0
    assert load_recipe(whole) == three and load_bases([whole]) == three.ifs
    assert {s.index: s.metadata["base"] for s in open_shards(whole)} == {index: index // 5 for index in range(15)}
    save_recipe(three, tmp_path / "three.yaml")
    assert load_recipe(tmp_path / "three.yaml") == three
    card = (whole / "README.md").read_text()
    assert "3 bases x 5 perturbations" in card and "`bases.csv` holds the base fractals" in card
    other = load_recipe(whole, {"bases": 4})
    assert other.ifs is None and other.resolve()[0].ifs[:3] == three.ifs.systems
    assert load_recipe(whole, {"delta": 0.01}).ifs == three.ifs


def test_bases_of_ones_own(tmp_path, capsys):
    paths = [tmp_path / f"{number}.csv" for number in range(3)]
    for path, ifs in zip(paths, MIXED.systems, strict=True):
        path.write_text(base_csv(ifs))
    small = ["--classes=3", "--size=32", "--points=1000", "--min-fill=0.005"]
    words = ["render", *small, *(f"--ifs={path}" for path in paths), "--json", f"--out={tmp_path / 'set'}"]
    assert run(words) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["classes"] == 9 and len(result["provenance"]["base_acceptances"]) == 3
    assert load_recipe(tmp_path / "set").ifs == MIXED == load_bases(paths)
    assert load_bases([tmp_path / "set"], 2).systems == MIXED[:2]
    (tmp_path / "folder").mkdir()
    for number, path in enumerate(paths):
        (tmp_path / "folder" / f"{number:05d}.csv").write_bytes(path.read_bytes())
    assert load_bases([tmp_path / "folder", paths[0]]).systems == (*MIXED.systems, MIXED[0])
    plain = [ifs.to_plain() for ifs in MIXED.systems]
    (tmp_path / "three.yaml").write_text(json.dumps({"recipe": "1p-frac", "ifs": plain}))
    assert load_recipe(tmp_path / "three.yaml").ifs == MIXED
    warnings = OnePFrac(ifs=[MIXED[0], MIXED[1], MIXED[0]]).warnings({})
    assert any("bases 0 and 2 are the same" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--bases=0"], "--bases 0: must be 1 to"),
        (["--bases=1001"], "bases 1001: must be 1 to 1000 with 1000 classes of each"),
        (["--bases=2", "--ifs=one.csv"], "--bases 2: --ifs gives 1"),
        (["--ifs=one.csv", "--ifs=none.csv"], "none.csv"),
        (["--ifs=one.csv", "--ifs=point.csv", "--size=32"], "base 1: the base fractal given cannot be used"),
        (
            ["--bases=2", "--min-fill=0.99", "--max-base-tries=3", "--size=32"],
            "base 0 of 2: no base fractal in 3 tries",
        ),
    ],
)
def test_refusals(words, fault, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.csv").write_text(base_csv(MIXED[0]))
    (tmp_path / "point.csv").write_text("0.1,0,0,0.1,0,0,1\n")
    assert run(["render", "--points=1000", "--min-fill=0.005", *words]) in (1, 2)
    line = capsys.readouterr().err.strip()
    assert fault in line and "\n" not in line


def test_in_python():
    with pytest.raises(UsageError, match="bases 2: 3 are given as ifs"):
        OnePFrac(ifs=MIXED, bases=2)
    assert OnePFrac(ifs=MIXED[0]).base == MIXED[0] and OnePFrac(ifs=list(MIXED.systems)).bases == 3
    with pytest.raises(DataError, match="base 1: "):
        OnePFrac(**{**FEW, "ifs": [MIXED[0], IFS(MIXED[0].maps * 1e-3, MIXED[0].p)]}).resolve()


def test_sheet_and_sweep(three):
    columns = list(three.preview())
    assert [column[0][0] for column in columns] == ["base 0", "base 1", "base 2"]
    assert np.array_equal(columns[1][2][1], next(three.render([6])).image)
    assert isinstance(columns[1][3][1], Difference)
    provenance = replace(three, ifs=None).resolve()[1]
    number = base_number(three, 7, provenance)
    assert number == provenance["bases"][1]
    cells = list(sweep_cells(three, {"sigma": [3.5, 3.6]}, index=7, base=number))
    assert np.array_equal(cells[0].image, next(three.render([7])).image)
    assert cells[1].recipe.base_of(7) == replace(three, ifs=None, sigma=3.6).candidate(number)


def test_the_explorer_draws_them(three, tmp_path):
    write_shards(three, tmp_path / "set", layout=plan(three, num_shards=1))
    explorer = Explorer(read_source(tmp_path / "set", []), tmp_path)
    try:
        shown = json.loads(explorer.session().body)["recipe"]
        answer = json.loads(explorer.resolve(json.dumps({"recipe": shown}).encode()).body)
        assert (
            answer["hash"] == recipe_hash(three) and answer["command"] == f"fracgen render --recipe {tmp_path / 'set'}"
        )
        assert answer["axes"] == [{"name": "base", "size": 3}, {"name": "perturbation", "size": 5}]
        request = {"recipe": answer["recipe"], "indices": [-1, 7], "mask_index": 7}
        reply = explorer.images(json.dumps(request).encode()).body
        pixels = np.frombuffer(reply, np.uint8)[-2 * 48 * 48 :].reshape(2, 48, 48)
        assert np.array_equal(pixels[1], next(three.render([7])).image)
        assert np.array_equal(pixels[0], draw_plain(three.ifs[1].maps, three.ifs[1].p, three.style, three.mask_key(7)))
        other = {name: value for name, value in shown.items() if name != "ifs"} | {"seed": 4}
        answer = json.loads(explorer.resolve(json.dumps({"recipe": other}).encode()).body)
        assert answer["hash"] == recipe_hash(replace(three, ifs=None, seed=4).resolve()[0])
        assert "--recipe" not in answer["command"] and "--bases 3" in answer["command"], "the folder's are others"
        searched = {name: value for name, value in shown.items() if name not in ("ifs", "bases")} | {"bases": 2}
        answer = json.loads(explorer.resolve(json.dumps({"recipe": searched}).encode()).body)
        assert "--bases 2" in answer["command"] and answer["provenance"]["bases"][0] >= 0
        (tmp_path / "saved.yaml").write_text(answer["yaml"])
        assert recipe_hash(load_recipe(tmp_path / "saved.yaml").resolve()[0]) == answer["hash"], "no file beside it"
        with pytest.raises(UsageError, match="lower bases to 1"):
            explorer.resolve(json.dumps({"recipe": searched, "step": 1}).encode())
        gone = {**shown, "ifs": {"file": "bases.csv", "sha256": "0" * 64}}
        with pytest.raises(UsageError, match="reload the page"):
            explorer.resolve(json.dumps({"recipe": gone}).encode())
    finally:
        explorer.close()
