"""A recipe or a folder of shards as torch's map-style data set, for training loops of your own."""

import operator
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal, SupportsIndex

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from fracgen.shards.errors import UsageError
from fracgen.shards.sample import Sample
from fracgen.shards.sequence import SampleSequence, position
from fracgen.shards.settings import convert
from fracgen.train.data.examples import Pixels
from fracgen.train.data.pixels import channels_first
from fracgen.train.seeding import MAX_SEED
from fracgen.train.texture import add_textures

Transform = Callable[[Any], Any]
MAX_PASS = 2**32 - 1


class TorchDataset(Dataset[Any]):
    """Samples as `(image, label)`, for `DataLoader`, timm's `create_loader` and Hugging Face's `Trainer`.

    A label is a number; of images with several labels, a float32 tensor (number of classes,) of zeros and ones, as
    `binary_cross_entropy_with_logits` takes it. An image is a Pillow image, as transforms of torchvision and timm take
    it. It may be used by worker processes, forked or spawned: each renders or reads for itself. The first sample is
    read here, so that a recipe that is not resolved, or a folder that cannot be read, is an error now, and forked
    workers have the kernels loaded.

    samples: a resolved recipe, `open_shards(folder)`, or a part of one (`recipe[:1000]`).
    transform, target_transform: of the image and of the label.
    mode: "RGB", "L" (gray, a third of the work), of the Pillow image.
    masks: "redrawn" draws the patch masks of a recipe anew in each pass, which `set_epoch` tells; "fixed" are those of
        the data set.
    texture: probability, 0 to 1, that what is not black in an image gets a random texture (see `train/texture.py`; our
        own design, as is "masks redrawn", of OFDB's "random texture" and "random pattern"): another in each pass.
    seed: of the textures.
    keys: names of image and label, where a sample shall be a dict, as Hugging Face's models take it.
    Raises UsageError and DataError as `samples` does, TypeError for other things than samples.
    """

    def __init__(
        self,
        samples: SampleSequence,
        transform: Transform | None = None,
        target_transform: Transform | None = None,
        *,
        mode: Literal["RGB", "L"] = "RGB",
        masks: Literal["fixed", "redrawn"] = "fixed",
        texture: float = 0.0,
        seed: int = 0,
        keys: tuple[str, str] | None = None,
    ) -> None:
        if not isinstance(samples, SampleSequence):
            kind = type(samples).__name__
            raise TypeError(f"samples must be a resolved recipe or fracgen.open_shards(FOLDER), not {kind}")
        for name, value, allowed in (("mode", mode, ("RGB", "L")), ("masks", masks, ("fixed", "redrawn"))):
            if value not in allowed:
                raise UsageError(f"{name} {value!r}: must be {' or '.join(allowed)}")
        texture, seed = convert(float, texture, "texture"), convert(int, seed, "seed")
        if not 0 <= texture <= 1:
            raise UsageError(f"texture {texture}: must be a probability, 0 to 1")
        if not 0 <= seed <= MAX_SEED:
            raise UsageError(f"seed {seed}: must be 0 to {MAX_SEED}")
        if keys is not None and (isinstance(keys, str) or len(set(keys)) != 2 or len(keys) != 2):
            raise UsageError(f"keys {keys!r}: must be two names, of image and label")
        self.samples, self.transform, self.target_transform = samples, transform, target_transform
        self.mode, self.masks, self.texture, self.seed, self.keys = mode, masks, texture, seed, keys
        # in shared memory, so that workers that outlive a pass see the next one begin
        self._pass = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        if masks == "redrawn":
            samples.redrawn(0)
        if len(samples):
            _ = samples[0]

    def set_epoch(self, epoch: int) -> None:
        """Begin pass `epoch`, from 0: with its own patch masks and textures, where these are drawn; in workers too.

        timm's and Hugging Face's loops call it; in your own, call it before you iterate over the loader.
        """
        epoch = operator.index(epoch)
        if self.masks == "redrawn":
            self.samples.redrawn(epoch)  # refuses what is no pass
        elif not 0 <= epoch <= MAX_PASS:
            raise UsageError(f"pass {epoch}: must be 0 to {MAX_PASS}")
        self._pass.fill_(epoch)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: SupportsIndex) -> Any:
        (sample,) = self.__getitems__([number])
        return sample

    def __getitems__(self, numbers: Sequence[SupportsIndex]) -> list[Any]:
        """Several samples, in this order: a recipe renders them together, two orbits at a time."""
        pass_number, places = int(self._pass), [position(number, len(self)) for number in numbers]
        samples = self.samples.redrawn(pass_number) if self.masks == "redrawn" else self.samples
        return [
            self._item(sample, pass_number * len(self) + place)
            for place, sample in zip(places, samples.read(places), strict=True)
        ]

    def _item(self, sample: Sample, number: int) -> Any:
        """number: of the sample in all passes."""
        pixels, label = sample.image, self._label(sample)
        if self.texture:
            pixels = _textured(pixels, self.texture, self.seed, number)
        image = Image.fromarray(pixels)
        image = image if image.mode == self.mode else image.convert(self.mode)
        values = (
            image if self.transform is None else self.transform(image),
            label if self.target_transform is None else self.target_transform(label),
        )
        return values if self.keys is None else dict(zip(self.keys, values, strict=True))

    def _label(self, sample: Sample) -> Any:
        if not self.samples.multi_label:
            return sample.label
        multi_hot = torch.zeros(len(self.samples.class_names))
        multi_hot[list(sample.labels)] = 1
        return multi_hot

    @cached_property
    def classes(self) -> list[str]:
        """The names of the classes, by label."""
        return list(self.samples.class_names)

    @cached_property
    def class_to_idx(self) -> dict[str, int]:
        """The labels of the classes, by name."""
        return {name: label for label, name in enumerate(self.classes)}

    @cached_property
    def targets(self) -> list[int]:
        """The label of each sample, one of several, without `target_transform`; no image is rendered or decoded."""
        labels: list[int] = self.samples.labels.tolist()
        return labels

    def __repr__(self) -> str:
        masks = ", masks redrawn" if self.masks == "redrawn" else ""
        masks += f", texture {self.texture:g}" if self.texture else ""
        return (
            f"TorchDataset of {len(self)} samples of {len(self.samples.class_names)} classes, mode {self.mode}{masks}"
        )


def _textured(pixels: Pixels, prob: float, seed: int, number: int) -> Pixels:
    planes = torch.from_numpy(np.ascontiguousarray(channels_first(pixels)).reshape(-1, *pixels.shape[:2]))
    textured: Pixels = add_textures(planes[None], prob, seed, [number])[0].numpy()
    return textured[0] if pixels.ndim == 2 else np.ascontiguousarray(textured.transpose(1, 2, 0))
