"""The settings of the service, in one typed class. Every field is also an environment variable `NOT3D_...`."""

import math
import re
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from model.bundle import BUNDLED
from model.cgroups import available_cpus
from model.space import SPACE_PATTERN, EmbeddingSpace
from service.callers import SCOPES, Scope
from service.gallery.address import EMBEDDED, MilvusAddress, parse_gallery
from service.gallery.records import MAX_THUMBNAILS
from service.keys import FILE_NAME as KEYS_FILE

if TYPE_CHECKING:
    from model.frames import FrameLimits
    from model.video import VideoLimits

PREFIX: Final = "NOT3D_"
SERVE_OPTIONS: Final = (
    "bundle", "calibration", "prior", "data_dir", "host", "port", "device", "engine", "threads", "log_level",
    "vectors_only", "space", "dimension",
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
MIN_KEY: Final = 16
"""Minimum characters of an API key."""
MAX_RETENTION_DAYS: Final = 36_500
MAX_PREFIX: Final = 200
PREFIX_PATTERN: Final = r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)*"
"""Path segments that are not empty and not dots. Two slashes at the start would be followed by a host."""
HOST_PATTERN: Final = r"\*|(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?"
Count = Annotated[int, Field(ge=1, le=10**9)]
Amount = Annotated[int, Field(ge=1, le=10**15)]
"""Bytes or pixels."""
Threads = Annotated[int, Field(ge=1, le=1024)]
Seconds = Annotated[float, Field(ge=0.05, le=3600)]
"""In less time nothing arrives and nothing is done, and what is repeated would never rest."""
Days = Annotated[float, Field(ge=0.001, le=MAX_RETENTION_DAYS, allow_inf_nan=False)]
"""0.001 days are 86 seconds: about the time until the next sweep."""
MAX_MEMORY_MB: Final = 2**24
"""16 TiB."""


def _count_of_flag(value: Any) -> Any:
    """Return the number that a setting means which was true or false in earlier versions."""
    return {"true": 1, "false": 0}.get(str(value).strip().lower(), value)


