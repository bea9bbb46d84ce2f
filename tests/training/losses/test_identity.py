import math

import pytest
import torch
from torch.nn import functional as F

from training.losses import label_smoothing_loss


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.3])
def test_label_smoothing_written_out(epsilon):
    """System A: ``q_i = (1 - eps) [i = y] + eps / K``, K all classes, whatever the batch holds."""
    logits = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([2, 0, 3])
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        log_sum = math.log(sum(math.exp(z) for z in row))
        targets = [epsilon / 4 + (1 - epsilon if i == label else 0.0) for i in range(4)]
        assert sum(targets) == pytest.approx(1)
        total -= sum(q * (z - log_sum) for q, z in zip(targets, row, strict=True))
    assert label_smoothing_loss(logits, labels, epsilon).item() == pytest.approx(total / 3, abs=1e-12)


def test_it_is_the_librarys_at_system_a_s_size():
    generator = torch.Generator().manual_seed(2)
    logits, labels = torch.randn(32, 625, generator=generator) * 5, torch.randint(625, (32,), generator=generator)
    expected = F.cross_entropy(logits.double(), labels, label_smoothing=0.1).item()
    assert label_smoothing_loss(logits, labels).item() == pytest.approx(expected, abs=1e-5)


def test_large_logits_neither_overflow_nor_vanish():
    logits = torch.tensor([[6e4, -6e4, 0.0]], dtype=torch.float16, requires_grad=True)
    loss = label_smoothing_loss(logits, torch.tensor([1]), 0.1)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx((0.9 + 0.1 / 3) * 1.2e5 + 0.1 / 3 * 6e4, rel=1e-3)
    assert torch.isfinite(logits.grad).all()
