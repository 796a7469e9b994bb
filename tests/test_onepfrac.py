from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from conftest import SMALL, small_recipe

from fracgen.ifs import IFS
from fracgen.liep import PerturbedClass
from fracgen.onepfrac import MAX_WAITING, OnePFrac
from fracgen.plain import draw_plain
from fracgen.rng import generator, stream_key
from fracgen.shards.errors import DataError, UsageError
from fracgen.style import fill_rate
from fracgen.vetting import PROBES, Vetting, find_best


def test_defaults_are_the_published_set():
    recipe = OnePFrac()
    assert (recipe.sigma, recipe.delta, recipe.maps, len(recipe), recipe.num_classes) == (3.5, 0.1, 2, 1000, 1000)
    assert (recipe.size, recipe.pad, recipe.points, recipe.min_fill) == (512, 6, 100_000, 0.05)
    assert (recipe.perturbation, recipe.draw, recipe.color, recipe.patch) == ("additive", "patch", "gray", "random")


@pytest.mark.parametrize("perturbation", ["additive", "multiplicative"])
@pytest.mark.parametrize("masks", ["class", "shared"])
@pytest.mark.parametrize("style", [{}, {"draw": "point"}, {"patch": "fill"}, {"color": "color"}, {"color": "map"}])
def test_metadata_is_what_made_the_image(perturbation, masks, style):
    recipe = small_recipe(perturbation=perturbation, masks=masks, **style)
    for sample in recipe.render([0, 7, 23]):
        eps = np.array(sample.metadata["eps"]).reshape(-1, 6)
        a, b, c, d, e, f = eps.T
        step = np.stack([np.stack([a, b, e], 1), np.stack([c, d, f], 1)], 1)
        maps = recipe.base.maps + step if perturbation == "additive" else recipe.base.maps * (1 + step)
        assert sample.metadata["maps"] == maps.ravel().tolist()
        assert np.abs(eps).max() <= (recipe.delta / 2 if perturbation == "additive" else recipe.delta)
        key = int(sample.metadata["mask_key"], 16)
        assert np.array_equal(sample.image, draw_plain(maps, recipe.base.p, recipe.style, key))
        assert sample.metadata["fill_rate"] == fill_rate(sample.image) > recipe.min_fill
        assert key == stream_key(recipe.seed, sample.index if masks == "class" else 0, "masks")
        assert sample.label == sample.index


def test_an_image_depends_on_its_index_only(recipe):
    alone = {index: next(recipe.render([index])) for index in range(len(recipe))}
    for order in (range(24), range(23, -1, -1), [5, 5, 0, 23, 5]):
        for index, sample in zip(order, recipe.render(order), strict=True):
            assert sample.index == index
            assert np.array_equal(sample.image, alone[index].image)
            assert sample.metadata == alone[index].metadata and sample.rejected == alone[index].rejected


def test_rejected_draws_are_those_that_fail_the_fill_test():
    recipe = small_recipe(classes=200)
    rejected, tries = Counter(), 0
    for sample in recipe.render(range(len(recipe))):
        rejected.update(sample.rejected)
        tries += sample.metadata["tries"]
        for attempt in range(sample.metadata["tries"]):
            maps = recipe.perturb(recipe.draw_eps(generator(recipe.seed, sample.index, "eps", attempt)))
            image = (
                draw_plain(maps, recipe.base.p, recipe.style, recipe.mask_key(sample.index))
                if sample.index < 5
                else None
            )
            if image is not None:
                assert (fill_rate(image) > recipe.min_fill) == (attempt == sample.metadata["tries"] - 1)
    assert tries == len(recipe) + sum(rejected.values())
    assert set(rejected) == {"fill", "overflow"} and rejected["fill"] > 0


def test_few_images_wait_for_one_that_is_drawn_again(monkeypatch):
    """A class that takes many tries must not pile up all that come after it."""
    recipe, started = small_recipe(classes=400), []
    draw_eps = generator

    def stubborn(seed, index, purpose, attempt=0):
        if purpose == "eps" and attempt == 0:
            started.append(index)
        return draw_eps(seed, index, purpose, attempt)

    monkeypatch.setattr("fracgen.onepfrac.generator", stubborn)
    judge = PerturbedClass.judge

    def fails_ninety_times(draw, renderer, lane, **bounds):
        if draw.index == 0 and sum(draw.rejected.values()) < 90:
            draw.rejected["fill"] += 1
            return False
        return judge(draw, renderer, lane, **bounds)

    monkeypatch.setattr(PerturbedClass, "judge", fails_ninety_times)
    assert next(recipe.render(range(400))).index == 0
    assert len(started) < MAX_WAITING + 3


