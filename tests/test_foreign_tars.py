"""Tars of another origin as examples: counted, damaged, of any plain format."""

import io
import json
import shutil
import tarfile

import pytest
import torch
from PIL import Image
from test_data import MODES, labels, look, make, same, take, write_tars
from test_data import examples as examples

from fracgen.shards.errors import DataError, FracgenError
from fracgen.train.data.opening import open_examples
from fracgen.train.data.skipped import SkippedDataWarning

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create", "ignore:.*multi-threaded.*fork")


@pytest.mark.parametrize("sidecar", [None, "sizes.json", "_info.json"])
def test_foreign_tars_are_counted(tmp_path, sidecar):
    pattern = write_tars(tmp_path / "set", [3, 5, 4])
    names = [f"set-{n:03d}.tar" for n in range(3)]
    values = {
        "sizes.json": dict(zip(names, [3, 5, 4], strict=True)),
        "_info.json": {"splits": {"train": {"filenames": names, "shard_lengths": [3, 5, 4]}}},
    }
    if sidecar:
        (tmp_path / "set" / sidecar).write_text(json.dumps(values[sidecar]))
    done = []
    examples = open_examples(pattern, num_classes=12, progress=lambda *counts: done.append(counts))
    assert len(examples) == 12 and "12 images of 12 classes, in 3 tars" in str(examples)
    assert done == ([] if sidecar else [(1, 3), (2, 3), (3, 3)])
    globbed = open_examples(str(tmp_path / "set" / "set-*.tar"), num_classes=12)
    assert len(globbed) == 12 and globbed.fingerprint == examples.fingerprint
    for mode in MODES:
        loader = make(examples, mode, batch_size=12)
        (batch,) = take(loader, 1)
        assert str(loader.shape) == "8 x 8 gray"
        assert sorted(batch.labels.tolist()) == list(range(12))
        assert torch.equal(batch.images[:, 0, 0, 0].long(), batch.labels)
    (tmp_path / "set" / names[0]).unlink()
    with pytest.raises(DataError, match=r"set-000\.tar: missing"):
        open_examples(pattern, num_classes=12)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_any_plain_tar_is_read(tmp_path, form):
    path = tmp_path / "set.tar"
    long = "d" * 60 + "/" + "e" * 60 + "/"
    with tarfile.open(path, "w", format=form) as tar:
        folder = tarfile.TarInfo("sub/")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for number in range(9):
            png = io.BytesIO()
            Image.new("L", (8, 8), number).save(png, "PNG")
            for extension, content in (("CLS", str(number).encode()), ("json", b"{}"), ("png", png.getvalue())):
                info = tarfile.TarInfo(f"{long if number % 3 == 2 else 'sub/'}s{number}.{extension}")
                info.size = len(content)
                if form == tarfile.PAX_FORMAT and number % 2:
                    info.pax_headers = {"comment": "\u00e9" * 600}
                tar.addfile(info, io.BytesIO(content))
    examples = open_examples(str(path), num_classes=9)
    assert len(examples) == 9 and examples.labels.tolist() == list(range(9))
    assert [examples.describe(n).split("/")[-1] for n in range(9)] == [f"s{n}" for n in range(9)]
    assert [examples.open(n).getpixel((0, 0)) for n in range(9)] == list(range(9))


def damage(path, how):
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "garbage":
        path.write_bytes(b"no tar at all " * 1000)
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2 + 100])
    elif how == "overwritten":
        path.write_bytes(content[:8192] + b"\x07" * 2048 + content[8192 + 2048 :])
    elif how == "short":
        shutil.copy(path.with_name("set-000.tar"), path)
    elif how == "empty":
        path.write_bytes(b"")


def test_more_samples_than_were_counted(tmp_path):
    """Is an error; where bad data is skipped, they are not read, which is said."""
    pattern = write_tars(tmp_path / "set", [4, 12, 8])
    sizes = {f"set-{n:03d}.tar": count for n, count in enumerate([4, 11, 8])}
    (tmp_path / "set" / "sizes.json").write_text(json.dumps(sizes))
    said = r"says 11, and set-001\.tar holds 12 samples"
    for mode in MODES:
        with pytest.raises(DataError, match=said):
            take(make(open_examples(pattern, num_classes=24), mode), 5)
        examples = open_examples(pattern, num_classes=24, skip_bad=True)
        with pytest.warns(SkippedDataWarning, match=said):
            batches = take(make(examples, mode, batch_size=23, skip_bad=True), 3)
        assert sorted(labels(batches)) == sorted([n for n in range(24) if n != 15] * 3)


