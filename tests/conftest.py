import functools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import MappingProxyType
from typing import Any

import hypothesis
import numpy as np
import pytest
from forked_program import run_program
from hub_server import TOKEN, Hub
from matplotlib.figure import Figure
from PIL import Image

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as of what a shell begins in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tests run beside each other, and sums depend on threads

from fracgen.categories import Categories
from fracgen.exfractaldb import ExFractalDB
from fracgen.fractaldb import OFDB, FractalDB
from fracgen.ifs import IFS, sample_maps
from fracgen.multifractal import MultiFractal
from fracgen.noise import Noise
from fracgen.onepfrac import OnePFrac
from fracgen.perturbed import Perturbed
from fracgen.photo.photographs import Photographs
from fracgen.photo.recipe import Photo
from fracgen.rcdb import RCDB
from fracgen.recipe import Recipe
from fracgen.render_shards import plan, write_shards
from fracgen.rng import generator
from fracgen.shards.fields import fields_of
from fracgen.shards.manifest import hash_json
from fracgen.spatial import SpatialCategories, SpatialIFS
from fracgen.visualatom import VisualAtom

hypothesis.settings.register_profile("short", max_examples=60, deadline=None, print_blob=True)

FAULTS = Counter()
"""Kills, flips and fuzzed inputs of this session, by kind; `--long` prints them at its end."""
SMALL = {"classes": 24, "size": 48, "pad": 3, "points": 1500, "min_fill": 0.1, "seed": 3, "base_candidates": 1}
"""A recipe of which an image takes well under a millisecond, and of which some draws are rejected."""
PATIENCE = 180
"""Seconds that two processes may take."""
PROVENANCE = {"base": 0, "base_tries": 1, "base_acceptance": 0.8}


def small_recipe(**changes) -> OnePFrac:
    return OnePFrac(**{**SMALL, **changes}).resolve()[0]


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="kills, flips and fuzzing for hours, not for seconds")
    parser.addoption("--kills", type=int, default=500, help="with --long: of each kind")
    parser.addoption("--examples", type=int, default=100_000, help="with --long: of each kind of flips and fuzzing")


def pytest_configure(config):
    num_examples = config.getoption("--examples")
    hypothesis.settings.register_profile("long", max_examples=num_examples, deadline=None, print_blob=True)
    hypothesis.settings.load_profile("long" if config.getoption("--long") else "short")
    if config.getoption("--hypothesis-seed", None) is None:
        hypothesis.core.global_force_seed = int.from_bytes(os.urandom(4), "little")


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("--long"):
        counts = ", ".join(f"{number:,} {what}" for what, number in sorted(FAULTS.items()))
        terminalreporter.write_line(f"faults: {counts}; --hypothesis-seed={hypothesis.core.global_force_seed}")


def pytest_report_header(config):
    return f"--hypothesis-seed={hypothesis.core.global_force_seed} repeats what is drawn"


@pytest.fixture(scope="session")
def recipe() -> OnePFrac:
    return small_recipe()


@pytest.fixture(scope="session")
def folder(recipe, tmp_path_factory) -> Path:
    """A finished folder of the small recipe in 5 shards; not to be changed."""
    path = tmp_path_factory.mktemp("finished") / "set"
    write_shards(recipe, path, layout=plan(recipe, num_shards=5), provenance=PROVENANCE)
    return path


@pytest.fixture(autouse=True)
def no_curves(request, monkeypatch) -> None:
    """Save one pixel in place of a run's curves and confusion matrix, which take over a third of a small run.

    Not in tests marked `curves`, nor in the runs that a module's tests share: their fixtures come before this one.
    """
    if request.node.get_closest_marker("curves") is None:
        monkeypatch.setattr(Figure, "savefig", functools.partialmethod(save_figure, Figure.savefig))


