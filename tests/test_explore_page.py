"""The page of `fracgen explore` in a headless Chromium: it draws what the renderer writes, and can be used by mouse,
keyboard and screen reader, on a desk and on a phone.

`python tests/explore_latency.py` measures how long it takes from a slider's input to the drawn canvas.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import small_recipe
from explore_browser import MISSING, PIXELS, Tab, browsing, served

from fracgen import preview
from fracgen.cli.app import run
from fracgen.ifs import IFS, sample_maps
from fracgen.onepfrac import OnePFrac
from fracgen.recipe import Difference
from fracgen.registry import save_recipe
from fracgen.renderer import borrow_renderer
from fracgen.rng import generator
from fracgen.shards.manifest import load_manifest
from fracgen.shards.reader import open_shards

MAY_SKIP = os.environ.get("FRACGEN_BROWSER") != "required"  # .ci/run requires it
pytestmark = pytest.mark.skipif(bool(MISSING) and MAY_SKIP, reason=f"{MISSING} is not installed")

TABS = ("explore", "maps", "sweep", "network", "export", "folder")
SEARCHED = "recipe=1p-frac&size=48&pad=3&points=1500&min_fill=0.1&seed=3&base_candidates=2"
NAMELESS = """[...document.querySelectorAll("button, input, select, [tabindex='0']")]
    .filter(each => each.checkVisibility() && !(each.getAttribute("aria-label") || each.labels?.length
        || each.getAttribute("aria-labelledby") || (each.innerText ?? "").trim()))
    .map(each => each.outerHTML.slice(0, 200))"""
PALE = """() => {
    const rgb = text => text.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [0.2126, 0.7152, 0.0722].reduce((sum, share, i) => {
        const c = [r, g, b][i] / 255;
        return sum + share * (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    }, 0);
    const ground = each => {
        for (; each; each = each.parentElement) {
            const colour = rgb(getComputedStyle(each).backgroundColor);
            if (colour.length === 3 || colour[3] > 0) return colour;
        }
        throw new Error("no background");
    };
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const pale = [];
    while (texts.nextNode()) {
        const [each, text] = [texts.currentNode.parentElement, texts.currentNode.data.trim()];
        if (!text || !each.checkVisibility() || each.closest(":disabled, svg, script")) continue;
        const [one, other] = [light(rgb(getComputedStyle(each).color)), light(ground(each))].sort((a, b) => b - a);
        const ratio = (one + 0.05) / (other + 0.05);
        if (ratio < 4.5) pale.push([text, ratio]);
    }
    return pale;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as browser:
        yield browser


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("explore")


@pytest.fixture(scope="module")
def address(place) -> Iterator[str]:
    """Of a page on the small recipe, searched."""
    searched = OnePFrac(classes=24, size=48, pad=3, points=1500, min_fill=0.1, seed=3, base_candidates=2)
    save_recipe(searched, place / "small.yaml")
    with served(place / "small.yaml", place) as address:
        yield address


@pytest.fixture
def tab(browser, address) -> Iterator[Tab]:
    tab = Tab(browser, address)
    yield tab.open()
    tab.context.close()
    assert tab.complaints == []


def base_of(recipe: OnePFrac, index: int = 0) -> np.ndarray:
    """The base fractal in the masks of a class."""
    with borrow_renderer(recipe.style) as renderer:
        renderer.trace(recipe.base.p, recipe.base.maps)
        return renderer.draw(mask_key=recipe.mask_key(index))


def rgb(image: np.ndarray) -> np.ndarray:
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def assert_drawn(tab: Tab, first: int = 0) -> OnePFrac:
    """The base and the grid are what the renderer writes; returns the recipe."""
    recipe, grid = tab.recipe, tab.pixels("#grid canvas")
    assert np.array_equal(tab.pixels("#large")[-1], rgb(base_of(recipe)))
    assert list(grid) == list(range(first, min(first + 16, len(recipe))))
    for sample in recipe.render(list(grid)):
        assert np.array_equal(grid[sample.index], rgb(sample.image)), f"class {sample.index}"
    return recipe


# ---- what it draws ---------------------------------------------------------------------------------------------------


def test_sliders_redraw_the_pixels_that_render_writes(tab):
    before = assert_drawn(tab)
    tab.slide("sigma", 0.8)
    moved = assert_drawn(tab)
    assert moved.sigma > 4.5 and moved.delta == before.delta and moved.base != before.base
    tab.slide("delta", 0.9)
    assert assert_drawn(tab).delta > 0.2
    assert (
        tab.most["draft"] == tab.most["resolve"] == tab.most["base"] == tab.most["grid"] == 1
    )  # outstanding at a time
    tab.page.select_option("#field-color", "color")
    tab.settle()
    assert assert_drawn(tab).color == "color"
    tab.page.click("#grid-on")
    tab.settle()
    assert_drawn(tab, first=16)


def test_a_slider_that_is_held_draws_before_the_search_ends(tab):
    """The base of the same number; the one that the search takes comes when the slider rests."""
    recipe, searches = replace(tab.recipe, ifs=None), []

    def hold(route):
        if route.request.post_data_json.get("draft"):
            route.continue_()
        else:
            searches.append(route)  # it is not answered

    tab.page.route("**/api/resolve", hold)
    number = int(re.match(r"Base (\d+)", tab.page.inner_text("#large-title"))[1])
    box = tab.page.locator("#field-sigma-slider").bounding_box()
    tab.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + box["height"] / 2, steps=20)
    tab.page.wait_for_selector("#badges:has-text('\u2026')")
    while not searches:
        tab.page.wait_for_timeout(20)
    draft = replace(recipe, sigma=float(tab.page.input_value("#field-sigma")))
    draft = replace(draft, ifs=draft.candidate(number))
    assert draft.sigma > 4.5
    wanted = {-1: rgb(base_of(draft)), **{each.index: rgb(each.image) for each in draft.render(range(16))}}
    for _ in range(500):  # the last replies may be late
        drawn = tab.pixels("#large, #grid canvas")
        if drawn.keys() == wanted.keys() and all(np.array_equal(drawn[index], wanted[index]) for index in wanted):
            break
        tab.page.wait_for_timeout(20)
    else:
        raise AssertionError("the draft's base and its images are not drawn")
    for search in searches:
        search.continue_()
    tab.page.unroute("**/api/resolve")
    tab.page.mouse.up()
    assert_drawn(tab.settle())
    assert " of 64" in tab.page.inner_text("#badges")


def test_lock_keeps_the_base_and_next_takes_another(tab):
    first = tab.recipe
    tab.press("l")
    assert tab.page.get_attribute("#lock", "aria-pressed") == "true"
    tab.slide("delta", 0.95)
    locked = assert_drawn(tab)
    assert locked.base == first.base and locked.delta > first.delta
    tab.press("n")
    following = assert_drawn(tab)
    assert following.base != first.base
    title = re.fullmatch(r"Base (\d+) of seed 3", tab.page.inner_text("#large-title"))
    tab.press("n").press("p")
    assert tab.recipe.base == following.base and tab.page.inner_text("#large-title") == title[0]
    tab.slide("sigma", 0.7)  # the same draws at another sigma
    moved = assert_drawn(tab)
    assert moved.sigma > 4 and tab.page.inner_text("#large-title") == title[0]
    assert moved.base == IFS.from_maps(sample_maps(moved.sigma, 2, generator(3, int(title[1]), "ifs")))
    tab.press("l")
    assert tab.page.get_attribute("#lock", "aria-pressed") == "false" and "ifs" not in tab.fragment


def test_difference_and_flicker_are_of_the_same_masks(browser, address):
    tab = Tab(browser, address)
    tab.page.clock.install()
    recipe = tab.open().recipe
    tab.page.clock.pause_at(datetime.now() + timedelta(hours=1))  # else it goes on by itself, on a busy machine too far
    images = {sample.index: sample.image for sample in recipe.render(range(16))}
    tab.press("d")
    for index, shown in tab.pixels("#grid canvas").items():
        difference = Difference(image=images[index], base=base_of(recipe, index), names=("", ""))
        assert np.array_equal(shown, preview.STYLE.pixels(difference))
    tab.press("f")
    seen = []
    for _ in range(4):
        phase = tab.page.evaluate("document.documentElement.dataset.flicker ?? 'image'")
        for index, shown in tab.pixels("#grid canvas").items():
            assert np.array_equal(shown, rgb(base_of(recipe, index) if phase == "base" else images[index]))
        seen.append(phase)
        tab.page.clock.run_for(500)
    assert sorted(seen) == ["base", "base", "image", "image"] and seen[0] != seen[1]
    tab.page.click("#grid button >> nth=5")
    tab.press("f")
    assert np.array_equal(tab.pixels("#large")[5], rgb(images[5]))
    tab.context.close()
    assert tab.complaints == []


def test_nothing_flickers_by_itself_with_reduced_motion(browser, address):
    tab = Tab(browser, address, reduced_motion="reduce")
    tab.page.clock.install()
    tab.open().press("f")
    tab.page.clock.run_for(5000)
    assert tab.page.evaluate("document.documentElement.dataset.flicker") is None
    tab.page.click("#turn")
    assert tab.page.evaluate("document.documentElement.dataset.flicker") == "base"
    tab.context.close()
    assert tab.complaints == []


def test_a_frame_is_dragged_and_sigma_follows(tab):
    before = tab.press("m").recipe
    for handle, (right, down) in {"turn and scale": (-30, 25), "body": (12, 9), "first axis": (10, -14)}.items():
        box = tab.page.locator(f'[data-map="0"][data-handle="{handle}"]').bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        tab.page.mouse.move(x, y)
        tab.page.mouse.down()
        tab.page.mouse.move(x + right, y + down, steps=6)
        tab.page.mouse.up()
        after = assert_drawn(tab.settle())
        has_kept_sigma = np.isclose(after.sigma, before.sigma, rtol=1e-9)
        assert has_kept_sigma == (handle == "body") and not np.array_equal(after.base.maps[0], before.base.maps[0])
        assert np.array_equal(after.base.maps[1:], before.base.maps[1:])
        assert f"{float(f'{after.sigma:.6g}'):g}" in tab.page.inner_text("#badges")
        before = after
    tab.page.focus('[data-map="1"][data-handle="body"]')
    tab.press("ArrowRight").press("ArrowRight")
    assert tab.recipe.base.maps[1][0, 2] > before.base.maps[1][0, 2]
    tab.page.go_back()
    tab.page.go_back()
    tab.settle()
    assert_drawn(tab)


def test_a_frame_is_dragged_by_a_finger(browser, address):
    tab = Tab(browser, address, has_touch=True, is_mobile=True)
    tab.page.set_viewport_size({"width": 390, "height": 844})
    before = tab.open().press("m").recipe
    finger = tab.context.new_cdp_session(tab.page)
    frame = tab.page.locator('[data-map="0"][data-handle="body"]')
    frame.scroll_into_view_if_needed()
    box, scrolled = frame.bounding_box(), tab.page.evaluate("scrollY")
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    other = {"x": x - 20, "y": y + 20, "id": 1}

    def touch(kind, *points):
        finger.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})

    touch("Start", {"x": x, "y": y, "id": 0})
    for moved in range(5, 35, 5):
        touch("Move", {"x": x + moved, "y": y - moved, "id": 0})
    resting = {"x": x + moved, "y": y - moved, "id": 0}
    touch("Start", resting, other)  # a second finger neither drags nor ends it
    touch("Move", resting, {**other, "x": x - 40, "y": y + 40})
    touch("Move", resting)  # without the other, which has been lifted
    middle = tab.settle().recipe
    touch("Move", {"x": x + 60, "y": y - 60, "id": 0})
    touch("End")
    after = assert_drawn(tab.settle())
    places = np.array([recipe.base.maps[0][:, 2] for recipe in (before, middle, after)])
    assert (np.diff(places, axis=0) > 0).all()
    assert np.array_equal(after.base.maps[0][:, :2], before.base.maps[0][:, :2])
    assert tab.page.evaluate("scrollY") == scrolled  # the page does not scroll under the finger
    tab.context.close()
    assert tab.complaints == []


