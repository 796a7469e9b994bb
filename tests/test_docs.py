"""The README and the docs: their shape, and every command and Python block in them, run in the small.

A command that needs several processes, a cluster, the net or an hour is not run, but read as the program reads it: its
options, their values and the files that it names must be there. `NOT_RUN` has the reasons; nothing else is skipped.
"""

import itertools
import re
import runpy
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from conftest import small_words
from PIL import Image

from fracgen.cli.app import BASELINES, app, run
from fracgen.shards.commandline import command_app
from fracgen.shards.fields import fields_of
from fracgen.train.dyck import WarmUp
from fracgen.train.finetune import Finetuning
from fracgen.train.mae import MaskedPretraining
from fracgen.train.pretrain import Pretraining

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md"]
PAGES += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

SMALL_MODEL = [f"model.options.{option}" for option in ("patch_size=8", "depth=2", "embed_dim=16", "num_heads=2")]
SMALL_RECIPE = ["--size=48", "--points=1500", "--min-fill=0.02", "--base-candidates=1", "--classes=64"]
SMALL_RUN = ["--steps=2", "--batch-size=4", "--workers=0", "--device=cpu", "augment.size=32"]
SMALL = {  # what follows a command's own words, of which the last one counts
    **{f"baseline {name}": small_words(name) for name in BASELINES},
    "render": SMALL_RECIPE,
    "baseline fractaldb": ["--categories=2", "--instances=1", "--size=32", "--points=2000"],
    "baseline ofdb": ["--categories=16", "--size=32", "--points=2000"],
    "baseline multifractal": ["--classes=10", "--instances=2", "--size=64", "--points=2000"],
    "baseline rcdb": ["--classes=10", "--instances=2", "--size=64"],
    "baseline exfractaldb": ["--categories=1", "--size=32", "--points=2000", "--weights=first"],
    "perturb": ["--classes=4", "--size=256"],
    "photo": ["--classes=4", "--size=48"],
    "search": ["--categories=4"],
    "draw": ["--size=64", "--points=2000"],
    "verify": ["--samples=2"],
    "score": ["--images=16", "--size=16", "--perturbations=4", "--delta=0.05"],
    "bench": ["--images=8", "--repeats=3", "--no-plain"],
    "pretrain": [*SMALL_RUN, *SMALL_MODEL, "run.clean_images=8"],
    "mae": [*SMALL_RUN, *SMALL_MODEL, "decoder.width=16", "decoder.depth=1", "decoder.heads=2"],
    "dyck": [*(word for word in SMALL_RUN if "workers" not in word), *SMALL_MODEL, "--types=5", "check_sequences=8"],
    "finetune": SMALL_RUN,
    "probe": ["--images=24", "--test-images=4", "--k=3", "--shots=2", "--batch-size=8", "--device=cpu"],
    "study": ["--dry-run"],
}
PROTOCOLS = {
    "pretrain": Pretraining,
    "mae": MaskedPretraining,
    "dyck": WarmUp,
    "finetune": Finetuning,
    "compare": Finetuning,
}
IN_PLACE = {("--per-class", "100"): "2", ("--per-class", "500"): "3"}
SMALL_PYTHON = {
    "s3://my-bucket/1p-frac": "1p-frac",
    "fracgen.OnePFrac(": "fracgen.OnePFrac(classes=43, size=48, points=1500, min_fill=0.02, base_candidates=1, ",
    "transformers.ViTConfig(": "transformers.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ",
    "find_categories(100)": "find_categories(2)",
    "FractalDB(categories=100,": "FractalDB(categories=2, size=32, points=2000,",
}


