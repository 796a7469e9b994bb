"""Writes a set whose patches have masks drawn anew in each of several passes, from a set that was rendered.

python examples/ablations/redrawn.py runs/masks/data/own-masks/base-0 redrawn-masks 64

It holds 64 images of each class: the same fractal, its patches under masks of each pass. Pass 0 is the set itself.
Packed from PNG files in a folder beside it, redrawn-masks.images, which can be removed then.
"""

import subprocess
import sys
from pathlib import Path

import fracgen
from fracgen.shards.errors import FracgenError
from fracgen.shards.png import encode_png


def write_images(shards: Path, images: Path, num_passes: int) -> None:
    """Write a PNG file for each pass and class of a rendered set, in folders that sort by class."""
    recipe, _ = fracgen.load_recipe(shards).resolve()
    for number in range(num_passes):
        for sample in recipe.redrawn(number):
            path = images / f"{sample.label:04d}" / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_png(sample.image))


words = sys.argv[1:]
if len(words) != 3 or not words[2].isdecimal() or int(words[2]) < 1:
    print(__doc__.strip())
    sys.exit(0 if words == ["--help"] else 2)
out = Path(words[1])
images = out.with_name(f"{out.name}.images")
try:
    write_images(Path(words[0]), images, int(words[2]))
except FracgenError as error:
    print(f"redrawn.py: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
argv = [sys.executable, "-m", "fracgen", "pack", str(images), "--out", str(out)]
sys.exit(subprocess.run(argv, check=False).returncode)
