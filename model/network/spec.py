"""What a network is made of, as data; enough to build it again before its weights are loaded."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

AttentionForm = Literal["full_map", "pooled", "mean"]


class NetworkSpec(BaseModel):
    """A network's parts and sizes.

    The defaults are system A ("Not 3D Re-ID"), whose paper prints 244x112 for what its own figures show to be 224x112.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str = "resnet50_ibn_a"
    attention: AttentionForm = "full_map"
    attention_channels: int = Field(256, ge=1)
    attention_bias: float = Field(
        0.0, description="initial bias of the logits; above 0 keeps their ReLU alive from scratch"
    )
    frame_height: int = Field(224, ge=32)
    frame_width: int = Field(112, ge=32)
    clip_length: int = Field(4, ge=1)
    classes: int = Field(625, ge=1, description="training people; 625 on MARS")
    feature: Literal["batch_normed", "raw"] = "batch_normed"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
