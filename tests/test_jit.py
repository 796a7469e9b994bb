"""Kernels: compiled with what numba promises, and loaded faster where its private parts are known."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fracgen.noise import Noise

RENDER = """
import hashlib
from fracgen import jit
from fracgen.noise import Noise
sample = next(Noise(size=48, pad=3, points=200, classes=1).render([0]))
print(jit._QUICK_CACHE is not None, hashlib.sha256(sample.image.tobytes()).hexdigest())
"""
RUNTIME = "import sys, types, numba; sys.modules['numba.core.runtime._nrt_python'] = "
OTHERS = [  # what another numba may lack, or name in another way
    f"{RUNTIME}None",
    f"{RUNTIME}types.SimpleNamespace()",
    f"{RUNTIME}types.SimpleNamespace(c_helpers={{'Allocate': 1}})",
    "from numba.core.caching import Cache; Cache.load = Cache._load_overload; del Cache._load_overload\n"
    "Cache.load_overload = lambda self, sig, target: (target.refresh(), self.load(sig, target))[1]",
]


def run(before: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"{before}\n{RENDER}"]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


@pytest.fixture(scope="module")
def pixels() -> str:
    return hashlib.sha256(next(Noise(size=48, pad=3, points=200, classes=1).render([0])).image.tobytes()).hexdigest()


@pytest.mark.parametrize("before", OTHERS)
def test_a_numba_without_its_private_parts_renders_the_same(before, pixels):
    assert run(before).stdout.split() == ["False", pixels]


def test_where_no_machine_code_can_be_kept_it_is_compiled(pixels):
    refuse = "from numba.core import caching; caching.CompileResultCacheImpl._locator_classes = []"
    assert run(refuse).stdout.split() == ["True", pixels]
    assert run(f"{OTHERS[0]}\n{refuse}").stdout.split() == ["False", pixels]


def test_numba_that_is_told_not_to_compile_is_one_line(tmp_path: Path):
    command = [sys.executable, "-m", "fracgen", "baseline", "noise", "--classes", "1", "--out", str(tmp_path / "set")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NUMBA_DISABLE_JIT": "1"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("fracgen: NUMBA_DISABLE_JIT is set") and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing is begun"
