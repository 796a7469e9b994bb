"""What `fracgen explore` answers: pixels, hashes and commands as `fracgen render` has them; bases; folders; jobs.

The server's own walls are in test_explore_server.py, the page in test_explore_page.py.
"""

import hashlib
import json
import shlex
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL, small_recipe, small_values
from explore_client import explore
from PIL import Image as PillowImage

from fracgen import search
from fracgen.cli.app import run
from fracgen.explore import bases, category_search
from fracgen.explore.category_search import CategorySource
from fracgen.explore.inputs import read_source
from fracgen.explore.render_job import RenderJob
from fracgen.onepfrac import OnePFrac
from fracgen.registry import RECIPES, from_dict, recipe_hash, save_recipe, to_dict
from fracgen.render_shards import write_shards
from fracgen.renderer import borrow_renderer
from fracgen.search_settings import Search
from fracgen.shards.errors import DataError
from fracgen.shards.manifest import load_manifest
from fracgen.shards.reader import open_shards

FEW = {
    **{name: small_values(name) for name in RECIPES},
    "1p-frac": SMALL,
    "fractaldb": {"categories": 2, "instances": 2, "size": 40, "points": 2000, "weights": 0.3},
    "ofdb": {"categories": 3, "size": 40, "points": 2000, "weights": "published"},
    "visualatom": {"classes": 3, "instances": 2, "size": 64, "gradients": "library"},
    "rcdb": {"classes": 3, "instances": 2, "size": 64, "stream": "published", "processes": 3},
    "exfractaldb": {"categories": 2, "size": 40, "points": 2000, "weights": "first", "num_views": 2},
    "perturbed": {"formula": "exfractaldb", "base": 1, "classes": 5, "size": 40, "perturbation": "additive"},
    "noise": {"classes": 5, "size": 48, "kind": "pixel-gaussian", "std": 0.3},
    "photo": {"classes": 5, "size": 48, "warp": "elastic", "strength": 0.25},
}

