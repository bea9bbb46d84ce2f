"""What a bundle's ``model.json`` says: the facts that code reads and the facts that people decide by."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Text = Annotated[str, Field(min_length=1)]
Percent = Annotated[float, Field(ge=0, le=100)]
Count = Annotated[int, Field(ge=0)]
Side = Annotated[int, Field(ge=8, le=4096)]
Mean = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(gt=0, le=1)]
Cosine = Annotated[float, Field(ge=-1, le=1)]

MAX_MAP_LOSS = 0.3
"""Points of mAP that another arithmetic may cost on the validation people."""
MIN_MEAN_COSINE = 0.99
"""What the video features of two arithmetics must have in common, on average."""


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


class Quantisation(_Facts):
    """How an int8 network was made, and what that changed on the validation people.

    ``of`` is the embedding space of the float bundle, ``network`` the one that the quantised network's own bytes name:
    the figures hold for these bytes only. mAP in percent: of the float network in f32, of the quantised one, and of
    quantised queries against a float gallery and the other way round. Cosines are between the two networks' video
    features, mean and smallest. Everything measured is None where nobody was at hand to measure it on.
    """

    of: Text
    network: Text
    calibration: Text
    clips: Count
    validation: Text | None = None
    people: Count | None = None
    queries: Count | None = None
    float_map: Percent | None = None
    map: Percent | None = None
    map_in_float_gallery: Percent | None = None
    map_of_float_queries: Percent | None = None
    mean_cosine: Cosine | None = None
    min_cosine: Cosine | None = None

    @property
    def ranks_alike(self) -> bool:
        """Whether vectors of both networks were measured to rank alike in one gallery, which they then may share."""
        mixed = self.map_in_float_gallery, self.map_of_float_queries
        if self.float_map is None or None in mixed or self.mean_cosine is None:
            return False
        lowest = min(value for value in (self.map, *mixed) if value is not None)
        return self.mean_cosine >= MIN_MEAN_COSINE and lowest >= self.float_map - MAX_MAP_LOSS


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
    quantisation: Quantisation | None = None

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """The shape of one clip, ``(T, H, W, 3)``."""
        return (self.clip_length, self.frame_height, self.frame_width, 3)