def read(arguments: list[str]) -> None:
    """Read a command line as the program does: fails where there is no such command, option or value."""
    name, *rest = arguments
    command = typer.main.get_command(app)
    context = command.make_context("fracgen", [], resilient_parsing=True)
    while hasattr(command, "get_command"):
        command = command.get_command(context, name)
        assert command is not None, f"fracgen {name}: no such command"
        if hasattr(command, "get_command"):
            context, (name, *rest) = command.make_context(name, [], context, resilient_parsing=True), rest
    command.make_context(name, rest, context)
    for option, value in itertools.pairwise(rest):
        assert option not in ("--config", "--recipe") or (ROOT / value).exists(), f"{value}: no such file"
    assert all((ROOT / word).exists() for word in rest if word.startswith("examples/"))
    kind = PROTOCOLS.get(name)
    for setting in re.findall(r"(?<= )[a-z_]+\.[a-z_]+(?==)", " ".join(["", *rest])) if kind else ():
        assert setting in {field.name for field in fields_of(kind)} | {"model.options"}, f"{name} has no {setting}"


def read_extras(words: list[str]) -> None:
    extras = re.findall(r"\w+", "".join(re.findall(r"\[([\w,]+)\]", " ".join(words))))
    assert set(extras) <= set(PROJECT["optional-dependencies"])


def read_torchrun(words: list[str]) -> None:
    module = words[words.index("-m") + 1]
    read([module.removeprefix("fracgen.train."), *words[words.index(module) + 1 :]])


def read_sbatch(words: list[str]) -> None:
    script = next(number for number, word in enumerate(words) if word.endswith(".sbatch"))
    assert (ROOT / words[script]).is_file()
    read(words[script + 1 :])


def read_example(words: list[str]) -> None:
    main = runpy.run_path(str(ROOT / words[1]))["main"]
    typer.main.get_command(command_app(main)).make_context(words[1], words[2:])


def read_docker(words: list[str]) -> None:
    read(words[words.index("fracgen") + 1 :])


def read_files(words: list[str]) -> None:
    assert any((ROOT / word).is_file() for word in words)


def nothing(words: list[str]) -> None:
    """What is not ours to check."""


def read_ours(words: list[str]) -> None:
    read(words[1:])


NOT_RUN: list[tuple[str, str, Callable[[list[str]], None]]] = [  # a pattern of the command, why, what is checked
    (r"python3 -m venv", "makes an environment: .ci/run does, and tests/test_wheel.py", nothing),
    (r"(\.venv/bin/)?pip install", "the net", read_extras),
    (r"\. \.venv/bin/activate", "the shell's own", nothing),
    (r"\.venv/bin/fracgen render", "the published set, which the next command of that page renders too", read_ours),
    (r"(ruff|mypy|mkdocs) ?", "a checker: .ci/run runs it", nothing),
    (r"(\.venv/bin/)?python -m pytest", "these tests", nothing),
    (
        r"python examples/(train_on_the_fly|reading_rates)",
        "minutes: tests/test_own_loop.py has it in the small",
        read_example,
    ),
    (r"python examples/gpu/", "a GPU: tests/test_gpu_script.py has it on a CPU, in the small", read_example),
    (r"python examples/results/score_bases.py", "minutes: tests/test_results.py has one of its sets", read_files),
    (r"python examples/ablations/redrawn.py", "a study's folder: tests/test_redrawn.py has a small one", nothing),
    (r"torchrun", "several processes: tests/test_pretrain.py has two", read_torchrun),
    (r"sbatch", "a cluster: tests/test_slurm.py has stand-ins", read_sbatch),
    (r"dask", "a cluster", nothing),
    (r"docker build", "a daemon: tests/test_container.py reads the Dockerfile", nothing),
    (r"docker run", "an image that has to be built", read_docker),
    (r"jupyter", "a browser: tests/test_notebook.py runs the notebook", read_files),
    (r"(tensorboard|trackio|wandb) ", "a server: tests/test_tracking.py reads what was logged", nothing),
    (r"fracgen merge fdb21k", "parts that a cluster renders; ofdb above it is merged", read_ours),
    (r"fracgen .*--scheduler", "a cluster: tests/test_parts.py has one", read_ours),
    (r"fracgen .*--estimate", "a minute of steps: tests/test_estimate.py has it in the small", read_ours),
    (r"fracgen .*--benchmark", "minutes: tests/test_pretrain.py measures in the small", read_ours),
    (r"fracgen bench --explore", "servers in processes of their own: tests/test_explore_server.py", read_ours),
    (r"fracgen bench --baselines", "minutes: tests/test_commands.py measures in the small", read_ours),
    (r"fracgen explore", "a server: tests/test_explore_page.py", read_ours),
    (r"python tests/explore_", "a browser: tests/test_explore_page.py measures in the small", nothing),
    (r"hf auth login", "the net", nothing),
    (r"fracgen publish", "the net: tests/test_publish.py has a stand-in of the Hub", read_ours),
    (r"fracgen .* '?(s3|hf|https)://", "a server: tests/test_remote.py has one on loopback", read_ours),
    (
        r"fracgen .*--checkpoint (timm:|\S+_80000ep\.pth)",
        "the net, and others' files: tests/test_published.py has stand-ins",
        read_ours,
    ),
    (r"fracgen suite", "images that are not here: tests/test_suite.py has small ones", read_ours),
    (r"python examples/(vtab_lists|voc_objects).py", "data that is not here: tests/test_suite.py", read_files),
    (r"fracgen compare", "processes of its own: tests/test_compare.py", read_ours),
    (r"fracgen study .*--published", "the net: what it would start is read where the small one is", read_ours),
]