FLAT = ("rcdb", "visualatom")
"""What can be perturbed without a search."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FRACGEN_CACHE", str(tmp_path_factory.getbasetemp() / "explore-cache"))


@pytest.fixture
def page(tmp_path):
    with explore(read_source(None, []), tmp_path / "sets") as page:
        yield page


def resolved(page, values):
    """The reply to a recipe, once its categories are found."""
    for _ in range(300):
        reply = page.post("resolve", recipe=values)
        if reply.get("search") is None:
            return reply
        time.sleep(0.1)
    raise AssertionError("the search does not end")


def digest(image) -> str:
    return hashlib.sha256(np.ascontiguousarray(image)).hexdigest()


# ---- pixels, hashes, commands ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes"),
    [*((name, {}) for name in RECIPES), *(("perturbed", {"formula": each, "size": 256}) for each in FLAT)],
)
def test_pixels_hash_and_command_are_those_of_render(name, changes, page, tmp_path, monkeypatch):
    reply = resolved(page, {"recipe": name, **FEW[name], **changes})
    head, images = page.images(recipe=reply["recipe"], indices=[0, 2, 4, 1])
    assert [image["index"] for image in head["images"]] == [0, 2, 4, 1] or name == "ofdb"

    monkeypatch.chdir(tmp_path)
    if name == "photo":
        (tmp_path / "photograph.png").write_bytes(page.post("input", name="photograph.png"))
    assert run_command(reply["command"], "--out=rendered", "--shards=1") == 0
    folder = open_shards("rendered")
    assert folder.manifest.recipe_hash == reply["hash"]
    rendered = folder.by_index()
    for values, image in zip(head["images"], images, strict=True):
        if values["index"] < len(rendered):
            assert digest(image) == digest(rendered[values["index"]].image)
            assert values["metadata"] == json.loads(json.dumps(dict(rendered[values["index"]].metadata)))
            assert values["label"] == rendered[values["index"]].label
    assert (reply["num_samples"], reply["num_classes"]) == (len(folder), len(folder.class_names))
    assert np.prod([axis["size"] for axis in reply["axes"]]) == len(folder)


def run_command(command: str, *more: str) -> int:
    """A copied command: what stands before && by a shell, the command itself in this process."""
    *before, last = command.split(" && ")
    for part in before:
        subprocess.run(["sh", "-c", part], check=True)
    program, *words = shlex.split(last)
    assert program == "fracgen"
    return run([*words, *more])


def test_the_command_of_an_edited_base(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = resolved(page, SMALL)["recipe"]["ifs"]
    base["maps"][0][0][2] += 0.05
    edited = {**SMALL, "delta": 0.07, "ifs": {"maps": base["maps"]}}
    reply = resolved(page, edited)
    assert reply["base"]["number"] is None and reply["passes"]
    assert reply["recipe"]["ifs"]["maps"] == base["maps"]
    assert run_command(reply["command"], "--out=edited", "--shards=1") == 0
    assert load_manifest(tmp_path / "edited").recipe_hash == reply["hash"]
    again = resolved(page, reply["recipe_given"])
    assert again["hash"] == reply["hash"]
    (tmp_path / "recipe.yaml").write_text(reply["yaml"])
    assert run(["render", "--recipe=recipe.yaml", "--out=by-yaml", "--shards=1"]) == 0
    assert load_manifest(tmp_path / "by-yaml").recipe_hash == reply["hash"]


@pytest.mark.parametrize("kind", ["folder", "yaml"])
@pytest.mark.parametrize("name", ["fractaldb", "exfractaldb", "photo"])
def test_the_command_of_a_recipe_with_inputs(name, kind, tmp_path, monkeypatch, page):
    """Changed from the source's values, among them back to the default."""
    monkeypatch.chdir(tmp_path)
    recipe = from_dict({**resolved(page, {"recipe": name, **FEW[name]})["recipe"]} | inputs_of(page, name)).resolve()[0]
    source = tmp_path / ("set" if kind == "folder" else "set.yaml")
    if kind == "folder":
        write_shards(recipe, source)
    else:
        save_recipe(recipe, source)
    default = {"fractaldb": {"weights": 0.4}, "exfractaldb": {"num_views": 12}, "photo": {"strength": 0.5}}[name]
    with explore(read_source(source, []), tmp_path) as own:
        begun = own.session()["recipe"]
        assert resolved(own, begun)["hash"] == recipe_hash(recipe)
        reply = resolved(own, {**begun, **default, "seed": 5})
    assert run_command(reply["command"], "--out=again", "--shards=1") == 0
    assert load_manifest(tmp_path / "again").recipe_hash == reply["hash"] != recipe_hash(recipe)


def test_the_command_of_another_recipe_of_the_categories_of_a_folder(tmp_path, monkeypatch, page):
    monkeypatch.chdir(tmp_path)
    reply = resolved(page, {"recipe": "ofdb", **FEW["ofdb"]})
    write_shards(page.server.explorer._builder.build(reply["recipe"]), "set")
    values = {"recipe": "fractaldb", **FEW["fractaldb"]}
    with explore(read_source(Path("set"), []), tmp_path) as own:
        other = resolved(own, values)
    assert other["hash"] == resolved(page, values)["hash"]
    assert run_command(other["command"], "--out=again", "--shards=1") == 0
    assert load_manifest(tmp_path / "again").recipe_hash == other["hash"]


def test_a_folder_of_a_perturbed_fractal_of_space(tmp_path, monkeypatch, page):
    """Its categories are those up to its base: not enough for another base, nor for another recipe."""
    monkeypatch.chdir(tmp_path)
    reply = resolved(page, {"recipe": "perturbed", **FEW["perturbed"]})
    write_shards(page.server.explorer._builder.build(reply["recipe"]), "set")
    with explore(read_source(Path("set"), []), tmp_path) as own:
        changed = resolved(own, {**own.session()["recipe"], "base": 3})
        other = resolved(own, {"recipe": "exfractaldb", **FEW["exfractaldb"], "categories": 3})
    assert changed["passes"] and changed["provenance"]["candidates"] > 4
    for number, command in enumerate([changed["command"], "fracgen perturb --recipe set --base 3"]):
        assert run_command(command, f"--out=again{number}", "--shards=1") == 0
        assert load_manifest(tmp_path / f"again{number}").recipe_hash == changed["hash"] != reply["hash"]
    assert run_command(other["command"], "--out=other", "--shards=1") == 0
    assert load_manifest(tmp_path / "other").recipe_hash == other["hash"]


