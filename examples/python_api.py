"""The Python API: a recipe, its images, a folder of shards, and the folder read back.

python examples/python_api.py OUT
"""

import sys
from pathlib import Path

import fracgen

if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
    print(__doc__.strip())
    sys.exit(0 if sys.argv[1:] == ["--help"] else 2)
here, out = Path(__file__).parent, Path(sys.argv[1])

# A recipe is a frozen dataclass; load one, or build it. resolve() finds the base fractal.
recipe = fracgen.load_recipe(here / "1p-frac.yaml", {"classes": 100, "size": 224})
recipe, provenance = recipe.resolve()
print(f"base fractal: sigma-factor {recipe.base.sigma:.3f}, {provenance}")

# Any image by its index, with no other input: nothing is written.
for sample in recipe.render([0, 42]):
    print(sample.label, sample.image.shape, sample.image.dtype, f"eps_a = {sample.metadata['eps'][0]:+.4f}")

# All of them into shards: run it again after an interruption, and it goes on.
layout = fracgen.plan(recipe, num_shards=8)
result = fracgen.write_shards(recipe, out, layout=layout, provenance=provenance)
manifest = result.manifest
print(f"{manifest.num_samples} images, {manifest.num_bytes} bytes, acceptance {manifest.acceptance:.2f}")

# And back.
shards = fracgen.open_shards(out)
print(sum(int(sample.image.any()) for sample in shards), "images read from", shards.folder)
