import pytest

from training.schedule import learning_rate


def test_the_papers_prose():
    assert learning_rate(1) == pytest.approx(3.5e-5)
    assert learning_rate(10) == pytest.approx(3.5e-4)
    assert learning_rate(40) == pytest.approx(3.5e-4)
    assert learning_rate(41) == pytest.approx(3.5e-5)
    assert learning_rate(71) == pytest.approx(3.5e-6)


def test_the_published_code():
    assert learning_rate(1, "code") == pytest.approx(3.5e-6)
    assert learning_rate(6, "code") == pytest.approx(3.5e-4 * (0.01 * 0.5 + 0.5))
    assert learning_rate(11, "code") == pytest.approx(3.5e-4)
    assert learning_rate(39, "code") == pytest.approx(3.5e-4)
    assert learning_rate(40, "code") == pytest.approx(3.5e-5)
    assert learning_rate(70, "code") == pytest.approx(3.5e-6)


def test_cosine_falls_from_the_base_to_a_hundredth():
    rates = [learning_rate(e, "cosine", base=1.0, warm_up=5, epochs=50) for e in (0.5, 5, 27.5, 50)]
    assert rates == pytest.approx([0.1, 1.0, 0.505, 0.01])


def test_wrong_arguments_are_errors():
    with pytest.raises(ValueError, match="count from 1"):
        learning_rate(0)
    with pytest.raises(ValueError, match="unknown"):
        learning_rate(20, "linear")
