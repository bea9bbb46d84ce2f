import pytest
import torch

from training.losses import distillation_loss, relation_loss


def test_distillation_is_zero_for_the_same_directions_and_two_for_opposite_ones():
    features = torch.randn(5, 8)
    assert distillation_loss(3 * features, features) == pytest.approx(0, abs=1e-6)
    assert distillation_loss(-features, features) == pytest.approx(2, abs=1e-6)


def test_distillation_needs_features_of_the_teachers_length():
    with pytest.raises(ValueError, match=r"\(got 8 and 6\): set network.embedding = 6"):
        distillation_loss(torch.randn(5, 8), torch.randn(5, 6))


def test_relation_compares_cosines_between_crops_whatever_the_lengths():
    teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    rotated = torch.cat([teacher, torch.zeros(3, 1)], dim=1) @ torch.linalg.qr(torch.randn(3, 3)).Q
    assert relation_loss(5 * rotated, teacher) == pytest.approx(0, abs=1e-6)
    same = torch.ones(3, 2)  # all cosines 1; the teacher's are 0, 0.7071 and 0.7071
    expected = (2 * 1 + 4 * (1 - 2**-0.5) ** 2) / 6
    assert relation_loss(same, teacher) == pytest.approx(expected, abs=1e-5)


def test_both_pull_features_to_the_teacher():
    torch.manual_seed(0)
    features, teacher = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4)
    optimiser = torch.optim.SGD([features], lr=1.0)
    before = (distillation_loss(features, teacher) + relation_loss(features, teacher)).item()
    for _ in range(50):
        optimiser.zero_grad()
        loss = distillation_loss(features, teacher) + relation_loss(features, teacher)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.3 * before
