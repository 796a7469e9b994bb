"""OFDB's two augmentations, ours: a random texture where an image is not black; masks drawn anew for the same orbit."""

import math

import numpy as np
import pytest
import torch
from conftest import small_recipes
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import fracgen
from fracgen import TorchDataset
from fracgen.shards.errors import UsageError
from fracgen.train import texture
from fracgen.train.augment.device import DeviceAugment, timm_transform
from fracgen.train.augment.settings import Augmentation
from fracgen.train.seeding import uniforms
from fracgen.train.texture import add_textures


def images(count, height, width, channels=1):
    rng = np.random.default_rng(count)
    levels = rng.integers(0, 256, (count, channels, height, width), dtype=np.uint8)
    return torch.from_numpy(levels * (rng.random((count, 1, height, width)) < 0.6))


def uniform_of(counter: int, key: int) -> float:
    """Wellons' lowbias32 in plain Python, as a number in (-1, 1)."""
    bits = (counter * 0x9E3779B9 & 0xFFFFFFFF) ^ key
    bits = (bits ^ bits >> 16) * 0x7FEB352D & 0xFFFFFFFF
    bits = (bits ^ bits >> 15) * 0x846CA68B & 0xFFFFFFFF
    return ((bits ^ bits >> 16) >> 9) * 2.0**-22 + 2.0**-23 - 1


def plain_texture(image: np.ndarray, seed: int, number: int) -> np.ndarray:
    """The law in float64, a point after the other. image: (C, H, W)."""
    _, a, b, c, d = uniforms(seed, "texture", [number], 5)[0].tolist()
    key, decay, low, high = int(a * 2**32), 0.2 + 0.7 * b, 20 + 70 * c, 160 + 95 * d
    cells, first, k = 2, 0, 0
    field = [[uniform_of(3 * i + j, key) for j in range(3)] for i in range(3)]
    _, height, width = image.shape
    while max(height, width) / (2 * cells) >= 4:
        first, cells, k = first + (cells + 1) ** 2, 2 * cells, k + 1
        old, field = field, []
        for i in range(cells + 1):
            field.append([])
            for j in range(cells + 1):
                corners = [old[y][x] for y in {i // 2, (i + 1) // 2} for x in {j // 2, (j + 1) // 2}]
                noise = uniform_of(first + i * (cells + 1) + j, key)
                field[-1].append(sum(corners) / len(corners) + math.exp(-k * decay) * noise)
    least, most = min(map(min, field)), max(map(max, field))
    out = np.empty_like(image)
    for y in range(height):
        for x in range(width):
            v, u = (y + 0.5) * cells / height, (x + 0.5) * cells / width
            i, j = min(int(v), cells - 1), min(int(u), cells - 1)
            top = field[i][j] + (field[i][j + 1] - field[i][j]) * (u - j)
            bottom = field[i + 1][j] + (field[i + 1][j + 1] - field[i + 1][j]) * (u - j)
            level = low + (high - low) * (top + (bottom - top) * (v - i) - least) / (most - least)
            out[:, y, x] = np.minimum(np.floor(image[:, y, x] / 127 * level + 0.5), 255)
    return out


@given(st.integers(0, 2**40), st.integers(0, 2**50), st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]))
def test_the_law(seed, number, height, width, channels):
    batch = images(1, height, width, channels)
    textured = add_textures(batch, 1, seed, [number])[0].numpy().astype(int)
    apart = np.abs(textured - plain_texture(batch[0].numpy(), seed, number))
    assert apart.max() <= 1 and (apart > 0).mean() <= 0.01 + 2 / apart.size, "float32 rounds another way now and then"
    assert not textured[batch[0].numpy() == 0].any(), "black stays black"


def test_a_texture_depends_on_seed_and_number_alone(monkeypatch):
    batch, numbers = images(60, 40, 24), np.arange(60) * 7
    whole = add_textures(batch, 0.5, 3, numbers)
    kept = (whole != batch).flatten(1).any(1)
    assert 15 < kept.sum() < 45 and torch.equal(whole[~kept], batch[~kept])
    assert torch.equal(add_textures(batch, 1, 3, numbers)[kept], whole[kept]), "whoever else has one"
    monkeypatch.setattr(texture, "CPU_CHUNK", 1)
    for start in (0, 13, 59):
        part = slice(start, start + 9)
        assert torch.equal(add_textures(batch[part], 0.5, 3, numbers[part]), whole[part])
    assert not torch.equal(add_textures(batch, 0.5, 4, numbers), whole)
    assert add_textures(batch, 0, 3, numbers) is batch
    flat = torch.full((2, 1, 64, 64), 127, dtype=torch.uint8)
    pinned = add_textures(flat, 1, 0, [0, 1])[:, 0, ::21, ::21].flatten(1).tolist()
    assert pinned == PINNED


