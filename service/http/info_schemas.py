"""The bodies of the answers of probes and of `GET /info`, as in `docs/openapi.json`."""

from typing import Literal

from pydantic import Field

from model.spec import BundleSpec
from service.http.fields import Answer, Timestamp
from service.http.schemas import ScoreModeName


class StatusAnswer(Answer):
    """Whether the service is alive or ready."""

    status: Literal["alive", "ready"]


class EngineFacts(Answer):
    """The engine in use. `provider` is its backend; `warning` says what was requested and is not in use."""

    name: str
    version: str
    device: Literal["cpu", "cuda"]
    precision: str
    threads: int
    provider: str
    warning: str | None
    self_test_min_cosine: float


class GalleryFacts(Answer):
    """The gallery."""

    engine: str
    records: int
    score_mode: ScoreModeName
    retention_days: float | None = Field(description="Lifetime of a record without `expires_at`; null: unlimited")
    thumbnails: int = Field(description="Number of small pictures that are kept of each new tracklet; 0: none")


class LimitFacts(Answer):
    """Limits of requests; what exceeds them is refused."""

    max_frames: int
    max_clips: int
    max_video_frames: int
    max_frame_bytes: int
    max_pixels: int
    max_request_pixels: int
    max_side: int
    min_side: int
    min_usable_share: float
    max_request_bytes: int
    max_metadata_bytes: int
    max_pending_requests: int
    max_pending_bytes: int
    max_top_k: int
    max_page: int
    rerank_candidates: int


class CalibrationFacts(Answer):
    """The calibration in force; as in the answer of a search."""

    id: str
    source: Literal["bundle", "site"]
    mode: str = Field(description="The scores that have a probability: `cosine` of searches that are not re-ranked")
    prior: float | None = Field(description="The prior of requests that name none; null: 1 / (searched records + 1)")
    fitted_people: int
    fitted_cameras: int
    fitted_at: Timestamp


class ThresholdFacts(Answer):
    """A score that can serve as `min_score`, and the errors that were measured at it when the calibration was fitted.

    `fmr` is the share of pairs of two people that score at least `score`, `fnmr` the share of pairs of one person that
    score less; `fnmr_low` and `fnmr_high` are its 95% interval over people.
    """

    fmr: float
    score: float
    fnmr: float
    fnmr_low: float
    fnmr_high: float


class InfoAnswer(Answer):
    """`GET /info`."""

    version: str
    model: BundleSpec | None = Field(description="null: this service stores vectors of another system, and embeds none")
    embedding_space: str
    dimension: int = Field(description="Number of components of each vector")
    calibration: CalibrationFacts | None = Field(description="null: answers have no probabilities")
    thresholds: list[ThresholdFacts] = Field(description="Those that the calibration's data support")
    engine: EngineFacts | None = Field(description="null if there is no model")
    gallery: GalleryFacts
    limits: LimitFacts