def test_coefficients_and_singular_values_are_edited_as_numbers(tab):
    searched = tab.press("2").recipe.base
    tab.type('#map-cards section:nth-child(2) [data-name="s1"]', "0.75")
    tab.type('#map-cards section:nth-child(1) [data-name="e"]', "0.125")
    tab.page.click("#tab-explore")
    base = assert_drawn(tab.settle()).base
    _, smaller = np.linalg.svd(searched.maps[1][:, :2], compute_uv=False)
    assert np.allclose(np.linalg.svd(base.maps[1][:, :2], compute_uv=False), [0.75, smaller], rtol=1e-9)
    assert (
        np.sign(np.linalg.det(base.maps[:, :, :2])).tolist() == np.sign(np.linalg.det(searched.maps[:, :, :2])).tolist()
    )
    assert base.maps[0][0, 2] == 0.125 and np.array_equal(base.maps[0][:, :2], searched.maps[0][:, :2])
    tab.page.click("#tab-maps")
    tab.type('#map-cards section:nth-child(1) [data-name="a"]', "far")
    assert 'map 1, a: "far" is no number' in tab.page.inner_text("#problems")
    tab.page.click("#map-add")
    before = tab.settle().recipe.base
    assert len(before) == 3 and "your own" in tab.page.inner_text("#large-title")
    tab.slide("sigma", 0.9)  # of a base of no seed, all matrices are scaled
    scaled = tab.recipe.base
    assert np.allclose(scaled.maps[..., :2], before.maps[..., :2] * (scaled.sigma / before.sigma))
    assert np.array_equal(scaled.maps[..., 2], before.maps[..., 2]) and abs(scaled.sigma - before.sigma) > 0.2


