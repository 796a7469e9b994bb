"""Augmentation on the device, held to timm, torchvision and Pillow: by operation, by draw, and on the whole."""

import itertools
import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment, create_transform, random_erasing, transforms
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import functional

from fracgen.shards.errors import UsageError
from fracgen.train import seeding as seeds
from fracgen.train.augment import draws
from fracgen.train.augment.apply import apply
from fracgen.train.augment.device import DeviceAugment, normalise, timm_transform
from fracgen.train.augment.draws import CODES, NOTHING, OPERATIONS, Layer
from fracgen.train.augment.evaluation import EvalTransform
from fracgen.train.augment.inputs import TrainInputs
from fracgen.train.augment.ops import Window, resample
from fracgen.train.augment.settings import Augmentation, Mix, RandAugment
from fracgen.train.counter_noise import normals
from fracgen.train.ranks import Ranks

CPU = torch.device("cpu")
HALF = (0.5, 0.5, 0.5)
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def card(kind, height=96, width=96):
    """A test image, (H, W) or (H, W, 3): two levels like a fractal, that resized, or colour, flat and fine."""
    rng = np.random.default_rng(5)
    if kind == "colour":
        y, x = np.mgrid[:height, :width] / max(height, width)
        waves = [np.sin(40 * x * y) * 99 + 140, 255 * x, np.abs(x - y) * 300]
        image = np.stack(waves, -1).clip(0, 255).astype(np.uint8)
        image[10:30, 20:60] = (250, 30, 60)
        image[height // 2 :, : width // 2] = rng.integers(0, 256, (height - height // 2, width // 2, 3))
        return image
    points = rng.normal(size=(4000, 2)).cumsum(0)
    points = (points - points.min(0)) / np.ptp(points, 0)
    image = np.zeros((height, width), np.uint8)
    image[(points[:, 0] * (height - 1)).astype(int), (points[:, 1] * (width - 1)).astype(int)] = 127
    if kind == "gray":
        image = np.asarray(
            Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC, (1, 1, height / 2, width / 2))
        )
    return image


def batch(image, num=1):
    planes = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    return torch.from_numpy(np.repeat(planes[None], num, 0))


def rgb(image):
    return Image.fromarray(image).convert("RGB")


def as_array(tensor):
    """uint8 (H, W, 3) int64 of one of a batch."""
    return tensor.expand(3, -1, -1).permute(1, 2, 0).numpy().astype(int)


ARGS = {
    "Posterize": [0, 1, 3, 4, 8],
    "Solarize": [0, 26, 128, 256],
    "SolarizeAdd": [0, 55, 110],
    **dict.fromkeys(("Color", "Contrast", "Brightness", "Sharpness"), (0.1, 0.43, 1.0, 1.17, 1.9)),
    "Rotate": [-30, -14.2, 0.3, 27.4],
    **dict.fromkeys(("ShearX", "ShearY"), (-0.3, -0.013, 0.1, 0.27)),
    **dict.fromkeys(("TranslateX", "TranslateY"), (-0.45, -0.25, 0.0, 0.3331)),
}
TIMM = {
    "TranslateX": auto_augment.translate_x_rel,
    "TranslateY": auto_augment.translate_y_rel,
    "AutoContrast": auto_augment.auto_contrast,
    "SolarizeAdd": auto_augment.solarize_add,
    "ShearX": auto_augment.shear_x,
    "ShearY": auto_augment.shear_y,
    # Pillow 13 refuses 0 bits, older ones give black
    "Posterize": lambda image, bits, **_: auto_augment.posterize(image, bits) if bits else image.point(lambda _: 0),
}
MOVING = {"Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"}


