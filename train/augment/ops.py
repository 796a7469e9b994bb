"""Pillow's image operations on batches, on any device, without one transfer back to the host.

Images are uint8 (n, C, H, W) in and out, C 1 or 3, with one parameter for each sample. Pillow rounds to 256 levels
after every operation, so bytes between operations are exact, and small. A gray image gives what its three equal
channels would. The reference is Pillow: the tests compare level by level.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from fracgen.train.counter_noise import GOLDEN_RATIO, normals

CPU_CHUNK, DEVICE_CHUNK = 1 << 20, 1 << 28
"""Pixels resampled at once. On a CPU their floats, 4 MiB, stay in its cache and in memory that is already mapped."""


@dataclass(frozen=True)
class Window:
    """What one axis of the output shows of the source: the middle of output pixel k lies at start + (k + 0.5) step.

    All are in source pixels, (n,) float64 on the host. step: negative where the axis is flipped. low, high: the source
    pixels in [low, high) count, those outside do not.
    """

    start: npt.NDArray[np.float64]
    step: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]


def _keys(x: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -0.5, which Pillow's resize uses (its affine transform has a = -1). Overwrites x.

    Of u = 2 - |x| and v = 1 - |x|, 0 where negative: u^2 (u - 1) / 2 + v^2 (1 - 2 v).
    """
    outer = (2 - x.abs_()).clamp_(min=0)
    inner = (outer - 1).clamp_(min=0)
    half = (outer - 1).mul_(0.5).mul_(outer).mul_(outer)
    return half.add_((1 - 2 * inner).mul_(inner).mul_(inner))


def _taps(window: Tensor, size: int, num: int) -> tuple[Tensor, Tensor]:
    """The `num` pixels that make each output pixel, and their weights.

    Args:
        window: (4, n) float32 start, step, low, high.

    Returns:
        (n, size, num) int32 places and float32 weights that sum to 1.
    """
    start, step, low, high = window.view(4, -1, 1)
    centre = start + step * (torch.arange(size, device=window.device) + 0.5)
    scale = step.abs().clamp(min=1)
    first = torch.maximum((centre - 2 * scale + 0.5).floor_(), low)
    places = first[..., None] + torch.arange(num, device=window.device)
    weights = _keys((places - (centre - 0.5)[..., None]).div_(scale[..., None]))
    weights.mul_(places < high[..., None])
    weights.div_(weights.sum(-1, keepdim=True))
    return torch.minimum(places, high[..., None] - 1).int(), weights


def num_taps(step: float) -> int:
    """How many pixels Pillow's bicubic resize takes for one, at `step` pixels between outputs."""
    return 2 * int(np.ceil(2 * max(1.0, abs(step)))) + 1