def inputs_of(page, name):
    builder = page.server.explorer._builder
    if name == "photo":
        return {"photographs": builder._photographs}
    return {"systems": builder.source(RECIPES[name]()).first(2)}


# ---- base fractals ---------------------------------------------------------------------------------------------------


def test_a_lock_and_steps(page):
    first = resolved(page, SMALL)
    locked = resolved(page, {**SMALL, "delta": 0.3, "ifs": first["recipe"]["ifs"]})
    assert locked["recipe"]["ifs"] == first["recipe"]["ifs"] and locked["recipe"]["delta"] == 0.3
    number = first["base"]["number"]
    after = page.post("resolve", recipe=SMALL, step=1, base=number)
    assert after["base"]["number"] > number and after["base"]["sigma"] == pytest.approx(3.5)
    back = page.post("resolve", recipe=after["recipe_given"], step=-1, base=after["base"]["number"])
    assert back["base"]["number"] == number
    assert back["recipe"]["ifs"] == first["recipe"]["ifs"], "to the last bit"
    same = page.post("resolve", recipe={**SMALL, "sigma": 3.8}, base=number)
    assert same["base"]["number"] == number and same["base"]["sigma"] == pytest.approx(3.8)
    assert same["recipe"]["ifs"] == OnePFrac(**{**SMALL, "sigma": 3.8}).candidate(number).to_plain()
    while "error" not in back:
        back = page.post("resolve", recipe=SMALL, step=-1, base=back["base"]["number"])
    assert back["error"].endswith("is the first that fills an image")


def test_a_draft_is_a_base_that_is_not_vetted(page):
    """Of its number where it has one, else the first that fills an image; it is drawn, not rendered."""
    vetted = resolved(page, SMALL)
    for sigma in (3.4, 3.6):
        draft = page.post("resolve", recipe={**SMALL, "sigma": sigma}, base=vetted["base"]["number"], draft=True)
        expected = OnePFrac(**{**SMALL, "sigma": sigma}).candidate(vetted["base"]["number"])
        assert draft["recipe"]["ifs"] == expected.to_plain() and draft["base"]["acceptance"] == {"kept": 0, "tried": 0}
        assert draft["hash"] is draft["command"] is None and draft["provenance"] == {}
        assert page.images(recipe=draft["recipe"], indices=[-1])[1].any()
    first = page.post("resolve", recipe={**SMALL, "seed": 7}, draft=True)["base"]
    searched = OnePFrac(**{**SMALL, "seed": 7, "min_acceptance": 0, "base_candidates": 1}).resolve()[1]
    assert first["passes"] and first["number"] == searched["base"]
    none = page.post("resolve", recipe={**SMALL, "min_fill": 1.0}, draft=True)["base"]
    assert none["number"] == 0 and not none["passes"] and none["reason"].startswith("it fills")