def test_an_answer_that_comes_while_a_number_is_typed_leaves_it(tab):
    tab.press("2")
    waiting, are_kept = [], True
    tab.page.route("**/api/resolve", lambda route: waiting.append(route) if are_kept else route.continue_())
    tab.page.fill('#map-cards section:nth-child(1) [data-name="e"]', "0.125")
    tab.page.keyboard.press("Tab")
    tab.page.keyboard.type("0.31")
    while not waiting:
        tab.page.wait_for_timeout(20)
    are_kept = False
    for route in waiting:
        route.continue_()
    tab.settle()
    box = tab.page.evaluate("[document.activeElement.dataset.name, document.activeElement.value]")
    assert box == ["c", "0.31"] and tab.recipe.base.maps[0][0, 2] == 0.125
    tab.press("Enter")
    assert tab.recipe.base.maps[0][1, 0] == 0.31
    tab.press("ArrowUp")
    assert np.isclose(tab.recipe.base.maps[0][1, 0], 0.32)
    assert tab.page.evaluate("document.activeElement.value") == "0.32"


def test_small_coefficients_can_be_read(tab):
    typed = {"a": 0.00098765, "b": -0.00098765, "e": -0.012345, "c": -1.2345e-12, "d": 0.71234, "f": -1234567.8}
    tab.press("2")
    for name, value in typed.items():
        tab.type(f'#map-cards section:nth-child(1) [data-name="{name}"]', str(value))
    boxes = tab.page.eval_on_selector_all(
        "#map-cards input", "all => all.map(box => [box.dataset.name, box.value, box.scrollWidth - box.clientWidth])"
    )
    assert [name for name, _, hidden in boxes if hidden > 0] == []
    assert all(np.isclose(float(text), typed[name], rtol=0.05) for name, text, _ in boxes[:6])