DAMAGES = ["missing", "garbage", "cut", "overwritten", "short", "empty"]


@pytest.fixture
def damaged(tmp_path):
    """Makes a pattern of three tars, the second of which is damaged after it was counted."""

    def made(how, **options):
        pattern = write_tars(tmp_path / "set", [4, 12, 8])
        examples = open_examples(pattern, **{"num_classes": 24, **options})
        damage(tmp_path / "set" / "set-001.tar", how)
        return examples

    return made


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_tar_is_an_error_that_names_it(mode, how, damaged):
    with pytest.raises(DataError, match=r"set-001\.tar") as error:
        take(make(damaged(how), mode), 6)
    assert "\n" not in str(error.value) and error.value.exit_code == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_report_a_damaged_tar(workers, damaged):
    with pytest.raises(DataError, match=r"^set-001\.tar: .*"):
        take(make(damaged("cut"), workers=workers), 6)


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_tar_is_skipped_and_counted(how, damaged):
    """The same in memory and streamed: each bad sample leaves its place to the next good one, and counts once."""
    examples = damaged(how, skip_bad=True)
    options = {"batch_size": 24, "skip_bad": True}
    with pytest.warns(SkippedDataWarning, match=r"set-001\.tar"):
        memory = make(examples, "memory", **options)
    lost = 24 - len(memory.source.numbers)
    assert 0 < lost <= 12 and sum(memory.skipped().values()) == lost and memory.num_samples == 24
    batches = take(memory, 6)
    good = memory.source.labels.tolist()
    assert all(set(batch.labels.tolist()) == set(good) for batch in batches), "every epoch has every good one"
    for workers in (0, 2):
        stream = make(examples, "stream", workers=workers, **options)
        with pytest.warns(SkippedDataWarning, match=r"set-001\.tar"):
            same(take(stream, 6), batches)
        assert stream.skipped() == memory.skipped()
        same(take(stream, 2, 4), batches[4:])
    with pytest.warns(SkippedDataWarning):
        looked_at = look(stream.source, skip_bad=True, batch_size=24)
    assert looked_at == look(memory.source, batch_size=24) and looked_at[0][1] == good


def test_tars_that_were_bad_before_are_found_on_opening(tmp_path):
    for how in ("garbage", "cut", "overwritten", "empty"):
        pattern = write_tars(tmp_path / how, [4, 12, 8])
        damage(tmp_path / how / "set-001.tar", how)
        with pytest.raises(DataError, match=r"^set-001\.tar: no whole tar"):
            open_examples(pattern, num_classes=24)
        examples = open_examples(pattern, num_classes=24, skip_bad=True)
        with pytest.warns(SkippedDataWarning, match=r"set-001\.tar"):
            assert sum(make(examples, "memory", skip_bad=True).skipped().values()) >= 1


@pytest.mark.filterwarnings("ignore::fracgen.train.data.skipped.SkippedDataWarning")
@pytest.mark.parametrize("mode", MODES)
def test_a_set_without_a_good_sample_is_an_error(mode, tmp_path):
    examples = open_examples(write_tars(tmp_path / "set", [6, 6]), num_classes=12, skip_bad=True)
    looked_at = make(examples, "stream", skip_bad=True)
    for path in (tmp_path / "set").glob("*.tar"):
        damage(path, "garbage")
    with pytest.raises(DataError, match=r"set-00\d\.tar: no whole tar"):
        make(open_examples(str(tmp_path / "set" / "*.tar"), num_classes=12, skip_bad=True), mode, skip_bad=True)
    looked_at.source.examples.store.tars._indexes.clear()
    with pytest.raises(DataError, match="no image of 12 can be used"):
        take(looked_at, 1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("cat", r"sample s0003: label 'cat'"),
        (-1, r"sample s0003: label '-1', not a number from 0 to 11"),
        ("1.0", r"sample s0003: label '1.0'"),
        (12, r"sample s0003: label 12, out of range for --num-classes 12"),
    ],
)
def test_bad_labels(mode, label, said, tmp_path):
    tars = write_tars(tmp_path / "set", [12], label=lambda n: n if n != 3 else label)
    with pytest.raises(FracgenError, match=said) as error:
        take(make(open_examples(tars, num_classes=12), mode, batch_size=12), 2)
    assert error.value.exit_code == 2
