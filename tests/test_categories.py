"""Category sets: bytes, folders of published files, and back."""

import io
import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fracgen.base_fractals import load_bases
from fracgen.categories import Categories, _one_at_a_time, load_categories, write_categories
from fracgen.fractaldb import OFDB
from fracgen.ifs import IFS
from fracgen.render_shards import write_shards
from fracgen.shards.errors import UsageError


def random_systems(count, seed=0):
    random = np.random.RandomState(seed)
    return tuple(IFS.from_maps(random.uniform(-1, 1, (random.randint(2, 8), 2, 3))) for _ in range(count))


def savetxt(ifs) -> bytes:
    """A category file as the published code writes it."""
    file = io.BytesIO()
    np.savetxt(
        file, [[a, b, c, d, e, f, p] for ((a, b, e), (c, d, f)), p in zip(ifs.maps, ifs.p, strict=True)], delimiter=","
    )
    return file.getvalue()


def write_files(folder, systems, names=None):
    folder.mkdir(parents=True, exist_ok=True)
    for number, ifs in enumerate(systems):
        path = folder / (names[number] if names else f"{number:05d}.csv")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(savetxt(ifs))


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def same_bits(one, other):
    """Equal, and the signs of zeros too."""
    return [(ifs.maps.tobytes(), ifs.p.tobytes()) for ifs in one] == [
        (ifs.maps.tobytes(), ifs.p.tobytes()) for ifs in other
    ]


@st.composite
def systems(draw):
    numbers = st.floats(allow_nan=False, allow_infinity=False)
    shares = np.array(draw(st.lists(st.floats(0, 1), min_size=1, max_size=7))) + 1e-3
    maps = [[[draw(numbers) for _ in range(3)] for _ in range(2)] for _ in shares]
    return IFS(np.array(maps), shares / shares.sum())


@pytest.fixture(scope="module")
def categories() -> Categories:
    return Categories(random_systems(12))


# ---- bytes -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(systems(), min_size=1, max_size=4))
def test_bytes_hold_every_bit(drawn):
    categories = Categories(tuple(drawn))
    again = Categories.from_bytes(categories.to_bytes())
    assert same_bits(again.systems, drawn) and again == categories and again.sha256 == categories.sha256


def test_the_bytes_are_a_table(categories):
    header, *rows = categories.to_bytes().decode().splitlines()
    assert header == "category,a,b,c,d,e,f,p"
    table = [row.split(",") for row in rows]
    assert [int(row[0]) for row in table] == [n for n, ifs in enumerate(categories.systems) for _ in range(len(ifs))]
    assert [[float(number) for number in row[1:]] for row in table] == [
        [a, b, c, d, e, f, p]
        for ifs in categories.systems
        for ((a, b, e), (c, d, f)), p in zip(ifs.maps.tolist(), ifs.p.tolist(), strict=True)
    ]


def test_the_hash_tells_everything_apart(categories):
    systems = categories.systems
    nudged = IFS(np.nextafter(systems[3].maps, 2), systems[3].p)
    variants = [systems, systems[:-1], systems[::-1], (*systems[:3], nudged, *systems[4:]), systems + systems[:1]]
    assert len({Categories(each).sha256 for each in variants}) == len(variants)
    assert Categories(random_systems(12)).sha256 == categories.sha256


HEADER = b"category,a,b,c,d,e,f,p\n"
ROW = b"0.5,0,0,0.5,0,0,1.0\n"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        HEADER,
        b"\xff\xfe",
        HEADER + b"1," + ROW,
        HEADER + b"-1," + ROW,
        HEADER + b"0," + ROW + b"2," + ROW,
        HEADER + b"0," + ROW + b"1," + ROW + b"0," + ROW,
        HEADER + b"0,1,2\n",
        HEADER + b"0,0.5,0,0,0.5,0,0,1.0,9\n",
        HEADER + b"x," + ROW,
        HEADER + b"0,a,0,0,0.5,0,0,1.0\n",
        HEADER + b"0,nan,0,0,0.5,0,0,1.0\n",
        HEADER + b"0,0.5,0,0,0.5,0,0,0.5\n",
        HEADER + b"\n",
        HEADER + b'"' + b"0" * 200_000,
    ],
)
def test_bytes_that_are_none(data):
    with pytest.raises(UsageError):
        Categories.from_bytes(data)


def test_none_at_all():
    with pytest.raises(UsageError, match="no categories"):
        Categories(())


# ---- reading folders -------------------------------------------------------------------------------------------------