def test_the_badges_are_those_of_vetting(page):
    reply = resolved(page, SMALL)
    recipe, provenance = OnePFrac(**SMALL).resolve()
    assert reply["provenance"] == provenance and reply["hash"] == recipe_hash(recipe)
    acceptance = reply["base"]["acceptance"]
    assert acceptance["kept"] / acceptance["tried"] == provenance["base_acceptance"]
    given = resolved(page, {**SMALL, "ifs": reply["recipe"]["ifs"]})
    _, of_given = OnePFrac(**{**SMALL, "ifs": recipe.base}).resolve()
    assert given["provenance"] == of_given
    for values, matrix in zip(reply["base"]["maps"], recipe.base.maps, strict=True):
        s1, s2 = values["singular_values"]
        assert s1 * s2 == pytest.approx(abs(values["determinant"]))
        assert values["contracting"] == (s1 < 1)
        assert values["coefficients"] == matrix.ravel()[[0, 1, 3, 4, 2, 5]].tolist()
    assert sum(s1 + 2 * s2 for s1, s2 in (m["singular_values"] for m in reply["base"]["maps"])) == pytest.approx(3.5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sigma": 1.0, "max_base_tries": 20}, "no base fractal in 20 tries"),
        ({"min_fill": 1.0, "max_base_tries": 20}, "no base fractal in 20 tries"),
        ({"ifs": {"maps": [[[0.5, 0, 0], [0, 0.5, 0]]]}}, "it fills 0.0"),
        ({"ifs": {"maps": [[[9e9, 0, 1], [0, 9e9, 1]]]}}, "its orbit overflows"),
    ],
)
def test_a_base_that_never_passes_is_drawn_all_the_same(changes, reason, page):
    reply = resolved(page, {**SMALL, **changes})
    assert not reply["passes"] and reply["reason"].startswith(reason)
    assert reply["hash"] is None and reply["command"] is None
    head, images = page.images(recipe=reply["recipe"], indices=[-1, 0])
    assert "error" not in head["images"][0] or "overflow" in reason
    assert images[0].any() == ("error" not in head["images"][0])
    assert "none of 100 perturbations" in head["images"][1]["error"] and not images[1].any()
    assert page.post("render", recipe=reply["recipe_given"])["error"].startswith(reply["reason"][:20])


def test_several_bases_that_are_not_searched_are_drawn_all_the_same(page):
    """While a slider moves: those of the same numbers. Where none passes: the first, with the reason."""
    few = {**SMALL, "bases": 3, "classes": 4}
    numbers = resolved(page, few)["provenance"]["bases"]
    changed = OnePFrac(**{**few, "sigma": 3.7, "delta": 0.2})
    values = {**few, "sigma": 3.7, "delta": 0.2}
    draft = page.post("resolve", recipe=values, bases=numbers, draft=True)
    assert draft["draft"] and draft["hash"] is draft["command"] is None and draft["provenance"] == {"bases": numbers}
    expected = changed.with_bases(*(changed.candidate(number) for number in numbers))
    _, images = page.images(recipe=draft["recipe"], indices=[4, 9])
    for image, sample in zip(images, expected.render([4, 9]), strict=True):
        assert np.array_equal(image, sample.image)
    never = resolved(page, {**few, "min_fill": 1.0, "max_base_tries": 5})
    assert never["reason"].startswith("base 0 of 3: no base fractal in 5 tries") and never["hash"] is None
    _, (base,) = page.images(recipe=never["recipe"], indices=[-1], mask_index=5)
    recipe = OnePFrac(**few)
    still = recipe.with_bases(*(recipe.candidate(number) for number in range(3)))
    with borrow_renderer(still.style) as renderer:
        renderer.trace(still.ifs[1].p, still.ifs[1].maps)
        assert np.array_equal(base, renderer.draw(mask_key=still.mask_key(5)))
    reply = page.post(
        "resolve", recipe={key: few[key] for key in few if key != "bases"} | {"ifs": draft["recipe"]["ifs"]}
    )
    assert reply["passes"] and reply["command"] is None, "no option names bases that no file of the user's has"


def test_a_search_that_takes_long_is_given_up(page, monkeypatch):
    monkeypatch.setattr(bases, "MAX_SECONDS", 0.0)
    reply = resolved(page, {**SMALL, "sigma": 2.0})
    assert not reply["passes"] and "`fracgen render` goes on for 1000 tries" in reply["reason"]


def test_a_check_of_classes_that_takes_long_is_given_up(page, monkeypatch):
    monkeypatch.setattr(bases, "MAX_SECONDS", 0.0)
    reply = resolved(page, {"recipe": "photo", **FEW["photo"]})
    assert not reply["passes"] and "take longer to check" in reply["reason"] and reply["hash"] is None
    _, images = page.images(recipe=reply["recipe"], indices=[0])
    monkeypatch.undo()
    _, same = page.images(recipe=resolved(page, {"recipe": "photo", **FEW["photo"]})["recipe"], indices=[0])
    assert images.any() and np.array_equal(images, same)


