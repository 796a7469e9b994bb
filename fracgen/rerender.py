"""Whether a folder's pixels are what its recipe renders."""

import numpy as np

from fracgen.registry import from_dict, recipe_hash
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.reader import ShardFolder


def differing_samples(shards: ShardFolder, count: int) -> list[str]:
    """Render samples again and compare pixels, label and metadata; one line for each that differs.

    About `count` samples are taken, spread evenly over the shards.
    """
    manifest = shards.manifest
    try:
        recipe = from_dict(manifest.recipe, shards.files.small_files())
    except UsageError as error:
        return [f"dataset.json: no recipe that can be rendered ({error})"]
    if recipe_hash(recipe) != manifest.recipe_hash:
        return ["dataset.json: the recipe does not have the hash that is stated for it"]
    numbers = np.unique(np.linspace(0, len(manifest.shards) - 1, min(count, len(manifest.shards)), dtype=int))
    per_shard = np.diff(np.linspace(0, count, len(numbers) + 1, dtype=int))
    problems = []
    for shard, num_samples in zip(numbers.tolist(), per_shard.tolist(), strict=True):
        name = manifest.shards[shard].name
        try:
            stored = [sample for _, sample in zip(range(num_samples), shards.read_shard(shard), strict=False)]
        except DataError as error:
            problems.append(str(error))
            continue
        for sample, again in zip(stored, recipe.render([sample.index for sample in stored]), strict=True):
            same = (sample.label, sample.labels) == (again.label, again.labels) and np.array_equal(
                sample.image, again.image
            )
            if manifest.layout.metadata:
                same = same and sample.metadata == again.metadata
            if not same:
                problems.append(f"{name}: sample {manifest.layout.key(sample.index)} is not what the recipe renders")
    return problems