def test_a_flat_folder(tmp_path, categories):
    write_files(tmp_path, categories.systems)
    (tmp_path / "README.txt").write_text("passed over")
    loaded = load_categories(tmp_path)
    assert len(loaded) == 12 and same_bits(loaded.systems, categories.systems)
    assert all(loaded[number] == categories[number] for number in range(12))


def test_nested_folders(tmp_path, categories):
    names = [f"{number // 5}/rest/{number:05d}.csv" for number in range(11)] + ["00011.csv"]
    write_files(tmp_path, categories.systems, names)
    assert same_bits(load_categories(tmp_path).systems, categories.systems)


@pytest.mark.parametrize("digits", [1, 5, 9])
def test_names_may_have_any_number_of_digits(tmp_path, categories, digits):
    write_files(tmp_path, categories.systems, [f"{number:0{digits}d}.csv" for number in range(12)])
    assert load_categories(tmp_path) == categories, "in the order of numbers, not of names"


@pytest.mark.parametrize("count", [1, 7, 12])
def test_the_first_of_a_folder(tmp_path, categories, count):
    write_files(tmp_path, categories.systems)
    assert load_categories(tmp_path, count=count).systems == categories.systems[:count]


def test_fewer_than_asked(tmp_path, categories):
    write_files(tmp_path, categories.systems)
    with pytest.raises(UsageError, match="holds 12 categories, 13 are asked for"):
        load_categories(tmp_path, count=13)


def test_gaps_name_the_missing_number(tmp_path, categories):
    write_files(tmp_path, categories.systems)
    (tmp_path / "00004.csv").unlink()
    for count in (None, 12, 5, 13):
        with pytest.raises(UsageError, match=r"00004\.csv is missing;"):
            load_categories(tmp_path, count=count)
    assert load_categories(tmp_path, count=4).systems == categories.systems[:4], "a gap behind does not matter"
    (tmp_path / "00007.csv").unlink()
    with pytest.raises(UsageError, match=r"00004\.csv is missing and 1 more"):
        load_categories(tmp_path)
    (tmp_path / "00000.csv").unlink()
    with pytest.raises(UsageError, match=r"00000\.csv is missing"):
        load_categories(tmp_path, count=1)


