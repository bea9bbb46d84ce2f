"""Augmentation of many crops at once on a GPU, or on a CPU, with the settings of `training.batches.augmentation`.

A GPU trains a light network faster than the processors beside it can augment its crops one by one. What is drawn per
clip there is drawn per crop here. A probability of blur, low resolution, noise or compression becomes a share of the
batch, which is right on average, so that the sizes of all tensors are known without waiting for the GPU. The geometry
(mirror, zoom, shift) is separate from what a camera changes, because a teacher that looks at the same crops should see
the former only.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from training.batches.augmentation import Augmentation
from training.batches.photometric import Photometric

_GROUPS = 4
"""Of crops of one resolution: `low_resolution` draws a scale for each group of a batch."""
_ATTEMPTS = 8
"""Most rectangles that are drawn for an erased crop; the first one that fits is erased."""
_LUMA = (0.299, 0.587, 0.114)
_KERNEL_SIGMAS = 3.0
"""Half of the width of the blur's kernel, in its largest standard deviations."""

_LUMINANCE_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
)
"""Quantisation of the cosine coefficients at quality 50: ITU-T T.81, annex K."""


@dataclass(frozen=True)
class DeviceAugmentation:
    """Augments crops `[N, 3, H, W]` of RGB values from 0 to 255, all on one device.

    Raises:
        ValueError: a setting has no form here.
    """

    settings: Augmentation

    def __post_init__(self) -> None:
        """Refuse the settings that stand for published code."""
        default, own = Augmentation(), self.settings
        for key in ("crop", "erase_fill", "erase_twice"):
            if getattr(own, key) != getattr(default, key):
                raise ValueError(f"augmentation.{key} = {getattr(own, key)!r} cannot be used with batch.on_device")

    def geometry(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Draw mirror, zoom and shift of each crop.

        Args:
            count: number of crops
            size: height and width of the frames, in whose pixels `pad` counts
            generator: decides all changes; its device is that of the result

        Returns:
            Affine maps `[N, 2, 3]` from positions in the new crop to positions in the old one, in units of half a side.
        """
        device, (height, width) = generator.device, size
        mirrored = torch.where(_uniform(count, generator) < self.settings.flip, -1.0, 1.0)
        tall, wide = ((1 + self.settings.zoom) ** -_uniform(count, generator, -1, 1) for _ in range(2))
        right, down = (
            torch.randint(-self.settings.pad, self.settings.pad + 1, (count,), generator=generator, device=device)
            for _ in range(2)
        )
        zero = torch.zeros(count, device=device)
        return torch.stack(
            [
                torch.stack([mirrored * wide, zero, -mirrored * wide * 2 * right / width], dim=1),
                torch.stack([zero, tall, -tall * 2 * down / height], dim=1),
            ],
            dim=1,
        )

    def photometry(self, crops: Tensor, generator: torch.Generator, rng: np.random.Generator) -> Tensor:
        """Change what another camera would change: light, colour, sharpness, noise and compression.

        Args:
            crops: `[N, 3, H, W]`
            generator: decides the changes of each crop
            rng: decides what the sizes of tensors depend on: how many crops are changed, and resolutions
        """
        camera, colour = self.settings.camera, self.settings.colour
        if camera.gamma:
            exponent = (1 + camera.gamma) ** _uniform(len(crops), generator, -1, 1)
            crops = 255 * (crops / 255).clamp(1e-4) ** exponent[:, None, None, None]
        if camera.saturation or camera.grey:
            factor = _uniform(len(crops), generator, 1 - camera.saturation, 1 + camera.saturation)
            factor = torch.where(_uniform(len(crops), generator) < camera.grey, 0.0, factor)
            grey = (crops * crops.new_tensor(_LUMA)[:, None, None]).sum(dim=1, keepdim=True)
            crops = (grey + factor[:, None, None, None] * (crops - grey)).clamp(0, 255)
        crops = _blurred(crops, camera, generator, rng)
        crops = _of_low_resolution(crops, camera, generator, rng)
        crops = _noisy(crops, camera, generator, rng)
        crops = _compressed(crops, camera, generator, rng)
        if colour:
            gain = _uniform(len(crops), generator, 1 - colour, 1 + colour)[:, None]
            gain = gain * _uniform(3 * len(crops), generator, 1 - colour / 3, 1 + colour / 3).reshape(-1, 3)
            contrast = _uniform(len(crops), generator, 1 - colour, 1 + colour)[:, None, None, None]
            crops = ((crops * gain[:, :, None, None] - 112) * contrast + 112).clamp(0, 255)
        return crops

    def erase(self, crops: Tensor, fill: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Erase a rectangle in a share of the crops (Zhong et al., AAAI 2020).

        Args:
            crops: `[N, 3, H, W]`
            fill: RGB value `[3]` of erased pixels
            generator: decides all rectangles

        Returns:
            The crops, and which were erased, `bool [N]`.
        """
        count, (height, width), own = len(crops), crops.shape[2:], self.settings
        attempts = min(own.erase_attempts, _ATTEMPTS)
        area = _uniform(count * attempts, generator, *own.erase_area) * height * width
        aspect = _uniform(count * attempts, generator, own.erase_aspect, 1 / own.erase_aspect)
        tall, wide = (
            each.round().reshape(count, _ATTEMPTS) for each in ((area * aspect).sqrt(), (area / aspect).sqrt())
        )
        fits = (tall > 0) & (tall < height) & (wide > 0) & (wide < width)
        first = fits.int().argmax(dim=1, keepdim=True)
        tall, wide = tall.gather(1, first), wide.gather(1, first)
        top, left = (
            (_uniform(count, generator)[:, None] * (side - size + 1)).floor()
            for side, size in ((height, tall), (width, wide))
        )
        erased = (_uniform(count, generator) < own.erase) & fits.any(dim=1)
        rows, columns = (torch.arange(side, device=crops.device) for side in (height, width))
        inside_rows = (rows >= top) & (rows < top + tall)
        inside_columns = (columns >= left) & (columns < left + wide)
        inside = inside_rows[:, :, None] & inside_columns[:, None, :] & erased[:, None, None]
        return torch.where(inside[:, None], fill[:, None, None], crops), erased


def place(crops: Tensor, maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample crops `[N, 3, h, w]` at the positions of the maps of `geometry` to `[N, 3, height, width]`.

    Beyond its border, a crop repeats its last pixels if it is made smaller, and is black where it was shifted away.
    """
    rows, columns = ((2 * torch.arange(side, device=crops.device, dtype=torch.float32) + 1) / side - 1 for side in size)
    x = maps[:, 0, 0, None] * columns + maps[:, 0, 2, None]
    y = maps[:, 1, 1, None] * rows + maps[:, 1, 2, None]
    whole = (len(crops), *size)
    grid = torch.stack([x[:, None, :].expand(whole), y[:, :, None].expand(whole)], dim=-1)
    placed = F.grid_sample(crops, grid, mode="bilinear", padding_mode="border", align_corners=False)
    # Positions of a crop of unchanged size, to find the pixels that the shift brought in.
    shifted_x = (x / maps[:, 0, 0, None].abs()).abs() < 1
    shifted_y = (y / maps[:, 1, 1, None]).abs() < 1
    return placed * (shifted_y[:, None, :, None] & shifted_x[:, None, None, :])


@dataclass(frozen=True)
class Mixture:
    """How pairs of crops become invented crops; the same at each size of the crops.

    Half of them show the upper part of one crop on the lower part of the other, much as `training.batches.composites`
    does. The others are a weighted mean of both (mixup, Zhang et al., ICLR 2018). Both crops get other colours before.
    """

    border: Tensor
    """`[N]`, where the lower part begins, as a share of the height"""
    softness: Tensor
    """`[N]`, of the border, as a share of the height"""
    even: Tensor
    """`[N]`, weight of the first crop in each row; NaN for those with a border"""
    colours: tuple["Recolouring", "Recolouring"]

    @classmethod
    def draw(cls, count: int, generator: torch.Generator) -> "Mixture":
        """Draw the mixtures of `count` pairs."""
        parted = torch.arange(count, device=generator.device) % 2 == 0
        return cls(
            _uniform(count, generator, 0.4, 0.62),
            _uniform(count, generator, 1, 6) / 128,
            torch.where(parted, torch.nan, _uniform(count, generator)),
            (Recolouring.draw(count, generator), Recolouring.draw(count, generator)),
        )

    def weights(self, height: int) -> Tensor:
        """Return the weight of the first crop in each row, `[N, height]`."""
        rows = (torch.arange(height, device=self.border.device) + 0.5) / height
        parts = torch.sigmoid((self.border[:, None] - rows) * 2 / self.softness[:, None])
        return torch.where(self.even.isnan()[:, None], parts, self.even[:, None])

    def apply(self, first: Tensor, second: Tensor) -> Tensor:
        """Mix crops, `[N, 3, H, W]` each."""
        weight = self.weights(first.shape[2])[:, None, :, None]
        return weight * self.colours[0].apply(first) + (1 - weight) * self.colours[1].apply(second)


@dataclass(frozen=True)
class Recolouring:
    """Other colours of crops: a turn of the hue about the grey axis, saturation and brightness."""

    matrix: Tensor
    """`[N, 3, 3]`"""
    exponent: Tensor
    """`[N]`, of brightness"""

    @classmethod
    def draw(cls, count: int, generator: torch.Generator) -> "Recolouring":
        """Draw changes for `count` crops. Half of them keep their hue."""
        turned = torch.where(_uniform(count, generator) < 0.5, _uniform(count, generator, 0, 2 * math.pi), 0.0)
        saturation = 2 ** _uniform(count, generator, -1, 0.5)
        exponent = 2 ** _uniform(count, generator, -0.6, 0.6)
        # Rotation about (1, 1, 1) by Rodrigues' formula. Saturation scales the part across this axis.
        third, root = 1 / 3, math.sqrt(1 / 3)
        cos, sin = turned.cos(), turned.sin()
        same, before, after = cos + (1 - cos) * third, (1 - cos) * third - root * sin, (1 - cos) * third + root * sin
        rotation = torch.stack([same, before, after, after, same, before, before, after, same], dim=1)
        grey = torch.full((3, 3), third, device=generator.device)
        return cls(grey + saturation[:, None, None] * (rotation.reshape(-1, 3, 3) - grey), exponent)

    def apply(self, crops: Tensor) -> Tensor:
        """Change crops `[N, 3, H, W]`."""
        colours = torch.einsum("nij,njhw->nihw", self.matrix, crops)
        return 255 * (colours / 255).clamp(1e-4, 1) ** self.exponent[:, None, None, None]


def _uniform(count: int, generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator, device=generator.device)


def _some(count: int, share: float, generator: torch.Generator, rng: np.random.Generator) -> Tensor:
    """Draw a share of `count` numbers. A fraction of one is drawn or left out by chance."""
    order = torch.randperm(count, generator=generator, device=generator.device)
    return order[: int(share * count + rng.random())]


def _blurred(crops: Tensor, camera: Photometric, generator: torch.Generator, rng: np.random.Generator) -> Tensor:
    chosen = _some(len(crops), camera.blur, generator, rng)
    if not len(chosen):
        return crops
    scale = crops.shape[2] / 128
    sigma = _uniform(len(chosen), generator, *camera.blur_sigma) * scale
    radius = math.ceil(_KERNEL_SIGMAS * camera.blur_sigma[1] * scale)
    offsets = torch.arange(-radius, radius + 1, device=crops.device)
    kernels = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    kernels = (kernels / kernels.sum(dim=1, keepdim=True)).repeat_interleave(3, dim=0)
    planes = crops[chosen].reshape(1, -1, *crops.shape[2:])
    padded = F.pad(planes, (radius,) * 4, mode="reflect")
    across = F.conv2d(padded, kernels[:, None, None, :], groups=planes.shape[1])
    blurred = F.conv2d(across, kernels[:, None, :, None], groups=planes.shape[1])
    return crops.index_copy(0, chosen, blurred.reshape(-1, *crops.shape[1:]))


def _of_low_resolution(
    crops: Tensor, camera: Photometric, generator: torch.Generator, rng: np.random.Generator
) -> Tensor:
    chosen = _some(len(crops), camera.low_resolution, generator, rng)
    for part in chosen.tensor_split(_GROUPS):
        scale = rng.uniform(*camera.low_resolution_scale)
        if not len(part):
            continue
        size = [max(1, round(side * scale)) for side in crops.shape[2:]]
        small = F.interpolate(crops[part], size=size, mode="area")
        crops = crops.index_copy(0, part, F.interpolate(small, size=crops.shape[2:], mode="bilinear"))
    return crops


def _noisy(crops: Tensor, camera: Photometric, generator: torch.Generator, rng: np.random.Generator) -> Tensor:
    chosen = _some(len(crops), camera.noise, generator, rng)
    if not len(chosen):
        return crops
    sigma = _uniform(len(chosen), generator, *camera.noise_sigma)[:, None, None, None]
    noise = torch.randn(len(chosen), *crops.shape[1:], generator=generator, device=crops.device)
    return crops.index_copy(0, chosen, (crops[chosen] + sigma * noise).clamp(0, 255))


def _compressed(crops: Tensor, camera: Photometric, generator: torch.Generator, rng: np.random.Generator) -> Tensor:
    chosen = _some(len(crops), camera.jpeg, generator, rng)
    if not len(chosen):
        return crops
    quality = _uniform(len(chosen), generator, *camera.jpeg_quality).round()
    return crops.index_copy(0, chosen, compress(crops[chosen], quality))


def compress(crops: Tensor, quality: Tensor) -> Tensor:
    """Return crops `[N, 3, H, W]` as they are after JPEG with 4:2:0 chroma at qualities `[N]` from 1 to 100."""
    height, width = crops.shape[2:]
    padded = F.pad(crops, (0, -width % 16, 0, -height % 16), mode="replicate")
    matrix = crops.new_tensor([_LUMA, (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312)])
    values = torch.einsum("ij,njhw->nihw", matrix, padded)
    # The tables are scaled as libjpeg does.
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)[:, None, None]
    luma, chroma = (
        ((table.to(crops.device) * scale + 50) / 100).floor().clamp(1, 255)
        for table in (torch.tensor(_LUMINANCE_TABLE), torch.tensor(_CHROMINANCE_TABLE))
    )
    bright = _quantised(values[:, :1] - 128, luma) + 128
    colour = F.interpolate(_quantised(F.avg_pool2d(values[:, 1:], 2), chroma), scale_factor=2, mode="bilinear")
    inverse = crops.new_tensor([(1, 0, 1.402), (1, -0.344136, -0.714136), (1, 1.772, 0)])
    decoded = torch.einsum("ij,njhw->nihw", inverse, torch.cat([bright, colour], dim=1))
    return decoded.round().clamp(0, 255)[:, :, :height, :width]


def _quantised(planes: Tensor, table: Tensor) -> Tensor:
    """Round the cosine coefficients of blocks of 8x8 to multiples of a table `[N, 8, 8]`."""
    count, channels, height, width = planes.shape
    blocks = planes.reshape(count, channels, height // 8, 8, width // 8, 8)
    cosines = _cosines().to(planes.device)
    table = table[:, None, None, :, None, :]
    coefficients = torch.einsum("ui,ncyixj,vj->ncyuxv", cosines, blocks, cosines)
    rounded = (coefficients / table).round() * table
    return torch.einsum("ui,ncyuxv,vj->ncyixj", cosines, rounded, cosines).reshape(planes.shape)


@cache
def _cosines() -> Tensor:
    """Return the orthonormal cosine transform of 8 values, `[8, 8]`."""
    at = torch.arange(8)
    matrix = torch.cos((2 * at + 1) * at[:, None] * math.pi / 16) / 2
    matrix[0] /= math.sqrt(2)
    return matrix
