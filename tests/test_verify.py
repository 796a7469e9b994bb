"""`verify` finds whatever is done to a folder."""

import hashlib
import io
import json
import os
import shutil
import tarfile
import tracemalloc

import numpy as np
import pytest
from conftest import forge_manifest

from fracgen.rerender import differing_samples
from fracgen.shards.errors import DataError
from fracgen.shards.png import encode_png
from fracgen.shards.reader import open_shards
from fracgen.shards.verify import unlisted_files, verify_folder
from fracgen.shards.writer import write_tar

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
    forge_manifest(path, values)
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
        (lambda samples: [*samples, samples[0]], "keys are not"),
    ],
)
def test_forged_shards_are_found(copy, change, message):
    rewrite(copy, change)
    assert any(message in problem and NAME in problem for problem in problems(copy))


def test_a_lost_sample_is_found(copy):
    rewrite(copy, lambda samples: [changed(samples[0], metadata={"x": "y" * 4096}), *samples[1:-1]])
    assert any("keys are not" in problem for problem in problems(copy))
    rewrite(copy, lambda samples: samples[:1])
    with pytest.raises(DataError, match=r"000002\.tar: \d samples in \d+ bytes"):
        open_shards(copy)


def test_render_finds_pixels_that_the_recipe_does_not_make(copy):
    record = rewrite(copy, lambda samples: [changed(sample, image=sample.image[::-1]) for sample in samples])
    values = json.loads((copy / "dataset.json").read_text())
    values["shards"][2]["pixels_sha256"] = record.pixels_sha256
    forge_manifest(copy, values)
    assert not any(NAME in problem for problem in problems(copy))
    differing = differing_samples(open_shards(copy), 5)
    assert len(differing) == 1 and NAME in differing[0]
    values["recipe"]["delta"] = 0.2
    forge_manifest(copy, values)
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


def test_what_the_manifest_does_not_name_is_listed(copy):
    assert unlisted_files(open_shards(copy)) == []
    (copy / "notes.txt").write_text("x")
    (copy / "more").mkdir()
    (copy / "link").symlink_to("/")
    os.mkfifo(copy / "pipe")
    (copy / NAME).rename(copy.parent / NAME)
    (copy / NAME).symlink_to(copy.parent / NAME)
    listed = ["link (link)", "more (folder)", "notes.txt (file)", "pipe (special file)"]
    assert unlisted_files(open_shards(copy)) == listed and problems(copy) == []


HUGE = [
    {"num_samples": 300_000_000},
    {"num_samples": 10**30},
    {"num_shards": 10**9},
    {"num_shards": 10**9, "num_samples": 10**9},
    {"group": 10**9},
    {"group": 10**30},
]


@pytest.mark.parametrize("layout", HUGE)
@pytest.mark.parametrize("spread", ["one", "all"])
def test_counts_that_cannot_be_are_refused_before_anything_is_allocated(copy, layout, spread):
    """Forged so that they agree with each other as far as they can; files' sizes tell."""
    values = json.loads((copy / "dataset.json").read_text())
    values["layout"] |= layout
    count = values["layout"]["num_samples"]
    shards = values["shards"]
    for number, shard in enumerate(shards):
        shard["samples"] = count // 5 if spread == "all" else shard["samples"]
        shard["samples"] += (count - count // 5 * 5 if spread == "all" else count - 24) * (number == 0)
    forge_manifest(copy, values)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"dataset\.json: damaged"):
        verify_folder(open_shards(copy))
    for shard in shards:
        shard["bytes"] = 10**31
    forge_manifest(copy, values)
    try:
        assert all("bytes, the manifest says" in problem for problem in problems(copy) if ".tar" in problem)
    except DataError as error:
        assert "damaged" in str(error)  # either is right
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("lacks", ["0 samples", "no classes"])
def test_a_folder_without_images_or_classes_is_damaged(copy, lacks):
    values = json.loads((copy / "dataset.json").read_text())
    if lacks == "no classes":
        values["class_names"] = []
    else:
        layout = open_shards(copy).manifest.layout
        for number, shard in enumerate(values["shards"]):
            skipped = {layout.key(index): "x" for index in layout.indices(number).tolist()}
            shard |= {"samples": 0, "rejections": {}, "skipped": skipped}
    forge_manifest(copy, values)
    with pytest.raises(DataError, match=f"damaged .*{lacks}"):
        open_shards(copy)