def test_what_is_typed_out_of_range_is_clamped_and_a_line_says_so(tab):
    for text, value, line in (("99", 6.0, "99 is outside above 0"), ("wide", 3.5, '"wide" is no number')):
        tab.type("#field-sigma", text)
        assert tab.recipe.sigma == value and line.partition(" above")[0] in tab.page.inner_text("#field-sigma-note")
    tab.page.click("summary:has-text('Rejection')")
    tab.type("#field-min_fill", "0.95")
    assert "no base fractal" in tab.page.inner_text("#badges") and tab.page.is_disabled("#render")
    assert tab.pixels("#large")[-1].any()


def test_classes_that_cannot_be_rendered_are_named_beside_those_that_can(tab):
    fills = [sample.metadata["fill_rate"] for sample in tab.recipe.render(range(16))]
    tab.press("l").page.click("summary:has-text('Rejection')")
    tab.type("#field-max_tries", "1")
    tab.type("#field-min_fill", f"{np.median(fills):.6f}")
    failed = tab.page.locator("#grid .failed")
    assert 0 < failed.count() < 16 and "cannot be rendered" in failed.first.inner_text()
    failed.first.click()
    assert "none of 1 perturbations" in tab.settle().page.inner_text("#large-error")
    grid, recipe = tab.pixels("#grid canvas"), tab.recipe
    drawn = [index for index, image in grid.items() if image.any()]
    assert len(drawn) == 16 - failed.count()
    assert all(np.array_equal(grid[sample.index], rgb(sample.image)) for sample in recipe.render(drawn))


