"""Where the samples of a tar lie, against webdataset's own reader; and tars that are cut, corrupt or odd."""

import io
import re
import tarfile
import tracemalloc

import numpy as np
import pytest
from webdataset.tariterators import group_by_keys, tar_file_iterator

from fracgen.shards.errors import DataError
from fracgen.shards.reader import read_tar
from fracgen.shards.tar import index_tar
from fracgen.shards.tar_members import TAR_END, encode_member, read_members

SAMPLES = [(f"{n:03}.{extension}", data) for n in range(9) for extension, data in (
    ("cls", str(n * 7).encode()), ("json", b"{}" * n), ("png", bytes([n]) * (n * 400)),
)]  # fmt: skip


def write_tar(path, members, format=tarfile.USTAR_FORMAT):  # noqa: A002  # as tarfile calls it
    """members: (name, bytes), or a TarInfo."""
    with tarfile.open(path, "w", format=format) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def info_of(name, kind):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "000.png"
    return info


def header_of(name, size, kind=tarfile.REGTYPE):
    info = info_of(name, kind)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def webdataset_samples(path):
    """[(key, {extension: bytes})] as webdataset reads them."""
    with path.open("rb") as file:
        members = ({**member, "__url__": ""} for member in tar_file_iterator(file))
        return [
            (sample["__key__"], {name: data for name, data in sample.items() if name[:2] != "__"})
            for sample in group_by_keys(members)
        ]


TARS = {
    "plain": SAMPLES,
    "one": SAMPLES[:3],
    "paths": [(f"a.b/c/{name}", data) for name, data in SAMPLES],
    "capitals": [(name.upper(), data) for name, data in SAMPLES],
    "two dots": [(name.replace(".", ".x."), data) for name, data in SAMPLES],
    "without extension": [member for each in SAMPLES for member in (("README", b"x"), each, ("a.b/README", b""))],
    "meta": [("__meta__/a.png", b"x"), ("__index__", b"x"), ("__x.png", b"y"), *SAMPLES, ("a__b__.png", b"z")],
    "hidden": [(".hidden.png", b"x"), ("d/.hidden.png", b"y"), ("d.e/.hidden.png", b"y"), *SAMPLES],
    "folders": [info_of("d", tarfile.DIRTYPE), *SAMPLES[:4], info_of("d/e", tarfile.DIRTYPE), *SAMPLES[4:]],
    "links": [*SAMPLES[:4], info_of("link.png", tarfile.SYMTYPE), *SAMPLES[4:], info_of("x.cls", tarfile.LNKTYPE)],
    "long names": [*SAMPLES[:6], *((f"{'long/' * 40}{name}", data) for name, data in SAMPLES)],
    "not ASCII": [(f"größe-{name}", data) for name, data in SAMPLES],
    "100 bytes": [(f"{'n' * 96}.{name[4:7]}", data) for name, data in SAMPLES[:2]] + [("x" * 96 + ".png", b"1")],
    "keys apart": [SAMPLES[0], SAMPLES[3], SAMPLES[1], SAMPLES[4]],
    "labels": [(f"{n}.cls", text) for n, text in enumerate((b"12\n", b" 3 ", b"", b"x", b"-1", b"1" * 19, b"1.5"))],
    "empty": [],
}


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", TARS)
def test_samples_are_those_of_webdataset(tmp_path, name, format):  # noqa: A002
    if name == "long names" and format == tarfile.USTAR_FORMAT:
        return
    path = write_tar(tmp_path / "x.tar", TARS[name], format)
    index, expected = index_tar(path), webdataset_samples(path)
    assert index.fault is None and [key.decode() for key in index.keys.tolist()] == [key for key, _ in expected]
    data = path.read_bytes()
    for number, (_, members) in enumerate(expected):
        assert index.read_sample(number) == members
        start, size = index.image_starts[number], index.image_sizes[number]
        if (image := members.get("png")) is None:
            assert start == size == -1
        else:
            assert data[start : start + size] == image == index.read_image(number)
        text = members.get("cls", b"").strip()
        assert index.labels[number] == (int(text) if text.isdigit() else -1)
    assert np.array_equal(np.sort(index.starts), index.starts) and all(start % 512 == 0 for start in index.starts)


def test_the_preferred_image_is_taken(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("a.jpg", b"1"), ("a.png", b"22"), ("b.jpg", b"333"), ("c.gif", b"4444")])
    assert index_tar(path).image_sizes.tolist() == [2, 3, -1]
    assert index_tar(path, ("jpg", "png")).image_sizes.tolist() == [1, 3, -1]
    assert index_tar(path, ("gif",)).image_sizes.tolist() == [-1, -1, 4]


def test_a_file_system_that_cannot_map(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "x.tar", SAMPLES)
    expected = index_tar(path).image_starts.tolist()

    def refuse(*_, **__):
        raise OSError(19, "No such device")

    monkeypatch.setattr("fracgen.shards.tar_members.mmap.mmap", refuse)
    path.write_bytes(path.read_bytes() + bytes(512))
    assert index_tar(path).image_starts.tolist() == expected and index_tar(path).labels[8] == 56


