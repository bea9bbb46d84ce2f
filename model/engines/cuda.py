"""ONNX Runtime on NVIDIA GPUs: the fastest plan that passes the self-test, and messages about those that do not."""

import contextlib
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model.bundle import INPUT_NAME, Bundle
from model.engines.half_precision import convert_to_half
from model.engines.io_binding_session import IoBindingSession
from model.engines.onnx_runtime import CPU, CUDA, VERSION, cuda_provider_installed, open_session
from model.engines.protocol import CudaOptions, EngineError, EngineInfo, batch_sizes, check_clips
from model.engines.self_test import SelfTestError, run_self_test

TENSORRT: Final = "TensorrtExecutionProvider"
_LOG = logging.getLogger(__name__)


class ProviderError(EngineError):
    """The provider itself is missing or does not load, so no other plan would work either."""


@dataclass(frozen=True)
class CudaPlan:
    """One way to run a network: `precision` is "f16" or "f32", the rest is as in `CudaOptions`."""

    precision: str
    channels_last: bool
    graphs: bool
    tensorrt: bool = False

    def __str__(self) -> str:
        with_ = [name for name, on in (("NHWC", self.channels_last), ("CUDA graphs", self.graphs)) if on]
        on = "TensorRT" if self.tensorrt else "CUDA"
        return f"{self.precision} on {on}" + (f" with {' and '.join(with_)}" if with_ else "")


def cuda_plans(options: CudaOptions) -> Iterator[CudaPlan]:
    """Yield the plans in the order in which they are tried: fastest first, each next one with less that may fail."""
    for precision in ("f16", "f32") if options.precision == "auto" else (options.precision,):
        if options.tensorrt:
            # TensorRT chooses layouts itself. Its graphs need a network without CUDA nodes, but CUDA runs uint8.
            yield CudaPlan(precision, channels_last=False, graphs=False, tensorrt=True)
            continue
        # Tensor cores read NHWC; f32 without TF32 does not use them.
        for channels_last in (True, False) if options.channels_last and precision == "f16" else (False,):
            for graphs in (True, False) if options.graphs else (False,):
                yield CudaPlan(precision, channels_last=channels_last, graphs=graphs)


def open_cuda(
    bundle: Bundle,
    *,
    threads: int,
    cache_dir: Path | None,
    options: CudaOptions,
    device: Literal["cuda", "cpu"] = "cuda",
) -> "CudaEngine":
    """Open the first plan that passes the self-test, and log the plans that do not work.

    With `device="cpu"` the same plans, networks and buffers run on the CPU provider, without CUDA graphs, for tests.

    Raises:
        EngineError: no plan works on this GPU, or the provider or the bundle does not allow any.
        BundleError: the network was changed after the bundle was loaded.
    """
    if device == "cpu":
        options = replace(options, graphs=False, channels_last=False, tensorrt=False)
    _check_providers(bundle, options, device)
    faults: list[str] = []
    for plan in cuda_plans(options):
        try:
            engine = CudaEngine(bundle, plan, threads=threads, cache_dir=cache_dir, options=options, device=device)
            run_self_test(engine, bundle)
        except ProviderError:
            raise
        except (EngineError, SelfTestError) as error:
            _LOG.warning("%s does not work: %s", plan, error)
            faults.append(f"{plan} does not work: {error}")
            continue
        if faults:
            engine.warning = f"the network runs in {plan}; {faults[0]}"
            _LOG.warning("the network runs in %s", plan)
        return engine
    raise EngineError(f"{bundle.network_path}: no plan works: " + "; ".join(faults))


