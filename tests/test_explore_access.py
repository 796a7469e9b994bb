"""The explorer's page for everybody: sizes, contrast, keyboard, a server that is gone."""

import pytest
from explore_browser import MISSING, PIXELS, Tab
from explore_latency import measure
from test_explore_page import MAY_SKIP, NAMELESS, PALE, TABS
from test_explore_page import address as address
from test_explore_page import browser as browser
from test_explore_page import place as place
from test_explore_page import tab as tab

pytestmark = pytest.mark.skipif(bool(MISSING) and MAY_SKIP, reason=f"{MISSING} is not installed")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 800), (390, 844)], ids=["desk", "phone"])
def test_every_view_fits_is_named_and_has_contrast(browser, address, scheme, size):
    tab = Tab(browser, address, color_scheme=scheme)
    tab.page.set_viewport_size({"width": size[0], "height": size[1]})
    tab.open()
    for name in TABS[:-1]:
        tab.page.click(f"#tab-{name}")
        tab.settle()
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= size[0], name
        assert tab.page.evaluate(NAMELESS) == [], name
        assert tab.page.evaluate(PALE) == [], name
    if size[0] == 1280:
        tab.page.click("#tab-explore")
        for selector in ("#large", "#grid", "#badges", "#field-sigma", "#field-masks"):
            box = tab.page.locator(selector).bounding_box()
            assert box["y"] >= 0 and box["y"] + box["height"] <= size[1], selector
    tab.context.close()
    assert tab.complaints == []


def test_on_a_phone_a_tap_shows_the_help_of_a_field(browser, address):
    tab = Tab(browser, address, has_touch=True, is_mobile=True)
    tab.page.set_viewport_size({"width": 390, "height": 844})
    tab.open()
    for _ in range(2):
        assert tab.page.is_hidden("#field-delta-help")
        tab.page.tap("label[for=field-delta]")
        assert (
            tab.page.inner_text("#field-delta-help") == tab.page.get_attribute("label[for=field-delta]", "title") != ""
        )
        assert tab.page.evaluate("document.activeElement.id") != "field-delta", "no keyboard comes up"
        tab.page.tap("label[for=field-delta]")
    tabs = [tab.page.locator(f"#tab-{name}").bounding_box() for name in TABS[:-1]]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in tabs), "all views can be seen"
    tab.context.close()
    assert tab.complaints == []


def test_it_is_used_by_the_keyboard_alone(tab):
    tab.page.focus("#field-delta-slider")
    before = tab.recipe.delta
    for _ in range(10):
        tab.press("ArrowRight")
    assert tab.recipe.delta > 1.2 * before
    assert tab.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.page.focus("#tab-explore")
    tab.press("ArrowRight")
    assert tab.fragment["v.tab"] == "maps"
    tab.page.keyboard.press("?")
    assert tab.page.evaluate("document.querySelector('#help').open") and "next base" in tab.page.inner_text("#keys")
    tab.page.keyboard.press("Escape")
    tab.page.focus("#field-seed")
    tab.page.keyboard.press("n")
    assert "ifs" not in tab.fragment  # who types is not taken for who presses keys


def test_a_server_that_is_gone_is_said(tab):
    tab.page.route("**/api/**", lambda route: route.abort())
    tab.press("n")
    assert "the server does not answer" in tab.page.inner_text("#problems")
    tab.complaints.clear()  # the browser says so too


@pytest.mark.parametrize("name", ["visualatom", "rcdb", "noise", "ofdb", "exfractaldb", "perturbed"])
def test_other_data_sets_have_their_own_controls_and_sweeps(tab, name):
    tab.page.select_option("#recipe", name)
    tab.type("#field-size", "128")
    command = f"fracgen baseline {name}"
    if name in ("ofdb", "exfractaldb"):
        tab.type("#field-categories", "16")  # more take minutes to be found
    if name == "perturbed":
        command = "fracgen perturb --formula exfractaldb"
        tab.page.select_option("#field-formula", "exfractaldb")
    tab.page.wait_for_selector(f"#text-command:has-text('{command}')", state="attached")
    tab.settle()
    assert tab.page.is_hidden("#lock") and tab.page.is_hidden("#tab-maps")
    assert tab.page.locator("#controls [data-field]").count() >= 5
    assert len(tab.pixels("#grid canvas")) == 16 and tab.pixels("#large")[0].any()
    tab.page.click("#tab-sweep")
    tab.settle()
    assert tab.page.inner_text("#problems") == "" and tab.page.locator("#sweep-table .failed").count() == 0
    cells = [each["data"] for each in tab.page.evaluate(PIXELS, "#sweep-table canvas")]
    assert len(set(cells)) > len(cells) / 2


def test_why_a_recipe_cannot_be_rendered_is_said(tab):
    tab.page.select_option("#recipe", "perturbed")
    tab.type("#field-base", "1")
    tab.type("#field-size", "40")
    assert "shows nothing at size 40" in tab.page.inner_text("#problems") and tab.page.is_disabled("#render")
    tab.type("#field-size", "256")
    assert tab.page.inner_text("#problems") == "" and tab.page.is_enabled("#render")
    tab.page.evaluate("document.activeElement.blur()")
    for key in "nplm":  # of a base fractal, which it has not
        assert tab.press(key).page.inner_text("#problems") == ""


def test_the_measurement_measures(browser, address):
    times = measure(browser, address, "delta", "", moves=3)
    assert all(len(values) == 3 and min(values) > 0 for values in times.values())