def test_undecodable_image_is_named(copy, monkeypatch):
    monkeypatch.setattr("fracgen.shards.writer.encode_png", lambda image, bits: encode_png(image, bits)[:60])
    rewrite(copy, lambda samples: samples)
    assert any("cannot be decoded" in problem for problem in problems(copy))


def test_totals_must_follow_from_the_shards(copy):
    values = json.loads((copy / "dataset.json").read_text())
    values["num_samples"] = 25
    forge_manifest(copy, values)
    assert any("totals or its own sha256" in problem for problem in problems(copy))


@pytest.mark.parametrize("name", ["preview.png", "dataset.json", "README.md", "_info.json", "sizes.json"])
def test_one_changed_byte_beside_the_shards_is_found(copy, name):
    data = (copy / name).read_bytes()
    text = data.replace(b"0.8", b"0.9", 1) if name == "dataset.json" else data[:-2] + bytes([data[-2] ^ 1]) + data[-1:]
    assert text != data
    (copy / name).write_bytes(text)
    if name == "dataset.json":
        with pytest.raises(DataError, match="not what its own sha256 says"):
            open_shards(copy)
    else:
        assert any(name in problem for problem in problems(copy))


def forge_tar(path, change):
    """Replace a tar by one of changed members, and forge the manifest's sums of the file."""
    with tarfile.open(path / NAME) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar.getmembers()]
    with tarfile.open(path / NAME, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member, data in change(members):
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    data = (path / NAME).read_bytes()
    values = json.loads((path / "dataset.json").read_text())
    values["shards"][2] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    forge_manifest(path, values)


def with_type(kind, target=""):
    def change(members):
        members[0][0].type, members[0][0].linkname = kind, target
        return [(members[0][0], b""), *members[1:]]

    return change


def with_data(suffix, data):
    return lambda members: [(member, data if member.name.endswith(suffix) else old) for member, old in members]


def with_mtime(members):
    members[3][0].mtime = 5
    return members


def with_extra(members):
    extra = tarfile.TarInfo(members[0][0].name.replace(".cls", ".txt"))
    return [members[0], (extra, b"x"), *members[1:]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda members: members, "headers or padding"),  # tarfile pads to 10,240 bytes
        (with_mtime, "headers or padding"),
        (with_extra, "members cls, txt, json, png"),
        (
            lambda members: [members[i + j] for i in range(0, len(members), 3) for j in (2, 1, 0)],
            "members png, json, cls",
        ),
        (with_type(tarfile.SYMTYPE, "nowhere"), "no plain file"),
        (with_type(tarfile.LNKTYPE, "../../x"), "no plain file"),
        (with_type(tarfile.DIRTYPE), "no plain file"),
        (with_data(".json", b"[1]"), "no mapping"),
        (with_data(".json", b'{"a": NaN}'), "holds NaN"),
        (with_data(".json", b"[" * 100_000), "sample"),
        (with_data(".cls", b"two"), "invalid literal"),
        (with_data(".cls", b"9" * 30), f"label {'9' * 30}: is the number of no class"),
        (with_data(".cls", b"-1"), "label -1: is the number of no class"),
        (with_data(".png", b"%!PS-Adobe-3.0 EPSF-3.0"), "no PNG image"),
        (with_data(".png", b""), "no PNG image"),
    ],
)
def test_forged_tars_are_found(copy, change, message):
    forge_tar(copy, change)
    assert any(message in problem and NAME in problem for problem in problems(copy))


def test_special_files_do_not_hang(copy):
    (copy / NAME).unlink()
    os.mkfifo(copy / NAME)
    (copy / "sizes.json").unlink()
    (copy / "sizes.json").mkdir()
    (copy / "1p-frac-train-000003.tar").unlink()
    (copy / "1p-frac-train-000003.tar").symlink_to("/dev/zero")
    text = "\n".join(problems(copy))
    assert text.count("not a plain file") == 2 and "sizes.json: missing" in text