def test_the_base_of_a_difference_has_the_masks_of_its_class(page):
    reply = resolved(page, SMALL)
    _, (image, base) = page.images(recipe=reply["recipe"], indices=[7], with_base=True)
    recipe = small_recipe()
    (column,) = [column for column in recipe.preview() if column[0][0] == "class 7"] or [None]
    if column is None:  # the sheet shows other classes
        still = small_recipe(ifs=recipe.base, delta=0.0)
        assert np.array_equal(base, next(still.render([7])).image)
    assert np.array_equal(image, next(recipe.render([7])).image)


# ---- sweeps, augmentation, folders -----------------------------------------------------------------------------------


def test_a_sweep_is_of_one_base(page, tmp_path, monkeypatch):
    sweep = {"sigma": [3.0, 3.5, 4.0], "delta": [0.0, 0.1]}
    head, images = page.post("sweep", recipe=SMALL, sweep=sweep, index=2)
    assert [image["caption"].removesuffix(" (rejected)") for image in head["images"][:2]] == [
        "sigma 3, delta 0",
        "sigma 3, delta 0.1",
    ]
    for values, image in zip(head["images"], images, strict=True):
        recipe = from_dict(values["recipe"])
        assert recipe.sigma == pytest.approx(values["values"]["sigma"]) and recipe.delta == values["values"]["delta"]
        if "rejected" not in values:
            assert np.array_equal(image, next(recipe.render([2])).image)
    sheet = page.post("sweep.png", recipe=SMALL, sweep=sweep, index=2)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text("\n".join(f"{name}: {value}" for name, value in SMALL.items()))
    assert run(["preview", "small.yaml", "--sweep=sigma=3.0,3.5,4.0", "--sweep=delta=0,0.1", "--index=2"]) == 0
    assert (tmp_path / "small-sweep.png").read_bytes() == sheet


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({}, "a sweep of 0 fields"),
        ({"delt": [1]}, "did you mean 'delta'?"),
        ({"delta": [-1]}, "delta -1.0: must be"),
        ({"delta": list(range(13))}, "13 values"),
        ({"size": [8, 16]}, "no field to sweep"),
        ({"sigma": [7]}, "sigma 7.0: must be in (0, 6]"),
    ],
)
def test_a_sweep_that_cannot_be(sweep, message, page):
    assert message in page.post("sweep", recipe=SMALL, sweep=sweep)["error"]


def test_sweeps_of_other_data_sets(page):
    head, images = page.post("sweep", recipe={"recipe": "noise", **FEW["noise"]}, sweep={"std": [0.1, 0.5]})
    for values, image in zip(head["images"], images, strict=True):
        assert np.array_equal(image, next(from_dict(values["recipe"]).render([0])).image)


def test_as_the_network_sees_it(page):
    recipe = small_recipe()
    request = {"recipe": to_dict(recipe), "indices": [0, 3], "augment": {"size": 24}}
    head, images = page.post("augmented", **request, draws=3, seed=1)
    assert images.shape == (6, 24, 24, 3) and [(v["index"], v["draw"]) for v in head["images"][:4]] == [
        (0, 0), (0, 1), (0, 2), (3, 0)
    ]  # fmt: skip
    assert head["images"][0]["partner"] == 3 and len({image.tobytes() for image in images}) == 6
    assert np.array_equal(images, page.post("augmented", **request, draws=3, seed=1)[1]), "drawn by the seed"
    plain = {
        "scale": [1, 1],
        "ratio": [1, 1],
        "hflip": 0,
        "vflip": 0,
        "rand_augment": "",
        "color_jitter": 0,
        "erase": 0,
    }
    whole = {**request, "augment": {"size": 48, **plain}, "mix": {"mixup": 0, "cutmix": 0}}
    _, images = page.post("augmented", **whole, draws=1)
    assert np.array_equal(images[..., 0], [sample.image for sample in recipe.render([0, 3])]), "nothing is changed"
    assert "did you mean 'erase'" in page.post("augmented", **{**request, "augment": {"eras": 1}})["error"]
    page.server.explorer._augmenter = None
    assert page.post("augmented", **request)["error"].endswith("pip install 'fracgen[train]'")
    assert page.session()["augment"] is None and not page.session()["extras"]["train"]


