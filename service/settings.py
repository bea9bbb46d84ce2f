"""The settings of the service, in one typed class. Every field is also an environment variable `NOT3D_...`."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from model.bundle import BUNDLED
from model.cgroups import available_cpus
from model.frames import FrameLimits
from model.video import VideoLimits
from service.gallery.address import EMBEDDED, MilvusAddress, parse_gallery

PREFIX: Final = "NOT3D_"
CLIENT_VARIABLES: Final = frozenset({"NOT3D_URL", "NOT3D_API_KEY", "NOT3D_PICTURES", "NOT3D_SHARED_DATA"})
"""Variables with the service's prefix that the client commands and the tests read."""
SERVE_OPTIONS: Final = (
    "bundle", "calibration", "prior", "data_dir", "host", "port", "device", "engine", "threads", "log_level"
)  # fmt: skip
"""The settings that are also options of `not3d serve`.

The options are generated from the fields: `data_dir` becomes `--data-dir`, with the environment variable
`variable_name("data_dir")` and the field's description, type, limits and default. If the default is `None`, the
description says what that means.
"""

JSON_WEIGHT: Final = 2
"""Bytes of memory for each byte of a JSON body, because it is held twice.

First as the body and the base64 text of its frames, then as that text and the decoded frames.
"""
MIB: Final = 2**20
MAX_RETENTION_DAYS: Final = 36_500
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, le=3600)]


