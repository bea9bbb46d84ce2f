import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from rich.console import Console

from model.bundle import ONNX_FILE, Bundle
from tests.training.teachers import write_teacher
from training.export.bundle_assembly import ExportError
from training.loop.teacher import TeacherError
from training.loop.teacher_adaptation import adapt_teacher
from training.recipe import find_recipe

QUICK = {
    "batch.people": "4",
    "schedule.steps": "15",
    "schedule.epochs": "2",
    "optimiser.trunk_rate": "2e-3",
    "validation_share": "0.3",
}


def adapt(teacher, data, out, share=0.5, **overrides):
    return adapt_teacher(
        find_recipe("adapted-teacher"),
        teacher,
        [data],
        out,
        share=share,
        overrides=QUICK | overrides,
        device="cpu",
        console=Console(quiet=True),
    )


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return write_teacher(tmp_path_factory.mktemp("teacher"))


def weights(bundle):
    graph = onnx.load(bundle / ONNX_FILE).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def test_the_bundle_has_the_mean_of_the_weights_before_and_after(teacher, data, tmp_path, one_thread):
    start = weights(teacher)
    none, half, whole = (weights(adapt(teacher, data, tmp_path / f"{s}", s).bundle.path) for s in (0.0, 0.5, 1.0))
    changed = [name for name in start if not np.array_equal(start[name], whole[name])]
    assert len(changed) == 6  # matrices, kernels and biases of three layers
    for name, value in start.items():
        np.testing.assert_array_equal(none[name], value)
        np.testing.assert_allclose(half[name], (value + whole[name]) / 2, atol=1e-6)


def test_fine_tuning_teaches_the_people_of_the_site(teacher, data, tmp_path):
    adapted = adapt(teacher, data, tmp_path / "adapted", 1.0, validation_share="0.5")
    assert adapted.accuracy[1.0].mean_ap > adapted.accuracy[0.0].mean_ap + 0.02
    assert adapted.accuracy[0.0].valid_queries > 0


def test_the_bundle_names_what_it_learned_from(teacher, data, tmp_path):
    written = adapt(teacher, data, tmp_path / "adapted", 0.25).bundle
    spec = Bundle.load(written.path).spec
    assert spec.name == "teacher-adapted"
    assert spec.training_data.endswith(f"; then {data.name}, 0.25 of the fine-tuned weights")
    assert spec.recipe["name"] == "adapted-teacher"
    assert written.embedding_space != Bundle.load(teacher).embedding_space


def test_without_people_set_aside_nothing_is_measured(teacher, data, tmp_path, capsys):
    adapted = adapt_teacher(
        find_recipe("adapted-teacher"),
        teacher,
        [data],
        tmp_path / "adapted",
        overrides=QUICK | {"validation_share": "0"},
        device="cpu",
    )
    assert not adapted.accuracy
    assert "Accuracy is not measured" in capsys.readouterr().err


def test_what_cannot_be_adapted_is_refused(teacher, data, tmp_path):
    clips = write_teacher(tmp_path / "clips", clip_length=4)
    with pytest.raises(TeacherError, match="import it with --clip-length 1"):
        adapt(clips, data, tmp_path / "out")
    with pytest.raises(TeacherError, match=r"batch\.on_device = true"):
        adapt(teacher, data, tmp_path / "out", **{"batch.on_device": "false"})
    with pytest.raises(ExportError, match="choose a new folder"):
        adapt(teacher, data, teacher)
    with pytest.raises(TeacherError, match="a batch needs 64 people"):
        adapt(teacher, data, tmp_path / "out", **{"batch.people": "64"})
    with pytest.raises(TeacherError, match="the loss is not finite in step"):
        adapt(teacher, data, tmp_path / "out", **{"optimiser.trunk_rate": "1e30", "optimiser.learning_rate": "1e30"})
    assert not (tmp_path / "out").exists()