class Settings(BaseSettings):
    """The service's settings, validated when the object is created. Unknown names are refused."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True)

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
    vectors_only: bool = Field(
        False,
        description="Store and search vectors that another system computes, without a model; needs SPACE and "
        "DIMENSION. No bundle and no engine is loaded, and pictures are refused",
    )
    space: str | None = Field(
        None,
        pattern=SPACE_PATTERN,
        description="With VECTORS_ONLY: the name of the embedding space, such as my-reid; change it with "
        "the model that computes the vectors. Default: that of the bundle",
    )
    dimension: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="With VECTORS_ONLY: number of components of each vector. Default: that of the bundle",
    )
    travel_times: Path | None = Field(
        None,
        description="JSON file of the minimum times between cameras, for GET /gallery/{id}/track (docs/linking.md). "
        "Default: none, so that a person may be on two cameras within a moment, but not at the same time",
    )
    data_dir: Path = Field(Path("data"), description="Folder of the gallery; created if it is missing")
    gallery: str = Field(
        EMBEDDED,
        repr=False,  # it can contain a password
        description="embedded: in DATA_DIR, for one process. milvus://[user:password@]host[:port][/database] or "
        "milvus+tls://...: on a Milvus server, for several processes",
    )
    milvus_gpu: bool = Field(
        False,
        description="Use a GPU index for large collections (never run on a GPU); needs a Milvus cluster with GPUs",
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
    published: str | None = Field(
        None,
        description="Where a container's port is published on its host, such as 127.0.0.1:8000: the address that "
        "others reach. Default: HOST",
    )
    api_keys: SecretStr | None = Field(
        None, description="API keys, separated by commas. Default: no key is required, on a loopback address only"
    )
    keys_file: Path | None = Field(
        None,
        description="File of keys with scopes, written by not3d keys; several processes may share it, and it is read "
        "again when it changes. Default: keys.json in DATA_DIR, if it exists",
    )
    session_hours: float = Field(
        12.0,
        ge=0.01,
        le=24 * 30,
        description="Hours after which a browser that signed in with a key has to sign in again",
    )
    trusted_user_header: str | None = Field(
        None,
        pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$",
        description="Header in which a proxy of TRUSTED_PROXIES names the user that signed in there, such as "
        "Remote-User; the proxy must remove it from requests of clients. Default: users of proxies are not trusted",
    )
    trusted_groups_header: str = Field(
        "Remote-Groups",
        pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$",
        description="Header in which the same proxy names the groups of the user, separated by commas",
    )
    trusted_groups: str = Field(
        "",
        description="Scopes of users by group, such as operators:search+enroll,managers:admin; a user has those of all "
        "groups. Without it, every user has the scope search",
    )
    allow_anonymous: bool = Field(
        False,
        description="Without API_KEYS, listen on other than a loopback address too: everyone who reaches the port may "
        "then search, read and erase",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Log entries of this level and above"
    )
    drain_seconds: Seconds = Field(30.0, description="Seconds to finish accepted requests after SIGTERM")
    stall_seconds: Seconds = Field(
        60.0, description="Seconds in which some work must be done while requests wait; otherwise /readyz answers 503"
    )
    root_path: str = Field(
        "",
        description="Path prefix under which a proxy publishes the service, for example /reid; the proxy may remove "
        "the prefix from the path or keep it. Default: none",
    )
    trusted_proxies: str = Field(
        "127.0.0.1,::1",
        description="Addresses and networks, separated by commas, of proxies whose X-Forwarded-For, X-Forwarded-Proto "
        "and X-Forwarded-Prefix are used; none: of no proxy",
    )
    allowed_hosts: str = Field(
        "",
        description="Public host names of the service, separated by commas, for a service without keys; "
        "*.example.org for all names below, * for every name. IP addresses, localhost, names without a dot and names "
        "that only private networks use are always allowed",
    )
    max_connections: int = Field(
        512, ge=8, le=100_000, description="Maximum open connections; fewer if file descriptors are scarce. More wait"
    )
    keep_alive_seconds: Seconds = Field(
        75.0, description="Seconds after which an idle connection is closed; longer than a proxy in front keeps it"
    )
    head_seconds: Seconds = Field(15.0, description="Maximum seconds to receive the head of a request")
    max_head_bytes: int = Field(
        32 * 1024, ge=1024, le=MIB, description="Maximum bytes of the head of a request, and of the trailers of a body"
    )
    max_head_lines: int = Field(
        100, ge=10, le=10_000, description="Maximum header lines of a request, and trailer lines of a body"
    )
    read_seconds: Seconds = Field(
        60.0,
        description="Maximum seconds without data from a client that is sending a body, or without progress of one "
        "that reads its answer",
    )
    min_bytes_per_second: int = Field(
        16 * 1024,
        ge=0,
        le=10**9,
        description="Minimum average rate of a body that takes longer than READ_SECONDS; 0: none",
    )
    request_seconds: Seconds = Field(
        300.0, description="Maximum seconds of any request, its upload included; then it is cancelled and gets 504"
    )

    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="auto: the GPU if one works (never run on a GPU), otherwise the CPU. cuda without a working GPU is "
        "an error",
    )
    engine: Literal["auto", "onnxruntime", "openvino"] = Field(
        "auto", description="Inference engine; auto measures which one is fastest on this machine"
    )
    threads: Threads | None = Field(None, description="CPU threads of the engine. Default: all CPUs of this process")
    gpu_precision: Literal["auto", "f16", "f32"] = Field(
        "auto", description="auto: f16 if it passes the self-test, otherwise f32 and a warning"
    )
    gpu_memory_mb: Annotated[int, Field(ge=256, le=MAX_MEMORY_MB)] | None = Field(
        None, description="MiB of GPU memory for weights and batches. Default: no limit"
    )
    gpu_graphs: bool = Field(True, description="Use CUDA graphs, one for each batch size")
    gpu_tensorrt: bool = Field(False, description="Use TensorRT; the first start takes minutes to build it")
    gallery_gpu_mb: int = Field(
        4096,
        ge=0,
        le=MAX_MEMORY_MB,
        description="MiB of GPU memory for a copy of the gallery's vectors; 0: none. Unused on device cpu",
    )
    decode_threads: Threads | None = Field(
        None, description="Threads that decode frames. Default: the number of CPUs, at most 8"
    )
    video_processes: int = Field(
        8,
        ge=1,
        le=64,
        description="Videos that are decoded at the same time, each in a process of its own; more wait",
    )
    video_memory_mb: int = Field(
        1024,
        ge=64,
        le=MAX_MEMORY_MB,
        description="Maximum MiB of memory that decoding one video may take; more is refused",
    )
    max_batch: int | None = Field(
        None, ge=1, le=256, description="Maximum clips in one call of the engine. Default: 4, on a GPU 64"
    )

    max_frames: Count = Field(
        2000, description="Maximum frames, or boxes, of one tracklet; with max_clips, of its chosen clips"
    )
    max_clips: Count = Field(
        500, description="Maximum clips of one tracklet; a longer tracklet needs max_clips in its request"
    )
    max_video_frames: Count = Field(
        20_000, description="Maximum frames that are read from a video to find the frames of boxes or of chosen clips"
    )
    max_frame_bytes: Amount = Field(20_000_000, description="Maximum bytes of one encoded frame")
    max_pixels: Amount = Field(25_000_000, description="Maximum pixels of one frame, width times height")
    max_request_pixels: Amount = Field(2 * 10**9, description="Maximum pixels of all frames that one request decodes")
    max_decode_bytes: Amount = Field(
        256 * MIB,
        description="Bytes of memory of large pictures (above 32 MiB when decoded) that are decoded at the same time; "
        "more wait their turn, and one that needs more is decoded alone",
    )
    max_side: Count = Field(16_384, description="Maximum width and height of a frame in pixels")
    min_side: Count = Field(
        8, description="Minimum width and height in pixels of a frame, or of the part of a box inside its frame"
    )
    min_usable_share: float = Field(
        0.5, gt=0, le=1, description="Minimum share of usable frames; a tracklet with fewer is refused"
    )
    max_request_bytes: Amount = Field(256 * MIB, description="Maximum bytes of one request's body")
    max_field_bytes: Amount = Field(256 * 1024, description="Maximum bytes of one form field that is not a file")
    max_metadata_bytes: Amount = Field(16 * 1024, description="Maximum bytes of one record's metadata as JSON")
    max_pending_requests: Count = Field(64, description="Maximum requests with footage at the same time; more get 503")
    max_pending_bytes: Amount = Field(
        1024 * MIB, description="Maximum bytes held for all requests with footage; more get 503"
    )
    max_gallery_calls: Count = Field(
        64, description="Maximum requests without footage to the gallery at the same time; more get 503"
    )

    retention_days: Days | None = Field(
        None,
        description="Days after which a new record without expires_at is erased. Default: never",
    )
    sweep_seconds: Seconds = Field(60.0, description="Seconds between two erasures of expired records")
    thumbnails: Annotated[int, BeforeValidator(_count_of_flag)] = Field(
        0,
        ge=0,
        le=MAX_THUMBNAILS,
        description="Number of small pictures to keep of each tracklet, evenly spaced; true: 1, false: 0. They are "
        "erased with their record",
    )

    audit_days: Days = Field(
        400.0,
        description="Days after which entries of the audit log are removed; apart from the retention of records",
    )
    require_purpose: bool = Field(False, description="Refuse searches without `purpose`")
    confirmations: int = Field(
        1,
        ge=1,
        le=10,
        description="Different people that must give the same verdict on a record of a case before it counts; with "
        "1, the latest verdict counts",
    )
    trust_operator: bool = Field(
        False,
        description="Different names in X-Operator under one key are different people, because a proxy or client sets "
        "the header after it has checked who they are. Otherwise each key, or user of a proxy, is one person",
    )

    alert_days: Days = Field(
        30.0,
        description="Days after which alerts are removed; alerts of a removed record go with it",
    )
    max_alert_listeners: int = Field(
        32, ge=1, le=10_000, description="Maximum open streams of alerts at the same time; more get 503"
    )
    webhooks: Path | None = Field(
        None,
        description="JSON file of the webhooks that get alerts: name, url, secret (whsec_ and base64) and "
        "watchlists of each. Default: none",
    )
    webhook_hosts: str = Field(
        "",
        description="Hosts to which webhooks may be sent, separated by commas: names, *.example.org for all names "
        "below, and networks such as 10.0.0.0/8. Only public addresses are connected to, unless their network is named",
    )
    webhook_tries: int = Field(
        15,
        ge=1,
        le=100,
        description="Attempts to deliver an alert to a webhook, over about 14 hours with 15; then it is given up",
    )

    camera_centring: bool = Field(
        False,
        description="Subtract each camera's mean embedding from queries and records before they are compared",
    )
    max_top_k: int = Field(1000, ge=10, le=10**6, description="Maximum results of one search")
    max_page: int = Field(1000, ge=100, le=10**6, description="Maximum records on one page of GET /gallery")
    rerank_candidates: int = Field(100, ge=2, le=2000, description="Number of best hits that are re-ranked")

    @model_validator(mode="before")
    @classmethod
    def _refuse_empty(cls, values: Any) -> Any:
        """A variable that is set but empty is a mistake, such as a secret that was not found, for every setting."""
        given = values if isinstance(values, Mapping) else {}
        empty = sorted(name for name, value in given.items() if isinstance(value, str) and not value.strip())
        if empty:
            names = ", ".join(map(variable_name, empty))
            raise ValueError(f"set but empty: {names}. Give a value, or unset it to use the default")
        return values

    @field_validator("api_keys")
    @classmethod
    def _check_keys(cls, value: SecretStr | None) -> SecretStr | None:
        keys = _split_keys(value)
        if value is not None and not keys:
            raise ValueError("has no key: give at least one, or unset it to require none")
        for key in keys:
            if len(key) < MIN_KEY or not key.isascii() or not key.isprintable():
                raise ValueError(f"every key needs at least {MIN_KEY} printable ASCII characters")
        return value

    @field_validator("trusted_groups")
    @classmethod
    def _check_groups(cls, value: str) -> str:
        _parse_groups(value)
        return value

    @field_validator("root_path")
    @classmethod
    def _check_root_path(cls, value: str) -> str:
        return parse_prefix(value)

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, value: str) -> str:
        if value.strip().lower() == "none":
            return ""
        for part in _split(value):
            try:
                ip_network(part, strict=False)
            except ValueError:
                raise ValueError(f"{part[:100]} is not an IP address or network, such as 10.0.0.0/8") from None
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _check_hosts(cls, value: str) -> str:
        for part in _split(value):
            if not re.fullmatch(HOST_PATTERN, part):
                raise ValueError(f"{part[:100]} is not a host name, such as reid.example.org, without scheme and port")
        return value

    @field_validator("gallery")
    @classmethod
    def _check_gallery(cls, value: str) -> str:
        parse_gallery(value)
        return value

    @model_validator(mode="after")
    def _check_reach(self) -> Self:
        guarded = self.keys or self.keys_path.exists() or self.trusted_user_header
        if not guarded and not self.allow_anonymous and not is_loopback(reached := self.reached_at):
            raise ValueError(
                f"no key is set, but other machines can reach {reached or 'every address of this machine'}: make one "
                f"with not3d keys create, or set {PREFIX}API_KEYS (openssl rand -hex 16 makes a key), or listen on a "
                f"loopback address, or set {PREFIX}ALLOW_ANONYMOUS=true to let everyone search, read and erase"
            )
        return self

    @model_validator(mode="after")
    def _check_space(self) -> Self:
        given = {"space": self.space is not None, "dimension": self.dimension is not None}
        wrong = [variable_name(name) for name, is_given in given.items() if is_given != self.vectors_only]
        if wrong and self.vectors_only:
            raise ValueError(
                f"vectors_only needs the embedding space of the vectors: set {' and '.join(wrong)} "
                "(--space NAME --dimension D)"
            )
        if wrong:
            names = " and ".join(wrong)
            cure = f"set {PREFIX}VECTORS_ONLY=true, or unset them"
            raise ValueError(f"{names} only for vectors of another system: {cure}")
        return self

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
    def frame_limits(self) -> "FrameLimits":
        """The limits of one frame, as `model.frames` takes them."""
        from model.frames import FrameLimits  # decodes pictures, which a service of vectors only does not

        return FrameLimits(self.max_frame_bytes, self.max_pixels, self.max_side, self.min_side)

    @property
    def video_limits(self) -> "VideoLimits":
        """The limits of one video, as `model.video` takes them."""
        from model.video import VideoLimits

        seconds = math.ceil(self.request_seconds)
        return VideoLimits(
            self.frame_limits, self.max_frames, self.max_request_pixels, seconds, self.video_memory_mb * MIB
        )

    @property
    def milvus(self) -> MilvusAddress | None:
        """The address of the gallery's Milvus server; `None` for an embedded gallery."""
        return parse_gallery(self.gallery)

    @property
    def named_space(self) -> EmbeddingSpace | None:
        """The space of vectors of another system; `None` if the bundle names the space."""
        if self.space is None or self.dimension is None:
            return None
        return EmbeddingSpace(self.space, self.dimension, self.space)

    @property
    def keys(self) -> tuple[str, ...]:
        """The API keys; empty if no key is required."""
        return _split_keys(self.api_keys)

    @property
    def keys_path(self) -> Path:
        """The file of keys, which may be missing."""
        return self.keys_file or self.data_dir / KEYS_FILE

    @property
    def group_scopes(self) -> dict[str, frozenset[Scope]]:
        """The scopes of each group of a proxy's users; empty if every user has the scope `search`."""
        return _parse_groups(self.trusted_groups)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The public host names of the service, in lower case."""
        return tuple(name.lower().rstrip(".") for name in _split(self.allowed_hosts))

    def is_trusted_proxy(self, address: str) -> bool:
        """Return whether the headers that only proxies set are used if this address sends them."""
        try:
            client = ip_address(address)
        except ValueError:
            return False
        return any(client in ip_network(part, strict=False) for part in _split(self.trusted_proxies))

    @property
    def reached_at(self) -> str:
        """The address at which others reach the service; empty for all addresses of the machine."""
        return self.host if self.published is None else self.published.rpartition(":")[0].strip("[] ")

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


def parse_prefix(value: str) -> str:
    """Return a path prefix without a slash at its end; "" and "/" are no prefix.

    Raises:
        ValueError: for anything that is not a plain absolute path, so that it can name no host and no scheme.
    """
    prefix = value.removesuffix("/")
    if len(prefix) > MAX_PREFIX or not re.fullmatch(PREFIX_PATTERN, prefix):
        raise ValueError(
            f"must be a path such as /reid, of at most {MAX_PREFIX} letters, digits, '.', '_', '~', '-' and '/'"
        )
    return prefix


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address. A name other than localhost does not count as such."""
    try:
        address = ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return host.lower() == "localhost"
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _parse_groups(value: str) -> dict[str, frozenset[Scope]]:
    groups: dict[str, frozenset[Scope]] = {}
    for part in _split(value):
        name, _, names = part.partition(":")
        scopes = frozenset(scope for scope in SCOPES if scope in names.split("+"))
        if not name.strip() or not names or len(scopes) != len(names.split("+")):
            wanted = f"write GROUP:SCOPE+SCOPE, with scopes of {', '.join(sorted(SCOPES))}"
            raise ValueError(f"{part[:100]} does not give a group its scopes: {wanted}")
        groups[name.strip()] = scopes
    return groups


def _split_keys(value: SecretStr | None) -> tuple[str, ...]:
    return () if value is None else _split(value.get_secret_value())


def _split(value: str) -> tuple[str, ...]:
    return tuple(stripped for part in value.split(",") if (stripped := part.strip()))