def test_an_image_at_the_threshold_is_not_kept():
    recipe = small_recipe()
    sample = next(recipe.render([0]))
    at_threshold = replace(recipe, min_fill=sample.metadata["fill_rate"])
    assert next(at_threshold.render([0])).metadata["tries"] > sample.metadata["tries"]


def test_divergent_draws_are_rejected_and_counted():
    """At sigma 6 with a wide delta many perturbed systems expand."""
    recipe = small_recipe(sigma=6.0, delta=0.3, points=20_000, classes=40, min_acceptance=0.2, min_fill=0.02)
    rejected = sum((Counter(sample.rejected) for sample in recipe.render(range(40))), Counter())
    assert rejected["overflow"] > 0
    assert all(np.isfinite(sample.metadata["eps"]).all() for sample in recipe.render(range(40)))


def test_liep_box_is_filled_uniformly():
    recipe = small_recipe(delta=0.2)
    eps = np.array([recipe.draw_eps(generator(0, index, "eps")) for index in range(4000)])
    assert eps.shape == (4000, 12)
    assert np.abs(eps).max() <= 0.1
    for column in eps.T:
        assert np.histogram(column, 10, (-0.1, 0.1))[0].min() > 320
    wide = np.array(
        [replace(recipe, perturbation="multiplicative").draw_eps(generator(0, i, "eps")) for i in range(500)]
    )
    assert 0.19 < np.abs(wide).max() <= 0.2


def test_the_base_is_vetted():
    recipe = OnePFrac(**{**SMALL, "base_candidates": 6, "min_fill": 0.2})
    resolved, provenance = recipe.resolve()
    assert provenance["base_tries"] == 6 + sum(provenance["base_rejections"].values())
    assert 0 <= provenance["base"] < provenance["base_tries"]
    for fewer in range(1, 6):
        assert replace(recipe, base_candidates=fewer).resolve()[1]["base_acceptance"] <= provenance["base_acceptance"]
    assert replace(recipe, base_candidates=1, min_acceptance=0.9).resolve()[1]["base_acceptance"] >= 0.9
    assert resolved.base.sigma == pytest.approx(3.5, rel=1e-12)
    assert fill_rate(draw_plain(resolved.base.maps, resolved.base.p, resolved.style, resolved.mask_key(0))) > 0.2
    assert recipe.resolve()[0] == resolved
    accepted = [sample.metadata["tries"] == 1 for sample in replace(resolved, classes=300).render(range(300))]
    assert np.mean(accepted) == pytest.approx(provenance["base_acceptance"], abs=0.15)


def test_bounded_searches_end_with_counts():
    with pytest.raises(DataError, match=r"no base fractal in 7 tries .*7 fill"):
        OnePFrac(**{**SMALL, "min_fill": 0.99, "max_base_tries": 7}).resolve()
    with pytest.raises(DataError, match=r"at sigma 0\.5 .*; give a --sigma of 3 to 6, as maps of less .*, lower --min"):
        OnePFrac(**{**SMALL, "sigma": 0.5, "max_base_tries": 7}).resolve()
    with pytest.raises(DataError, match="degenerate"):
        OnePFrac(**{**SMALL, "sigma": 1e-300, "max_base_tries": 3}).resolve()
    hopeless = replace(small_recipe(), min_fill=0.9, max_tries=4)
    with pytest.raises(DataError, match=r"class 2: none of 4 .* \(4 fill, 0 overflow\)"):
        list(hopeless.render([2]))
    with pytest.raises(DataError, match="fills 0"):
        hopeless.resolve()


def test_delta_zero_makes_equal_classes():
    recipe = small_recipe(delta=0.0, masks="shared")
    images = [sample.image for sample in recipe.render([0, 1, 2])]
    assert all(np.array_equal(image, images[0]) for image in images)
    assert "identical" in recipe.warnings({})[0]
    assert "patch masks" in replace(recipe, masks="class").warnings({})[0]
    assert not small_recipe().warnings({})