def save_figure(figure, save, target, **options) -> None:
    if str(target).endswith(("curves.png.tmp", "confusion.png.tmp")):
        Image.new("RGB", (1, 1)).save(target, "PNG")
    else:
        save(figure, target, **options)


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The endpoint of an S3 server on loopback, which s3fs finds in the environment; see tests/servers.py."""
    from servers import s3_server

    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def golden() -> Path:
    """Images from the published renderer, which are not part of the project."""
    path = Path(os.environ.get("FRACGEN_GOLDEN", Path(__file__).parents[2] / "shared" / "golden"))
    if not (path / "cases.json").exists():
        pytest.skip("the published renderer's images are not here")
    return path


@pytest.fixture(scope="session")
def golden_family(golden) -> Path:
    """Images and lists from the published programs of RCDB, ExFractalDB and MultiFractal, likewise."""
    if not (golden / "family").is_dir():
        pytest.skip("the images of the other published programs are not here")
    return golden / "family"


@pytest.fixture
def hub(monkeypatch) -> Iterator[Hub]:
    """A stand-in of the Hugging Face Hub, which huggingface_hub takes for it; nothing waits between two tries."""
    server = Hub()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setattr("fracgen.shards.remote.WAITS", (0.0, 0.0))
    yield server
    server.shutdown()
    server.server_close()


def torchrun(script: str, arguments: list[object], place: Path) -> subprocess.CompletedProcess[str]:
    """A script that torchrun starts twice, in a folder of its own, with one thread each."""
    (place / "ranks.py").write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "ranks.py"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *map(str, arguments)], cwd=place, env=environment, timeout=PATIENCE, capture_output=True, text=True
    )


def fork_program(
    script: str, arguments: Iterable[object], output: Path, variables: Mapping[str, str] = MappingProxyType({})
) -> BaseProcess:
    """Start a script, which is written beside the file `output`, in a fork of what `fracgen compare` starts runs from.

    That has imported torch and timm, which takes a program of its own longer than a small run. The script's working
    directory is its own; what it prints is added to `output`; it has as many threads as this process.
    """
    import torch

    from fracgen.train.experiments.fork_server import start_server

    output.parent.mkdir(parents=True, exist_ok=True)
    path = output.with_name("program.py")
    path.write_text(script)
    output.touch()
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), **variables}
    start_server({"OMP_NUM_THREADS": "1"})
    call = (path, [str(argument) for argument in arguments], environment, output)
    process = multiprocessing.get_context("forkserver").Process(target=run_program, args=call)
    process.start()
    return process


def run_until_killed(script: str, arguments: Iterable[object], output: Path) -> None:
    """Run a script that ends itself by SIGKILL, as `fork_program` does; what it printed is shown where it does not."""
    process = fork_program(script, arguments, output)
    process.join(PATIENCE)
    code = process.exitcode
    process.kill()  # in case that it goes on
    assert code == -signal.SIGKILL, output.read_text()


def killed_run(protocol: str, arguments: Iterable[object], folder: Path, *, step: int) -> None:
    """Run train/PROTOCOL.py with `arguments` until it comes to `step`, where SIGKILL ends it."""
    script = (
        "import os, signal, sys\n"
        f"from fracgen.train import {protocol}\n"
        "from fracgen.train.engine.train_step import TrainStep\n"
        "take = TrainStep.__call__\n"
        "def killed(self, number, *rest):\n"
        f"    if number == {step}:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return take(self, number, *rest)\n"
        "TrainStep.__call__ = killed\n"
        f"sys.exit({protocol}.run(sys.argv[1:]))\n"
    )
    run_until_killed(script, arguments, folder / "killed.txt")


def two_processes(script: str, arguments: list[object], place: Path) -> subprocess.CompletedProcess[str]:
    """What `torchrun` does, by forks. The exit code is the first failing rank's; stderr is all that they printed."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "OMP_NUM_THREADS": "1"}
    shared |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    shared |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    outputs = [place / f"output{rank}.txt" for rank in "01"]
    ranks = [
        fork_program(script, arguments, output, {**shared, "RANK": rank, "LOCAL_RANK": rank})
        for rank, output in zip("01", outputs, strict=True)
    ]
    until = time.monotonic() + PATIENCE
    for process in ranks:
        process.join(max(0.0, until - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
    code = next((process.exitcode for process in ranks if process.exitcode), 0)
    return subprocess.CompletedProcess(script, code, stdout="", stderr="".join(each.read_text() for each in outputs))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def forge_manifest(folder: Path, values: dict[str, Any]) -> None:
    """Write a manifest of other values, with the hash that belongs to them."""
    plain = {name: value for name, value in values.items() if name != "sha256"}
    (folder / "dataset.json").write_text(json.dumps({**plain, "sha256": hash_json(plain)}))


def spatial_systems(count: int) -> tuple[SpatialIFS, ...]:
    """Systems of three maps of space that shrink."""
    maps = np.random.default_rng(0).uniform(-0.5, 0.5, (count, 3, 12))
    return tuple(SpatialIFS(rows, np.full(3, 1 / 3)) for rows in maps)


@functools.cache
def small_recipes() -> dict[str, Recipe]:
    """One of each kind of recipe, in the small, resolved: under its own name, and others of its kind."""
    picture = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    systems = Categories(tuple(IFS.from_maps(sample_maps(3.5, 2, generator(0, number, "ifs"))) for number in range(3)))
    drawn = {"size": 32, "points": 1000, "systems": systems, "categories": 3}
    recipes = {
        "1p-frac": small_recipe(),
        "1p-frac, color": small_recipe(color="color", classes=8, perturbation="multiplicative"),
        "1p-frac, bases": small_recipe(bases=3, classes=5),
        "fractaldb": FractalDB(instances=2, **drawn),
        "ofdb": OFDB(**{**drawn, "categories": 7, "systems": Categories((systems.systems * 3)[:7])}),
        "visualatom": VisualAtom(classes=4, instances=3, size=48),
        "rcdb": RCDB(classes=4, instances=3, size=48),
        "rcdb, published": RCDB(classes=4, instances=3, size=48, stream="published", processes=2),
        "exfractaldb": ExFractalDB(categories=2, systems=SpatialCategories(spatial_systems(2)), size=32, points=500),
        "multifractal": MultiFractal(classes=4, instances=3, size=40, points=500),
        "multifractal, single": MultiFractal(classes=4, instances=3, size=40, points=500, composition="single"),
        "perturbed": Perturbed(classes=7, size=40, base=4),
        "noise": Noise(classes=7, size=40, points=500),
        "noise, pixels": Noise(classes=7, size=40, kind="pixel-uniform"),
        "photo": Photo(classes=4, size=32, photographs=Photographs((picture, picture[::-1].copy()))),
    }
    return {name: recipe.resolve()[0] for name, recipe in recipes.items()}


def small_values(name: str) -> dict[str, Any]:
    """The values of a small recipe that are not the defaults, by field; without what lies in files of its own."""
    recipe = small_recipes()[name]
    values = {info.name: (getattr(recipe, info.name), info.default) for info in fields_of(type(recipe)) if info.option}
    return {name: value for name, (value, default) in values.items() if value != default}


def small_words(name: str) -> list[str]:
    """Those of a small recipe as options."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in small_values(name).items()]