@pytest.mark.parametrize("kind", ["two-level", "gray", "colour"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_timms(name, kind):
    image = card(kind)
    args = ARGS.get(name, [None])
    ours = batch(image, len(args))
    layer = Layer(np.full(len(args), CODES[name]), np.array([arg or 0.0 for arg in args]))
    apply(ours, layer, torch.full((ours.shape[1], 1, 1), 128, dtype=torch.uint8))
    for got, arg in zip(ours, args, strict=True):
        operation = TIMM.get(name) or getattr(auto_augment, name.lower())
        options = {"resample": Image.Resampling.BICUBIC, "fillcolor": (128, 128, 128)} if name in MOVING else {}
        reference = np.asarray(operation(rgb(image), *([] if arg is None else [arg]), **options), int)
        off = np.abs(as_array(got) - reference)
        if name in MOVING:
            assert off.max() <= 1 and off.mean() < 0.003
        else:
            assert off.max() == 0


@pytest.mark.parametrize("kind", ["two-level", "gray", "colour"])
def test_crop_flip_and_resize_are_pillows(kind):
    image = card(kind, 90, 128)
    boxes = [(0, 0, 90, 128), (3, 7, 61, 40), (40, 90, 20, 25), (5, 6, 48, 48), (89, 127, 1, 1)]
    flips = [(False, False), (True, False), (False, True), (True, True), (False, False)]
    windows = []
    for axis in (0, 1):
        low, length = (np.array([box[k] for box in boxes], float) for k in (axis, axis + 2))
        sign = np.array([-1 if flip[axis] else 1 for flip in flips])
        windows.append(Window(np.where(sign > 0, low, low + length), sign * length / 48, low, low + length))
    for got, box, (down, across) in zip(resample(batch(image, len(boxes)), *windows, 48), boxes, flips, strict=True):
        top, left, height, width = box
        reference = rgb(image).crop((left, top, left + width, top + height))
        # in two steps, as Pillow 13 goes down first where that is cheaper, and all before it across first
        reference = reference.resize((48, height), Image.Resampling.BICUBIC).resize((48, 48), Image.Resampling.BICUBIC)
        reference = functional.vflip(reference) if down else reference
        reference = np.asarray(functional.hflip(reference) if across else reference, int)
        off = np.abs(as_array(got) - reference)
        assert off.max() <= 1 and off.mean() < 0.01


def scripted(monkeypatch, module, *, whether=(), attempts, place):
    """Python's random, where `module` uses it, gives these uniform numbers: of `attempts` (2, n), by turns."""
    whether, pairs, place = iter(whether), iter(attempts.T.ravel()), iter(place)
    monkeypatch.setattr(module.random, "random", lambda: next(whether))
    monkeypatch.setattr(module.random, "uniform", lambda low, high: low + next(pairs) * (high - low))
    monkeypatch.setattr(module.random, "randint", lambda low, high: low + int(next(place) * (high - low + 1)))


@pytest.mark.parametrize("shape", [(512, 512), (60, 40), (32, 200), (200, 32), (3, 2)])
def test_crop_boxes_are_torchvisions_of_the_same_draws(shape, monkeypatch):
    scale, ratio = (0.08, 1.0), (3 / 4, 4 / 3)
    numbers = seeds.uniforms(3, "augment", np.arange(300), 28)
    boxes = draws.draw_crops(numbers, *shape, scale, ratio)
    get = transforms.RandomResizedCropAndInterpolation.get_params
    for row, box in zip(numbers, boxes, strict=True):
        scripted(monkeypatch, transforms, attempts=row[:20].reshape(2, 10), place=row[20:22])
        assert tuple(box) == get(Image.new("L", shape[::-1]), scale, ratio)
    middle = {(32, 200): (0, 78, 32, 43), (200, 32): (78, 0, 43, 32)}.get(shape)
    assert middle is None or (boxes == middle).all(1).sum() > 1


def test_erased_boxes_are_timms_of_the_same_draws(monkeypatch):
    numbers = seeds.uniforms(3, "erase", np.arange(300), 24)
    whose, boxes, _ = draws.draw_erased(3, np.arange(300), 0.5, 32)
    box_of = dict(zip(whose.tolist(), boxes.tolist(), strict=True))
    erasing = random_erasing.RandomErasing(0.5, mode="const", device="cpu")
    for index, row in enumerate(numbers):
        scripted(monkeypatch, random_erasing, whether=row[:1], attempts=row[1:21].reshape(2, 10), place=row[21:23])
        reference = torch.ones(1, 32, 32)
        if index in box_of:
            top, left, height, width = box_of[index]
            reference[:, top : top + height, left : left + width] = 0
        assert torch.equal(erasing(torch.ones(1, 32, 32)), reference)
    assert 120 < len(whose) < 180
    assert not len(draws.draw_erased(3, np.arange(300), 0.0, 32)[0])
    assert len(draws.draw_erased(3, np.arange(300), 1.0, 32)[0]) == 300


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("increasing", [True, False])
def test_arguments_are_timms_at_every_magnitude(increasing, sign, monkeypatch):
    monkeypatch.setattr(auto_augment, "_randomly_negate", lambda value: sign * value)
    magnitudes = np.array([0, 0.01, 2.5, 4.999, 8.3, 9.0, 9.77, 10.0])
    ours = draws.arguments(magnitudes / 10, sign * magnitudes / 10, increasing=increasing)
    names = auto_augment._RAND_INCREASING_TRANSFORMS if increasing else auto_augment._RAND_TRANSFORMS
    assert len(names) == len(OPERATIONS)
    for name in names:
        code = CODES[name.removesuffix("Increasing").removesuffix("Rel")]
        if level := auto_augment.LEVEL_TO_ARG[name]:
            reference = [level(magnitude, {})[0] for magnitude in magnitudes]
            assert ours[code] == pytest.approx(reference, abs=1e-12)
        else:
            assert not ours[code].any()


def test_operations_come_as_often_as_timms():
    rule = RandAugment.parse("rand-m9-n2-mstd0.5-inc1")
    assert rule == RandAugment(9, 2, 0.5, True, 0.5)
    num = 40_000
    layers = draws.draw_layers(draws.draw_augment(1, np.arange(num), rule), rule)
    for layer in layers:
        shares = np.bincount(layer.codes, minlength=NOTHING + 1) / num
        assert shares[:NOTHING] == pytest.approx(1 / 30, abs=0.004) and shares[NOTHING] == pytest.approx(0.5, abs=0.01)
    together = np.corrcoef(*(layer.codes for layer in layers))[0, 1]
    assert abs(together) < 0.02
    turns = layers[0].args[layers[0].codes == CODES["Rotate"]] / 3
    assert (turns < 0).mean() == pytest.approx(0.5, abs=0.05)
    drawn = np.clip(np.random.default_rng(0).normal(9, 0.5, 100_000), 0, 10)
    assert np.abs(turns).mean() == pytest.approx(drawn.mean(), abs=0.05)
    assert np.abs(turns).std() == pytest.approx(drawn.std(), abs=0.05) and np.abs(turns).max() == 10


def test_jitter_is_torchvisions():
    numbers = seeds.uniforms(2, "augment", np.arange(6000), 28)
    layers = draws.draw_jitter(numbers, 0.4)
    orders = np.stack([layer.codes for layer in layers], 1)
    assert np.unique(orders, axis=0).shape == (6, 3) and (np.sort(orders) == np.sort(orders[0])).all()
    assert np.unique(orders, axis=0, return_counts=True)[1].min() > 850
    factors = np.stack([layer.args for layer in layers])
    assert factors.min() >= 0.6 and factors.max() <= 1.4 and factors.mean() == pytest.approx(1, abs=0.01)
    image, config = card("colour"), Augmentation(size=96, rand_augment="", scale=(1, 1), ratio=(1, 1), erase=0)
    got = DeviceAugment(config, seed=2, device=CPU)(batch(image, 8), np.arange(8))
    adjust = {"Brightness": functional.adjust_brightness, "Contrast": functional.adjust_contrast}
    for index in range(8):
        reference = rgb(image)
        reference = functional.hflip(reference) if numbers[index, 22] < 0.5 else reference
        reference = functional.vflip(reference) if numbers[index, 23] < 0.5 else reference
        for layer in layers:
            name = OPERATIONS[layer.codes[index]]
            reference = adjust.get(name, functional.adjust_saturation)(reference, layer.args[index])
        expected = functional.normalize(functional.to_tensor(reference), HALF, HALF)
        assert torch.allclose(got[index], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["two-level", "colour"])
def test_a_sample_is_augmented_alike_in_any_batch(kind):
    augment = DeviceAugment(Augmentation(size=32), seed=4, device=CPU)
    shades = torch.arange(64, dtype=torch.uint8).view(-1, 1, 1, 1)  # no two images are the same
    images, positions = batch(card(kind), 64) + shades, np.arange(64) * 1000 + 2**33
    together = augment(images, positions)
    order = np.random.default_rng(0).permutation(64)
    assert torch.equal(augment(images[order], positions[order]), together[order])
    for part in (slice(0, 1), slice(5, 22), slice(40, 64)):
        assert torch.equal(augment(images[part], positions[part]), together[part])
    again = DeviceAugment(Augmentation(size=32), seed=4, device=CPU)(images, positions)
    other = DeviceAugment(Augmentation(size=32), seed=5, device=CPU)(images, positions)
    assert torch.equal(again, together) and not torch.equal(other, together)


@pytest.mark.parametrize("options", [{}, IMAGENET, {"rand_augment": ""}])
def test_gray_is_as_three_equal_channels(options):
    images = batch(card("two-level"), 128)
    augment = DeviceAugment(Augmentation(size=40, **options), seed=0, device=CPU)
    gray = augment(images, np.arange(128))
    assert gray.shape == (128, 3, 40, 40) and gray.dtype == torch.float32 and gray.is_contiguous()
    assert torch.equal(gray, augment(images.expand(-1, 3, -1, -1), np.arange(128)))


@pytest.mark.parametrize("options", [{}, {"rand_augment": "", "erase": 0.0}])
@pytest.mark.parametrize("kind", ["two-level", "colour"])
def test_output_is_distributed_as_timms(kind, options):
    """Means, deviations and histograms over 800 draws of one image, within four standard errors of timm's."""
    num, image = 800, card(kind)
    config = Augmentation(size=32, **options)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    transform, picture = timm_transform(config), Image.fromarray(image)
    reference = torch.stack([transform(picture) for _ in range(num)]).flatten(1)
    ours = DeviceAugment(config, seed=1, device=CPU)(batch(image, num), np.arange(num)).flatten(1)
    edges = [-1e9, -2, -0.999, -0.9, -0.5, -0.1, 0.1, 0.5, 0.9, 0.999, 2, 1e9]
    statistics = [(ours.mean(1), reference.mean(1)), (ours.std(1), reference.std(1))]
    for low, high in itertools.pairwise(edges):
        statistics.append(tuple(((each > low) & (each <= high)).float().mean(1) for each in (ours, reference)))
    for got, expected in statistics:
        error = (got.var() / num + expected.var() / num).sqrt()
        assert abs(got.mean() - expected.mean()) <= 4 * error + 1e-4


def test_noise_is_normal_and_its_own_everywhere():
    noise = normals(torch.arange(-200_000, 200_000, dtype=torch.int32))
    assert abs(noise.mean()) < 0.01 and noise.std() == pytest.approx(1, abs=0.01) and noise.abs().max() < 5.4
    assert (noise**4).mean() == pytest.approx(3, abs=0.1)
    assert noise.unique().numel() > 0.95 * len(noise)
    lagged = [torch.corrcoef(torch.stack([noise[lag:], noise[:-lag]]))[0, 1].abs() for lag in (1, 2, 3, 32, 1024)]
    assert max(lagged) < 0.01
    config = Augmentation(size=64, rand_augment="", color_jitter=0, erase=1)
    out = DeviceAugment(config, seed=0, device=CPU)(batch(np.zeros((64, 64), np.uint8), 200), np.arange(200))
    whose, boxes, _ = draws.draw_erased(0, np.arange(200), 1.0, 64)
    assert len(whose) == 200
    patches = []
    for image, (top, left, height, width) in zip(out, boxes, strict=True):
        patch = image[:, top : top + height, left : left + width].clone()
        image[:, top : top + height, left : left + width] = -1
        assert torch.equal(image, torch.full_like(image, -1))
        patches.append(patch.flatten(1))
    erased = torch.cat(patches, 1)
    assert abs(erased.mean()) < 0.01 and erased.std() == pytest.approx(1, abs=0.01)
    assert (torch.corrcoef(erased) - torch.eye(3)).abs().max() < 0.01


@pytest.mark.parametrize("shape", [(96, 96), (90, 128), (128, 91), (20, 20), (32, 32), (33, 47)])
@pytest.mark.parametrize("crop", [0.875, 0.9, 1.0])
def test_evaluation_is_timms_on_host_and_device(shape, crop):
    transform = pickle.loads(pickle.dumps(EvalTransform(size=32, crop=crop, **IMAGENET)))
    for kind in ("gray", "colour"):
        image = card(kind, *shape)
        options = {"interpolation": "bicubic", "crop_pct": crop, **IMAGENET}
        reference = create_transform((3, 32, 32), **options)(rgb(image))
        assert torch.allclose(transform(rgb(image)), reference, atol=1e-5)
        assert torch.allclose(transform(Image.fromarray(image)), reference, atol=1e-5)
        got = transform.on_device(batch(image, 2))
        assert torch.equal(got[0], got[1])
        levels = (got[0] - reference).abs() * torch.tensor(IMAGENET["std"]).view(3, 1, 1) * 255
        assert levels.max() < 1.01 and levels.mean() < 0.01


class Watch(TorchDispatchMode):
    """Fails on what makes a host wait for its device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waiting = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount", "is_nonzero", "equal")
        assert func.overloadpacket.__name__ not in waiting, func
        if func.overloadpacket.__name__ == "repeat_interleave":
            assert (kwargs or {}).get("output_size") is not None
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("options", [{}, {"rand_augment": "", **IMAGENET}])
def test_nothing_waits_for_the_device(options):
    augment = DeviceAugment(Augmentation(size=32, **options), seed=0, device=CPU)
    with Watch():
        augment(batch(card("colour"), 64), np.arange(64))
        EvalTransform(size=32, crop=0.875, mean=HALF, std=HALF).on_device(batch(card("colour"), 4))


def test_timms_pipeline_takes_gray_and_every_magnitude():
    transform = pickle.loads(pickle.dumps(timm_transform(Augmentation(size=32, rand_augment="rand-m10-n15-p1.0-inc1"))))
    random.seed(0)
    np.random.seed(0)
    for _ in range(20):  # Posterize to 0 bits comes up
        out = transform(Image.fromarray(card("two-level")))
        assert out.shape == (3, 32, 32) and out.dtype == torch.float32


def test_normalise_is_torchvisions():
    image = card("colour")
    reference = functional.normalize(functional.to_tensor(image), **IMAGENET)
    assert torch.allclose(normalise(batch(image), **IMAGENET)[0], reference, atol=1e-5)


@pytest.mark.parametrize(
    "text", ["rand-m9-mmax20", "original", "rand-m9.5", "rand-tweights", "rand-p2", "rand-inc", "rand-"]
)
def test_other_rand_augments_are_refused(text):
    with pytest.raises(UsageError, match="rand_augment"):
        Augmentation(rand_augment=text)


def test_a_crop_that_no_attempt_fits_has_a_pixel_at_least():
    """Of a thousand times as wide as high, or the other way round."""
    for ratio, box in [((1000.0, 1000.0), [4, 0, 1, 10]), ((0.001, 0.001), [0, 4, 10, 1])]:
        assert draws.draw_crops(np.full((1, 22), 0.5), 10, 10, (1.0, 1.0), ratio).tolist() == [box]


@pytest.mark.parametrize(
    "options",
    [
        {"size": 0},
        {"scale": (1.0, 0.1)},
        {"erase": 1.5},
        {"std": (0.0, 1.0, 1.0)},
        {"mean": (123.7, 116.3, 103.5)},  # of levels in 0 to 255
        {"mean": (float("nan"), 0.5, 0.5)},
    ],
)
def test_senseless_numbers_are_refused(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        Augmentation(**options)


def test_rand_augment_reads_as_timm_reads():
    assert RandAugment.parse("rand") == RandAugment(10, 2, 0.0, False, 0.5)
    assert RandAugment.parse("rand-n3-mstd101-p0.25") == RandAugment(10, 3, np.inf, False, 0.25)


def test_crops_of_several_ranks_are_those_of_one():
    images = batch(card("colour"), 7)

    def crops(rank, world):
        inputs = TrainInputs(Augmentation(size=32), Mix(), num_classes=2, seed=3, rank=rank, device=CPU)
        transform = inputs.crops(Ranks(rank=rank, world=world, device=CPU))
        return torch.cat([transform(each) for each in images[rank::world].split(2)])

    alone = crops(0, 1)
    for rank in range(3):
        assert torch.equal(crops(rank, 3), alone[rank::3])
