import pytest

from model.errors import MissingExtra, Not3dError, extra


def test_missing_package_names_the_package_and_the_extra():
    expected = r"`no_such_package` is not installed.*pip install 'not3d\[train\]'"
    with pytest.raises(MissingExtra, match=expected), extra("train"):
        import no_such_package.part  # noqa: F401


def test_package_that_does_not_load_names_the_reason_and_the_extra():
    expected = r"`cv2` cannot be imported \(libGL\.so\.1\).*pip install 'not3d\[server\]'"
    with pytest.raises(MissingExtra, match=expected), extra("server"):
        raise ImportError("libGL.so.1", name="cv2")


def test_wrong_import_in_this_project_keeps_its_traceback():
    with pytest.raises(ModuleNotFoundError, match=r"training\.no_such_module"), extra("train"):
        import training.no_such_module  # noqa: F401


def test_missing_extra_is_an_error_for_people():
    assert issubclass(MissingExtra, Not3dError)


def test_other_errors_pass_unchanged():
    with pytest.raises(KeyError), extra("train"):
        raise KeyError("x")