@pytest.mark.parametrize("twin", ["other/00003.csv", "3.csv", "other/000003.csv"])
def test_duplicates_name_both(tmp_path, categories, twin):
    write_files(tmp_path, categories.systems)
    write_files(tmp_path, categories.systems[3:4], [twin])
    with pytest.raises(UsageError, match="category 3 is there twice") as error:
        load_categories(tmp_path)
    assert str(tmp_path / twin) in str(error.value) and str(tmp_path / "00003.csv") in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "a,b,c\n", "0.5,0,0,0.5,0,0\n", "0.5,0,0,nan,0,0,1\n", "0.5,0,0,0.5,0,0,0.9\n", "\0\1", "é"]
)
def test_a_malformed_file_is_named(tmp_path, categories, text):
    write_files(tmp_path, categories.systems)
    (tmp_path / "00006.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=r"00006\.csv"):
        load_categories(tmp_path)
    assert len(load_categories(tmp_path, count=6)) == 6, "it is not asked for"


@pytest.mark.parametrize("name", ["weights.csv", "00001a.csv", "-1.csv", "1.0.csv", "\u0663.csv", "sub/notes.csv"])
def test_a_name_that_is_no_number(tmp_path, categories, name):
    write_files(tmp_path, categories.systems)
    write_files(tmp_path, categories.systems[:1], [name])
    with pytest.raises(UsageError, match="named by its number") as error:
        load_categories(tmp_path)
    assert str(tmp_path / name) in str(error.value)


def test_folders_that_hold_none(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        load_categories(tmp_path / "absent")
    with pytest.raises(UsageError, match="holds no category files"):
        load_categories(tmp_path)
    (tmp_path / "00000.txt").write_text("0.5,0,0,0.5,0,0,1\n")
    with pytest.raises(UsageError, match="holds no category files"):
        load_categories(tmp_path)
    with pytest.raises(UsageError, match="is a file; give a folder"):
        load_categories(tmp_path / "00000.txt")


# ---- writing folders -------------------------------------------------------------------------------------------------


def test_files_are_what_numpy_writes(tmp_path, categories):
    write_categories(categories, tmp_path / "new" / "set")
    assert files_of(tmp_path / "new" / "set") == {
        f"{number:05d}.csv": savetxt(ifs) for number, ifs in enumerate(categories.systems)
    }
    assert dict(categories.files()) == files_of(tmp_path / "new" / "set")


@settings(max_examples=60, deadline=None)
@given(systems())
def test_any_number_is_written_as_numpy_writes_it(ifs):
    assert list(Categories((ifs,)).files()) == [("00000.csv", savetxt(ifs))]


@settings(max_examples=20, deadline=None)
@given(st.lists(systems(), min_size=1, max_size=4))
def test_what_is_written_is_read(tmp_path_factory, drawn):
    folder = tmp_path_factory.mktemp("drawn")
    write_categories(Categories(tuple(drawn)), folder)
    assert same_bits(load_categories(folder).systems, drawn)


def test_what_is_there_already_is_left(tmp_path, categories):
    write_categories(categories, tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    write_categories(categories, tmp_path)
    write_categories(Categories(categories.systems[:3]), tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    (tmp_path / "00005.csv").unlink()
    (tmp_path / ".00005.csv.0123abcd.tmp").write_bytes(b"of a run that was killed")
    os.utime(tmp_path / ".00005.csv.0123abcd.tmp", (0, 0))
    write_categories(categories, tmp_path)
    assert load_categories(tmp_path) == categories and len(files_of(tmp_path)) == 12
    (tmp_path / ".mine.tmp").write_bytes(b"precious")
    with pytest.raises(UsageError, match=r"mine\.tmp: is no category file"):
        write_categories(categories, tmp_path)
    assert (tmp_path / ".mine.tmp").read_bytes() == b"precious"


def test_a_rendered_folder_gives_its_categories(tmp_path, categories):
    folder = tmp_path / "set"
    write_shards(OFDB(systems=categories, categories=12, size=16, points=500), folder)
    assert load_categories(folder) == categories
    assert load_categories(folder, count=2) == Categories(categories.systems[:2])
    with pytest.raises(UsageError, match="holds 12 categories, 13 are asked for"):
        load_categories(folder, count=13)
    (folder / "categories.csv").write_bytes(Categories(categories.systems[::-1]).to_bytes())
    for read in (load_categories, lambda folder: load_bases([folder])):
        with pytest.raises(UsageError, match=r"categories\.csv: is not the file that the recipe names"):
            read(folder)


def test_no_file_is_passed_over_in_silence(tmp_path, categories):
    write_files(tmp_path / "a", categories.systems[:3], ["00000.csv", "00001.csv", "00002.CSV"])
    assert len(load_categories(tmp_path)) == 3
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "linked").symlink_to(tmp_path / "a")
    (tmp_path / "b" / "round").symlink_to(tmp_path / "b")
    assert len(load_categories(tmp_path / "b")) == 3
    (tmp_path / "a" / "00003.csv").mkdir()
    with pytest.raises(UsageError, match=r"00003\.csv: a category file"):
        load_categories(tmp_path / "a")
    with pytest.raises(UsageError, match="categories 0: must be 1"):
        load_categories(tmp_path / "b", count=0)


def test_another_category_is_refused(tmp_path, categories):
    write_files(tmp_path, categories.systems[5:6], ["00002.csv"])
    before = files_of(tmp_path)
    with pytest.raises(UsageError, match=r"00002\.csv: is another category"):
        write_categories(categories, tmp_path)
    assert files_of(tmp_path) == before


def test_another_category_under_a_shorter_name_is_refused(tmp_path, categories):
    write_files(tmp_path, categories.systems[5:6], ["2.csv"])
    before = files_of(tmp_path)
    with pytest.raises(UsageError, match=r"2\.csv"):
        write_categories(categories, tmp_path)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("name", ["notes.txt", "weights.csv", "00000.txt", "00000.csv/"])
def test_foreign_files_are_refused(tmp_path, categories, name):
    if name.endswith("/"):
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match="is no category file") as error:
        write_categories(categories, tmp_path)
    assert str(tmp_path / name) in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [name.rstrip("/")]


def test_a_folder_that_cannot_be_written(tmp_path, categories):
    (tmp_path / "file").write_text("")
    for folder, message in ((tmp_path / "file", "is a file"), (tmp_path / "file" / "below", "cannot be written")):
        with pytest.raises(UsageError, match=message):
            write_categories(categories, folder)


def test_what_a_killed_run_left_is_removed_at_once(tmp_path):
    systems = Categories(tuple(IFS.from_maps(np.random.default_rng(n).uniform(-1, 1, (2, 2, 3))) for n in range(3)))
    left = tmp_path / ".00001.csv.0123abcd.tmp"
    left.write_bytes(b"half")
    with _one_at_a_time(tmp_path) as alone:
        assert alone
        writing = threading.Thread(target=write_categories, args=(systems, tmp_path))
        writing.start()
        writing.join(0.2)
        assert left.exists(), "it may be of a run that is on"
    writing.join(30)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.csv", "00001.csv", "00002.csv"]