def test_a_cut_tar_gives_its_whole_samples_and_the_fault(tmp_path):
    path = write_tar(tmp_path / "x.tar", SAMPLES)
    whole, data = index_tar(path), path.read_bytes()
    end = int(whole.image_starts[-1]) + 512 * -(-int(whole.image_sizes[-1]) // 512)
    for length in [*range(0, end + 1, 256), end - 3]:
        path.write_bytes(data[:length])
        index = index_tar(path)
        assert index.fault.startswith("x.tar: no whole tar (") and "\n" not in index.fault, length
        assert len(index) <= len(whole)
        for number in range(len(index)):
            assert index.keys[number] == whole.keys[number] and index.starts[number] == whole.starts[number]
        num_whole = sum(
            start + size <= length for start, size in zip(whole.image_starts, whole.image_sizes, strict=True)
        )
        assert len(index) >= num_whole - 1, "only the last sample may be lost"
    path.write_bytes(data[:end])
    assert len(index_tar(path)) == len(whole) and "without the block" in index_tar(path).fault
    path.write_bytes(data[: end + 512])
    assert index_tar(path).fault is None


def test_a_corrupt_header_ends_what_can_be_told(tmp_path):
    path = write_tar(tmp_path / "x.tar", SAMPLES)
    whole, data = index_tar(path), path.read_bytes()
    rng = np.random.default_rng(0)
    for number in range(9):
        for place in rng.integers(0, 154, 20):
            bad = bytearray(data)
            bad[whole.starts[number] + place] ^= 1
            path.write_bytes(bad)
            index = index_tar(path)
            assert index.fault is not None and len(index) == number, (number, place)
    for content in (b"", b"x", bytes(100), b"nothing" * 999, b"\x1f\x8b" + bytes(5000)):
        path.write_bytes(content)
        index = index_tar(path)
        assert len(index) == 0 and index.fault.startswith("x.tar: no whole tar")


def test_a_growing_tar_is_read_again(tmp_path):
    path, parts = tmp_path / "x.tar", [encode_member(*member) for member in SAMPLES]
    path.write_bytes(b"".join(parts[:6]))
    assert len(index_tar(path)) == 2 and index_tar(path).fault is not None
    path.write_bytes(b"".join([*parts, TAR_END]))
    assert len(index_tar(path)) == 9 and index_tar(path).fault is None


def test_a_member_twice_is_a_fault(tmp_path):
    path = write_tar(tmp_path / "x.tar", [*SAMPLES[:6], SAMPLES[4], *SAMPLES[6:]])
    index = index_tar(path)
    assert len(index) == 1 and index.fault == "x.tar: no whole tar (001.json is in one sample twice)"
    with pytest.raises(ValueError, match="duplicate"):
        webdataset_samples(path)


def test_what_is_gone_or_cut_later_is_one_line(tmp_path):
    path = write_tar(tmp_path / "x.tar", SAMPLES)
    index = index_tar(path)
    path.write_bytes(path.read_bytes()[: index.image_starts[5]])
    with pytest.raises(DataError, match=r"x\.tar: sample 005: its tar ends within it"):
        index.read_image(5)
    with pytest.raises(DataError, match=r"x\.tar: sample 005"):
        index.read_sample(5)
    path.unlink()
    with pytest.raises(DataError, match=r"x\.tar: sample 001: cannot be read"):
        index.read_image(1)
    with pytest.raises(FileNotFoundError):
        index_tar(path)


def test_our_members_are_what_tarfile_writes(tmp_path):
    ours = b"".join([encode_member(name, data) for name, data in SAMPLES] + [TAR_END])
    theirs = write_tar(tmp_path / "x.tar", SAMPLES)
    with tarfile.open(theirs) as tar:
        assert [tar.extractfile(member).read() for member in tar] == [data for _, data in SAMPLES]
    assert list(read_members(io.BytesIO(ours), "x")) == SAMPLES
    assert list(read_members(theirs.open("rb"), "x")) == SAMPLES


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_header_that_claims_gigabytes_is_damage(tmp_path, kind):
    info = tarfile.TarInfo("huge.png")
    info.size, info.type = (1 << 33) - 512, kind
    path = tmp_path / "x.tar"
    path.write_bytes(
        b"".join(
            [
                *(encode_member(*member) for member in SAMPLES if "json" not in member[0]),
                info.tobuf(tarfile.USTAR_FORMAT),
            ]
        )
    )
    tracemalloc.start()
    with pytest.raises(DataError, match="no whole tar"):
        list(read_tar(path, "png"))
    assert index_tar(path).fault is not None
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


def sparse_member(name):
    """A member of GNU's sparse format that claims 4 GiB and holds nothing of them."""
    header = bytearray(info_of(name, tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"%011o\0" % (1 << 32)
    header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 8 * 32)
    return bytes(header)


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (sparse_member("8.png"), "is sparse; write the tar without --sparse"),
        (
            tarfile.TarInfo("n" * 5000 + ".png").tobuf(tarfile.PAX_FORMAT),
            "name has 5004 letters, at most 1024 are read",
        ),
        (header_of("8.png", -1024), "claims -1024 bytes|invalid"),
        (header_of("8.png", -1024, tarfile.GNUTYPE_LONGNAME), ""),
        (header_of("8.png", -512, tarfile.XHDTYPE), ""),
    ],
    ids=["sparse", "long name", "negative size", "negative long name", "negative pax"],
)
def test_members_that_would_take_gigabytes_or_never_end(tmp_path, member, said):
    path = tmp_path / "x.tar"
    path.write_bytes(b"".join([*(encode_member(*each) for each in SAMPLES[:3]), member, TAR_END]))
    assert re.search(f"^x.tar: no whole tar \\(.*({said})", index_tar(path).fault)
    with pytest.raises(DataError):
        list(read_tar(path, "png"))