# ---- out of the page -------------------------------------------------------------------------------------------------


def run_copied(command: str, place: Path) -> str:
    """Run a copied command as a user's shell would, into `out`; returns the recipe's hash."""
    script = f'fracgen() {{ "{sys.executable}" -m fracgen "$@"; }}\n{command} --out out --shards 1'
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run(["bash", "-c", script], cwd=place, env=environment, check=True, capture_output=True, timeout=300)
    return load_manifest(place / "out").recipe_hash


@pytest.mark.parametrize("keys", ["", "l", "n"], ids=["searched", "locked", "next"])
def test_the_copied_command_renders_the_same_recipe(tab, keys, tmp_path):
    for key in keys:
        tab.press(key)
    tab.press("5")
    tab.page.click("#copy-command")
    assert run_copied(tab.page.evaluate("navigator.clipboard.readText()"), tmp_path) == tab.page.inner_text("#hash")


def test_a_link_restores_the_state(tab, browser, address):
    tab.slide("delta", 0.8)
    tab.press("l").press("]").press("m").page.focus('[data-map="0"][data-handle="body"]')
    tab.press("ArrowUp").press("d").press("2")  # a base that no search gives
    tab.page.click("#share")
    link = tab.page.evaluate("navigator.clipboard.readText()")
    assert "token" not in link
    other = Tab(browser, address).open()  # another browser gets the token once
    other.page.goto("about:blank")
    other.page.goto(link)
    other.settle()
    assert other.page.text_content("#hash") == tab.page.text_content("#hash") != ""
    assert other.fragment == tab.fragment and other.fragment["v.first"] == "16" and other.fragment["v.tab"] == "maps"
    assert other.page.get_attribute("#tab-maps", "aria-selected") == "true"
    assert np.array_equal(other.pixels("#large")[-1], tab.pixels("#large")[-1])
    other.context.close()
    assert other.complaints == []


def test_a_link_of_nonsense_is_as_good_as_none(browser, address):
    tab = Tab(browser, address)
    tab.open(
        "recipe=1p-frac&sigma=much&delta=-3&size=1e99&color=red&ifs=1,2;3&v.tab=no&v.first=-7&v.at=x&v.draws=1e9&a.size=big"
    )
    assert tab.page.get_attribute("#tab-explore", "aria-selected") == "true"
    assert tab.recipe.sigma == 3.5 and tab.recipe.delta == 0 and tab.recipe.size == 2048 and tab.recipe.color == "gray"
    tab.context.close()
    assert tab.complaints == []


