"""Training augmentation of `uint8` RGB frames, before normalisation.

The order is that of the published code of not3d and fantastic: flip, pad and crop, random erasing, each drawn again for
each frame. Colour jitter is ours; it is drawn once per clip, because it stands for the light at a camera. The defaults
are our recommendations. What the published code does differently is an option, or the choice "code" of an option.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from training.batches.photometric import Photometric
from training.ranges import Ascending

_NO_CHANGE = Photometric()


class Augmentation(BaseModel):
    """How frames are changed; probabilities are per frame."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    pad: int = Field(10, ge=0, description="zero pixels added on each side before the random crop")
    zoom: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="height and width are each changed by a factor between 1 / (1 + z) and 1 + z, because detectors of "
        "other sites draw tighter or looser boxes",
    )
    crop: Literal["crop", "translation"] = Field(
        "crop",
        description="of the padded frame: crop: a random crop (not3d); translation: Random2DTranslation (fantastic), "
        "which resizes it to the frame size or, with probability 1/2, to 9/8 of it and then crops",
    )
    erase: float = Field(0.5, ge=0, le=1, description="probability of random erasing")
    erase_area: Ascending[Annotated[float, Field(ge=0, le=1)]] = Field(
        (0.02, 0.4), description="share of the frame that is erased"
    )
    erase_aspect: float = Field(0.3, gt=0, le=1, description="height / width is uniform in [a, 1 / a]")
    erase_attempts: int = Field(
        100,
        ge=1,
        le=10_000,
        description="rectangles to try until one fits; the later code of not3d's author tries 1",
    )
    erase_fill: Literal["mean", "code"] = Field(
        "mean",
        description="mean: the mean pixel, which is zero after normalisation; code: the numbers of the mean as values "
        "after normalisation, as published",
    )
    erase_twice: bool = Field(
        False,
        description="erase a second time without a label, as in fantastic's code with the attention loss",
    )
    colour: float = Field(0.0, ge=0, le=1, description="colour jitter per clip: largest relative change of gain")
    camera: Photometric = Field(_NO_CHANGE, description="what another camera would change, drawn per clip")

    def fill(self, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.uint8]:
        """Return the RGB value `uint8 [3]` of erased pixels, for the normalisation of the network."""
        level = np.asarray(mean) + (np.asarray(std) * np.asarray(mean) if self.erase_fill == "code" else 0.0)
        colour: NDArray[np.uint8] = np.clip(np.round(255 * level), 0, 255).astype(np.uint8)
        return colour

    def apply(
        self, clip: NDArray[np.uint8], fill: NDArray[np.uint8], rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Augment a clip.

        Args:
            clip: `[T, H, W, 3]`
            fill: RGB value of erased pixels, see `fill`
            rng: decides all changes

        Returns:
            The new clip, and which frames were erased, `bool [T]`.
        """
        out = np.empty_like(clip)
        erased = np.zeros(len(clip), dtype=np.bool_)
        table = self._colour_table(rng) if self.colour else None
        camera = self.camera.draw((clip.shape[1], clip.shape[2]), rng) if self.camera != _NO_CHANGE else None
        for index, original in enumerate(clip):
            frame = original[:, ::-1] if rng.random() < self.flip else original
            frame = self._zoom(frame, rng) if self.zoom else frame
            frame = self._translate(frame, rng) if self.crop == "translation" else self._shift(frame, rng)
            frame = frame if camera is None else camera(frame)
            out[index] = frame if table is None else cv2.LUT(np.ascontiguousarray(frame), table)
            if self.erase_twice and rng.random() < self.erase:
                self._erase(out[index], fill, rng)
            if rng.random() < self.erase:
                erased[index] = self._erase(out[index], fill, rng)
        return out, erased

    def _shift(self, frame: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Pad and crop in one copy."""
        if not self.pad:
            return frame
        height, width = frame.shape[:2]
        down, right = (int(v) for v in rng.integers(-self.pad, self.pad + 1, 2))
        shifted = np.zeros_like(frame)
        shifted[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = frame[
            max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)
        ]
        return shifted

    def _zoom(self, frame: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Scale height and width about the centre, each by its own factor; the border is repeated."""
        height, width = frame.shape[:2]
        tall, wide = (1 + self.zoom) ** rng.uniform(-1, 1, 2)
        x, y = (width - 1) / 2, (height - 1) / 2
        matrix = np.array([[wide, 0, x * (1 - wide)], [0, tall, y * (1 - tall)]], np.float32)
        scaled = cv2.warpAffine(
            np.ascontiguousarray(frame),
            matrix,
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return scaled.astype(np.uint8, copy=False)

    def _translate(self, frame: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Apply fantastic's Random2DTranslation to the padded frame, bilinear as published."""
        height, width = frame.shape[:2]
        padded = np.pad(frame, ((self.pad, self.pad), (self.pad, self.pad), (0, 0)))
        if rng.random() < 0.5:
            return cv2.resize(padded, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
        tall, wide = round(height * 1.125), round(width * 1.125)
        large = cv2.resize(padded, (wide, tall), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
        top, left = int(rng.integers(0, tall - height + 1)), int(rng.integers(0, wide - width + 1))
        return large[top : top + height, left : left + width]

    def _erase(self, frame: NDArray[np.uint8], fill: NDArray[np.uint8], rng: np.random.Generator) -> bool:
        """Erase a random rectangle in place (Zhong et al., AAAI 2020); return false if none fitted."""
        height, width = frame.shape[:2]
        for _ in range(self.erase_attempts):
            area = rng.uniform(*self.erase_area) * height * width
            aspect = rng.uniform(self.erase_aspect, 1 / self.erase_aspect)
            h, w = round(float(np.sqrt(area * aspect))), round(float(np.sqrt(area / aspect)))
            if 0 < h < height and 0 < w < width:
                top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
                frame[top : top + h, left : left + w] = fill
                return True
        return False

    def _colour_table(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Draw a gain of all channels, a gain of each channel and a contrast; return a table `[1, 256, 3]`."""
        gain = (1 + rng.uniform(-self.colour, self.colour)) * (1 + rng.uniform(-self.colour / 3, self.colour / 3, 3))
        contrast = 1 + rng.uniform(-self.colour, self.colour)
        values = np.arange(256, dtype=np.float32)[:, None] * gain
        return np.clip((values - 112.0) * contrast + 112.0, 0, 255).astype(np.uint8)[None]
