"""Contact sheets: what they show, in which colours; those of folders that fracgen 0.2 began stay as they were."""

import io
import itertools

import numpy as np
import pytest
from conftest import PROVENANCE, small_recipe
from PIL import Image

from fracgen import preview
from fracgen.preview import contact_sheet, recipe_sheet
from fracgen.recipe import Difference
from fracgen.registry import RECIPES
from fracgen.render_shards import write_shards

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


@pytest.mark.parametrize("kind", RECIPES.values(), ids=list(RECIPES))
def test_every_recipe_has_a_heading(kind):
    assert kind.HEADING[-1] == "seed" and set(kind.HEADING) <= set(kind.__dataclass_fields__)


def test_a_folder_of_0_2_keeps_its_sheet(tmp_path, monkeypatch):
    """The manifest names the hash of `preview.png`, so that one made again must be what it was: red on black, blue."""
    assert preview.STYLE_0_2.pixels(DIFFERENCE).tolist() == [[[63] * 3, [0, 0, 255], [255, 0, 0], [0] * 3]]
    assert preview.STYLE_0_2.caption(DIFFERENCE) == "red: class 7, blue: base"
    recipe = small_recipe(classes=5)
    sheets = {}
    for version in ("0.2.0", "0.3.0"):
        monkeypatch.setattr("fracgen.render_shards.versions", lambda name="", version=version: {"fracgen": version})
        write_shards(recipe, tmp_path / version, provenance=PROVENANCE)
        sheets[version] = (tmp_path / version / "preview.png").read_bytes()
    assert sheets["0.2.0"] == contact_sheet(recipe.preview(), style=preview.STYLE_0_2)
    assert sheets["0.3.0"] == recipe_sheet(recipe) != sheets["0.2.0"]