def test_a_set_is_rendered_with_progress(tab, place):
    tab.press("5")
    tab.page.click("#render")
    tab.page.wait_for_selector("#render-status:has-text('images are there')")
    folder = place / tab.page.inner_text("#render-status").partition(":")[0]
    assert run(["verify", str(folder), "--render"]) == 0
    assert load_manifest(folder).recipe_hash == tab.page.inner_text("#hash")


def test_a_sweep_is_of_one_base(tab):
    tab.press("3")
    tab.type("#sweep-rows-values", "3.5, 4")
    tab.type("#sweep-columns-values", "0, 0.2")
    assert tab.page.locator("#sweep-table canvas").count() == 4
    with tab.page.expect_download() as download:
        tab.page.click("#sweep-save")
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")
    tab.page.select_option("#sweep-columns", "sigma")  # that of the rows: another takes its place
    assert tab.settle().page.input_value("#sweep-columns") == "delta"
    tab.type("#sweep-columns-values", "0, 0.2")
    tab.page.click("#sweep-table button >> nth=3")
    tab.settle()
    recipe = assert_drawn(tab)
    assert np.isclose(recipe.sigma, 4) and recipe.delta == 0.2


def test_a_sweep_of_a_base_of_ones_own_is_not_of_sigma(tab):
    tab.press("m").page.focus('[data-map="0"][data-handle="body"]')
    tab.press("ArrowUp")
    before = tab.recipe.base
    tab.press("3")
    assert tab.page.inner_text("#problems") == "" and tab.page.locator("#sweep-table canvas").count() == 8
    named = tab.page.eval_on_selector_all("#sweep-rows option", "all => all.map(each => each.value)")
    assert "points" in named and not {"sigma", "maps", "seed", "size", "classes"} & set(named)
    tab.page.click("#sweep-table button >> nth=4")
    recipe = assert_drawn(tab.settle())
    assert recipe.base == before and (recipe.perturbation, recipe.delta) == ("multiplicative", 0.01)


def test_several_bases(browser, address):
    """Each image is compared with its own base, whose badges it has; a sweep is of that base."""
    tab = Tab(browser, address).open(SEARCHED + "&bases=4&classes=5")
    recipe, provenance = tab.recipe.resolve()
    images = {sample.index: sample.image for sample in recipe.render(range(0, 20, 5))}
    shown = tab.pixels("#grid canvas")
    assert list(shown) == [0, 5, 10, 15] and all(np.array_equal(shown[each], rgb(images[each])) for each in images)
    tab.page.click("#grid button >> nth=2")
    tab.settle()
    assert tab.page.eval_on_selector_all("#axes input", "all => all.map(each => each.value)") == ["2", "0"]
    badges, base = tab.page.inner_text("#badges"), recipe.base_of(10)
    assert f"{round(64 * provenance['base_acceptances'][2])} of 64" in badges
    assert [f"{s[0]:.3f}" in badges for s in np.linalg.svd(base.maps[:, :, :2], compute_uv=False)] == [True, True]
    for typed, place in (("99", "4"), ("3", "3")):
        tab.type("#axes input >> nth=1", typed)
        assert tab.page.input_value("#axes input >> nth=1") == place
    assert tab.page.inner_text("#large-title") == "base 2, perturbation 3"
    assert np.array_equal(tab.pixels("#large")[13], rgb(next(recipe.render([13])).image))
    tab.page.click("#compare label:has-text('Difference')")
    tab.settle()
    images = {sample.index: sample.image for sample in recipe.render(range(3, 20, 5))}
    for index, pixels in tab.pixels("#grid canvas").items():
        with borrow_renderer(recipe.style) as renderer:
            renderer.trace(recipe.base_of(index).p, recipe.base_of(index).maps)
            own = renderer.draw(mask_key=recipe.mask_key(index))
        assert np.array_equal(pixels, preview.STYLE.pixels(Difference(image=images[index], base=own, names=("", ""))))
    never = tab.page.url.replace("min_fill=0.1", "min_fill=0.9&max_base_tries=3").replace("v.compare=difference", "")
    tab.page.goto(never)
    tab.settle()
    assert "none of 100 perturbations" in tab.page.inner_text("#large-error") and tab.pixels("#large")[-1].any()
    assert tab.page.inner_text("#large-title") == "base 2 itself"
    tab.page.go_back()
    tab.settle().page.click("#tab-sweep")
    tab.settle()
    assert tab.page.input_value("#sweep-rows") == "sigma" and tab.page.inner_text("#problems") == ""
    tab.type("#sweep-columns-values", "0.1, 0.2")
    tab.page.click("#sweep-table button >> nth=5")
    assert (tab.settle().recipe.sigma, tab.recipe.delta, tab.recipe.bases) == (4, 0.2, 4)
    tab.context.close()
    assert tab.complaints == []


