"""What cameras and their encoders change in a crop: light, colour, blur, low resolution, noise and JPEG.

A model for unseen cameras must not depend on the look of the cameras it was trained on. All changes are drawn once for
a clip, because they stand for the camera.
"""

from collections.abc import Callable
from typing import Annotated

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from training.ranges import Ascending

Frame = NDArray[np.uint8]


class Photometric(BaseModel):
    """Probabilities per clip, and the largest changes; by default all are zero."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    gamma: float = Field(0.0, ge=0, le=1, description="exponent of brightness between 1 / (1 + g) and 1 + g")
    saturation: float = Field(0.0, ge=0, le=1, description="factor of the saturation between 1 - s and 1 + s")
    grey: float = Field(0.0, ge=0, le=1, description="probability of a grey clip")
    blur: float = Field(0.0, ge=0, le=1, description="probability of Gaussian blur")
    blur_sigma: Ascending[Annotated[float, Field(gt=0, le=32)]] = Field(
        (0.5, 1.5), description="in pixels of a frame 128 high"
    )
    low_resolution: float = Field(0.0, ge=0, le=1, description="probability of a smaller frame that is enlarged again")
    low_resolution_scale: Ascending[Annotated[float, Field(gt=0, le=1)]] = Field(
        (0.3, 0.8), description="of height and width"
    )
    jpeg: float = Field(0.0, ge=0, le=1, description="probability of JPEG compression")
    jpeg_quality: Ascending[Annotated[int, Field(ge=1, le=100)]] = (20, 70)
    noise: float = Field(0.0, ge=0, le=1, description="probability of Gaussian noise")
    noise_sigma: Ascending[Annotated[float, Field(ge=0, le=255)]] = Field((2.0, 10.0), description="in grey levels")

    def draw(self, size: tuple[int, int], rng: np.random.Generator) -> Callable[[Frame], Frame]:
        """Draw the changes of a clip and return the function that changes a frame.

        Args:
            size: height and width of the frames
            rng: decides all changes
        """
        height, width = size
        steps: list[Callable[[Frame], Frame]] = []
        if self.gamma:
            steps.append(_gamma(float((1 + self.gamma) ** rng.uniform(-1, 1))))
        if self.saturation or self.grey:
            factor = 0.0 if rng.random() < self.grey else float(rng.uniform(1 - self.saturation, 1 + self.saturation))
            if factor != 1:
                steps.append(_saturation(factor))
        if rng.random() < self.blur:
            steps.append(_blur(float(rng.uniform(*self.blur_sigma)) * height / 128))
        if rng.random() < self.low_resolution:
            scale = float(rng.uniform(*self.low_resolution_scale))
            steps.append(_low_resolution(max(1, round(height * scale)), max(1, round(width * scale))))
        if rng.random() < self.noise:
            steps.append(_noise(float(rng.uniform(*self.noise_sigma)), int(rng.integers(2**32))))
        if rng.random() < self.jpeg:
            steps.append(_jpeg(int(rng.integers(self.jpeg_quality[0], self.jpeg_quality[1] + 1))))

        def change(frame: Frame) -> Frame:
            for step in steps:
                frame = step(frame)
            return frame

        return change


def _gamma(exponent: float) -> Callable[[Frame], Frame]:
    table = np.round(255 * (np.arange(256) / 255) ** exponent).astype(np.uint8)
    return lambda frame: cv2.LUT(np.ascontiguousarray(frame), table).astype(np.uint8, copy=False)


def _saturation(factor: float) -> Callable[[Frame], Frame]:
    # The luma of Rec. 601; the matrix mixes it into each channel.
    luma = np.array([0.299, 0.587, 0.114], np.float32)
    matrix = factor * np.eye(3, dtype=np.float32) + (1 - factor) * luma[None]
    return lambda frame: cv2.transform(np.ascontiguousarray(frame), matrix).astype(np.uint8, copy=False)


def _blur(sigma: float) -> Callable[[Frame], Frame]:
    return lambda frame: cv2.GaussianBlur(frame, (0, 0), sigma).astype(np.uint8, copy=False)


def _low_resolution(height: int, width: int) -> Callable[[Frame], Frame]:
    def change(frame: Frame) -> Frame:
        small = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
        large = cv2.resize(small, (frame.shape[1], frame.shape[0]), interpolation=cv2.INTER_LINEAR)
        return large.astype(np.uint8, copy=False)

    return change


def _noise(sigma: float, seed: int) -> Callable[[Frame], Frame]:
    def change(frame: Frame) -> Frame:
        noise = np.random.default_rng(seed).normal(0, sigma, frame.shape).astype(np.float32)
        noisy: Frame = np.clip(frame + noise, 0, 255).astype(np.uint8)
        return noisy

    return change


def _jpeg(quality: int) -> Callable[[Frame], Frame]:
    def change(frame: Frame) -> Frame:
        # OpenCV's order is BGR, and JPEG keeps fewer samples of colour than of brightness.
        _, data = cv2.imencode(".jpg", frame[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
        if decoded is None:
            raise ValueError("a JPEG that was just encoded cannot be decoded")
        return decoded[:, :, ::-1].astype(np.uint8, copy=False)

    return change
