import pytest

from training.loop.optimiser import learning_rate


def test_paper_form_is_the_prose_of_the_paper():
    assert learning_rate(1) == pytest.approx(3.5e-5)
    assert learning_rate(10) == pytest.approx(3.5e-4)
    assert learning_rate(40) == pytest.approx(3.5e-4)
    assert learning_rate(41) == pytest.approx(3.5e-5)
    assert learning_rate(71) == pytest.approx(3.5e-6)


def published(step, base=3.5e-4, milestones=(40, 70)):
    """Return the rate of the published scheduler after this number of calls of `step()`."""
    alpha = step / 10
    warm_up = 0.01 * (1 - alpha) + alpha if step < 10 else 1.0
    return base * warm_up * 0.1 ** len([m for m in milestones if m <= step])


@pytest.mark.parametrize(("form", "calls_before_epoch_1"), [("code", 1), ("code_after", 0)])
def test_code_forms_step_before_or_after_the_epoch(form, calls_before_epoch_1):
    for epoch in range(1, 121):
        assert learning_rate(epoch, form) == pytest.approx(published(epoch - 1 + calls_before_epoch_1)), epoch
    # Stepping before the epoch decays one epoch earlier: 39 and 69 if counted from 0.
    drops = [e for e in range(11, 121) if learning_rate(e, form) < 0.5 * learning_rate(e - 1, form)]
    assert drops == ([40, 70] if form == "code" else [41, 71])


def test_decay_is_an_option():
    assert learning_rate(41, decay=0.25) == pytest.approx(3.5e-4 / 4)
    assert learning_rate(71, "code_after", decay=0.25) == pytest.approx(3.5e-4 / 16)


def test_cosine_falls_from_the_base_to_a_hundredth():
    rates = [learning_rate(e, "cosine", base=1.0, warm_up=5, epochs=50) for e in (0.5, 5, 27.5, 50)]
    assert rates == pytest.approx([0.1, 1.0, 0.505, 0.01])


def test_wrong_arguments_raise():
    with pytest.raises(ValueError, match="count from 1"):
        learning_rate(0)
    with pytest.raises(ValueError, match="unknown"):
        learning_rate(20, "linear")
