"""The GPU's engine without a GPU; `test_cuda_device.py` tests it on one."""

import logging
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from model.bundle import BUNDLED, Bundle
from model.engines import EngineError, open_engine
from model.engines.cuda import TENSORRT, CudaEngine, CudaPlan, ProviderError, cuda_plans, open_cuda
from model.engines.cuda import session_providers as providers_of
from model.engines.onnx_runtime import CUDA, OnnxRuntimeEngine
from model.engines.protocol import CudaOptions
from model.engines.self_test import run_self_test
from tests.model.engines.networks import make_convolutional, make_quantised

F16, F32 = "f16", "f32"
PLAIN = CudaPlan(F32, channels_last=False, graphs=False)


def open_on_cpu(bundle: Bundle, cache_dir: Path | None = None, **options: object) -> CudaEngine:
    chosen = CudaOptions(**{"largest_batch": 4} | options)  # type: ignore[arg-type]
    return open_cuda(bundle, threads=1, cache_dir=cache_dir, options=chosen, device="cpu")


@pytest.fixture(scope="module")
def convolutional(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_convolutional(tmp_path_factory.mktemp("convolutional"))


class TestPlans:
    def test_fastest_plan_comes_first_and_each_next_one_needs_less(self) -> None:
        assert [str(plan) for plan in cuda_plans(CudaOptions())] == [
            "f16 on CUDA with NHWC and CUDA graphs",
            "f16 on CUDA with NHWC",
            "f16 on CUDA with CUDA graphs",
            "f16 on CUDA",
            "f32 on CUDA with CUDA graphs",
            "f32 on CUDA",
        ]

    def test_options_that_are_off_are_not_tried(self) -> None:
        assert list(cuda_plans(CudaOptions(precision="f32", graphs=False))) == [PLAIN]
        assert {plan.precision for plan in cuda_plans(CudaOptions(precision="f16"))} == {F16}
        assert [str(plan) for plan in cuda_plans(CudaOptions(tensorrt=True))] == ["f16 on TensorRT", "f32 on TensorRT"]


class TestProviders:
    def options(self, plan: CudaPlan, cache: Path | None = None, **options: object) -> dict[str, dict[str, str]]:
        bundle = Bundle.load(BUNDLED)
        found = providers_of(bundle, plan, cache, CudaOptions(**options))  # type: ignore[arg-type]
        assert found[-1] == "CPUExecutionProvider"
        return dict(entry for entry in found if isinstance(entry, tuple))

    def test_cuda_options(self) -> None:
        (plain,) = self.options(PLAIN).values()
        assert "gpu_mem_limit" not in plain
        assert plain["cudnn_conv_use_max_workspace"] == "1"
        assert (plain["use_tf32"], plain["prefer_nhwc"], plain["enable_cuda_graph"]) == ("0", "0", "0")
        assert plain["cudnn_conv_algo_search"] == "HEURISTIC"

        plan = CudaPlan(F16, channels_last=True, graphs=True)
        (limited,) = self.options(plan, memory_mb=2048).values()
        assert limited["gpu_mem_limit"] == str(2048 * 2**20)
        assert limited["cudnn_conv_use_max_workspace"] == "0"
        assert (limited["prefer_nhwc"], limited["enable_cuda_graph"]) == ("1", "1")
        assert limited["cudnn_conv_algo_search"] == "HEURISTIC"

    def test_tensorrt_options(self, tmp_path: Path) -> None:
        plan = CudaPlan(F16, channels_last=False, graphs=False, tensorrt=True)
        found = self.options(plan, tmp_path, largest_batch=16, memory_mb=1024)

        assert list(found) == [TENSORRT, CUDA]  # CUDA runs the nodes that TensorRT does not take
        options = found[TENSORRT]
        clip = "x".join(map(str, Bundle.load(BUNDLED).spec.clip_shape))
        assert options["trt_profile_min_shapes"] == f"clips:1x{clip}"
        assert options["trt_profile_opt_shapes"] == options["trt_profile_max_shapes"] == f"clips:16x{clip}"
        assert options["trt_fp16_enable"] == "1"
        assert options["trt_max_workspace_size"] == str(1024 * 2**20)
        assert Path(options["trt_engine_cache_path"]).is_dir()

        in_f32 = self.options(CudaPlan(F32, channels_last=False, graphs=False, tensorrt=True), tmp_path)[TENSORRT]
        assert in_f32["trt_fp16_enable"] == "0"
        assert in_f32["trt_engine_cache_path"] != options["trt_engine_cache_path"]

    def test_unwritable_cache_is_not_used(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        plan = CudaPlan(F16, channels_last=False, graphs=False, tensorrt=True)

        assert "trt_engine_cache_enable" not in self.options(plan, tmp_path / "file")[TENSORRT]


class TestOnTheCpu:
    """The same engine on the CPU provider."""

    def test_f16_is_taken_and_close_to_f32(self, tmp_path: Path) -> None:
        bundle = Bundle.load(BUNDLED)
        clips = bundle.golden().clips

        engine = open_on_cpu(bundle, tmp_path)

        info = engine.info
        assert (info.precision, info.device, info.provider, info.warning) == (F16, "cpu", "CPUExecutionProvider", None)
        found, expected = (
            raw / np.linalg.norm(raw, axis=1, keepdims=True)
            for raw in (engine.embed(clips), OnnxRuntimeEngine(bundle, threads=1).embed(clips))
        )
        assert 0 < np.abs(found - expected).max() < 1e-2

    def test_f32_is_used_if_asked_for(self, convolutional: Bundle) -> None:
        engine = open_on_cpu(convolutional, precision=F32)

        assert engine.info.precision == F32
        assert run_self_test(engine, convolutional).max_difference < 1e-5

    def test_f16_that_fails_the_self_test_falls_back_with_a_warning(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        bundle = make_convolutional(tmp_path / "detour", detour=3000.0)  # f16 has steps of 2 there

        with caplog.at_level(logging.WARNING):
            engine = open_on_cpu(bundle)

        info = engine.info
        assert info.precision == F32
        assert info.warning is not None
        assert "fails the self-test" in info.warning
        assert info.warning.startswith("the network runs in f32 on")
        assert "f16" in caplog.text
        assert "fails the self-test" in caplog.text

    def test_network_that_cannot_be_converted_falls_back_with_a_warning(self, tmp_path: Path) -> None:
        engine = open_on_cpu(make_convolutional(tmp_path / "large", weight=1e6))

        assert engine.info.precision == F32
        assert "cannot be converted to f16" in (engine.info.warning or "")

    def test_f16_that_was_asked_for_does_not_fall_back(self, tmp_path: Path) -> None:
        bundle = make_convolutional(tmp_path / "detour", detour=3000.0)

        with pytest.raises(EngineError, match=r"no plan works.*f16.*fails the self-test"):
            open_on_cpu(bundle, precision=F16)

    def test_quantised_network_is_refused(self, tmp_path: Path) -> None:
        """In f32 too: the reported precision would be wrong."""
        for precision in ("auto", F32):
            with pytest.raises(EngineError, match="a quantised network, which runs on the CPU only"):
                open_on_cpu(make_quantised(tmp_path / precision), precision=precision)

    def test_clips_of_wrong_shape_are_refused(self, convolutional: Bundle) -> None:
        with pytest.raises(EngineError, match="clips must be uint8"):
            open_on_cpu(convolutional).embed(np.zeros((1, 2, 3), np.uint8))


class TestRefusals:
    """On a machine without a CUDA provider."""

    @pytest.fixture(autouse=True)
    def no_cuda(self) -> None:
        if CUDA in onnxruntime.get_available_providers():
            pytest.skip("this ONNX Runtime has a CUDA provider")

    def test_missing_cuda_provider_is_refused(self, bundle: Bundle) -> None:
        with pytest.raises(ProviderError, match=r"built without it.*not3d\[gpu\]"):
            open_engine(bundle, "cuda", cuda=CudaOptions(precision="f16"))

    def test_missing_tensorrt_provider_is_refused(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])

        with pytest.raises(ProviderError, match=r"TensorRT was asked for.*built without it"):
            open_engine(bundle, "cuda", cuda=CudaOptions(tensorrt=True))

    def test_provider_that_does_not_load_is_tried_once(
        self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Without CUDA's libraries, ONNX Runtime leaves the provider out and opens the session."""
        opened = []
        real = onnxruntime.InferenceSession

        def open_without(network: object, options: object, providers: object) -> object:
            opened.append(providers)
            return real(network, options, providers=["CPUExecutionProvider"])

        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
        monkeypatch.setattr(onnxruntime, "InferenceSession", open_without)

        with pytest.raises(ProviderError, match="could not load its CUDA provider"):
            open_engine(bundle, "cuda")
        assert len(opened) == 1
        assert "does not work" not in caplog.text

    def test_openvino_bundle_is_refused(self, bundle: Bundle) -> None:
        imported = Bundle(bundle.path, bundle.spec, bundle.path / "model.xml", bundle.embedding_space)

        with pytest.raises(EngineError, match="an OpenVINO model, which NVIDIA GPUs do not run"):
            open_engine(imported, "cuda")