def test_a_folder(folder, tmp_path):
    with explore(read_source(folder, []), tmp_path) as page:
        session, shards = page.session(), open_shards(folder).by_index()
        assert session["folder"]["num_samples"] == 24 and session["folder"]["name"] == folder.name
        assert session["recipe"]["ifs"] == small_recipe().base.to_plain()
        listed = page.post("folder", offset=20, count=10)
        assert [sample["index"] for sample in listed["samples"]] == [20, 21, 22, 23] and listed["total"] == 24
        assert listed["samples"][0]["metadata"] == json.loads(json.dumps(dict(shards[20].metadata)))
        assert [sample["number"] for sample in page.post("folder", label=5)["samples"]] == [5]
        head, images = page.post("folder/images", numbers=[5, 0], size=0)
        assert np.array_equal(images[0], shards[5].image) and head["images"][1]["label"] == 0
        assert page.post("folder/images", numbers=[5], size=16)[1].shape == (1, 16, 16)
        assert "there are 0 to 23" in page.post("folder/images", numbers=[24])["error"]
        assert "there are 0 to 23" in page.post("folder", label=24)["error"]
        assert page.post("augmented", indices=[3], draws=2, augment={"size": 24})[1].shape == (2, 24, 24, 3)


def test_a_damaged_sample_is_black_with_the_reason(folder, tmp_path):
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", folder, copy], check=True)
    with explore(read_source(copy, []), tmp_path) as page:
        sample = page.post("folder", offset=3, count=1)["samples"][0]
        tar = next(tar for tar in copy.glob("*.tar") if f"{sample['index']:06d}.png".encode() in tar.read_bytes()
                   or f"{sample['index']:02d}.png".encode() in tar.read_bytes())  # fmt: skip
        tar.unlink()
        head, images = page.post("folder/images", numbers=[3])
        assert tar.name in head["images"][0]["error"] and not images[0].any()
        assert tar.name in page.post("folder", offset=3, count=1)["samples"][0]["error"]


def test_a_folder_that_is_not_finished(tmp_path):
    def stop(record):
        raise DataError("stopped")

    recipe = small_recipe(classes=60)
    with pytest.raises(DataError, match="stopped"):
        write_shards(recipe, tmp_path / "part", on_shard=stop)
    with explore(read_source(tmp_path / "part", []), tmp_path) as page:
        session = page.session()
        assert "part: is not finished" in session["note"] and session["folder"] is None
        assert resolved(page, session["recipe"])["hash"] == recipe_hash(recipe)


def test_a_packed_folder(tmp_path, monkeypatch):
    """Of images that differ in size: each lies in the middle of a square."""
    monkeypatch.chdir(tmp_path)
    for number, size in enumerate([(30, 20), (20, 40), (10, 10), (400, 300)]):
        place = tmp_path / "images" / f"class{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        PillowImage.new("L", size, 100 + number).save(place / f"{number}.png")
    assert run(["pack", "images", "--out=packed"]) == 0
    source = Path("packed")
    with explore(read_source(source, []), tmp_path) as page:
        session, shards = page.session(), open_shards(source).by_index()
        assert session["folder"]["packed"] and session["folder"]["recipe"] is None and not session["folder"]["one_size"]
        assert "no recipe to change" in session["note"] and session["recipe"]["recipe"] == "1p-frac"
        listed = page.post("folder", label=1)
        assert listed["total"] == 2 and {sample["class_name"] for sample in listed["samples"]} == {"class1"}
        head, images = page.post("folder/images", numbers=[0, 1, 2, 3], size=64)
        assert images.shape == (4, 64, 64)
        for values, image in zip(head["images"], images, strict=True):
            own = shards[values["number"]].image
            assert (values["height"], values["width"]) == own.shape and image[32, 32] == own[0, 0]
            assert (image > 0).sum() == (own.size if max(own.shape) <= 64 else 64 * 48)
        assert page.post("augmented", indices=[0, 3], draws=1, augment={"size": 24})[1].shape == (2, 24, 24, 3)


