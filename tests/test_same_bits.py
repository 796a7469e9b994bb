"""The same numbers whatever OpenBLAS's kernels and Python's `sum`: each is put in the place of this machine's."""

import builtins
import math
import os
import subprocess
import sys

import numpy as np

from fracgen.multifractal import MultiFractal
from fracgen.photo.photographs import Photographs
from fracgen.photo.recipe import Photo

DRAWS = """
from fracgen.exfractaldb import ExFractalDB
from fracgen.onepfrac import OnePFrac
for seed in range(20):
    recipe = ExFractalDB(seed=seed, categories=1)
    print(OnePFrac(seed=seed).candidate(0).maps.tolist(), recipe.camera(seed)[0].tolist())
    print(ExFractalDB(seed=seed, categories=1, views="fixed").camera(seed)[0].tolist())
"""


def test_draws_do_not_follow_the_kernels_of_openblas():
    """OpenBLAS, which numpy comes with, multiplies and adds in one rounding where the processor can, or in two."""
    texts = []
    for kernels in (None, "Prescott"):
        environment = os.environ if kernels is None else {**os.environ, "OPENBLAS_CORETYPE": kernels}
        run = subprocess.run([sys.executable, "-c", DRAWS], env=environment, capture_output=True, text=True, check=True)
        texts.append(run.stdout)
    assert texts[0] == texts[1] and len(texts[0].splitlines()) == 40


def test_draws_do_not_follow_how_python_sums(monkeypatch):
    """From 3.12 on, Python's `sum` of floats compensates for rounding."""

    def exact_sum(values, start=0):
        values = list(values)
        return math.fsum([start, *values]) if any(type(value) is float for value in values) else add(values, start)

    def draw():
        pixels = np.random.RandomState(0).randint(0, 256, (60, 80, 3)).astype(np.uint8)
        crops = Photo(photographs=Photographs((pixels,)), look="rgb", warp="crops", classes=20, size=32)
        fractals = MultiFractal(classes=20, instances=1, size=32, points=500, composition="single", jitter="sval")
        limits = [fractals.scene(index).fractals[0].limits.tolist() for index in range(20)]
        samples = [*crops, *fractals]
        return limits, [(sample.metadata, sample.image.tobytes()) for sample in samples]

    add, before = builtins.sum, draw()
    monkeypatch.setattr(builtins, "sum", exact_sum)
    assert draw() == before