def test_an_orbit_that_runs_off_has_no_frames(browser, address):
    tab = Tab(browser, address).open("recipe=1p-frac&maps=1&ifs=1.27,0,0,1.27,1,1&v.frames=true&size=64&points=2900")
    assert tab.page.is_hidden("#frames") and tab.page.inner_text("#problems") == ""
    tab.context.close()
    assert tab.complaints == []


def test_the_network_sees_augmented_images(tab):
    tab.press("4")
    tab.page.wait_for_selector("#network-grid canvas")
    tab.type("#augment-size", "32")
    tab.page.wait_for_selector("#network-grid canvas[width='32']")
    shapes = tab.page.eval_on_selector_all("#network-grid canvas", "all => all.map(each => [each.width, each.height])")
    assert shapes == [[32, 32]] * 16
    before = tab.page.evaluate(PIXELS, "#network-grid canvas")
    tab.page.click("#network-again")
    tab.settle()
    assert tab.page.evaluate(PIXELS, "#network-grid canvas") != before


def test_a_link_to_images_of_a_folder_that_is_not_open(browser, address):
    tab = Tab(browser, address).open(SEARCHED + "&v.tab=network&v.ofFolder=true&v.sample=99&a.size=32")
    tab.page.wait_for_selector("#network-grid canvas[width='32']")
    assert tab.page.inner_text("#problems") == "" and tab.page.locator("#network-grid canvas").count() == 16
    assert tab.page.inner_text("#network-range") == "0 to 3"
    tab.context.close()
    assert tab.complaints == []


def test_a_folder_is_browsed(browser, folder, place):
    with served(folder, place) as address:
        tab = Tab(browser, address).open()
        samples = open_shards(folder).by_index()
        assert tab.page.get_attribute("#tab-folder", "aria-selected") == "true"
        shown = tab.page.locator("#folder-grid button")
        assert shown.count() == len(samples) == 24
        shown.nth(7).click()
        tab.page.wait_for_selector("#folder-large[data-number='7']")
        (image,) = tab.pixels("#folder-large").values()
        assert np.array_equal(image, rgb(samples[7].image))
        assert "mask key" in tab.page.inner_text("#folder-facts")
        for typed, first in (("5", "5"), ("-5", "0"), ("far", "0"), ("99", "23"), ("0", "0")):
            tab.type("#folder-first", typed)
            assert tab.page.input_value("#folder-first") == first
        tab.page.select_option("#folder-label", "11")
        tab.settle()
        assert shown.count() == 1 and "11" in shown.first.inner_text()
        tab.page.click("#folder-recipe")
        tab.settle()
        assert assert_drawn(tab).base == small_recipe().base
        tab.open("recipe=1p-frac&v.tab=folder&v.sample=-3&v.label=99&v.drawSeed=-1")
        assert shown.count() == 24 and tab.page.inner_text("#problems") == ""
        tab.open("recipe=1p-frac&v.tab=network&v.ofFolder=true&v.sample=99&a.size=32")
        tab.page.wait_for_selector("#network-grid canvas[width='32']")
        assert tab.page.inner_text("#network-range") == "23 to 23" and tab.page.inner_text("#problems") == ""
        tab.context.close()
        assert tab.complaints == []