def resample(images: Tensor, rows: Window, columns: Window, size: int) -> Tensor:
    """Crop, flip and resize as Pillow does: bicubic, antialiased, across first, then down, rounded after each.

    Pillow 13, unlike those before it, goes down first where that is cheaper: 0.01 to 0.03 levels apart on average, at
    most 14. Both passes are sums of few weighted lines, which embedding_bag does at 7 times the speed of dense matrix
    products (64 gray images of 512 to 224 px on two cores: 7 and 53 ms a pass).

    Args:
        images: uint8 (B, C, H, W).
        rows, columns: what the output shows.
        size: of the output, uint8 (B, C, size, size).
    """
    num, channels, height, width = images.shape
    taps = []
    for window in (columns, rows):
        values = np.stack([window.start, window.step, window.low, window.high]).astype(np.float32)
        taps.append(_taps(upload(values, images.device), size, num_taps(float(np.abs(window.step).max()))))
    out = torch.empty((num, channels, size, size), dtype=torch.uint8, device=images.device)
    most = CPU_CHUNK if images.device.type == "cpu" else DEVICE_CHUNK
    chunk = max(1, most // (channels * height * width))
    for at in range(0, num, chunk):
        part = slice(at, at + chunk)
        left, right = int(columns.low[part].min()), int(columns.high[part].max())
        top, bottom = int(rows.low[part].min()), int(rows.high[part].max())
        lines = images[part, :, top:bottom, left:right].permute(0, 3, 1, 2).float()
        across = _weighted_sums(lines.contiguous(), taps[0][0][part] - left, taps[0][1][part])
        across = across.add_(0.5).floor_().clamp_(0, 255).transpose(1, 3).contiguous()
        down = _weighted_sums(across, taps[1][0][part] - top, taps[1][1][part])
        out[part] = down.add_(0.5).clamp_(0, 255).transpose(1, 2)
    return out


def _weighted_sums(lines: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """Output lines, each a weighted sum of input lines: (n, L, C, M) float32, (n, size, taps) to (n, size, C, M)."""
    num, length, channels, across = lines.shape
    size = places.shape[1]
    places = places + length * torch.arange(num, dtype=torch.int32, device=places.device).view(-1, 1, 1)
    sums = embedding_bag(
        places.view(num * size, -1), lines.view(num * length, -1), mode="sum", per_sample_weights=weights.flatten(0, 1)
    )
    return sums.view(num, size, channels, across)


def upload(array: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """A small host array on the device, without waiting for it."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda" and array.size:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def look_up(images: Tensor, tables: Tensor) -> Tensor:
    """New levels by table: uint8 (n, C, 256), or (n, 1, 256) for all channels."""
    return tables.expand(-1, images.shape[1], -1).gather(2, images.flatten(2).long()).view_as(images)


def auto_contrast(images: Tensor) -> Tensor:
    """Tables that stretch each channel's levels to 0..255: uint8 (n, C, 256)."""
    low, high = (level.double()[..., None] for level in images.flatten(2).aminmax(dim=2))
    levels = torch.arange(256, device=images.device)
    scale = 255.0 / (high - low)
    table = (levels * scale + -low * scale).clamp_(0, 255)
    return torch.where(high > low, table, levels).byte()


def equalize(images: Tensor) -> Tensor:
    """Tables that flatten each channel's histogram, with Pillow's integer steps: uint8 (n, C, 256)."""
    pixels = images.flatten(2).long()
    counts = torch.zeros((*pixels.shape[:2], 256), dtype=torch.int32, device=images.device)
    counts.scatter_add_(2, pixels, torch.ones((), dtype=torch.int32, device=images.device).expand_as(pixels))
    highest = counts.gather(2, pixels.amax(2, keepdim=True))
    step = (pixels.shape[2] - highest) // 255
    below = counts.cumsum(2, dtype=torch.int32) - counts
    table = ((step // 2 + below) // step.clamp(min=1)).clamp_(max=255)
    levels = torch.arange(256, dtype=torch.int32, device=images.device)
    return torch.where(step > 0, table, levels).byte()


def _luma(images: Tensor) -> Tensor:
    """Pillow's L of RGB, (n, 1, H, W) int32; a gray image itself."""
    if images.shape[1] == 1:
        return images.int()
    red, green, blue = images.int().unbind(1)
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16)[:, None]


def mean_levels(images: Tensor) -> Tensor:
    """Mean of each image's L, rounded as Pillow does: (n,) int64."""
    num = images.shape[2] * images.shape[3]
    return (2 * _luma(images).flatten(1).sum(1) + num) // (2 * num)


def scale_levels(centres: Tensor, factors: Tensor) -> Tensor:
    """Tables of centre + factor (level - centre): (n,) and (n,) to uint8 (n, 1, 256).

    The centre of contrast is the image's mean level, that of brightness is 0.
    """
    centres = centres.float()[:, None, None]
    table = centres + factors[:, None, None] * (torch.arange(256, device=centres.device) - centres)
    return table.clamp_(0, 255).byte()


def _blend(base: Tensor, images: Tensor, factors: Tensor) -> Tensor:
    """Base + factor (image - base), cut to 256 levels as Pillow does; base integers that broadcast to images."""
    base = base.float()
    return (base + factors.view(-1, 1, 1, 1) * (images - base)).clamp_(0, 255).byte()


def color(images: Tensor, factors: Tensor) -> Tensor:
    """More (factor above 1) or less colour."""
    return _blend(_luma(images), images, factors)


def sharpness(images: Tensor, factors: Tensor) -> Tensor:
    """Away from (factor above 1) or towards a 3 by 3 smoothing with centre 5/13, which leaves the border as it is."""
    wide = images.int()
    down = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]
    around = down[..., :-2] + down[..., 1:-1] + down[..., 2:] + 4 * wide[:, :, 1:-1, 1:-1]
    wide[:, :, 1:-1, 1:-1] = (around + 6) // 13  # odd over 13 is never halfway
    return _blend(wide, images, factors)


def _cubic(lines: Sequence[Tensor], at: Tensor) -> Tensor:
    """Pillow's affine bicubic (a = -1) between lines 1 and 2 of four: in this form flat areas stay exactly flat."""
    one, two, three, four = lines
    first, second = two - one, four - three
    cubed = (first + second).mul_(at)
    return cubed.sub_(first, alpha=2).sub_(second).mul_(at).add_(three - one).mul_(at).add_(two)


def _filled(images: Tensor, inside: Tensor, fill: Tensor) -> Tensor:
    """Where not inside, fill: by arithmetic modulo 256, ten times as fast as torch.where of bytes on a CPU."""
    return (images - fill).mul_(inside).add_(fill)


def slide(images: Tensor, whole_pixels: Tensor, rest: Tensor, *, num_along_x: int, fill: Tensor) -> Tensor:
    """Shears and translations: moves each row of the first `num_along_x` images, each column of the others.

    Args:
        images: uint8 (n, C, S, S).
        whole_pixels, rest: (n, S) int64 and float32 in [0, 1), the distance of each line: output x shows the source at
            x + whole_pixels + rest.
        fill: (C, 1, 1) uint8 for what comes from outside.
    """
    size = images.shape[3]
    images = torch.cat([images[:num_along_x], images[num_along_x:].mT])
    places = torch.arange(-1, size + 2, device=images.device) + whole_pixels[..., None]
    near = images.gather(3, places.clamp(0, size - 1)[:, None].expand(-1, images.shape[1], -1, -1)).float()
    rest = rest[:, None, :, None]
    moved = _cubic([near[..., k : k + size] for k in range(4)], rest).clamp_(0, 255).byte()
    position = places[:, None, :, 1:-2] + (rest + 0.5)
    moved = _filled(moved, (position >= 0) & (position < size), fill)
    return torch.cat([moved[:num_along_x], moved[num_along_x:].mT])


def rotate(images: Tensor, turns: Tensor, *, fill: Tensor) -> Tensor:
    """Rotates about the middle, bicubic.

    Args:
        images: uint8 (n, C, S, S).
        turns: (n, 2) float32 cosine and sine; positive turns counter-clockwise, as Pillow does.
        fill: (C, 1, 1) uint8 for what comes from outside.
    """
    num, channels, size, _ = images.shape
    cosine, sine = turns[:, :, None, None].unbind(1)
    across = torch.arange(size, device=images.device) + (0.5 - size / 2)
    down = across[:, None]
    x, y = (cosine * across - sine * down) + size / 2, (sine * across + cosine * down) + size / 2
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    left, top = (x - 0.5).floor(), (y - 0.5).floor()
    along, below = x - 0.5 - left, y - 0.5 - top
    # 4 by 4 source pixels each: four neighbours in a row, the border repeated, are one 32-bit word, for a single read;
    # the first of them is its lowest byte, as on all little-endian machines
    wide = size + 1
    corner = (top.clamp_(-1, size - 1) + 1) * wide + left.clamp_(-1, size - 1) + 1
    places = corner.long().view(num, 1, 1, -1) + torch.arange(4, device=images.device)[:, None] * wide
    border = torch.arange(-2, size + 2, device=images.device).clamp_(0, size - 1)
    padded = images.index_select(2, border).index_select(3, border)
    words = torch.stack([padded[..., k : k + wide] for k in range(4)], -1).view(torch.int32).view(num, channels, -1)
    near = words.gather(2, places.view(num, 1, -1).expand(-1, channels, -1)).view(num, channels, 4, -1)
    rows = _cubic([(near >> 8 * k & 255).float() for k in range(4)], along.view(num, 1, 1, -1))
    turned = _cubic(rows.unbind(2), below.view(num, 1, -1)).clamp_(0, 255).byte().view_as(images)
    return _filled(turned, inside[:, None], fill)


def erase(
    images: Tensor, samples: npt.NDArray[np.int64], boxes: npt.NDArray[np.int64], keys: npt.NDArray[np.int64]
) -> None:
    """Fill boxes with N(0, 1) noise, in place, each pixel and channel its own.

    Args:
        images: float32 (B, C, S, S), contiguous, of fewer than 2^31 numbers.
        samples: (m,) places in the batch, of the image that each box lies in.
        boxes: (m, 4) top, left, height, width.
        keys: (m,) in [0, 2^32): the noise of a box depends on its key and shape alone.
    """
    if not len(samples):
        return
    _, channels, height, width = images.shape
    tops, lefts, heights, widths = boxes.T
    areas = heights * widths
    firsts = samples * (channels * height * width) + tops * width + lefts
    columns = [areas, areas.cumsum() - areas, firsts, widths, keys]  # areas and their start in all erased pixels
    boxes_table = upload(np.stack(columns, 1).astype(np.uint32).view(np.int32), images.device)
    # its box's row for every erased pixel
    pixels = boxes_table.repeat_interleave(boxes_table[:, 0], dim=0, output_size=int(areas.sum()))
    box_areas, box_starts, box_firsts, box_widths, box_keys = pixels.unbind(1)
    within = torch.arange(len(pixels), dtype=torch.int32, device=images.device) - box_starts
    places = box_firsts + torch.div(within, box_widths, rounding_mode="trunc") * (width - box_widths) + within
    planes = torch.arange(channels, dtype=torch.int32, device=images.device)[:, None]
    noise = normals((within + planes * box_areas) * GOLDEN_RATIO ^ box_keys)
    images.view(-1).scatter_(0, (places + planes * (height * width)).view(-1).long(), noise.view(-1))
