"""Gradients by a CUDA graph: the same training as without; refused where there can be none."""

import dataclasses

import pytest
import torch

from fracgen.shards.errors import UsageError
from fracgen.train import pretrain
from fracgen.train.engine import checkpoint, cuda_graph
from fracgen.train.engine.settings import Run
from fracgen.train.ranks import join

TINY = ["augment.size=32", *(f"model.options.{each}" for each in ("patch_size=8", "depth=2", "embed_dim=32"))]
TINY += ["model.options.num_heads=2", "model.drop_path=0.3", "run.clean_every=4", "--batch-size=8", "--workers=0"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_graph_trains_as_single_kernels_do(folder, tmp_path, precision, compiled):
    def weights(name, *words):
        out = tmp_path / name
        argv = [f"--shards={folder}", f"--out={out}", f"--precision={precision}", f"run.compile={compiled}".lower()]
        for stop in (5, 0):  # the recording begins again after a resume
            assert pretrain.run([*argv, "--steps=9", f"--stop-after={stop}", *TINY, *words]) == 0
        return checkpoint.load(out / checkpoint.LAST).model

    plain, graphed = weights("plain"), weights("graphed", "run.cuda_graph=true")
    other = weights("other", "run.cuda_graph=true", "run.seed=1")

    def difference(one, two):
        return max((one[key].double() - two[key].double()).abs().max().item() for key in one)

    assert difference(plain, graphed) < 0.1 * difference(plain, other), "drop path and images are drawn alike"


def test_where_there_is_no_graph(folder, tmp_path, capsys):
    argv = [f"--shards={folder}", f"--out={tmp_path / 'run'}", "--steps=2", "--device=cpu", "run.cuda_graph=true"]
    assert pretrain.run([*argv, *TINY]) == 2
    assert "run.cuda_graph: is for a GPU" in capsys.readouterr().err and not (tmp_path / "run" / "last.pt").exists()
    ranks = dataclasses.replace(join("cpu"), device=torch.device("cuda"))
    with pytest.raises(UsageError, match="give --precision bf16"):
        cuda_graph.check(ranks, "fp16", Run())
    with pytest.raises(UsageError, match="for one process, and there are 2"):
        cuda_graph.check(dataclasses.replace(ranks, world=2), "bf16", Run())
    with pytest.raises(UsageError, match=r"not beside run\.grad_checkpointing"):
        cuda_graph.check(ranks, "bf16", Run(grad_checkpointing=True))
    cuda_graph.check(ranks, "bf16", Run())