class Settings(BaseSettings):
    """The service's settings, validated when the object is created. Unknown names are refused."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    bundle: Path = Field(BUNDLED, description="Folder of the model bundle")
    calibration: Path | None = Field(
        None,
        description="File of the site's own calibration, written by not3d calibrate for this model. "
        "Default: the calibration in the bundle, if it has one",
    )
    prior: float | None = Field(
        None,
        gt=0,
        lt=1,
        allow_inf_nan=False,
        description="Probability that a searched record shows the query's person before its score is known: expected "
        "matches / searched records; a request may name another. Default: 1 / (searched records + 1), one expected "
        "match, because a fixed number is wrong as soon as the gallery grows or a filter narrows the search",
    )
    data_dir: Path = Field(Path("data"), description="Folder of the gallery; created if it is missing")
    gallery: str = Field(
        EMBEDDED,
        repr=False,  # it can contain a password
        description="embedded: in DATA_DIR, for one process. milvus://[user:password@]host[:port][/database] or "
        "milvus+tls://...: on a Milvus server, for several processes",
    )
    milvus_gpu: bool = Field(
        False, description="Use a GPU index for large collections; needs a Milvus cluster with GPUs"
    )
    milvus_shards: int = Field(
        1, ge=1, le=16, description="Shards of a Milvus collection, fixed when the collection is created"
    )
    cache_dir: Path | None = Field(None, description="Folder of the engine's cache. Default: DATA_DIR/cache")
    temp_dir: Path | None = Field(
        None, description="Folder for uploaded videos until they are decoded. Default: the system's temporary folder"
    )

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 for all")
    port: int = Field(8000, ge=0, le=65_535, description="Port to listen on; 0 takes any free port")
    api_keys: SecretStr = Field(
        SecretStr(""), description="API keys, separated by commas. If empty, no key is required"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Log entries of this level and above"
    )
    drain_seconds: Seconds = Field(30.0, description="Seconds to finish accepted requests after SIGTERM")
    read_seconds: Seconds = Field(60.0, description="Maximum seconds without data from a client that is sending a body")

    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: the GPU if one works, otherwise the CPU. cuda without a working GPU is an error"
    )
    engine: Literal["auto", "onnxruntime", "openvino"] = Field(
        "auto", description="Inference engine; auto measures which one is fastest on this machine"
    )
    threads: Count | None = Field(None, description="CPU threads of the engine. Default: all CPUs of this process")
    gpu_precision: Literal["auto", "f16", "f32"] = Field(
        "auto", description="auto: f16 if it passes the self-test, otherwise f32 and a warning"
    )
    gpu_memory_mb: Annotated[int, Field(ge=256)] | None = Field(
        None, description="MiB of GPU memory for weights and batches. Default: no limit"
    )
    gpu_graphs: bool = Field(True, description="Use CUDA graphs, one for each batch size")
    gpu_tensorrt: bool = Field(False, description="Use TensorRT; the first start takes minutes to build it")
    gallery_gpu_mb: int = Field(
        4096, ge=0, description="MiB of GPU memory for a copy of the gallery's vectors; 0: none. Unused on device cpu"
    )
    decode_threads: Count | None = Field(
        None, description="Threads that decode frames. Default: the number of CPUs, at most 8"
    )
    max_batch: int | None = Field(
        None, ge=1, le=256, description="Maximum clips in one call of the engine. Default: 4, on a GPU 64"
    )

    max_frames: Count = Field(2000, description="Maximum frames, or boxes, of one tracklet")
    max_clips: Count = Field(
        500, description="Maximum clips of one tracklet; a longer tracklet needs max_clips in its request"
    )
    max_video_frames: Count = Field(
        20_000, description="Maximum frames that are read from a video to find the frames of boxes"
    )
    max_frame_bytes: Count = Field(20_000_000, description="Maximum bytes of one encoded frame")
    max_pixels: Count = Field(25_000_000, description="Maximum pixels of one frame, width times height")
    max_request_pixels: Count = Field(2 * 10**9, description="Maximum pixels of all frames that one request decodes")
    max_side: Count = Field(16_384, description="Maximum width and height of a frame in pixels")
    min_side: Count = Field(
        8, description="Minimum width and height in pixels of a frame, or of the part of a box inside its frame"
    )
    min_usable_share: float = Field(
        0.5, gt=0, le=1, description="Minimum share of usable frames; a tracklet with fewer is refused"
    )
    max_request_bytes: Count = Field(256 * MIB, description="Maximum bytes of one request's body")
    max_field_bytes: Count = Field(256 * 1024, description="Maximum bytes of one form field that is not a file")
    max_metadata_bytes: Count = Field(16 * 1024, description="Maximum bytes of one record's metadata as JSON")
    max_pending_requests: Count = Field(64, description="Maximum requests with footage at the same time; more get 503")
    max_pending_bytes: Count = Field(
        1024 * MIB, description="Maximum bytes held for all requests with footage; more get 503"
    )

    retention_days: float | None = Field(
        None,
        gt=0,
        le=MAX_RETENTION_DAYS,
        allow_inf_nan=False,
        description="Days after which a new record without expires_at is erased. Default: never",
    )
    sweep_seconds: Seconds = Field(60.0, description="Seconds between two erasures of expired records")
    thumbnails: bool = Field(False, description="Keep a small picture of each tracklet; it is erased with its record")

    camera_centring: bool = Field(
        False,
        description="Subtract each camera's mean embedding from queries and records before they are compared",
    )
    max_top_k: int = Field(1000, ge=10, description="Maximum results of one search")
    max_page: Count = Field(1000, description="Maximum records on one page of GET /gallery")
    rerank_candidates: int = Field(100, ge=2, le=2000, description="Number of best hits that are re-ranked")

    @field_validator("api_keys")
    @classmethod
    def _check_keys(cls, value: SecretStr) -> SecretStr:
        for key in _split_keys(value):
            if len(key) < 16 or not key.isascii() or not key.isprintable():
                raise ValueError("every key needs at least 16 printable ASCII characters")
        return value

    @field_validator("gallery")
    @classmethod
    def _check_gallery(cls, value: str) -> str:
        parse_gallery(value)
        return value

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        if self.min_side > self.max_side:
            raise ValueError(f"min_side ({self.min_side}) must be at most max_side ({self.max_side})")
        needed = JSON_WEIGHT * self.max_request_bytes
        if self.max_pending_bytes < needed:
            raise ValueError(
                f"max_pending_bytes must be at least {JSON_WEIGHT} times max_request_bytes, {needed} bytes (got "
                f"{self.max_pending_bytes}): a JSON body is held as bytes and as text"
            )
        return self

    @model_validator(mode="after")
    def _check_centring(self) -> Self:
        if self.camera_centring and self.milvus is not None:
            raise ValueError(
                f"camera_centring needs the embedded gallery, because a Milvus server cannot rank by centred scores: "
                f"set {PREFIX}GALLERY={EMBEDDED}, or {PREFIX}CAMERA_CENTRING=false"
            )
        return self

    def largest_batch(self, device: Literal["cpu", "cuda"]) -> int:
        """Return the maximum batch. On a CPU, 4 clips are as fast as 32 (docs/figures/serving.md), with less memory."""
        return self.max_batch or {"cpu": 4, "cuda": 64}[device]

    @property
    def frame_limits(self) -> FrameLimits:
        """The limits of one frame, as `model.frames` takes them."""
        return FrameLimits(self.max_frame_bytes, self.max_pixels, self.max_side, self.min_side)

    @property
    def video_limits(self) -> VideoLimits:
        """The limits of one video, as `model.video` takes them."""
        return VideoLimits(self.frame_limits, self.max_frames, self.max_request_pixels)

    @property
    def milvus(self) -> MilvusAddress | None:
        """The address of the gallery's Milvus server; `None` for an embedded gallery."""
        return parse_gallery(self.gallery)

    @property
    def keys(self) -> tuple[str, ...]:
        """The API keys; empty if no key is required."""
        return _split_keys(self.api_keys)

    @property
    def engine_cache(self) -> Path:
        """The folder in which engines store measurements and compiled models."""
        return self.cache_dir or self.data_dir / "cache"

    @property
    def decoders(self) -> int:
        """The number of threads that decode frames."""
        return self.decode_threads or min(8, available_cpus())


def variable_name(field: str) -> str:
    """Return the environment variable of a setting."""
    return f"{PREFIX}{field.upper()}"


def find_unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return one sentence for each variable with the service's prefix that is not a setting: probably a typo."""
    known = {variable_name(field) for field in Settings.model_fields} | CLIENT_VARIABLES
    sentences = []
    for name in sorted(set(environment) - known):
        if name.startswith(PREFIX):
            near = get_close_matches(name, known, n=1, cutoff=0.8)
            sentences.append(f"{name} is not a setting" + (f"; did you mean {near[0]}?" if near else ""))
    return sentences


def _split_keys(value: SecretStr) -> tuple[str, ...]:
    return tuple(key for part in value.get_secret_value().split(",") if (key := part.strip()))