PINNED = [
    [88, 70, 105, 140, 96, 90, 113, 146, 141, 117, 113, 145, 151, 112, 90, 99],
    [126, 181, 153, 165, 92, 144, 152, 188, 111, 112, 150, 141, 185, 123, 99, 52],
]


def test_the_device_has_them_by_position():
    batch, settings = images(16, 48, 48), {"size": 32, "erase": 0.0, "rand_augment": "", "color_jitter": 0.0}
    positions = np.arange(100, 116)

    def augmented(texture, part=slice(None)):
        augment = DeviceAugment(Augmentation(texture=texture, **settings), seed=5, device=torch.device("cpu"))
        return augment(batch[part], positions[part])

    without, half = augmented(0.0), augmented(0.5)
    changed = (without != half).flatten(1).any(1).numpy()
    assert np.array_equal(changed, uniforms(5, "texture", positions, 5)[:, 0] < 0.5) and 0 < changed.sum() < 16
    assert torch.equal(augmented(0.5, slice(3, 9)), half[3:9])
    levels = ((without[changed] * 0.5 + 0.5) * 255).round().byte()[:, :1]
    textured = ((half[changed] * 0.5 + 0.5) * 255).round().byte()[:, :1]
    assert torch.equal(add_textures(levels, 1, 5, positions[changed]), textured), "of what the model is shown"


def test_timms_pipeline_has_none():
    with pytest.raises(UsageError, match=r"augment\.texture 0\.5: timm's pipeline has none; give --augment device"):
        timm_transform(Augmentation(texture=0.5))


@pytest.mark.parametrize("name", ["ofdb", "fractaldb", "1p-frac, bases", "1p-frac, color"])
def test_a_recipe_on_the_fly(name):
    """Pattern: other masks in each pass, of the same orbits. Texture: another in each pass. In workers too."""
    recipe = small_recipes()[name]
    plain = [sample.image for sample in recipe]
    dataset = TorchDataset(recipe, np.array, masks="redrawn", texture=1, seed=9)
    passes = {}
    for number in (0, 1):
        dataset.set_epoch(number)
        passes[number] = [image for image, _ in dataset]
        masked = [sample.image for sample in recipe.redrawn(number)]
        for place, (image, drawn) in enumerate(zip(passes[number], masked, strict=True)):
            planes = torch.from_numpy(drawn[None, None] if drawn.ndim == 2 else drawn.transpose(2, 0, 1)[None].copy())
            textured = add_textures(planes, 1, 9, [number * len(recipe) + place])[0].numpy().transpose(1, 2, 0)
            assert np.array_equal(image, np.broadcast_to(textured, image.shape))
            assert np.array_equal(image.any(2), (drawn if drawn.ndim == 2 else drawn.any(2)) > 0), "the same shape"
            assert (number == 0) == np.array_equal(drawn, plain[place])
    loader = DataLoader(dataset, batch_size=4, num_workers=2, persistent_workers=True)
    for number in (1, 0):
        dataset.set_epoch(number)
        assert np.array_equal(np.concatenate([images.numpy() for images, _ in loader]), np.stack(passes[number]))


def test_instances_keep_their_flips_in_each_pass():
    recipe = small_recipes()["fractaldb"]
    for number in (0, 5):
        none, top_bottom, left_right, both = (sample.image for sample in recipe.redrawn(number).read(range(4, 8)))
        assert np.array_equal(top_bottom, none[::-1]) and np.array_equal(both, none[::-1, ::-1])
        assert np.array_equal(left_right, none[:, ::-1])


def test_a_folder_has_textures_but_its_masks(folder):
    shards = fracgen.open_shards(folder)
    dataset = TorchDataset(shards, np.array, mode="L", texture=0.5)
    first = np.stack([image for image, _ in dataset])
    dataset.set_epoch(1)
    second = np.stack([image for image, _ in dataset])
    assert (first != second).any() and np.array_equal(first > 0, second > 0)
    assert "texture 0.5" in repr(dataset)
    with pytest.raises(UsageError, match="masks can be redrawn only of a recipe"):
        TorchDataset(shards, masks="redrawn", texture=0.5)


@pytest.mark.parametrize(
    "values", [{"texture": 1.5}, {"texture": "much"}, {"texture": -0.1}, {"seed": -1}, {"seed": 0.5}]
)
def test_refusals(values, recipe):
    with pytest.raises(UsageError, match=next(iter(values))):
        TorchDataset(recipe, **values)
    with pytest.raises(UsageError, match="pass -1"):
        TorchDataset(recipe).set_epoch(-1)
