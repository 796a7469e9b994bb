"""Recipes and folders in others' training loops: torch's DataLoader, timm's create_loader, Hugging Face's Trainer."""

import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_recipe, small_recipes
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Subset

import fracgen
from fracgen import OnePFrac, TorchDataset
from fracgen.shards.errors import DataError, UsageError


def gray(image: Image.Image) -> torch.Tensor:
    """(1, H, W) uint8."""
    return torch.from_numpy(np.asarray(image.convert("L")).copy())[None]


def batches(dataset: TorchDataset, **options) -> list[torch.Tensor]:
    return [images for images, _ in DataLoader(dataset, batch_size=5, **options)]


def pixels(samples) -> np.ndarray:
    return np.stack([sample.image for sample in samples])[:, None]


@pytest.mark.parametrize("kind", ["recipe", "folder", "view"])
def test_samples_are_pillow_images_with_labels(kind, recipe, folder):
    samples = {"recipe": recipe, "folder": fracgen.open_shards(folder), "view": recipe[3:9]}[kind]
    dataset = TorchDataset(samples)
    assert len(dataset) == len(samples) and isinstance(dataset, torch.utils.data.Dataset)
    for number in (0, 4, -1):
        image, label = dataset[number]
        assert image.mode == "RGB" and np.array_equal(np.asarray(image)[..., 1], samples[number].image)
        assert label == samples[number].label and type(label) is int
    assert [label for _, label in dataset.__getitems__([2, -1])] == [samples[2].label, samples[-1].label]
    assert len(list(dataset)) == len(samples)
    with pytest.raises(IndexError):
        dataset[len(samples)]
    assert TorchDataset(samples, mode="L")[1][0].mode == "L"


def test_transforms_names_and_dicts(recipe):
    dataset = TorchDataset(recipe, lambda image: image.size, lambda label: -label, keys=("pixel_values", "labels"))
    assert dataset[3] == {"pixel_values": (48, 48), "labels": -3}
    assert dataset.classes[3] == "03" and dataset.class_to_idx["03"] == 3 and dataset.targets == list(range(24))
    assert repr(dataset) == "TorchDataset of 24 samples of 24 classes, mode RGB"


@pytest.mark.parametrize("name", small_recipes())
def test_targets_are_the_labels(name):
    dataset = TorchDataset(small_recipes()[name], lambda image: 0)
    assert max(dataset.targets) == len(dataset.classes) - 1
    if not small_recipes()[name].multi_label:
        assert dataset.targets == [label for _, label in dataset]
        return
    for number, (_, multi_hot) in enumerate(dataset):
        assert multi_hot.dtype == torch.float32 and multi_hot.shape == (len(dataset.classes),)
        assert tuple(multi_hot.nonzero().flatten().tolist()) == small_recipes()[name][number].labels


def test_what_is_refused(recipe, folder):
    for samples in ([], str(folder), folder, None, OnePFrac):
        with pytest.raises(TypeError, match=r"a resolved recipe or fracgen\.open_shards"):
            TorchDataset(samples)
    with pytest.raises(UsageError, match=r"call resolve\(\) first"):
        TorchDataset(OnePFrac())
    with pytest.raises(UsageError, match=r"^mode 'CMYK': must be RGB or L$"):
        TorchDataset(recipe, mode="CMYK")
    with pytest.raises(UsageError, match=r"^masks 'new': must be fixed or redrawn$"):
        TorchDataset(recipe, masks="new")
    for keys in (("image",), ("image", "image"), "ab", ("image", "label", "index")):
        with pytest.raises(UsageError, match=r"^keys .*: must be two names, of image and label$"):
            TorchDataset(recipe, keys=keys)
    for samples in (fracgen.open_shards(folder), small_recipe(patch="fill")):
        with pytest.raises(UsageError, match="masks can"):
            TorchDataset(samples, masks="redrawn")
    for value, message in ((2, "a probability, 0 to 1"), (True, "a number"), ("0.5", "a number")):
        with pytest.raises(UsageError, match=rf"^texture .*: must be {message}$"):
            TorchDataset(recipe, texture=value)
    for value, message in ((-1, "0 to"), (True, "a whole number"), (1.0, "a whole number")):
        with pytest.raises(UsageError, match=rf"^seed .*: must be {message}"):
            TorchDataset(recipe, seed=value)
    for masks in ("fixed", "redrawn"):
        with pytest.raises(UsageError, match="pass -1"):
            TorchDataset(recipe, masks=masks).set_epoch(-1)
        with pytest.raises(TypeError, match="integer"):
            TorchDataset(recipe, masks=masks).set_epoch(1.5)


def test_numbers_of_numpy_do(recipe):
    own, numpys = (
        TorchDataset(recipe, texture=texture, seed=seed) for texture, seed in ((0.5, 3), (np.float32(0.5), np.int64(3)))
    )
    numpys.set_epoch(np.int64(2))
    own.set_epoch(2)
    assert [image.tobytes() for image, _ in numpys] == [image.tobytes() for image, _ in own]


# ---- workers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", small_recipes())
def test_forked_workers_render_what_the_recipe_renders(name):
    """The kernels were used before the fork: by the data set's first look, and by the expected images."""
    samples = small_recipes()[name]
    expected = np.stack([sample.image for sample in samples])
    dataset = TorchDataset(samples, np.asarray, mode="RGB" if expected.ndim == 4 else "L")
    for _ in range(2):
        assert np.array_equal(torch.cat(batches(dataset, num_workers=2)).numpy(), expected)