def test_preview_has_the_base_the_classes_and_their_differences(recipe):
    top, bottom = zip(*recipe.preview(), strict=True)
    assert len(top) == 6
    index = int(top[2][0].split()[1])
    sample = next(recipe.render([index]))
    assert np.array_equal(top[2][1], sample.image)
    base = draw_plain(recipe.base.maps, recipe.base.p, recipe.style, recipe.mask_key(index))
    difference = bottom[2][1]
    assert np.array_equal(difference.image, sample.image) and np.array_equal(difference.base, base)
    assert difference.names == (top[2][0], "base") and not bottom[0][1].image.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": 0.0}, "sigma 0"),
        ({"sigma": 6.1}, r"\(0, 6\]"),
        ({"sigma": 7.0, "maps": 3}, None),
        ({"delta": -0.1}, "delta -0.1"),
        ({"delta": float("nan")}, "delta nan"),
        ({"classes": 0}, "classes 0"),
        ({"seed": -1}, "seed -1"),
        ({"maps": 0}, "maps 0"),
        ({"min_fill": 1.5}, "min_fill 1.5"),
        ({"max_tries": 0}, "max_tries 0"),
    ],
)
def test_impossible_values(changes, message):
    if message is None:
        assert OnePFrac(**changes)
        return
    with pytest.raises(UsageError, match=message):
        OnePFrac(**changes)


def test_an_index_outside_is_refused(recipe):
    for index in (-1, 24):
        with pytest.raises(UsageError, match="0 to 23"):
            list(recipe.render([index]))
    with pytest.raises(UsageError, match="resolve"):
        list(OnePFrac().render([0]))


def test_a_given_base_is_used_as_it_is():
    ifs = IFS(
        np.array([[[0.6, 0.2, 0.1], [-0.3, 0.5, 0.4]], [[0.4, -0.5, -0.6], [0.5, 0.4, 0.2]]]), np.array([0.4, 0.6])
    )
    resolved, provenance = OnePFrac(**{**SMALL, "min_fill": 0.01}, ifs=ifs).resolve()
    assert (resolved.maps, resolved.sigma) == (2, ifs.sigma), "not the 3.5 of the defaults"
    assert resolved.base is ifs and provenance["base_tries"] == 0 and 0 < provenance["base_acceptance"] <= 1


def test_renderers_that_are_used_again_change_nothing():
    """Two at a time, of other styles between, and after one that was not used up."""
    recipe = small_recipe(classes=6)
    coloured = replace(recipe, color="color", points=1000)
    alone = [sample.image.tobytes() for index in range(6) for sample in recipe.render([index])]
    first, second = recipe.render(range(6)), recipe.render(reversed(range(6)))
    turns = [(next(first).image.tobytes(), next(second).image.tobytes(), next(coloured.render([0]))) for _ in range(4)]
    del first, second
    assert [turn[0] for turn in turns] == alone[:4]
    assert [turn[1] for turn in turns] == alone[:1:-1]
    assert [sample.image.tobytes() for sample in recipe.render(range(6))] == alone


class Outcomes(Vetting):
    """A vetting whose perturbations pass or not as it is told."""

    def __init__(self, number: int, passes: np.ndarray):
        self.number, self.passes, self.tried, self.passed = number, passes, 0, 0

    def probe(self) -> None:
        self.passed += int(self.passes[self.tried : self.tried + 2].sum())
        self.tried += 2


@pytest.mark.parametrize("seed", range(40))
def test_the_best_base_is_that_of_all_of_whose_perturbations_most_pass(seed):
    rng = np.random.default_rng(seed)
    rates = rng.choice([0, 0.3, 0.9, 0.97, 1], size=12)
    passes = rng.random((12, PROBES)) < rates[:, None]
    acceptances = passes.mean(axis=1).tolist()
    count, least = int(rng.integers(1, 9)), float(rng.choice([1 / PROBES, 0.5, 0.98]))
    expected = max(range(count), key=lambda number: (acceptances[number], -number))
    if acceptances[expected] < least:
        later = [number for number in range(count, 12) if acceptances[number] >= least]
        expected = later[0] if later else max(range(12), key=lambda number: (acceptances[number], -number))
    drawn, best = find_best((Outcomes(number, row) for number, row in enumerate(passes)), count, least)
    assert best is not None and (best.number, best.acceptance) == (expected, acceptances[expected])
    perfect = [number for number in range(count) if acceptances[number] == 1]
    assert len(drawn) == (
        perfect[0] + 1 if perfect else max(count, expected + 1 if acceptances[expected] >= least else 12)
    )