def test_a_photograph_of_the_users(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my photo.png"
    rng = np.random.default_rng(0)
    PillowImage.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(path)
    with explore(read_source(None, [path]), tmp_path) as page:
        reply = resolved(page, {"recipe": "photo", **FEW["photo"], "look": "rgb"})
        assert run_command(reply["command"], "--out=rendered", "--shards=1") == 0
        assert load_manifest(tmp_path / "rendered").recipe_hash == reply["hash"]
        assert page.images(recipe=reply["recipe"], indices=[-1, 0])[1].shape == (2, 48, 48, 3)


# ---- categories ------------------------------------------------------------------------------------------------------


def test_categories_come_a_few_at_a_time(page, tmp_path, monkeypatch):
    """Those that are found are drawn while others are searched; also where the cache cannot be written."""
    (tmp_path / "file").write_text("")
    source = CategorySource(Search())
    source._cache = tmp_path / "file" / "cache"
    monkeypatch.setattr(category_search, "_STEP", 2)
    gate, find = threading.Event(), search.find_categories

    def slowly(count, *arguments, **options):
        assert count <= 2 or gate.wait(30)
        return find(count, *arguments, **options)

    monkeypatch.setattr(search, "find_categories", slowly)
    monkeypatch.setattr(page.server.explorer._builder, "source", lambda recipe: source)
    values = {"recipe": "ofdb", **FEW["ofdb"], "categories": 5}
    reply = page.post("resolve", recipe=values)
    assert reply["search"] == {"found": 0, "wanted": 5} and reply["hash"] is None and reply["command"] is None
    head, images = page.images(recipe=reply["recipe"], indices=[1])
    assert "error" not in head["images"][0] and images.any()
    head, _ = page.images(recipe=reply["recipe"], indices=[4])
    assert head["images"][0]["error"] == "category 4: 2 are found so far, the others are being searched"
    assert "still being searched" in page.post("render", recipe=values)["error"]
    gate.set()
    done = resolved(page, values)
    recipe = from_dict({**values, "systems": find(5)[0]})
    assert done["hash"] == recipe_hash(recipe) and done["provenance"]["candidates"] > 5
    assert np.array_equal(images[0], next(recipe.render([1])).image)
    source.stop()


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        (DataError("no category among the last candidates"), "no category among the last candidates"),
        (MemoryError("of a thread that nobody waits for"), "MemoryError: of a thread that nobody waits for"),
    ],
)
def test_a_search_that_fails_is_a_line(page, monkeypatch, failure, line):
    def fail(count, *arguments, **options):
        raise failure

    source = CategorySource(Search())
    monkeypatch.setattr(search, "find_categories", fail)
    monkeypatch.setattr(page.server.explorer._builder, "source", lambda recipe: source)
    reply = page.post("resolve", recipe={"recipe": "ofdb"})
    for _ in range(100):
        if "error" in reply:
            break
        time.sleep(0.02)
        reply = page.post("resolve", recipe={"recipe": "ofdb"})
    assert reply["error"] == line


def test_an_image_that_a_set_has_not_is_a_line(page, monkeypatch):
    """And no category is searched for it, which would take for ever."""
    searched_counts = list[int]()
    monkeypatch.setattr(CategorySource, "first", lambda self, count: searched_counts.append(count))
    values = {"recipe": "ofdb", **FEW["ofdb"]}
    for index in (3, 2**50):
        head, _ = page.images(recipe=values, indices=[index])
        assert head["images"][0]["error"] == f"index {index}: there are images 0 to 2"
        assert "there are images" in page.post("augmented", recipe=values, indices=[index])["error"]
    head, _ = page.images(recipe={"recipe": "photo", "classes": 5, "size": 48}, indices=[-1], mask_index=5)
    assert head["images"][0]["error"] == "index 5: there are images 0 to 4" and not searched_counts


def test_a_set_is_rendered_after_one_for_which_no_thread_was_to_be_had(tmp_path, monkeypatch):
    job, recipe = RenderJob(tmp_path), small_recipe()

    def refuse(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="can't start"):
        patch.setattr("threading.Thread.start", refuse)
        job.start(recipe, {})
    assert job.status()["state"] == "none" and job.stop() == ""
    job.start(recipe, {})
    job._thread.join()
    assert job.status()["state"] == "done"
