"""The standing harness: kills, flipped bytes and fuzzing of every format of ours; `--long` goes on for hours.

Whatever the bytes, a reader gives a value or one of our errors, in one line: no traceback, no hang, no gigabytes.
Files with a hash of their own give what was written, or an error.
"""

import json
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
from conftest import PROVENANCE, contents, small_recipe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fracgen.categories import Categories
from fracgen.ifs import IFS
from fracgen.photo.photographs import Photographs
from fracgen.registry import load_recipe, save_recipe
from fracgen.render_shards import plan, plan_of, render_shard
from fracgen.shards.errors import FracgenError
from fracgen.shards.folder import FolderWriter
from fracgen.shards.images import decode_picture
from fracgen.shards.manifest import load_manifest
from fracgen.shards.plan import read_plan, read_record
from fracgen.shards.png import decode_png, encode_png
from fracgen.shards.reader import read_tar
from fracgen.shards.tar import index_tar

FORMATS = ["manifest", "plan", "record", "tar", "PNG", "photographs", "categories", "YAML", "tar index", "picture"]
SEALED = {"manifest", "plan", "record"}
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

    (where / "x.tar").write_bytes(tar.read_bytes())
    (where / "manifest" / "dataset.json").write_bytes((finished / "dataset.json").read_bytes())
    return {
        "manifest": through(where / "manifest" / "dataset.json", partial(load_manifest, where / "manifest")),
        "plan": through(partial_folder / "plan.json", partial(read_plan, where / "set")),
        "record": through(partial_folder / "000000.json", partial(read_record, where / "set", layout, 0)),
        "tar": through(where / "x.tar", lambda: list(read_tar(where / "x.tar", "png"))),
        "tar index": through(where / "x.tar", lambda: len(index_tar(where / "x.tar"))),
        "PNG": (encode_png(image), partial(decode_png, shape=image.shape)),
        "picture": (encode_png(image), decode_picture),
        "photographs": (Photographs((image, image[:, :, 0])).to_bytes(), Photographs.from_bytes),
        "categories": (categories.to_bytes(), Categories.from_bytes),
        "YAML": through(where / "r.yaml", partial(load_recipe, where / "r.yaml")),
    }


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
    value = outcome(read, bad)
    if name in SEALED and value is not None:
        assert value == outcome(read, good)


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.one_of(st.binary(max_size=2000), st.text(max_size=500).map(str.encode)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_bytes(formats, name, data):
    outcome(formats[name][1], data)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("name", ["manifest", "plan", "record", "YAML"])
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
    outcome(read, json.dumps(values).encode())


def test_kill_at_any_moment(tmp_path, request):
    """`kill -9` after some milliseconds, a flipped bit in what lies there, the same again: the same bytes."""
    seed = request.config.getoption("--hypothesis-seed", None) or hypothesis.core.global_force_seed
    rng, place = random.Random(str(seed)), tmp_path / "set"
    save_recipe(small_recipe(classes=60, points=20_000), tmp_path / "r.yaml")
    command = [sys.executable, "-m", "fracgen", "render", "--recipe", str(tmp_path / "r.yaml"), "--shards", "12"]
    subprocess.run([*command, "--out", str(tmp_path / "straight")], check=True, capture_output=True)
    for kill in range(500 if request.config.getoption("--long") else 2):
        run = subprocess.Popen([*command, "--out", str(place)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        num_before, until = len(list(place.glob("*.tar"))), time.monotonic() + 60
        while run.poll() is None and time.monotonic() < until:
            if len(list(place.glob("*.tar"))) > num_before:
                time.sleep(rng.random() * 0.02)
                run.send_signal(signal.SIGKILL)
                break
            time.sleep(0.001)
        run.wait()
        files = sorted([*place.glob("*.tar"), *place.glob(".partial/[0-9]*.json")])
        if files and not (place / "dataset.json").exists():
            path = rng.choice(files)
            data = bytearray(path.read_bytes())
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.write_bytes(data)
        if kill % 2:
            subprocess.run([*command, "--out", str(place)], check=True, capture_output=True)
            assert contents(place) == contents(tmp_path / "straight"), f"seed {seed}, kill {kill}"
            shutil.rmtree(place)