class CudaEngine:
    """A bundle's network on one GPU, in one plan. Calls from several threads take turns."""

    name: Final = "onnxruntime"

    def __init__(
        self,
        bundle: Bundle,
        plan: CudaPlan,
        *,
        threads: int,
        cache_dir: Path | None,
        options: CudaOptions,
        device: Literal["cuda", "cpu"] = "cuda",
    ) -> None:
        """Open a session and prepare it for every batch size; `cache_dir` keeps TensorRT's engine.

        Raises:
            ProviderError: the provider does not load.
            EngineError: the network does not run with this plan on this GPU, or does not fit into the memory.
        """
        self.plan: Final = plan
        self.device: Final = device
        self.threads: Final = threads
        self.streams: Final = 1
        self.precision: Final = plan.precision
        self.warning: str | None = None
        self._spec = bundle.spec
        session = _open_session(bundle, plan, threads, cache_dir, options, device)
        self.provider: Final[str] = session.get_providers()[0]
        sizes = batch_sizes(options.largest_batch)
        self._bound = IoBindingSession(session, bundle.spec, device=device, sizes=sizes, graphs=plan.graphs)

    @property
    def info(self) -> EngineInfo:
        """See `Engine.info`."""
        return EngineInfo(
            self.name, self.device, self.precision, self.threads, VERSION, self.provider, warning=self.warning
        )

    def embed(self, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine.embed`."""
        check_clips(clips, self._spec)
        return self._bound.embed(clips)


def _check_providers(bundle: Bundle, options: CudaOptions, device: str) -> None:
    if bundle.is_ir:
        raise EngineError(
            f"{bundle.network_path}: an OpenVINO model, which NVIDIA GPUs do not run; "
            "choose the device cpu, or import the model from its ONNX file"
        )
    # The names of operators are in the file as text. The network would run in f32, slower than the float network.
    if b"DequantizeLinear" in bundle.read_network()[0]:
        raise EngineError(
            f"{bundle.network_path}: a quantised network, which runs on the CPU only; "
            "use the float network that it was made from, which a GPU runs in f16"
        )
    if device == "cpu":
        return
    if not cuda_provider_installed():
        raise ProviderError(
            f"CUDA was asked for, but ONNX Runtime {VERSION} is built without it; "
            "install the extra `gpu` instead of `cpu`: pip install 'not3d[gpu]'"
        )
    if options.tensorrt and TENSORRT not in onnxruntime.get_available_providers():
        raise ProviderError(f"TensorRT was asked for, but ONNX Runtime {VERSION} is built without it")


def _open_session(
    bundle: Bundle,
    plan: CudaPlan,
    threads: int,
    cache_dir: Path | None,
    options: CudaOptions,
    device: Literal["cuda", "cpu"],
) -> Any:
    providers: list[Any] = [CPU]
    if device == "cuda":
        _load_libraries()
        providers = session_providers(bundle, plan, cache_dir, options)
    # TensorRT converts the f32 network itself.
    in_half = plan.precision == "f16" and not plan.tensorrt
    network = convert_to_half(bundle) if in_half else bundle.read_network()[0]
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = threads
    session_options.inter_op_num_threads = 1
    session_options.log_severity_level = 3
    session = open_session(network, bundle.network_path, bundle.spec, session_options, providers)
    # ONNX Runtime drops a provider whose libraries do not load, with a log line, and moves a failing run to the CPU.
    # Both are errors here.
    session.disable_fallback()
    wanted = TENSORRT if plan.tensorrt else CUDA if device == "cuda" else CPU
    if session.get_providers()[0] != wanted:
        name = "TensorRT" if plan.tensorrt else "CUDA"
        raise ProviderError(
            f"{name} was asked for, but ONNX Runtime could not load its {name} provider: the driver, or the "
            f"{'TensorRT, ' if plan.tensorrt else ''}CUDA and cuDNN libraries that onnxruntime-gpu {VERSION} was built "
            "for, are missing"
        )
    return session


def session_providers(
    bundle: Bundle, plan: CudaPlan, cache_dir: Path | None, options: CudaOptions
) -> list[str | tuple[str, dict[str, str]]]:
    """Return the providers of a session in the order in which they take nodes, with their options."""
    limit = {} if options.memory_mb is None else {"gpu_mem_limit": str(options.memory_mb * 2**20)}
    cuda = {
        **limit,
        # The default doubles the arena each time it is full; batches have fixed sizes, so that is not needed.
        "arena_extend_strategy": "kSameAsRequested",
        # The default tries every convolution algorithm for each batch size.
        "cudnn_conv_algo_search": "HEURISTIC",
        # With a memory limit cuDNN takes at most 32 MB of workspace, without one as much as its fastest algorithm asks
        # for.
        "cudnn_conv_use_max_workspace": str(int(not limit)),
        # TF32 has 10 bits of mantissa; without it the GPU keeps the limit of the export, 1e-3 per component.
        "use_tf32": "0",
        "prefer_nhwc": str(int(plan.channels_last)),
        "enable_cuda_graph": str(int(plan.graphs)),
    }
    providers: list[str | tuple[str, dict[str, str]]] = [(CUDA, cuda), CPU]
    if plan.tensorrt:
        providers.insert(0, (TENSORRT, _tensorrt_options(bundle, plan, cache_dir, options)))
    return providers


def _tensorrt_options(bundle: Bundle, plan: CudaPlan, cache_dir: Path | None, options: CudaOptions) -> dict[str, str]:
    frames = "x".join(map(str, bundle.spec.clip_shape))
    found = {
        "trt_fp16_enable": str(int(plan.precision == "f16")),
        "trt_profile_min_shapes": f"{INPUT_NAME}:1x{frames}",
        "trt_profile_opt_shapes": f"{INPUT_NAME}:{options.largest_batch}x{frames}",
        "trt_profile_max_shapes": f"{INPUT_NAME}:{options.largest_batch}x{frames}",
    }
    if options.memory_mb is not None:
        found["trt_max_workspace_size"] = str(options.memory_mb * 2**20)
    if cache_dir is not None:
        # A folder for each network and precision, because TensorRT names an engine by the graph alone.
        folder = cache_dir / f"tensorrt-{bundle.embedding_space}-{plan.precision}-{options.largest_batch}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            _LOG.warning("TensorRT's engine cannot be saved in %s: %s", folder, error)
            return found
        found |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(folder)}
        found |= {"trt_timing_cache_enable": "1", "trt_timing_cache_path": str(folder)}
    return found


def _load_libraries() -> None:
    """Load CUDA and cuDNN from their pip packages; if one is missing, opening the session fails."""
    preload = getattr(onnxruntime, "preload_dlls", None)
    if preload is None:
        return
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        preload()
    if said.getvalue():
        _LOG.debug("%s", said.getvalue().strip())
