import json
import math

import numpy as np
import pytest

from fracgen.ifs import IFS, load_ifs, maps_from_rows, probabilities, sample_maps, sigma_factor
from fracgen.rng import generator
from fracgen.shards.errors import UsageError

ROWS = [[0.5, 0.1, -0.2, 0.4, 0.3, -0.1], [-0.3, 0.6, 0.5, 0.2, -0.7, 0.9]]


@pytest.mark.parametrize("num_maps", [1, 2, 3, 7])
@pytest.mark.parametrize("share", [1e-6, 0.1, 0.5, 3.5 / 6, 0.9, 1 - 1e-9, 1.0])
def test_sigma_is_exactly_what_was_asked_for(num_maps, share):
    sigma = share * 3 * num_maps
    for draw in range(200):
        maps = sample_maps(sigma, num_maps, generator(7, draw, "ifs"))
        values = np.linalg.svd(maps[:, :, :2], compute_uv=False)
        assert sigma_factor(maps) == pytest.approx(sigma, rel=1e-12, abs=1e-14)
        assert values.max() <= 1 + 1e-12
        assert np.abs(maps[:, :, 2]).max() <= 1


def test_sampler_covers_singular_values_signs_and_angles():
    maps = np.array([sample_maps(3.5, 2, generator(0, draw, "ifs")) for draw in range(2000)])
    values = np.linalg.svd(maps[:, 0, :, :2], compute_uv=False)
    assert values[:, 0].min() < 0.25 and values[:, 0].max() > 0.99
    assert values[:, 1].min() < 0.02 and values[:, 1].max() > 0.9
    determinants = np.linalg.det(maps[:, :, :, :2])
    assert 0.45 < (determinants > 0).mean() < 0.55
    assert np.abs(maps[:, :, :, 2].mean(axis=(0, 1))).max() < 0.05
    angles = np.arctan2(maps[:, 0, 1, 0], maps[:, 0, 0, 0])
    assert np.histogram(angles, 8, (-np.pi, np.pi))[0].min() > 150


@pytest.mark.parametrize("sigma", [0, -1, 6.0001, math.nan, math.inf])
def test_impossible_sigma(sigma):
    with pytest.raises(UsageError, match=r"must be in \(0, 6\]"):
        sample_maps(sigma, 2, generator(0, 0, "ifs"))


def test_probabilities_are_summed_in_map_order():
    maps = maps_from_rows(np.random.default_rng(0).uniform(-1, 1, (7, 6)))
    total = 0.0
    for (a, b, _), (c, d, _) in maps.tolist():
        total += abs(a * d - b * c)
    expected = [abs(a * d - b * c) / total for (a, b, _), (c, d, _) in maps.tolist()]
    assert probabilities(maps).tolist() == expected


def test_csv_and_json_round_trip_exactly(tmp_path):
    ifs = IFS.from_maps(sample_maps(3.5, 2, generator(1, 0, "ifs")))
    rows = [
        f"{a!r},{b!r},{c!r},{d!r},{e!r},{f!r},{p!r}"
        for ((a, b, e), (c, d, f)), p in zip(ifs.maps.tolist(), ifs.p.tolist(), strict=True)
    ]
    (tmp_path / "a.csv").write_text("\n".join(rows) + "\n\n")
    (tmp_path / "b.json").write_text(json.dumps(ifs.to_plain()))
    (tmp_path / "c.json").write_text(json.dumps({"maps": ifs.maps.tolist()}))
    for name in ("a.csv", "b.json", "c.json"):
        assert load_ifs(tmp_path / name) == ifs


def test_p_of_a_csv_is_used_as_it_stands(tmp_path):
    (tmp_path / "a.csv").write_text("1,0,0,1,0,0,0.2500001\n0.5,0,0,0.5,0,0,0.75")
    assert load_ifs(tmp_path / "a.csv").p.tolist() == [0.2500001, 0.75]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "1,2,3", "line 1 has 3 columns"),
        ("a.csv", "0,5;0,1;0,2;0,3;0,1;0,2;1", "line 1 divides its columns by ';'; .* points in numbers"),
        ("a.csv", "0.5\t0.1\t0.2\t0.3\t0.1\t0.2\t1", r"line 1 divides its columns by '\\t'"),
        ("a.csv", "a,b,c,d,e,f,p\n1,0,0,1,0,0,1", "line 1: could not convert"),
        ("a.csv", "1,0,0,1,0,0,1\n1,0,0,nan,0,0,0", "line 2: NaN"),
        ("a.csv", "1,0,0,inf,0,0,1", "NaN or infinity"),
        ("a.csv", "1,0,0,1,0,0,0.5", "sum to 1"),
        ("a.csv", "1,0,0,1,0,0,1.5\n1,0,0,1,0,0,-0.5", "p must be >= 0"),
        ("a.csv", "", "empty"),
        ("a.json", "{", "not JSON"),
        ("a.json", "[" * 100_000, "not JSON"),
        ("a.json", "[1, 2]", "an IFS is written"),
        ("a.json", '{"maps": [[[1, 0, 0], [0, 1, "x"]]]}', "holds 'x'"),
        ("a.json", '{"maps": [[[1, 0, 0], [0, 1]]]}', "ragged"),
        ("a.json", '{"maps": [[1, 0, 0], [0, 1, 0]]}', "2 x 3 matrices"),
        ("a.json", '{"maps": [[[0, 0, 1], [0, 0, 1]]]}', "determinants sum to 0"),
        ("a.json", '{"maps": [[[1e999, 0, 1], [0, 0, 1]]]}', "finite"),
        ("a.json", '{"maps": []}', "2 x 3 matrices"),
        ("a.json", '{"maps": [[[1, 0, 0], [0, 1, 0]]], "p": [0.5, 0.5]}', "not"),
        ("a.json", '{"recipe": {"sigma": 1}}', "holds no IFS"),
        ("a.json", '{"recipe": {"ifs": 5}}', "an IFS is written"),
    ],
)
def test_bad_files_say_what_is_wrong(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        load_ifs(str(tmp_path / name))
    assert name in str(caught.value)


def test_files_that_are_none(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00\x01")
    (tmp_path / "big.csv").write_text("1,0,0,1,0,0,1\n" * 100_000)
    (tmp_path / "field.csv").write_text("1" * 200_000)
    for name in ("a.csv", "big.csv", "field.csv", "absent.csv", "", "/dev/zero"):
        with pytest.raises(UsageError):
            load_ifs(tmp_path / name)
