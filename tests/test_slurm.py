"""The batch files of `examples/slurm`, run with stand-ins of Slurm's programs: nodes are torchruns on loopback."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fracgen.train.engine.checkpoint import load

ROOT = Path(__file__).parents[1]
SRUN = """
while [[ $1 == --* ]]; do shift; done
nodes=()
for ((n = 0; n < SLURM_NNODES; n++)); do "$@" & nodes+=($!); done
trap 'kill -TERM "${nodes[@]}"' TERM
code=0
for node in "${nodes[@]}"; do
  wait "$node" || code=$?
  while kill -0 "$node" 2>/dev/null; do wait "$node" || code=$?; done # a signal ends the first wait
done
exit $code
"""
SCONTROL = 'if [[ $1 == show ]]; then echo localhost; else echo "$@" >> requeued; fi\n'
TINY = ["model.drop_path=0.0", "--precision=fp32", "augment.size=32", "--batch-size=8", "--device=cpu", "--workers=0"]
TINY += ["run.clean_images=8", "run.checkpoint_every=2", "run.log_every=1", "optim.name=sgd"]
TINY += [f"model.options.{each}" for each in ("patch_size=8", "depth=1", "embed_dim=32", "num_heads=2")]


@pytest.fixture
def slurm(tmp_path):
    """Run a batch file as a job of these variables, in a folder of its own."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (programs / name).write_text(f"#!{shutil.which('bash')}\n{text}")
        (programs / name).chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_CPUS_PER_TASK": "1"}
    environment = {**os.environ, **job, "PATH": path, "PYTHONPATH": str(ROOT), "PORT": str(port), "PROCESSES": "1"}

    def start(name, *words, **variables):
        command = ["bash", str(ROOT / "examples" / "slurm" / name), *map(str, words)]
        with (tmp_path / "log").open("a") as log:
            return subprocess.Popen(
                command, cwd=tmp_path, env={**environment, **variables}, stdout=log, stderr=log, start_new_session=True
            )

    return start


def wait_for(process, path, seconds=120):
    for _ in range(seconds * 10):
        if path.exists():
            return
        assert process.poll() is None, "the job has ended"
        time.sleep(0.1)
    raise AssertionError(f"{path} never came")


def test_two_nodes_are_stopped_queued_again_and_end_as_one_process(slurm, folder, tmp_path):
    from fracgen.train import pretrain

    words = ["--shards", folder, "--steps=300", *TINY]
    job = slurm("train.sbatch", "pretrain", *words, "--out", tmp_path / "two")
    wait_for(job, tmp_path / "two" / "last.pt")
    job.send_signal(signal.SIGTERM)
    assert job.wait(120) == 0, (tmp_path / "log").read_text()
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    stopped = load(tmp_path / "two" / "last.pt")
    assert 0 < stopped.step < 300 and stopped.world == 2, (tmp_path / "log").read_text()
    assert f"stopped at step {stopped.step} of 300; the same command goes on" in (tmp_path / "log").read_text()

    job = slurm("train.sbatch", "pretrain", *words, "--out", tmp_path / "two")
    assert job.wait(300) == 0, (tmp_path / "log").read_text()
    assert f"goes on at step {stopped.step}" in (tmp_path / "log").read_text()
    assert pretrain.run([*map(str, words), f"--out={tmp_path / 'one'}"]) == 0
    one, two = load(tmp_path / "one" / "last.pt"), load(tmp_path / "two" / "last.pt")
    assert one.step == two.step == 300
    assert all(torch.allclose(one.model[name], two.model[name], atol=1e-3) for name in one.model)


def test_parts_of_a_set_are_tasks(slurm, tmp_path):
    from fracgen.cli.app import run

    words = [
        "render",
        "--shards=2",
        "--classes=8",
        "--size=48",
        "--points=1500",
        "--min-fill=0.02",
        "--base-candidates=1",
    ]
    for task in ("1", "2"):
        job = slurm("render.sbatch", *words, "--out", "parts", SLURM_ARRAY_TASK_ID=task, SLURM_ARRAY_TASK_COUNT="2")
        assert job.wait(120) == 0, (tmp_path / "log").read_text()
    assert run(["merge", str(tmp_path / "parts")]) == 0
    assert run([*words, f"--out={tmp_path / 'whole'}"]) == 0
    assert (tmp_path / "parts" / "dataset.json").read_bytes() == (tmp_path / "whole" / "dataset.json").read_bytes()


def test_the_files_ask_for_what_they_use():
    for path in (ROOT / "examples" / "slurm").glob("*.sbatch"):
        text = path.read_text()
        assert text.startswith("#!/bin/bash\n#") and f"examples/slurm/{path.name}" in text
        assert {"job-name", "cpus-per-task", "time", "requeue", "output"} <= set(
            re.findall(r"^#SBATCH --([a-z-]+)", text, re.M)
        )
