"""Folders and sheets of FractalDB and OFDB."""

import numpy as np
import pytest
from conftest import contents
from test_fractaldb import GROWS, SYSTEMS, fractaldb, ofdb
from test_fractaldb import recipe as recipe
from test_fractaldb import samples as samples

from fracgen.categories import Categories
from fracgen.registry import load_recipe, recipe_hash
from fracgen.render_shards import plan, write_shards
from fracgen.shards.errors import UsageError
from fracgen.shards.reader import open_shards
from fracgen.shards.verify import verify_folder

# ---- preview ---------------------------------------------------------------------------------------------------------


def test_preview_of_fractaldb(recipe, samples):
    columns = list(recipe.preview())
    assert len(columns) == 3
    for category, column in enumerate(columns):
        captions, images = zip(*column, strict=True)
        assert captions == (f"{category:05d}", "a x 0.2", "f x 1.8", "instance 1", "left-right")
        places = [(2, 0, 0), (0, 0, 0), (24, 0, 0), (2, 1, 0), (2, 0, 2)]
        for image, (weight, instance, flip) in zip(images, places, strict=True):
            expected = samples[((category * 25 + weight) * 2 + instance) * 4 + flip]
            assert np.array_equal(image, expected.image)
        assert samples[(category * 25 + 2) * 8].metadata["weights"] == [1.0] * 6
    many = fractaldb(Categories(SYSTEMS.systems * 10))
    assert [column[0][0] for column in many.preview()] == ["00000", "00005", "00011", "00017", "00023", "00029"]


def test_preview_of_ofdb():
    recipe = ofdb(Categories(SYSTEMS.systems * 2))
    columns = list(recipe.preview())
    assert [[caption for caption, _ in column] for column in columns] == [
        ["00000", "00001", "00002", "00003"],
        ["00004", "00005"],
    ]
    shown = [image for column in columns for _, image in column]
    for image, sample in zip(shown, recipe.render(range(6)), strict=True):
        assert np.array_equal(image, sample.image)
    many = [caption for column in ofdb(Categories(SYSTEMS.systems * 40)).preview() for caption, _ in column]
    assert len(many) == 24 and many == sorted(set(many)) and (many[0], many[-1]) == ("00000", "00119")


# ---- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_metadata", [True, False])
def test_a_folder_of_fractaldb(recipe, samples, tmp_path, keep_metadata):
    layout = plan(recipe, num_shards=7, keep_metadata=keep_metadata)
    assert (layout.group, layout.metadata, layout.num_samples) == (8, keep_metadata, 600)
    results = [
        write_shards(
            recipe, tmp_path / f"{workers}", layout=layout, workers=workers, provenance={"categories": "given"}
        )
        for workers in (1, 2)
    ]
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    manifest = results[0].manifest
    assert results[0].num_samples == manifest.num_samples == 600 and manifest.num_classes == 3
    assert sum(manifest.counts.values()) == 0 and manifest.rejections == {}
    assert manifest.recipe_hash == recipe_hash(recipe) and manifest.class_names == recipe.class_names
    shards = open_shards(tmp_path / "1")
    assert verify_folder(shards) == []
    assert (tmp_path / "1" / "categories.csv").read_bytes() == SYSTEMS.to_bytes()
    assert load_recipe(tmp_path / "1") == recipe
    read = list(shards)
    assert sorted(sample.index for sample in read) == list(range(600))
    assert [sample.index for sample in read] == [index for shard in range(7) for index in layout.indices(shard)]
    for sample in read:
        expected = samples[sample.index]
        assert np.array_equal(sample.image, expected.image) and sample.label == expected.label
        assert sample.metadata == (expected.metadata if keep_metadata else {})


def test_shards_mix_classes_and_keep_groups_together(recipe):
    layout = plan(recipe, num_shards=7)
    for shard in range(7):
        indices = layout.indices(shard).tolist()
        assert {index // 200 for index in indices} == {0, 1, 2}
        assert all(indices.count(index) == 1 for index in indices)
        assert sorted({index // 8 for index in indices}) == sorted(index // 8 for index in indices if index % 8 == 0)
        assert layout.work_order(shard).tolist() == sorted(indices) != indices


def test_a_folder_counts_trimmed_orbits(tmp_path):
    recipe = fractaldb(Categories((SYSTEMS[0], GROWS)), points=4000, instances=1)
    expected = sum(sample.counts["trimmed"] for sample in recipe.render(range(len(recipe))))
    result = write_shards(recipe, tmp_path / "set", layout=plan(recipe, num_shards=3), workers=1)
    assert result.manifest.counts == {"trimmed": expected} and expected % 4 == 0 < expected
    assert verify_folder(open_shards(tmp_path / "set")) == []


def test_one_bit_folders(recipe, samples, tmp_path):
    write_shards(recipe, tmp_path / "set", layout=plan(recipe, num_shards=2, png_bits=1), workers=1)
    shards = open_shards(tmp_path / "set")
    assert verify_folder(shards) == []
    assert all(np.array_equal(sample.image, samples[sample.index].image) for sample in shards)
    with pytest.raises(UsageError, match="--png-bits 1"):
        plan(fractaldb(color="color"), png_bits=1)


def test_a_folder_of_ofdb(tmp_path):
    recipe = ofdb(color="color", weights="published")
    for workers in (1, 2):
        write_shards(recipe, tmp_path / f"{workers}", layout=plan(recipe, num_shards=2), workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    shards = open_shards(tmp_path / "1")
    assert verify_folder(shards) == [] and sum(shards.manifest.counts.values()) == 0
    read = {sample.index: sample for sample in shards}
    for sample in recipe.render(range(3)):
        assert np.array_equal(read[sample.index].image, sample.image)
        assert read[sample.index].metadata == sample.metadata
