import importlib
import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import onnxruntime
import pytest

from model.bundle import Bundle
from model.cgroups import available_cpus
from model.engines import EngineError, open_engine
from model.engines.choice import (
    CHOICE_FILE,
    choice_key,
    cpu_model,
    installed_engines,
    load_choice,
    save_choice,
)
from tests.bundles import make_bundle


def hide(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Make packages look uninstalled, and import the engines' modules again."""
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
    for module in ("model.engines.onnx_runtime", "model.engines.openvino_engine"):
        monkeypatch.delitem(sys.modules, module, raising=False)


def test_both_engines_of_the_cpu_extra_are_seen() -> None:
    assert set(installed_engines()) == {"onnxruntime", "openvino"}


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_the_engine_asked_for_is_opened(bundle: Bundle, name: str) -> None:
    engine = open_engine(bundle, "cpu", engine=name, threads=1)  # type: ignore[arg-type]

    assert (engine.name, engine.device, engine.threads) == (name, "cpu", 1)


def test_threads_follow_the_cpus_of_the_container(bundle: Bundle) -> None:
    assert open_engine(bundle, "cpu", engine="onnxruntime").threads == available_cpus()


def test_zero_threads_are_refused(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="threads must be at least 1"):
        open_engine(bundle, threads=0)


@pytest.mark.parametrize(("name", "package"), [("onnxruntime", "onnxruntime"), ("openvino", "openvino")])
def test_missing_package_is_named(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, name: str, package: str) -> None:
    hide(monkeypatch, package)

    with pytest.raises(EngineError, match=rf"'{name}' is not installed.*pip install 'not3d\[cpu\]'"):
        open_engine(bundle, "cpu", engine=name)  # type: ignore[arg-type]


def test_without_any_engine_the_extra_is_named(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "onnxruntime", "openvino")

    with pytest.raises(EngineError, match=r"no engine is installed.*not3d\[cpu\]"):
        open_engine(bundle)


def test_the_only_engine_needs_no_measurement(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hide(monkeypatch, "openvino")

    assert open_engine(bundle, cache_dir=tmp_path).name == "onnxruntime"
    assert not (tmp_path / CHOICE_FILE).exists()


@pytest.fixture(autouse=True)
def warnings_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A service that ran in this process before may have logged errors only."""
    caplog.set_level(logging.WARNING)


class TestCuda:
    """On a machine without a CUDA provider, which the device auto would use."""

    @pytest.fixture(autouse=True)
    def no_cuda(self) -> None:
        assert "CUDAExecutionProvider" not in onnxruntime.get_available_providers()

    def test_missing_provider_is_an_error(self, bundle: Bundle) -> None:
        with pytest.raises(EngineError, match=r"CUDA was asked for.*built without it.*not3d\[gpu\]"):
            open_engine(bundle, "cuda")

    def test_provider_that_does_not_load_is_an_error(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        drop_cuda(monkeypatch)

        with pytest.raises(EngineError, match="could not load its CUDA provider"):
            open_engine(bundle, "cuda")

    def test_auto_uses_the_cpu_and_logs_why(
        self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        drop_cuda(monkeypatch)

        engine = open_engine(bundle, "auto", engine="onnxruntime")

        assert engine.device == "cpu"
        assert "device auto uses the CPU" in caplog.text

    def test_openvino_is_refused(self, bundle: Bundle) -> None:
        with pytest.raises(EngineError, match="OpenVINO has no CUDA"):
            open_engine(bundle, "cuda", engine="openvino")


def drop_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behave as onnxruntime-gpu without its CUDA libraries does: offer CUDA, then open the session on the CPU."""
    real = onnxruntime.InferenceSession

    def on_the_cpu(path: Path, options: object, providers: object) -> object:
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(onnxruntime, "InferenceSession", on_the_cpu)


class TestFastest:
    def test_fastest_engine_is_measured_and_saved(
        self, bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO):
            first = open_engine(bundle, "cpu", cache_dir=tmp_path, threads=1)
        assert "clips per second" in caplog.text
        assert json.loads((tmp_path / CHOICE_FILE).read_text())["engine"] == first.name

        caplog.clear()
        with caplog.at_level(logging.INFO):
            second = open_engine(bundle, "cpu", cache_dir=tmp_path, threads=1)
        assert second.name == first.name
        assert "clips per second" not in caplog.text

    def test_the_slower_engine_is_not_taken(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        module = importlib.import_module("model.engines.onnx_runtime")
        embed = module.OnnxRuntimeEngine.embed

        def slow(self: object, clips: object) -> object:
            time.sleep(0.5)
            return embed(self, clips)

        monkeypatch.setattr(module.OnnxRuntimeEngine, "embed", slow)

        assert open_engine(bundle, "cpu").name == "openvino"

    def test_engine_that_fails_the_self_test_is_left_out(
        self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        module = importlib.import_module("model.engines.openvino_engine")
        monkeypatch.setattr(
            module.OpenVinoEngine, "embed", lambda self, clips: -bundle.golden().embeddings[: len(clips)]
        )

        assert open_engine(bundle, "cpu").name == "onnxruntime"
        assert "engine left out of the choice: openvino" in caplog.text

    def test_network_that_no_engine_runs_is_an_error(self, damaged: Bundle) -> None:
        with pytest.raises(EngineError, match=r"no engine can run the bundle: onnxruntime: .*openvino: "):
            open_engine(damaged, "cpu")


class TestSavedChoice:
    def test_choice_is_loaded_for_its_key_only(self, tmp_path: Path) -> None:
        save_choice(tmp_path / "new" / "folder", "key", "openvino")

        assert load_choice(tmp_path / "new" / "folder", "key") == "openvino"
        assert load_choice(tmp_path / "new" / "folder", "other") is None
        assert load_choice(tmp_path, "key") is None
        assert load_choice(None, "key") is None

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"key": "key"}', '{"key": "key", "engine": "abacus"}'])
    def test_damaged_choice_is_ignored(self, tmp_path: Path, content: str) -> None:
        (tmp_path / CHOICE_FILE).write_text(content)

        assert load_choice(tmp_path, "key") is None

    def test_unwritable_folder_is_logged(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (tmp_path / "file").write_text("")

        save_choice(tmp_path / "file" / "cache", "key", "openvino")

        assert "cannot be saved" in caplog.text

    def test_key_depends_on_bundle_threads_engines_and_versions(self, bundle: Bundle, tmp_path: Path) -> None:
        other = Bundle.load(make_bundle(tmp_path, seed=1))
        keys = {
            choice_key(bundle, 2, {"openvino": "1"}),
            choice_key(other, 2, {"openvino": "1"}),
            choice_key(bundle, 3, {"openvino": "1"}),
            choice_key(bundle, 2, {"openvino": "2"}),
            choice_key(bundle, 2, {"onnxruntime": "1"}),
        }
        assert len(keys) == 5

    def test_processors_differ_by_name_and_instructions(self, tmp_path: Path) -> None:
        path = tmp_path / "cpuinfo"
        first = (
            "processor\t: 0\nmodel name\t: EPYC\nMHz\t: 2400\nflags\t: avx512\n\nprocessor\t: 1\nmodel name\t: EPYC\n"
        )
        path.write_text(first)
        plain = cpu_model(path)
        path.write_text(first.replace("2400", "3100"))
        assert cpu_model(path) == plain
        path.write_text(first.replace("avx512", "avx512 amx_bf16"))
        assert cpu_model(path) != plain
        assert cpu_model(tmp_path / "absent") == "unknown"


def test_engines_import_neither_torch_nor_onnx(bundle: Bundle) -> None:
    program = (
        "import sys; from pathlib import Path; from model.bundle import Bundle; from model.engines import choice; "
        f"Bundle.load(Path({str(bundle.path)!r})); assert len(choice.installed_engines()) == 2; "
        "sys.exit(', '.join({'torch', 'onnx'} & set(sys.modules)) or 0)"
    )

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stderr
