"""What an operator can set: one typed class, every field also as an environment variable `NOT3D_...`."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from model.bundle import BUNDLED
from model.cgroups import available_cpus
from model.frames import FrameLimits
from service.gallery.address import EMBEDDED, MilvusAddress, parse_gallery

PREFIX = "NOT3D_"
CLIENT_VARIABLES = frozenset({"NOT3D_URL", "NOT3D_API_KEY", "NOT3D_PICTURES", "NOT3D_SHARED_DATA"})
"""Variables with the service's prefix that the command line's client and the tests read."""

JSON_WEIGHT = 2
"""A JSON body's bytes lie beside the text of its frames, later that text beside the decoded frames."""
MIB = 2**20
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, le=3600)]
LONGEST_RETENTION_DAYS = 36_500


class Settings(BaseSettings):
    """The service's settings, validated when the object is made; unknown names are refused."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    bundle: Annotated[Path, Field(description="folder of the model bundle")] = BUNDLED
    data_dir: Annotated[Path, Field(description="folder of the gallery; made when absent")] = Path("data")
    gallery: Annotated[
        str,
        Field(
            # It may hold a password.
            repr=False,
            description="embedded: in DATA_DIR, for one process; milvus://[user:password@]host[:port][/database], "
            "milvus+tls://...: on a server, for many",
        ),
    ] = EMBEDDED
    milvus_gpu: Annotated[
        bool, Field(description="the Milvus cluster has GPUs: its large collections get a GPU index")
    ] = False
    milvus_shards: Annotated[
        int, Field(ge=1, le=16, description="channels that a Milvus collection is written by, once it is made")
    ] = 1
    cache_dir: Annotated[Path | None, Field(description="folder for the engine's cache, default DATA_DIR/cache")] = None
    temp_dir: Annotated[Path | None, Field(description="folder for uploaded videos while they are read")] = None

    host: Annotated[str, Field(min_length=1, description="address to listen at; 0.0.0.0 for all")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535, description="0 takes any free port")] = 8000
    api_keys: Annotated[SecretStr, Field(description="comma separated keys; empty means that no key is asked for")] = (
        SecretStr("")
    )
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="least severe entries that are logged")
    ] = "info"
    drain_seconds: Annotated[Seconds, Field(description="time for accepted requests to finish after SIGTERM")] = 30.0
    read_seconds: Annotated[Seconds, Field(description="longest silence of a client that is sending a body")] = 60.0

    device: Annotated[
        Literal["auto", "cpu", "cuda"], Field(description="cuda without a working one is an error, never a silent CPU")
    ] = "auto"
    engine: Annotated[
        Literal["auto", "onnxruntime", "openvino"], Field(description="auto takes what is measured to be fastest")
    ] = "auto"
    threads: Annotated[Count | None, Field(description="CPU threads of the engine, default: all this process has")] = (
        None
    )
    gpu_precision: Annotated[
        Literal["auto", "f16", "f32"],
        Field(description="auto: f16 where it passes the self-test, else f32 and a warning"),
    ] = "auto"
    gpu_memory_mb: Annotated[
        Annotated[int, Field(ge=256)] | None, Field(description="MiB of the GPU for weights and batches, default: all")
    ] = None
    gpu_graphs: Annotated[bool, Field(description="CUDA graphs, one for each size of a batch")] = True
    gpu_tensorrt: Annotated[bool, Field(description="TensorRT, which takes minutes to build at the first start")] = (
        False
    )
    gallery_gpu_mb: Annotated[
        int, Field(ge=0, description="MiB of the GPU for a copy of the gallery's vectors, 0: none; not with device=cpu")
    ] = 4096
    decode_threads: Annotated[Count | None, Field(description="frames decoded at a time, default: CPUs, at most 8")] = (
        None
    )
    max_batch: Annotated[
        int | None, Field(ge=1, le=256, description="most clips in one call of the engine, default: 4, on a GPU 64")
    ] = None

    max_frames: Annotated[Count, Field(description="frames, or boxes, of one tracklet")] = 2000
    max_clips: Annotated[
        Count,
        Field(
            description="clips of one tracklet that are computed; a request's own max_clips keeps a longer one below it"
        ),
    ] = 500
    max_video_frames: Annotated[Count, Field(description="frames of a video that are read to find those of boxes")] = (
        20_000
    )
    max_frame_bytes: Annotated[Count, Field(description="of one encoded frame")] = 20_000_000
    max_pixels: Annotated[Count, Field(description="width times height of one frame")] = 25_000_000
    max_request_pixels: Annotated[Count, Field(description="of all frames that one request makes decode")] = 2 * 10**9
    max_side: Annotated[Count, Field(description="of a frame, in pixels")] = 16_384
    min_side: Annotated[Count, Field(description="of a frame, or of what a box leaves of one, in pixels")] = 8
    min_usable_share: Annotated[float, Field(gt=0, le=1, description="of a tracklet's frames, else it is refused")] = (
        0.5
    )
    max_request_bytes: Annotated[Count, Field(description="of one request's body")] = 256 * MIB
    max_field_bytes: Annotated[Count, Field(description="bytes of one form field that is no file")] = 256 * 1024
    max_metadata_bytes: Annotated[Count, Field(description="of one record's metadata as JSON")] = 16 * 1024
    max_pending_requests: Annotated[Count, Field(description="requests with footage at a time; more get 503")] = 64
    max_pending_bytes: Annotated[Count, Field(description="bytes held for all of them; more get 503")] = 1024 * MIB

    retention_days: Annotated[
        float | None,
        Field(
            gt=0,
            le=LONGEST_RETENTION_DAYS,
            allow_inf_nan=False,
            description="after which a new record that names no expires_at is erased, default: never",
        ),
    ] = None
    sweep_seconds: Annotated[Seconds, Field(description="between two searches for records to erase")] = 60.0
    thumbnails: Annotated[bool, Field(description="keep a small picture of each tracklet, erased with its record")] = (
        False
    )

    max_top_k: Annotated[int, Field(ge=10, description="most results that a search may ask for")] = 1000
    max_page: Annotated[Count, Field(description="records of one page of GET /gallery")] = 1000
    rerank_candidates: Annotated[int, Field(ge=2, le=2000, description="best hits that re-ranking orders anew")] = 100

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
            raise ValueError("min_side is larger than max_side")
        if self.max_pending_bytes < JSON_WEIGHT * self.max_request_bytes:
            raise ValueError(
                f"max_pending_bytes is smaller than {JSON_WEIGHT} times max_request_bytes, so the largest JSON body, "
                "which is held as bytes and as text, never fits"
            )
        return self

    def largest_batch(self, device: Literal["cpu", "cuda"]) -> int:
        """Most clips in one call. On a CPU four are as fast as 32 (docs/figures/serving.md), and take less memory."""
        return self.max_batch or {"cpu": 4, "cuda": 64}[device]

    @property
    def frame_limits(self) -> FrameLimits:
        """The limits of one frame, as `model.frames` takes them."""
        return FrameLimits(self.max_frame_bytes, self.max_pixels, self.max_side, self.min_side)

    @property
    def milvus(self) -> MilvusAddress | None:
        """The Milvus server that keeps the gallery; `None` where it is embedded."""
        return parse_gallery(self.gallery)

    @property
    def keys(self) -> tuple[str, ...]:
        """The API keys; empty where the service is open."""
        return _split_keys(self.api_keys)

    @property
    def engine_cache(self) -> Path:
        """Where engines keep what they measured or compiled."""
        return self.cache_dir or self.data_dir / "cache"

    @property
    def decoders(self) -> int:
        """Threads that decode frames."""
        return self.decode_threads or min(8, available_cpus())


def find_unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """One sentence for each variable that has the service's prefix but names no setting: most likely a typing error."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | CLIENT_VARIABLES
    sentences = []
    for name in sorted(set(environment) - known):
        if name.startswith(PREFIX):
            near = get_close_matches(name, known, n=1, cutoff=0.8)
            sentences.append(f"{name} is no setting" + (f"; did you mean {near[0]}?" if near else ""))
    return sentences


def _split_keys(value: SecretStr) -> tuple[str, ...]:
    return tuple(key for part in value.get_secret_value().split(",") if (key := part.strip()))
