"""The content of a bundle's `model.json`: fields that code reads, and fields that people decide by."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from model.pillow_bicubic import Resampling
from model.tracklet import ClipWeights

Text = Annotated[str, Field(min_length=1)]
Percent = Annotated[float, Field(ge=0, le=100)]
Count = Annotated[int, Field(ge=0)]
Side = Annotated[int, Field(ge=8, le=4096)]
Mean = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(gt=0, le=1)]
Cosine = Annotated[float, Field(ge=-1, le=1)]

MAX_MAP_LOSS = 0.3
"""Points of mAP that another precision may lose on the validation people."""
MIN_MEAN_COSINE = 0.99
"""Lowest mean cosine between the video features of two precisions."""


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Preprocessing(_Facts):
    """How a frame becomes numbers.

    `version` names the decoding and resizing in `model.frames`, `resampling` whose pixels resizing gives: `opencv`, or
    `pil-bicubic` for weights that were trained on Pillow's. The exported graph applies `mean` and `std` (per RGB
    channel, for pixels of 0 to 1); they are repeated here for the reader.
    """

    version: Text
    # Left out if usual, because the names of embedding spaces depend on what earlier releases wrote.
    resampling: Annotated[Resampling, Field(exclude_if=lambda name: name == "opencv")] = "opencv"
    colour: Literal["rgb"] = "rgb"
    mean: tuple[Mean, Mean, Mean]
    std: tuple[Deviation, Deviation, Deviation]


class Accuracy(_Facts):
    """One measurement of the exported network; `rank1` and `map` are percentages."""

    dataset: Text
    protocol: Text
    people: Count
    queries: Count
    gallery: Count
    rank1: Percent
    map: Percent


class Quantisation(_Facts):
    """How an int8 network was made, and what that changed on the validation people.

    Attributes:
        of: the embedding space of the float bundle.
        network: the embedding space that the quantised network's own bytes name; the figures hold for these bytes only.
        calibration: the data of the calibration clips.
        clips: their number.
        validation: the data of the validation people. It and all measured fields are None if there were none.
        people: number of validation people.
        queries: number of their queries.
        float_map: mAP in percent of the float network in f32.
        map: mAP in percent of the quantised network.
        map_in_float_gallery: mAP in percent of quantised queries in a float gallery.
        map_of_float_queries: mAP in percent of float queries in a quantised gallery.
        mean_cosine: mean cosine between the two networks' video features.
        min_cosine: smallest cosine between them.
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
        """Return whether vectors of both networks were measured to rank alike, so that they may share a gallery."""
        mixed = self.map_in_float_gallery, self.map_of_float_queries
        if self.float_map is None or None in mixed or self.mean_cosine is None:
            return False
        lowest = min(value for value in (self.map, *mixed) if value is not None)
        return self.mean_cosine >= MIN_MEAN_COSINE and lowest >= self.float_map - MAX_MAP_LOSS


class BundleSpec(_Facts):
    """The content of `model.json`.

    Sizes are in pixels, `clip_length` is in frames, `dimension` in components of one embedding. `feature` says whether
    the embedding is taken before or after the BNNeck, `clip_weights` how clips become a video feature. `recipe` is the
    complete training recipe of the run.
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
    clip_weights: ClipWeights = "equal"
    preprocessing: Preprocessing
    training_data: Text
    recipe: dict[str, JsonValue]
    accuracy: tuple[Accuracy, ...] = ()
    data_terms: Text
    intended_use: Text
    not_for: Text
    quantisation: Quantisation | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_empty_calibration(cls, data: Any) -> Any:
        """Accept the files of earlier releases, which wrote `"calibration": null`."""
        if isinstance(data, dict) and data.get("calibration", "") is None:
            return {name: value for name, value in data.items() if name != "calibration"}
        return data

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """The shape of one clip, `(T, H, W, 3)`."""
        return (self.clip_length, self.frame_height, self.frame_width, 3)