def test_forked_workers_read_a_folder(folder):
    shards = fracgen.open_shards(folder)
    assert np.array_equal(torch.cat(batches(TorchDataset(shards, gray), num_workers=2)).numpy(), pixels(shards))


def test_spawned_workers_render_read_and_see_each_pass(recipe, folder):
    """Two that live on; nothing of this file is pickled, so that they import it not."""
    shards, photo = fracgen.open_shards(folder), replace(small_recipes()["photo"], size=48)
    drawn = TorchDataset(recipe, np.asarray, mode="L", masks="redrawn")
    read = TorchDataset(shards, np.asarray, mode="L")
    warped = TorchDataset(photo, np.asarray, mode="L")
    loader = DataLoader(
        ConcatDataset([drawn, read, warped]),
        batch_size=7,
        num_workers=2,
        multiprocessing_context="spawn",
        persistent_workers=True,
    )
    for epoch in (0, 4):
        drawn.set_epoch(epoch)
        shown = torch.cat([images for images, _ in loader]).numpy()
        assert np.array_equal(shown[:24], pixels(recipe.redrawn(epoch))[:, 0])
        assert np.array_equal(shown[24:48], pixels(shards)[:, 0])
        assert np.array_equal(shown[48:], [warped[number][0] for number in range(len(photo))])


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_masks_are_redrawn_in_each_pass(recipe, workers, persistent):
    dataset = TorchDataset(recipe[:8], gray, masks="redrawn")
    loader = DataLoader(dataset, batch_size=3, num_workers=workers, persistent_workers=persistent)
    for epoch in (0, 1, 5, 1):
        dataset.set_epoch(epoch)
        shown = torch.cat([images for images, _ in loader]).numpy()
        assert np.array_equal(shown, pixels(recipe.redrawn(epoch)[:8])), epoch
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again[2][0], dataset[2][0]) and "masks redrawn" in repr(again)


def test_fixed_masks_are_those_of_the_data_set_in_every_pass(recipe):
    dataset = TorchDataset(recipe, gray)
    dataset.set_epoch(3)
    assert np.array_equal(dataset[2][0].numpy()[0], recipe[2].image)


def test_a_subset_is_read_in_batches(recipe, monkeypatch):
    counts = []
    dataset = TorchDataset(recipe, gray)
    read = type(recipe).render
    monkeypatch.setattr(
        type(recipe), "render", lambda self, indices, n=0: (counts.append(len(indices)), read(self, indices, n))[1]
    )
    batches(Subset(dataset, range(10)))
    assert counts == [5, 5]


def test_damage_in_a_worker_is_a_data_error(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "set")
    dataset = TorchDataset(fracgen.open_shards(tmp_path / "set"), gray)
    last = sorted((tmp_path / "set").glob("*.tar"))[-1]
    last.unlink()
    with pytest.raises(DataError, match=f"{last.name}: missing"):
        batches(dataset, num_workers=1)
    shutil.rmtree(tmp_path / "set")
    with pytest.raises(DataError, match="missing"):
        TorchDataset(
            fracgen.open_shards(shutil.copytree(folder, tmp_path / "other", ignore=lambda *_: {last.name}))[-1:]
        )


# ---- others' loops ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_timm_trains_from_it(recipe, workers):
    import timm.data

    dataset = TorchDataset(recipe)
    options = {"input_size": (3, 32, 32), "batch_size": 8, "device": torch.device("cpu"), "num_workers": workers}
    loader = timm.data.create_loader(dataset, is_training=True, **options)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=24)
    shown = [(images.shape, model(images).shape, labels) for images, labels in loader]
    assert [shape[0] for shape in shown] == [(8, 3, 32, 32)] * 3
    assert sorted(torch.cat([labels for *_, labels in shown]).tolist()) == list(range(24))


def test_the_augmentation_in_the_docs_takes_every_image():
    from timm.data.auto_augment import rand_augment_transform

    page = (Path(__file__).parents[1] / "docs" / "own-loop.md").read_text("utf-8")
    augment = rand_augment_transform(re.search(r'auto_augment="(.+?)"', page).group(1), {})
    image = Image.new("RGB", (8, 8), "gray")
    assert all(augment(image).size == (8, 8) for _ in range(5000)), "Posterize to 0 bits comes up in 1 of 700"


def test_hugging_faces_trainer_trains_from_it(recipe, tmp_path, monkeypatch):
    import transformers

    dataset = TorchDataset(
        recipe, lambda image: gray(image).expand(3, -1, -1) / 255, masks="redrawn", keys=("pixel_values", "labels")
    )
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    labels = {"id2label": dict(enumerate(dataset.classes)), "label2id": dataset.class_to_idx}
    config = transformers.ViTConfig(image_size=48, patch_size=16, num_labels=24, **sizes, **labels)
    passes = []
    monkeypatch.setattr(TorchDataset, "set_epoch", lambda self, epoch: passes.append(epoch))
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=8,
        num_train_epochs=2,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(transformers.ViTForImageClassification(config), arguments, train_dataset=dataset)
    result = trainer.train()
    assert (
        result.global_step == 6
        and np.isfinite(result.training_loss)
        and sorted(passes) == passes
        and set(passes) == {0, 1}
    )


def test_importing_fracgen_imports_no_torch():
    code = "import sys, fracgen; 'TorchDataset' in dir(fracgen); from fracgen import *; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_without_torch_the_extra_is_named():
    code = "import sys; sys.modules['torch'] = None; import fracgen; fracgen.TorchDataset"
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "fracgen.TorchDataset needs torch: pip install 'fracgen[train]'" in failed.stderr
