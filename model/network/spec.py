"""What a network is made of, as data; enough to build it again before its weights are loaded."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

AttentionForm = Literal["full_map", "pooled", "mean", "max", "sta"]
"""How frames become a clip; see :mod:`model.network.attention`."""

Neck = Literal["bnneck", "batch_norm", "none"]
"""What stands between the clip feature and the classifier: BatchNorm whose bias stays zero, BatchNorm, or nothing."""


class NetworkSpec(BaseModel):
    """A network's parts and sizes.

    The defaults are system A ("Not 3D Re-ID"), whose paper prints 244x112 for what its own figures show to be 224x112.
    The other systems, as fields that differ:

    - System B ("Fantastic Techniques"): ``backbone="resnet50"``.
    - Temporal attention (Gao & Nevatia, 2018; B's baseline): ``backbone="resnet50"``, ``last_stride=2`` (so that the
      full map is [7, 4]), ``neck="none"``, ``classifier_bias=True``. Average and maximum pooling over time, its
      relatives: the same with ``attention="mean"`` or ``"max"``.
    - System C (AAS + RFU on STA): ``backbone="resnet50"``, ``attention="sta"``, ``embedding=512``, 256x128, and
      ``feature="raw"`` for RFU. ``neck="batch_norm"`` is the plain BN of its text; whether its bias was frozen as in a
      BNNeck is not said.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str = "resnet50_ibn_a"
    last_stride: Literal[1, 2] = Field(1, description="of the trunk's last stage; 1 keeps its resolution (systems A-C)")
    attention: AttentionForm = "full_map"
    attention_channels: int = Field(256, ge=1)
    attention_bias: float = Field(
        0.0, description="initial bias of the logits; above 0 keeps their ReLU alive from scratch"
    )
    stripes: int = Field(4, ge=1, description="horizontal parts of the map that sta weighs on their own")
    embedding: int | None = Field(
        None, ge=1, description="width of a linear layer before the neck (system C's FC1: 512); none by default"
    )
    neck: Neck = "bnneck"
    classifier_bias: bool = False
    frame_height: int = Field(224, ge=32)
    frame_width: int = Field(112, ge=32)
    clip_length: int = Field(4, ge=1)
    classes: int = Field(625, ge=1, description="training people; 625 on MARS")
    feature: Literal["batch_normed", "raw"] = Field(
        "batch_normed", description="embedding after the neck, or before it (with an FC1, after that)"
    )
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of the trunk's map: halvings, each rounded up, four of them with last stride 1."""
        step = 16 * self.last_stride
        return -(-self.frame_height // step), -(-self.frame_width // step)

    @model_validator(mode="after")
    def _check_stripes(self) -> Self:
        if self.attention == "sta" and self.stripes > self.map_size[0]:
            raise ValueError(
                f"{self.stripes} stripes do not fit into a map of {self.map_size[0]} rows "
                f"({self.frame_height} pixels): take fewer, or taller frames"
            )
        return self
