"""Training augmentation on ``uint8`` RGB frames, before normalisation.

Order as in system A: flip, pad and crop, random erasing; each drawn anew for every frame. Colour jitter is ours and is
drawn once per clip, since it stands for a camera's light.
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field


class Augmentation(BaseModel):
    """How strongly frames are changed; all probabilities are per frame unless said otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    pad: int = Field(10, ge=0, description="zero pixels added on each side before the random crop")
    erase: float = Field(0.5, ge=0, le=1, description="probability of random erasing")
    erase_area: tuple[float, float] = Field((0.02, 0.4), description="share of the frame that is erased")
    erase_aspect: float = Field(0.3, gt=0, le=1, description="height / width is uniform in [a, 1 / a]")
    colour: float = Field(0.0, ge=0, le=1, description="colour jitter per clip: largest relative change of gain")

    def apply(
        self, clip: NDArray[np.uint8], fill: NDArray[np.uint8], rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Augments a clip ``[T, H, W, 3]``; returns it with ``bool [T]``, true where a frame was erased.

        ``fill`` is the RGB value of erased pixels: the mean pixel, which is zero after normalisation.
        """
        out = np.empty_like(clip)
        erased = np.zeros(len(clip), dtype=np.bool_)
        table = self._colour_table(rng) if self.colour else None
        for index, original in enumerate(clip):
            frame = original[:, ::-1] if rng.random() < self.flip else original
            frame = self._shift(frame, rng)
            out[index] = frame if table is None else cv2.LUT(np.ascontiguousarray(frame), table)
            if rng.random() < self.erase:
                erased[index] = self._erase(out[index], fill, rng)
        return out, erased

    def _shift(self, frame: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Pad and random crop in one copy."""
        if not self.pad:
            return frame
        height, width = frame.shape[:2]
        down, right = (int(v) for v in rng.integers(-self.pad, self.pad + 1, 2))
        shifted = np.zeros_like(frame)
        shifted[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = frame[
            max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)
        ]
        return shifted

    def _erase(self, frame: NDArray[np.uint8], fill: NDArray[np.uint8], rng: np.random.Generator) -> bool:
        """Random erasing (Zhong et al., AAAI 2020) in place; false where no rectangle of 100 fitted."""
        height, width = frame.shape[:2]
        for _ in range(100):
            area = rng.uniform(*self.erase_area) * height * width
            aspect = rng.uniform(self.erase_aspect, 1 / self.erase_aspect)
            h, w = round(float(np.sqrt(area * aspect))), round(float(np.sqrt(area / aspect)))
            if 0 < h < height and 0 < w < width:
                top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
                frame[top : top + h, left : left + w] = fill
                return True
        return False

    def _colour_table(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Gain of all channels and of each, and contrast, as one table ``[1, 256, 3]``."""
        gain = (1 + rng.uniform(-self.colour, self.colour)) * (1 + rng.uniform(-self.colour / 3, self.colour / 3, 3))
        contrast = 1 + rng.uniform(-self.colour, self.colour)
        values = np.arange(256, dtype=np.float32)[:, None] * gain
        return np.clip((values - 112.0) * contrast + 112.0, 0, 255).astype(np.uint8)[None]
