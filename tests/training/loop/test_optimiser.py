import pytest
import torch
from torch import nn

from training.loop.optimiser import OptimiserSettings, build_optimiser, learning_rate, set_learning_rates


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


@pytest.fixture
def network():
    parts = nn.ModuleDict({"base": nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), "classifier": nn.Linear(3, 2)})
    parts["base"][0].bias.requires_grad_(False)
    return parts


def rates(optimiser):
    return {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}


def test_backbone_has_its_own_rate_and_frozen_weights_have_none(network):
    settings = OptimiserSettings(name="adamw", learning_rate=2e-3, trunk_rate=4e-4)
    optimiser = build_optimiser(network, settings)
    set_learning_rates(optimiser.param_groups, settings, 1e-3, step=0)  # the schedule is at half of the rate
    found = rates(optimiser)
    assert found[id(network["classifier"].weight)] == pytest.approx(1e-3)
    assert found[id(network["base"][0].weight)] == pytest.approx(2e-4)
    assert id(network["base"][0].bias) not in found


def test_first_steps_train_the_head_only_and_then_the_rate_of_the_backbone_rises(network):
    settings = OptimiserSettings(name="adamw", learning_rate=1e-2, trunk_rate=1e-3, head_steps=4)
    optimiser = build_optimiser(network, settings)
    trunk, head = network["base"][0].weight, network["classifier"].weight
    seen = []
    for step in range(10):
        set_learning_rates(optimiser.param_groups, settings, 1e-2, step)
        seen.append(rates(optimiser)[id(trunk)])
        assert rates(optimiser)[id(head)] == 1e-2
    assert seen == pytest.approx([0, 0, 0, 0, 2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3, 1e-3])


def test_rate_of_zero_does_not_change_the_backbone(network):
    settings = OptimiserSettings(name="adamw", learning_rate=1e-2, head_steps=1, weight_decay=0.1)
    optimiser = build_optimiser(network, settings)
    before = network["base"][0].weight.detach().clone()
    set_learning_rates(optimiser.param_groups, settings, 1e-2, step=0)
    network["classifier"](network["base"](torch.randn(4, 2))).sum().backward()
    optimiser.step()
    torch.testing.assert_close(network["base"][0].weight, before, rtol=0, atol=0)


def test_by_default_all_weights_are_in_one_group_as_published(network):
    settings = OptimiserSettings()
    assert len(build_optimiser(network, settings).param_groups) == 1
