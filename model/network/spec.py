"""The parts of a network as data, from which it can be rebuilt before its weights are loaded."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.pillow_bicubic import Resampling
from model.spec import Deviation, Mean
from model.tracklet import ClipWeights

AttentionForm = Literal["full_map", "pooled", "mean", "max", "sta"]
"""How frames become a clip; see `model.network.attention`."""

Neck = Literal["bnneck", "batch_norm", "none"]
"""The layer between clip feature and classifier: BatchNorm with a bias fixed at zero, BatchNorm, or nothing."""


class NetworkSpec(BaseModel):
    """The parts and sizes of a network.

    The defaults are not3d. Its paper prints frames of 244x112, but its memory figures show 224x112. The other systems
    differ in these fields:

    - fantastic: `backbone="resnet50"`.
    - Temporal attention (Gao & Nevatia, 2018; the baseline of fantastic): `backbone="resnet50"`, `last_stride=2` (the
      full map is then [7, 4]), `initial="layers"`, `neck="none"`, `classifier_bias=True`. Average and maximum pooling
      over time: the same with `attention="mean"` or `"max"`.
    - aas_rfu (AAS + RFU on STA): `backbone="resnet50"`, `attention="sta"`, `embedding=512`, 256x128, and
      `feature="raw"` for RFU. `neck="batch_norm"` is the plain BN of its paper, which does not state whether the bias
      was fixed as in a BNNeck.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    backbone: str = "resnet50_ibn_a"
    last_stride: Literal[1, 2] = Field(1, description="of the last stage of the backbone; 1 keeps the resolution")
    attention: AttentionForm = "full_map"
    attention_channels: int = Field(256, ge=1, le=65_536)
    attention_bias: float = Field(
        0.0,
        ge=-100,
        le=100,
        description="initial bias of the logits; above 0, training from scratch keeps their ReLU active",
    )
    attention_start: Literal["random", "mean"] = Field(
        "random", description="initial weights of the temporal attention; mean: zero, so all frames have equal weights"
    )
    initial: Literal["kaiming", "layers"] = Field(
        "kaiming",
        description="initial weights of attention and classifier: those of not3d and fantastic, or those that PyTorch "
        "gives the layers, as in the program of Gao & Nevatia (attention_bias is then not used)",
    )
    stripes: int = Field(4, ge=1, description="horizontal parts of the map that sta weights separately")
    embedding: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="width of a linear layer before the neck (FC1 of aas_rfu: 512); none by default",
    )
    neck: Neck = "bnneck"
    classifier_bias: bool = False
    frame_height: int = Field(224, ge=32, le=4096)
    frame_width: int = Field(112, ge=32, le=4096)
    resampling: Resampling = Field("opencv", description="whose pixels resizing gives; see model.frames.resize_frame")
    clip_length: int = Field(4, ge=1, le=256)
    clip_weights: ClipWeights = Field(
        "equal",
        description="weights of clips in the feature of a tracklet: equal, as in the papers, or the number of "
        "different frames, of which a short last clip has fewer",
    )
    mirror: bool = Field(
        False,
        description="when embedding, mirror the second and third of every four frames of a clip; a short clip, which "
        "repeats its frames, then has each of them both ways",
    )
    classes: int = Field(625, ge=1, description="training people; 625 on MARS")
    feature: Literal["batch_normed", "raw"] = Field(
        "batch_normed", description="embedding after the neck, or before it (but after FC1)"
    )
    mean: tuple[Mean, Mean, Mean] = Field((0.485, 0.456, 0.406), description="of RGB values from 0 to 1")
    std: tuple[Deviation, Deviation, Deviation] = Field((0.229, 0.224, 0.225), description="of RGB values from 0 to 1")

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of the map of the backbone: 1/16 of the frame (last stride 1) or 1/32, rounded up."""
        step = 16 * self.last_stride
        return -(-self.frame_height // step), -(-self.frame_width // step)

    @model_validator(mode="after")
    def _check_stripes(self) -> Self:
        if self.attention == "sta" and self.stripes > self.map_size[0]:
            raise ValueError(
                f"stripes must be at most the rows of the map, {self.map_size[0]} for {self.frame_height} pixels "
                f"(got {self.stripes}): use fewer stripes, or taller frames"
            )
        return self
