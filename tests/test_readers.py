"""The same folder in the stock readers, unmodified: every one returns our pixels, as 0 and 127, and our labels."""

import json
import tarfile

import numpy as np
import pytest
from conftest import small_recipe
from PIL import Image

from fracgen.render_shards import plan, write_shards


@pytest.fixture(scope="module", params=["gray", "color"])
def stored(request, folder, tmp_path_factory):
    """(folder, {label: image}) of a gray and of a colour set."""
    if request.param == "gray":
        recipe, path = small_recipe(), folder
    else:
        recipe, path = small_recipe(color="color"), tmp_path_factory.mktemp("color") / "set"
        write_shards(recipe, path, layout=plan(recipe, num_shards=5))
    return path, {sample.label: sample.image for sample in recipe.render(range(24))}


def check(images_read, images):
    assert sorted(images_read) == sorted(images)
    for label, image in images_read.items():
        assert np.array_equal(image, images[label]), label
    if images[0].ndim == 2:
        assert set(np.unique(np.stack(list(images_read.values())))) == {0, 127}


def test_tarfile(stored):
    path, images = stored
    split = json.loads((path / "_info.json").read_text())["splits"]["train"]
    lengths = []
    for name in split["filenames"]:
        with tarfile.open(path / name) as tar:
            lengths.append(len(tar.getnames()) // 3)
    assert split["shard_lengths"] == lengths and split["num_samples"] == sum(lengths)
    assert json.loads((path / "sizes.json").read_text()) == dict(zip(split["filenames"], lengths, strict=True))
    images_read = {}
    for name in json.loads((path / "sizes.json").read_text()):
        with tarfile.open(path / name) as tar:
            for member in tar.getnames():
                if member.endswith(".png"):
                    label = int(tar.extractfile(member.replace(".png", ".cls")).read())
                    images_read[label] = np.asarray(Image.open(tar.extractfile(member)))
    check(images_read, images)


@pytest.mark.filterwarnings("ignore")
def test_webdataset(stored):
    import webdataset

    path, images = stored
    urls = str(path / "1p-frac-train-{000000..000004}.tar")
    rows = webdataset.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("png", "cls", "json")
    images_read = {}
    for image, label, metadata in rows:
        assert len(metadata["eps"]) == 12
        images_read[label] = np.asarray(image) if images[0].ndim == 3 else np.asarray(image)[:, :, 0]
        assert images[0].ndim == 3 or len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) == 2
    check(images_read, images)
    gray = webdataset.WebDataset(urls, shardshuffle=False).decode("l8").to_tuple("png", "cls")
    if images[0].ndim == 2:
        check({label: image for image, label in gray}, images)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("streaming", [False, True])
def test_hugging_face_datasets(stored, tmp_path, monkeypatch, streaming):
    import datasets

    path, images = stored
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    rows = datasets.load_dataset(str(path), split="train", streaming=streaming, cache_dir=str(tmp_path))
    images_read = {}
    for row in rows:
        assert len(row["json"]["eps"]) == 12 and row["json"]["formula"] == "1p-frac"
        images_read[row["cls"]] = np.asarray(row["png"])
    check(images_read, images)


@pytest.mark.filterwarnings("ignore")
def test_timm(stored):
    import timm.data

    path, images = stored
    dataset = timm.data.create_dataset(
        "wds/set",
        str(path),
        split="train",
        is_training=False,
        batch_size=4,
        input_img_mode="L" if images[0].ndim == 2 else "RGB",
    )
    assert len(dataset) == 24
    check({label: np.asarray(image) for image, label in dataset}, images)
    channels = 1 if images[0].ndim == 2 else 3
    loader = timm.data.create_loader(
        timm.data.create_dataset("wds/set", str(path), split="train", is_training=False, batch_size=4),
        input_size=(3, 48, 48),
        batch_size=4,
        num_workers=0,
        use_prefetcher=False,
        interpolation="nearest",
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        crop_pct=1.0,
        persistent_workers=False,
    )
    images_read = {}
    for batch, labels in loader:
        pixels = (batch * 255).round().byte().permute(0, 2, 3, 1).numpy()
        images_read.update(
            {
                int(label): image if channels == 3 else image[:, :, 0]
                for image, label in zip(pixels, labels, strict=True)
            }
        )
    check(images_read, images)


def test_one_bit_pngs_are_the_same_set(tmp_path):
    from fracgen.shards.reader import open_shards

    recipe = small_recipe()
    write_shards(recipe, tmp_path / "set", layout=plan(recipe, num_shards=5, png_bits=1))
    check(
        {sample.label: sample.image for sample in open_shards(tmp_path / "set")},
        {s.label: s.image for s in recipe.render(range(24))},
    )
