"""Contact sheets: what they show, in which colours; those of folders that fracgen 0.2 began stay as they were."""

import io
import itertools
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import PROVENANCE, SMALL, contents, small_recipe
from PIL import Image

from fracgen import pack as packing
from fracgen import preview
from fracgen.cli.app import run
from fracgen.explore.shell_command import base_csv
from fracgen.onepfrac import OnePFrac
from fracgen.preview import contact_sheet, recipe_sheet
from fracgen.recipe import Difference
from fracgen.registry import RECIPES
from fracgen.render_shards import merge, plan, write_shards
from fracgen.shards.errors import UsageError
from fracgen.shards.labels.imagefolder import list_images
from fracgen.shards.layout import Part
from fracgen.shards.reader import open_shards
from fracgen.sweep import sweep_cells

BASE = np.array([[127, 127, 0, 0]], np.uint8)
CLASS = np.array([[127, 0, 127, 0]], np.uint8)
DIFFERENCE = Difference(image=CLASS, base=BASE, names=("class 7", "base"))


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_a_difference_shows_what_is_lit_where():
    assert preview.STYLE.pixels(DIFFERENCE).tolist() == [[[150] * 3, [70, 190, 255], [255, 150, 30], [38] * 3]]
    assert preview.STYLE.caption(DIFFERENCE) == "class 7 against base"
    colored = Difference(image=np.stack([CLASS, CLASS * 0, CLASS // 2], -1), base=BASE, names=("class 7", "base"))
    assert np.array_equal(preview.STYLE.pixels(colored), preview.STYLE.pixels(DIFFERENCE))


@pytest.mark.parametrize("matrix", ["normal", "deuteranopia", "protanopia"])
def test_the_colors_can_be_told_apart(matrix):
    """Simulated as in Vienot et al. (1999), on linear light; distances of sRGB values."""
    rows = {
        "normal": np.eye(3),
        "protanopia": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
        "deuteranopia": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    }
    colors = preview.STYLE.pixels(DIFFERENCE)[0] / 255.0
    seen = np.clip(colors**2.2 @ np.asarray(rows[matrix]).T, 0, 1) ** (1 / 2.2)
    assert all(np.linalg.norm(one - other) > 0.35 for one, other in itertools.combinations(seen, 2))


def test_a_sheet_has_a_heading(recipe):
    assert recipe.heading == "1p-frac, sigma 3.5, delta 0.1, perturbation additive, seed 3"
    sheet, bare = pixels(recipe_sheet(recipe)), pixels(contact_sheet(recipe.preview()))
    assert sheet.shape[1] == bare.shape[1] and sheet.shape[0] - bare.shape[0] == 20
    assert np.array_equal(sheet[26:], bare[6:]) and (sheet[:20] < 100).any()
    legend = {tuple(color) for color in sheet[:20].reshape(-1, 3).tolist()}
    assert {(255, 150, 30), (70, 190, 255), (150, 150, 150)} <= legend


def test_no_heading_is_cut():
    column = [("class 7", DIFFERENCE)]
    narrow, wide = (pixels(contact_sheet([column] * count, heading="a set of one class")) for count in (1, 6))
    assert narrow.shape[1] < wide.shape[1] == 6 * 198 + 6
    assert np.array_equal(narrow[:20], wide[:20, : narrow.shape[1]]) and (wide[:20, narrow.shape[1] :] == 245).all()


@pytest.mark.parametrize("kind", RECIPES.values(), ids=list(RECIPES))
def test_every_recipe_has_a_heading(kind):
    assert kind.HEADING[-1] == "seed" and set(kind.HEADING) <= set(kind.__dataclass_fields__)


def test_the_readmes_picture():
    """Of small images, as examples/sheets.py draws it of those of the published size."""
    perturbations = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "sheets.py"))["perturbations"]
    base, *classes = perturbations({**SMALL, "classes": 6, "min_fill": 0.02})
    assert len(base) == 1 and len(classes) == 5
    for image, *differences in classes:
        assert [caption for caption, _ in differences] == [
            "additive, Delta 0.1", "multiplicative, Delta 0.1", "additive, Delta 0.01"
        ]  # fmt: skip
        assert np.array_equal(differences[0][1].image, image[1])
        share = [np.mean(each.image != each.base) for _, each in differences]
        assert share[2] < min(share[:2]), "a small Delta changes less"


def test_the_sheet_of_0_2():
    assert preview.STYLE_0_2.pixels(DIFFERENCE).tolist() == [[[63] * 3, [0, 0, 255], [255, 0, 0], [0] * 3]]
    assert preview.STYLE_0_2.caption(DIFFERENCE) == "red: class 7, blue: base"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a small folder as if by a version of fracgen."""

    def call(name: str, version: str, **options):
        monkeypatch.setattr("fracgen.render_shards.versions", lambda name="": {"fracgen": version, "numpy": "1"})
        recipe = small_recipe(classes=12)
        write_shards(recipe, tmp_path / name, layout=plan(recipe, num_shards=4), provenance=PROVENANCE, **options)
        return tmp_path / name

    return call


def test_a_folder_of_0_2_ends_as_0_2_ends_it(write):
    """The manifest has the hash of `preview.png` and the version, so that both must be what they were."""
    recipe = small_recipe(classes=12)
    old, new = write("old", "0.2.0"), write("new", "0.3.0")
    assert (old / "preview.png").read_bytes() == contact_sheet(recipe.preview(), style=preview.STYLE_0_2)
    assert (new / "preview.png").read_bytes() == recipe_sheet(recipe) != (old / "preview.png").read_bytes()

    def interrupt(record):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write("begun", "0.2.0", on_shard=interrupt)
    assert (old.parent / "begun" / ".partial" / "plan.json").exists()
    assert contents(write("begun", "0.3.0")) == contents(old)
    before = contents(old)
    for name in ("1p-frac-train-000002.tar", "preview.png"):
        (old / name).unlink()
        assert contents(write("old", "0.3.0")) == before
    with pytest.raises(UsageError, match=r"fracgen 0\.2\.0, now 0\.5\.0"):
        (old / "preview.png").unlink()
        write("old", "0.5.0")


def test_parts_of_0_2_are_merged_to_its_bytes(write):
    whole = contents(write("whole", "0.2.0"))
    write("parts", "0.2.0", part=Part(1, 2))
    folder = write("parts", "0.3.0", part=Part(2, 2))
    merge(folder)
    assert contents(folder) == whole


# ---- sweeps ----------------------------------------------------------------------------------------------------------


def test_a_packed_folder_of_more_classes_than_are_looked_at(tmp_path, monkeypatch):
    for label in range(40):
        (tmp_path / "images" / f"{label:02d}").mkdir(parents=True)
        Image.new("L", (8, 8), 5 * label).save(tmp_path / "images" / f"{label:02d}" / "a.png")
    images = list_images(tmp_path / "images")
    packing.pack(images, tmp_path / "set", packing.plan(images))
    shards = open_shards(tmp_path / "set")
    monkeypatch.setattr(preview, "_PACKED_READ", 3)
    shown = [caption for column in preview.packed_columns(shards) for caption, _ in column]
    assert shown == [f"{label} {label:02d}" for label in shards.labels[:3].tolist()]
    assert preview.packed_sheet(shards).startswith(b"\x89PNG")


def test_a_sweep_of_a_folder_takes_its_base(folder, tmp_path, monkeypatch, capsys):
    """Of `resolve`'s provenance the number of the base fractal is known, so that sigma can be swept."""
    monkeypatch.chdir(tmp_path)
    recipe, provenance = OnePFrac(**SMALL).resolve()
    write_shards(recipe, tmp_path / "set", provenance=provenance)
    assert run(["preview", "set", "--sweep=sigma=3.5,4", "--sweep=delta=0,0.1,0.2", "--tile=48"]) == 0
    sheet = np.asarray(Image.open(tmp_path / "set-sweep.png"))
    for (row, sigma), (column, delta) in itertools.product(enumerate((3.5, 4.0)), enumerate((0.0, 0.1, 0.2))):
        base = replace(recipe, sigma=sigma, ifs=None).candidate(provenance["base"])
        (sample,) = replace(recipe, delta=delta, ifs=base).render([0])
        top, left = 26 + row * 70, 6 + column * 54
        assert np.array_equal(sheet[top : top + 48, left : left + 48, 0], sample.image)
    monkeypatch.chdir(tmp_path)
    assert run(["preview", str(folder), "--sweep=delta=0,0.1", "-o", "delta.png"]) == 0, "its base is known as floats"
    assert (tmp_path / "delta.png").exists()
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "SOURCE: give a folder of shards, or --sweep"),
        (["--sweep=delta"], "is FIELD=VALUES"),
        (["--sweep=delta="], "is FIELD=VALUES"),
        (["--sweep=delta=x"], "delta 'x'"),
        (["--sweep=delta=[[[", "--index=1"], "--sweep"),
        (["--sweep=delta=0.1", "--sweep=delta=0.2"], "given twice"),
        (["--sweep=delta=0.1", "--sweep=sigma=4", "--sweep=seed=1"], "a sweep of 3 fields"),
        (["--sweep=delt=0.1"], "did you mean 'delta'"),
        (["--sweep=delta=0.1", "--index=1000"], "index 1000"),
        (["base.csv", "--sweep=sigma=3,4", "--index=0"], "cannot be swept of a base fractal that was given"),
        (["missing.yaml", "--sweep=delta=0.1"], "missing.yaml"),
    ],
)
def test_sweeps_that_cannot_be_drawn(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.csv").write_text(base_csv(OnePFrac().candidate(7)))
    assert run(["preview", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and len(captured.err.splitlines()) == 1
    assert not list(tmp_path.glob("*.png"))


def test_a_sweep_says_what_is_rejected():
    recipe = OnePFrac(**{**SMALL, "min_fill": 0.11, "max_tries": 1}).resolve()[0]
    cells = list(sweep_cells(recipe, {"delta": [0.0, 0.1, 5.0]}))
    assert [bool(cell.error) for cell in cells] == [False, False, True]
    assert cells[2].caption == "delta 5 (rejected)" and "none of 1 perturbations" in cells[2].error