_done: set[str] = set()
"""Commands that an earlier page has too: run once."""


# ---- pages -----------------------------------------------------------------------------------------------------------


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """(language, text) of each fenced block."""
    yield from re.findall(r"^```(\S*)\n(.*?)^```$", (ROOT / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a block, as words, without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            yield [word for word in words[:end] if word != "&"]
            words = words[end + 1 :]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """What the pages' commands start from: images, a category, a photograph; and sets and runs."""
    path = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(0)
    for name in ("cifar10", "my-images", "imagenet", "flowers"):
        splits = [""] if name == "flowers" else ["train", "val" if name == "imagenet" else "test"]
        for split, label, number in np.ndindex(len(splits), 3, 12):
            image = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
            place = path / name / splits[split] / f"class{label}"
            place.mkdir(parents=True, exist_ok=True)
            image.save(place / f"{number}.png")
    write_herbarium(path, rng)
    Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(path / "cat.jpg")
    (path / "00042.csv").write_text("0.5,0.2,-0.3,0.6,0.1,0.2,0.5\n-0.4,0.3,0.2,0.5,-0.6,0.4,0.5\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        assert run(["render", *SMALL_RECIPE, "--out=1p-frac"]) == 0
        assert run(["pretrain", "--shards=1p-frac", "--out=runs/1p-frac", *SMALL["pretrain"]]) == 0
    for name in ("1p-frac-64", "redrawn-masks"):
        (path / name).symlink_to("1p-frac")
    for name in ("laptop", "noise"):
        shutil.copytree(path / "runs" / "1p-frac", path / "runs" / name)
    return path


def write_herbarium(path: Path, rng: np.random.Generator) -> None:
    """Images whose labels stand in tables, and the same as Hugging Face datasets save them."""
    import datasets

    (path / "herbarium" / "scans").mkdir(parents=True)
    pictures, species, rows = [], [], list[str]()
    for number in range(24):
        pictures.append(Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)))
        pictures[-1].save(path / "herbarium" / "scans" / f"{number}.png")
        species.append(number % 2)
        rows.append(f"scans/{number}.png,{('oak', 'birch')[species[-1]]},{'test' if number > 19 else 'train'}\n")
    (path / "herbarium" / "labels.csv").write_text("file,label,split\n" + "".join(rows))
    (path / "herbarium" / "specimens.csv").write_text("file,species,split\n" + "".join(rows))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["oak", "birch"])})
    saved = datasets.Dataset.from_dict({"image": pictures, "label": species}, features)
    datasets.DatasetDict(train=saved, test=saved.select(range(4))).save_to_disk(path / "herbarium-saved")


def fetch(store: Path, text: str, *, but: str = "") -> None:
    """Copy what a command or a block names from the store, unless it is there. but: what the command itself makes."""
    for path in [*store.glob("*"), *store.glob("runs/*")]:
        name = str(path.relative_to(store))
        named = name not in ("runs", but) and re.search(rf"(?<![\w-]){name}(?![\w-])", text)
        if named and not Path(name).exists():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(path, name) if path.is_dir() else shutil.copy(path, name)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", PAGES)
