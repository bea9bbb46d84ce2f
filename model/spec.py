"""What a bundle's ``model.json`` says: the facts that code reads and the facts that people decide by."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

__all__ = ["Accuracy", "BundleSpec", "Calibration", "Preprocessing"]

Text = Annotated[str, Field(min_length=1)]
Percent = Annotated[float, Field(ge=0, le=100)]
Count = Annotated[int, Field(ge=0)]
Side = Annotated[int, Field(ge=8, le=4096)]
Mean = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(gt=0, le=1)]


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Preprocessing(_Facts):
    """How a frame becomes numbers.

    ``version`` names the decoding and resizing in ``model.frames``; ``mean`` and ``std`` (per RGB channel, in units of
    0..1) are applied inside the exported graph and stand here for the reader.
    """

    version: Text
    colour: Literal["rgb"] = "rgb"
    mean: tuple[Mean, Mean, Mean]
    std: tuple[Deviation, Deviation, Deviation]


class Accuracy(_Facts):
    """One measurement of the exported network; ``rank1`` and ``map`` are percentages."""

    dataset: Text
    protocol: Text
    people: Count
    queries: Count
    gallery: Count
    rank1: Percent
    map: Percent


class Calibration(_Facts):
    """Turns a cosine score into the probability of "same person": ``1 / (1 + exp(-(slope * score + intercept)))``."""

    slope: Annotated[float, Field(gt=0)]
    intercept: float


class BundleSpec(_Facts):
    """The content of ``model.json``.

    Sizes are in pixels, ``clip_length`` in frames, ``dimension`` in components of one embedding. ``feature`` says on
    which side of the BNNeck the embedding is taken. ``recipe`` is the training recipe as it was run, word for word.
    """

    format: Literal[1] = 1
    name: Text
    architecture: Text
    backbone: Text
    attention: Text
    frame_height: Side
    frame_width: Side
    clip_length: Annotated[int, Field(ge=1, le=256)]
    dimension: Annotated[int, Field(ge=1, le=65_536)]
    feature: Literal["batch_normed", "raw"]
    preprocessing: Preprocessing
    training_data: Text
    recipe: dict[str, JsonValue]
    accuracy: tuple[Accuracy, ...] = ()
    data_terms: Text
    intended_use: Text
    not_for: Text
    calibration: Calibration | None = None

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """The shape of one clip, ``(T, H, W, 3)``."""
        return (self.clip_length, self.frame_height, self.frame_width, 3)
