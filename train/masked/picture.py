"""A picture of reconstructions: what the model is shown of some images, and what it makes of the rest."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fracgen.train.engine.model import Stats
from fracgen.train.engine.run_folder import write_figure
from fracgen.train.masked.autoencoder import MaskedAutoencoder
from fracgen.train.seeding import generator

PICTURE = "reconstructions.png"
_INCHES, _NARROWEST, _WIDEST = 1.1, 3, 16
"""Side of an image in the picture; for how many a line has place, at least and at most."""
Rows = dict[str, npt.NDArray[np.float32]]
"""By what a row shows: levels in [0, 1], (n, H, W, 3)."""


class Reconstructions:
    """Some images, each with one mask for the whole run, so that the pictures of its steps can be compared.

    images: (n, 3, H, W), normalised by mean and std, on the device of the model. amp: as `Trainer` has it.
    """

    def __init__(self, images: Tensor, *, mean: Stats, std: Stats, seed: int, amp: torch.dtype | None) -> None:
        self._images, self._seed, self._amp = images, seed, amp
        self._mean, self._std = (torch.tensor(each, device=images.device).view(3, 1, 1) for each in (mean, std))
        self._peak = float((images * self._std + self._mean).max().clamp(1 / 255, 1))

    @torch.no_grad()
    def draw(self, model: MaskedAutoencoder, path: Path, *, step: int) -> float:
        """Draw the model as it is into a PNG, and return its loss on these images.

        Raises DataError where it cannot be written.
        """
        images = self._images
        num_patches = model.grid[0] * model.grid[1]
        noise = generator(self._seed, "mask").random((len(images), num_patches), np.float32)
        training = model.training
        model.eval()
        with torch.autocast(images.device.type, dtype=self._amp, enabled=self._amp is not None):
            output = model(images, torch.from_numpy(noise).to(images.device))
        model.train(training)
        loss = float(model.loss(output, images))
        by_means = float(model.loss((torch.zeros_like(output[0]), output[1]), images))
        beside = f", {by_means:.3f} by the means alone" if model.norm_pix else ""
        _draw(self._rows(model, *output), path, title=f"step {step:,}: loss {loss:.3f}{beside}")
        return loss

    def _rows(self, model: MaskedAutoencoder, predictions: Tensor, hidden: Tensor) -> Rows:
        """The rows of the picture, from top to bottom; the brightest level of the images is shown as white.

        With norm_pix a prediction says nothing of a patch's mean and contrast, which are taken from the image, as
        published; a row of these means alone shows how much of the picture they are.
        """
        patches = model.patchify(self._images)
        mean, std = model.patch_stats(patches)
        gray = ((0.5 * self._peak - self._mean) / self._std).expand(3, *self._images.shape[2:])
        in_place = {"image": patches, "seen": model.patchify(gray[None]), "means": mean}
        in_place["predicted"] = predictions.float() * std + mean if model.norm_pix else predictions.float()
        if not model.norm_pix:
            del in_place["means"]
        shown = {name: patches.where(~hidden[..., None], each) for name, each in in_place.items()}
        return {name: self._levels(model.unpatchify(each)) for name, each in shown.items()}

    def _levels(self, images: Tensor) -> npt.NDArray[np.float32]:
        levels = (images * self._std + self._mean) / self._peak
        as_rows: npt.NDArray[np.float32] = levels.clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
        return as_rows


def _draw(rows: Rows, path: Path, *, title: str) -> None:
    """Rows under one another, in as many bands as the images need."""
    from matplotlib.figure import Figure

    count = len(next(iter(rows.values())))
    bands = [slice(start, start + _WIDEST) for start in range(0, count, _WIDEST)]
    lines = [(name, levels[band]) for band in bands for name, levels in rows.items()]
    widest = min(max(count, _NARROWEST), _WIDEST)
    figure = Figure(figsize=(_INCHES * widest + 0.1, (_INCHES + 0.2) * len(lines) + 0.4), layout="constrained")
    for axes, (name, images) in zip(figure.subplots(len(lines), squeeze=False)[:, 0], lines, strict=True):
        height, width = images.shape[1:3]
        strip = np.ones((height, widest * (width + 1) - 1, 3), np.float32)  # a white line between two images
        for number, image in enumerate(images):
            strip[:, number * (width + 1) :][:, :width] = image
        axes.imshow(strip, interpolation="nearest", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.set_title(name, loc="left", fontsize=9, pad=2)
        axes.set_frame_on(False)
    figure.suptitle(title, x=0.005, ha="left", fontsize=10)
    write_figure(path, figure)