def test_commands_and_blocks(page, store, tmp_path, monkeypatch, capsys):
    import datasets

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FRACGEN_CACHE", str(store / "cache"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for name in ("examples", "train"):
        Path(name).symlink_to(ROOT / name)
    for language, text in blocks(page):
        assert language in ("bash", "python", "bibtex", "text", "yaml"), f"{page}: a block of {language!r}"
        if language == "python":
            run_block(text, store)
        for words in commands(text) if language == "bash" else ():
            run_command(words, store, capsys)


def run_block(text: str, store: Path) -> None:
    for before, after in SMALL_PYTHON.items():
        text = text.replace(before, after)
    fetch(store, text)
    exec(compile(text, "<docs>", "exec"), {"__name__": "docs"})


def run_command(words: list[str], store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if words[0] == "python" and words[1].startswith("train/"):  # the same programs in a clone
        words = ["fracgen", Path(words[1]).stem, *words[2:]]
    line = " ".join(words)
    if line in _done:
        return
    _done.add(line)
    if (check := next((check for pattern, _, check in NOT_RUN if re.match(pattern, line)), None)) is not None:
        check(words)
    elif words[0] == "python":
        run_script(words[1:])
    else:
        assert words[0] == "fracgen", f"{line}: say in NOT_RUN why it is not run"
        read(words[1:])
        run_small(words[1:], store, capsys)


def run_small(words: list[str], store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, *arguments = words
    arguments = [IN_PLACE.get(pair, pair[1]) for pair in itertools.pairwise(["", *arguments])]
    small = SMALL.get(f"{name} {arguments[0]}" if name == "baseline" else name, [])
    if name == "finetune":
        small = [*small, *(SMALL_MODEL if "none" in arguments else [])]
        small += [] if "--data" in arguments else ["--data=cifar10"]  # a recipe's own is a name of timm's: the net
    out = arguments[arguments.index("--out") + 1] if "--out" in arguments else ""
    fetch(store, " ".join([*arguments, *small]), but=out)
    capsys.readouterr()
    code = run([name, *arguments, *small])
    shown = capsys.readouterr()
    assert code == 0, f"fracgen {' '.join(words)}\n{shown.err}"
    if name == "study":
        read_printed(shown.out)


def read_printed(out: str) -> None:
    """The commands that `study --dry-run` prints: `fracgen NAME`, `PYTHON -m MODULE [NAME]` or `PYTHON FILE`."""
    for program, *words in map(shlex.split, out.splitlines()):
        if words[0] == "-m":
            words = words[2:] if words[1] == "fracgen" else [words[1].split(".")[-1], *words[2:]]
        elif Path(program).name != "fracgen":
            words = [Path(words[0]).stem, *words[1:]]
        read(words)


def run_script(words: list[str]) -> None:
    script = ROOT / words[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(script), *words[1:]])
        runpy.run_path(str(script), run_name="__main__")


def test_the_readme_fits():
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 160 and max(map(len, lines)) <= 120
    for command in (
        "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/fracgen render --sigma 3.5 --delta 0.1",
        "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/python -m pytest -n auto",
    ):
        assert command in lines
    for page in (ROOT / "docs").glob("*.md"):
        assert any(f"](docs/{page.name})" in line for line in lines), f"{page.name} is not in the README's index"


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    readme, changes = ((ROOT / name).read_text("utf-8") for name in ("README.md", "CHANGELOG.md"))
    version, newest = PROJECT["version"], re.search(r"^## ([\d.]+)$", changes, re.MULTILINE)[1]
    assert citation["version"] == version
    assert newest < version if "\n## Unreleased\n" in changes else newest == version
    assert f"version = {{{PROJECT['version']}}}" in readme


def test_nothing_comes_from_outside_when_the_site_is_built():
    config = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert "font: false" in config and not re.search(r"https?://", config)
