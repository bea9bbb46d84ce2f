"""How a model is measured: protocol, distance, clips, re-ranking; part of a recipe, since papers differ in it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

ClipChoice = Literal["even", "first"]
Metric = Literal["cosine", "euclidean"]


class EvaluationSettings(BaseModel):
    """What decides a figure besides the model and the data. The defaults are what the service does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: str = Field("auto", description="a name of training.evaluation.protocols.PROTOCOLS, or auto")
    metric: Metric = Field(
        "cosine", description="of video features; euclidean is on means of clip embeddings as they are (systems A, B)"
    )
    feature: Literal["batch_normed", "raw"] | None = Field(
        None, description="side of the neck that is measured; by default the network's own. Checkpoints only"
    )
    max_clips: int | None = Field(None, ge=1, description="clips per tracklet at most; all by default")
    clip_choice: ClipChoice = Field(
        "even", description="which of them: spread evenly, or the first (41 in the published code of systems A and B)"
    )
    rerank: bool = Field(False, description="k-reciprocal re-ranking, k1 20, k2 6, lambda 0.3")
    average_precision: Literal["step", "trapezoid"] | None = Field(None, description="by default the protocol's")
