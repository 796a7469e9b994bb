"""The standing harness: kills, flipped bytes and fuzzing of every format of ours; `--long` goes on for hours.

Whatever the bytes, a reader gives a value or one of our errors, in one line: no traceback, no hang, no gigabytes.
Files with a hash of their own give what was written, or an error.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import hypothesis
import numpy as np
import pytest
from conftest import FAULTS, PROVENANCE, contents, small_recipe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_checkpoint import checkpoint
from test_pretrain import TINY, same

from fracgen.categories import Categories
from fracgen.ifs import IFS, load_ifs
from fracgen.photo.photographs import Photographs
from fracgen.registry import load_recipe, save_recipe
from fracgen.render_shards import plan, plan_of, render_shard
from fracgen.rng import legacy_state
from fracgen.search import SearchState
from fracgen.shards.errors import FracgenError
from fracgen.shards.folder import FolderWriter
from fracgen.shards.images import decode_picture
from fracgen.shards.manifest import load_manifest
from fracgen.shards.plan import num_parts, parts_to_bytes, read_plan, read_record
from fracgen.shards.png import decode_png, encode_png
from fracgen.shards.reader import read_tar
from fracgen.shards.tar import _index_tar, index_tar
from fracgen.train import pretrain
from fracgen.train.engine.checkpoint import load as load_checkpoint
from fracgen.train.engine.checkpoint import save as save_checkpoint

FORMATS = [
    "manifest",
    "plan",
    "record",
    "parts",
    "tar",
    "PNG",
    "photographs",
    "categories",
    "YAML",
    "tar index",
    "picture",
]
FORMATS += ["category search", "IFS", "CSV of an IFS", "checkpoint"]
SEALED = {"manifest", "plan", "record", "parts", "category search", "checkpoint"}
"""Formats of which each file holds its own hash."""


def readers(recipe, finished, where):
    """{format: (good bytes, reader)}; a reader takes bytes."""
    layout = plan(recipe, num_shards=5)
    with FolderWriter(where / "set", plan_of(recipe, layout, PROVENANCE)) as writer:
        writer.add(0, render_shard(where / "set", 0, writer.token))
    partial_folder = where / "set" / ".partial"
    (where / "manifest").mkdir()
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    maps = np.round(rng.uniform(-1, 1, (2, 3, 2, 3)), 3)
    categories = Categories(tuple(IFS.from_maps(each) for each in maps))
    save_recipe(recipe, where / "r.yaml")
    tar = next(finished.glob("*.tar"))

    def through(path, read):
        def reader(data):
            path.write_bytes(data)
            return read()

        return path.read_bytes() if path.exists() else b"", reader

    (partial_folder / "parts").write_bytes(parts_to_bytes(3))
    search = SearchState(legacy_state(1), bytearray([1, 0, 1]), [(0, categories[0]), (2, categories[1])])
    search.save(where / "search.npz")
    (where / "ifs.json").write_text(json.dumps(categories[0].to_plain()))
    (where / "ifs.csv").write_bytes(dict(categories.files())["00001.csv"])
    save_checkpoint(checkpoint(), where / "last.pt")
    (where / "x.tar").write_bytes(tar.read_bytes())
    (where / "manifest" / "dataset.json").write_bytes((finished / "dataset.json").read_bytes())
    return {
        "manifest": through(where / "manifest" / "dataset.json", partial(load_manifest, where / "manifest")),
        "plan": through(partial_folder / "plan.json", partial(read_plan, where / "set")),
        "record": through(partial_folder / "000000.json", partial(read_record, where / "set", layout, 0)),
        "parts": through(partial_folder / "parts", partial(num_parts, where / "set")),
        "tar": through(where / "x.tar", lambda: list(read_tar(where / "x.tar", "png"))),
        "tar index": through(where / "x.tar", lambda: (_index_tar.cache_clear(), len(index_tar(where / "x.tar")))),
        "PNG": (encode_png(image), partial(decode_png, shape=image.shape)),
        "picture": (encode_png(image), decode_picture),
        "photographs": (Photographs((image, image[:, :, 0])).to_bytes(), Photographs.from_bytes),
        "categories": (categories.to_bytes(), Categories.from_bytes),
        "category search": through(where / "search.npz", lambda: vars_of(SearchState.load(where / "search.npz"))),
        "IFS": through(where / "ifs.json", partial(load_ifs, where / "ifs.json")),
        "CSV of an IFS": through(where / "ifs.csv", partial(load_ifs, where / "ifs.csv")),
        "checkpoint": through(where / "last.pt", lambda: str(load_checkpoint(where / "last.pt"))),
        "YAML": through(where / "r.yaml", partial(load_recipe, where / "r.yaml")),
    }


def vars_of(search):
    """What a search has found so far, comparable; None where its file is damaged and it begins anew."""
    return None if search is None else (search.state.tolist(), bytes(search.outcomes), search.systems)


@pytest.fixture(scope="module")
def formats(recipe, folder, tmp_path_factory):
    return readers(recipe, folder, tmp_path_factory.mktemp("formats"))


def outcome(read, data):
    """What a reader gives; None for an error of ours, which is one line."""
    try:
        return read(bytes(data))
    except FracgenError as error:
        assert str(error)
        return None


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_flipped_cut_and_repeated_bytes(formats, name, data):
    good, read = formats[name]
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(bad) - 1))
        change = data.draw(st.sampled_from(["flip", "flip", "flip", "cut", "repeat", "digit"]))
        if change == "flip":
            bad[place] ^= 1 << data.draw(st.integers(0, 7))
        elif change == "cut":
            del bad[place : place + data.draw(st.integers(1, 600))]
        elif change == "repeat":
            bad[place:place] = bad[place : place + data.draw(st.integers(1, 600))]
        else:
            bad[place : place + 1] = b"9" * data.draw(st.integers(1, 40))
        if not bad:
            break
    FAULTS["files with flipped, cut or repeated bytes"] += 1
    value = outcome(read, bad)
    if name in SEALED and value is not None:
        assert value == outcome(read, good)


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.one_of(st.binary(max_size=2000), st.text(max_size=500).map(str.encode)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_bytes(formats, name, data):
    FAULTS["files of any bytes"] += 1
    outcome(formats[name][1], data)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("name", ["manifest", "plan", "record", "parts", "YAML"])
@given(data=st.data(), value=VALUES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_value_in_any_place(formats, name, data, value):
    good, read = formats[name]
    values = inner = json.loads(good) if name != "YAML" else {"recipe": "1p-frac", "sigma": 3.5, "size": 64}
    while isinstance(inner, dict | list) and inner:
        keys = sorted(inner) if isinstance(inner, dict) else range(len(inner))
        key = data.draw(st.sampled_from(keys))
        outer, inner = inner, inner[key]
        if data.draw(st.booleans()):
            break
    outer[key] = value
    FAULTS["files with any value in any place"] += 1
    outcome(read, json.dumps(values).encode())


@pytest.fixture
def rng(request):
    """Draws what tests that kill do, by the seed that the header prints."""
    seed = request.config.getoption("--hypothesis-seed", None)
    return random.Random(str(hypothesis.core.global_force_seed if seed is None else seed))


def num_kills(request):
    return request.config.getoption("--kills") if request.config.getoption("--long") else 2


def flip_a_bit(path, rng):
    """Replace a file by one that differs in one bit."""
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.unlink()  # it may be linked, and only one of its names is damaged
    path.write_bytes(data)
    FAULTS["flipped bits in killed runs"] += 1


def test_kill_at_any_moment(tmp_path, request, rng):
    """`kill -9` after some milliseconds, a flipped bit in what lies there, the same again: the same bytes."""
    place = tmp_path / "set"
    save_recipe(small_recipe(classes=60, points=20_000), tmp_path / "r.yaml")
    command = [sys.executable, "-m", "fracgen", "render", "--recipe", str(tmp_path / "r.yaml"), "--shards", "12"]
    subprocess.run([*command, "--out", str(tmp_path / "straight")], check=True, capture_output=True)
    for kill in range(num_kills(request)):
        run = subprocess.Popen([*command, "--out", str(place)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        num_before, until = len(list(place.glob("*.tar"))), time.monotonic() + 60
        while run.poll() is None and time.monotonic() < until:
            if len(list(place.glob("*.tar"))) > num_before:
                time.sleep(rng.random() * 0.02)
                run.send_signal(signal.SIGKILL)
                FAULTS["kills of renderings"] += 1
                break
            time.sleep(0.001)
        run.wait()
        files = sorted([*place.glob("*.tar"), *place.glob(".partial/[0-9]*.json")])
        if files and not (place / "dataset.json").exists():
            flip_a_bit(rng.choice(files), rng)
        if kill % 2:
            subprocess.run([*command, "--out", str(place)], check=True, capture_output=True)
            assert contents(place) == contents(tmp_path / "straight"), f"kill {kill}"
            shutil.rmtree(place)


def start_training(folder, out):
    """Pre-train for 6 steps with a checkpoint each, in a fork of this process, which has imported all; its id."""
    arguments = ["--shards", folder, "--out", out, *TINY, "--steps=6", "run.checkpoint_every=1", "run.clean_images=0"]
    process = os.fork()
    if not process:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os._exit(pretrain.run([str(argument) for argument in arguments]))
    return process


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_kill_a_training_at_any_moment(folder, tmp_path, request, rng):
    """`kill -9` after some milliseconds, a flipped bit in the last checkpoint, the same again: the same weights."""
    place, began = tmp_path / "run", time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(start_training(folder, tmp_path / "straight"), 0)[1]) == 0
    seconds, straight = time.monotonic() - began, load_checkpoint(tmp_path / "straight" / "last.pt")
    for kill in range(num_kills(request)):
        process = start_training(folder, place)
        time.sleep(rng.random() * seconds)
        os.kill(process, signal.SIGKILL)
        FAULTS["kills of trainings"] += 1
        os.waitpid(process, 0)
        if (place / "previous.pt").exists() and not (place / "model").exists() and rng.random() < 0.7:
            flip_a_bit(place / "last.pt", rng)
        if kill % 2:
            assert os.waitstatus_to_exitcode(os.waitpid(start_training(folder, place), 0)[1]) == 0, f"kill {kill}"
            assert same(load_checkpoint(place / "last.pt").model, straight.model), f"kill {kill}"
            shutil.rmtree(place)
