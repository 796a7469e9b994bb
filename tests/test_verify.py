"""`verify` finds whatever is done to a folder."""

import json
import shutil

import numpy as np
import pytest

from fracgen.recheck import differing_samples
from shards.codec import encode_png
from shards.reader import open_shards
from shards.verify import verify_folder
from shards.writer import write_tar

NAME = "1p-frac-train-000002.tar"


@pytest.fixture
def copy(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "set")
    return tmp_path / "set"


def problems(path):
    return verify_folder(open_shards(path), workers=2)


def test_a_good_folder_has_no_problems(folder):
    assert problems(folder) == []
    assert differing_samples(open_shards(folder), 24) == []


def test_one_flipped_bit_anywhere_is_found(copy, folder):
    data = bytearray((folder / NAME).read_bytes())
    for place in np.random.default_rng(0).integers(0, len(data), 40).tolist():
        data[place] ^= 1
        (copy / NAME).write_bytes(data)
        assert any(NAME in problem for problem in problems(copy)), place
        data[place] ^= 1


def rewrite(path, change):
    """Forge a shard and its record so that only deeper checks can tell."""
    shards = open_shards(path)
    samples = change(list(shards.read_shard(2)))
    record = write_tar(path / NAME, NAME, samples, shards.manifest.layout)
    values = json.loads((path / "dataset.json").read_text())
    old = values["shards"][2]
    values["shards"][2] = {**old, "bytes": record.bytes, "sha256": record.sha256}
    (path / "dataset.json").write_text(json.dumps(values))
    return record


def changed(sample, **values):
    return type(sample)(**{**{name: getattr(sample, name) for name in sample.__dataclass_fields__}, **values})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda samples: [changed(samples[0], label=24), *samples[1:]], "label 24 is not in 0..23"),
        (lambda samples: [changed(samples[0], label=-1), *samples[1:]], "label -1"),
        (lambda samples: [changed(samples[0], label=samples[1].label), *samples[1:]], "labels differ"),
        (lambda samples: [changed(samples[0], image=samples[1].image), *samples[1:]], "pixels or labels differ"),
        (lambda samples: [changed(samples[0], image=samples[0].image[:-1]), *samples[1:]], "shape"),
        (lambda samples: [changed(samples[0], image=np.stack([samples[0].image] * 3, -1)), *samples[1:]], "shape"),
        (lambda samples: [changed(samples[0], metadata={}), *samples[1:]], "no metadata"),
        (lambda samples: samples[::-1], "keys are not"),
        (lambda samples: samples[:-1], "keys are not"),
        (lambda samples: [*samples, samples[0]], "keys are not"),
    ],
)
def test_forged_shards_are_found(copy, change, message):
    rewrite(copy, change)
    assert any(message in problem and NAME in problem for problem in problems(copy))


def test_render_finds_pixels_that_the_recipe_does_not_make(copy):
    record = rewrite(copy, lambda samples: [changed(sample, image=sample.image[::-1]) for sample in samples])
    values = json.loads((copy / "dataset.json").read_text())
    values["shards"][2]["pixels_sha256"] = record.pixels_sha256
    (copy / "dataset.json").write_text(json.dumps(values))
    assert not any(NAME in problem for problem in problems(copy))
    found = differing_samples(open_shards(copy), 5)
    assert len(found) == 1 and NAME in found[0]
    values["recipe"]["delta"] = 0.2
    (copy / "dataset.json").write_text(json.dumps(values))
    assert "does not have the hash" in differing_samples(open_shards(copy), 5)[0]


def test_missing_and_foreign_files(copy):
    (copy / NAME).unlink()
    (copy / "1p-frac-train-000009.tar").write_bytes(b"")
    (copy / "_info.json").unlink()
    (copy / "sizes.json").write_text("{}")
    (copy / ".partial").mkdir()
    text = "\n".join(problems(copy))
    for expected in (
        f"{NAME}: missing",
        "000009.tar: not in the manifest",
        "_info.json: missing",
        "sizes.json: differs",
        ".partial",
    ):
        assert expected in text
    assert any(NAME in problem for problem in differing_samples(open_shards(copy), 24))


def test_undecodable_image_is_named(copy, monkeypatch):
    monkeypatch.setattr("shards.writer.encode_png", lambda image, bits: encode_png(image, bits)[:60])
    rewrite(copy, lambda samples: samples)
    assert any("cannot be decoded" in problem for problem in problems(copy))


def test_totals_must_follow_from_the_shards(copy):
    values = json.loads((copy / "dataset.json").read_text())
    values["num_samples"] = 25
    (copy / "dataset.json").write_text(json.dumps(values))
    assert any("num_samples" in problem for problem in problems(copy))
