"""The draws of training: pure functions of seed, purpose and counter."""

import numpy as np

from fracgen.train.seeding import MAX_SEED, generator, key, uniforms


def test_the_rule_is_pinned():
    assert generator(7, "order", 3).random(2).tolist() == [0.7106633388029268, 0.16226485065910778]
    assert key(7, "mix", 3, 1) == 7944722477289876855
    assert uniforms(7, "augment", [0, 1000], 2).tolist() == [
        [0.004483229574172243, 0.7728030919979493],
        [0.705121891056975, 0.5373860697092772],
    ]


def test_a_sample_draws_the_same_in_any_batch():
    together = uniforms(7, "augment", np.arange(100), 5)
    assert np.array_equal(together[40:43], uniforms(7, "augment", [40, 41, 42], 5))
    assert np.array_equal(together[:, :3], uniforms(7, "augment", np.arange(100), 3))


def test_seeds_purposes_and_counters_are_told_apart():
    streams = [
        generator(seed, purpose, *counters).random()
        for seed in (0, 1, 2**32, MAX_SEED)
        for purpose in ("order", "shuffle")
        for counters in ((), (0,), (1,), (0, 1), (1, 0), (2**32,))
    ]
    assert len(set(streams)) == len(streams)
    assert not np.array_equal(uniforms(0, "augment", [1], 4), uniforms(0, "erase", [1], 4))


def test_uniforms_are_uniform_and_unrelated():
    drawn = uniforms(1, "augment", np.arange(20_000), 6)
    assert drawn.min() >= 0 and drawn.max() < 1
    assert np.allclose(drawn.mean(0), 0.5, atol=0.01) and np.allclose(drawn.var(0), 1 / 12, atol=0.002)
    between_columns = np.corrcoef(drawn.T) - np.eye(6)
    between_rows = np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1]
    assert np.abs(between_columns).max() < 0.03 and abs(between_rows) < 0.03
