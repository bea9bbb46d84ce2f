"""Identity and erasing-attention loss compared with their formulas."""

import math

import pytest
import torch
from torch.nn import functional as F

from training.losses import erasing_attention_loss, label_smoothing_loss

ATTENTION = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.5]])
ERASED = torch.tensor([[False, True, True], [False, False, True]])


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.3])
def test_label_smoothing_is_the_formula(epsilon):
    """not3d: `q_i = (1 - eps) [i = y] + eps / K`; K is the number of all classes, not of those in the batch."""
    logits = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([2, 0, 3])
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        log_sum = math.log(sum(math.exp(z) for z in row))
        targets = [epsilon / 4 + (1 - epsilon if i == label else 0.0) for i in range(4)]
        assert sum(targets) == pytest.approx(1)
        total -= sum(q * (z - log_sum) for q, z in zip(targets, row, strict=True))
    assert label_smoothing_loss(logits, labels, epsilon).item() == pytest.approx(total / 3, abs=1e-12)


def test_label_smoothing_equals_pytorch_at_the_size_of_not3d():
    generator = torch.Generator().manual_seed(2)
    logits, labels = torch.randn(32, 625, generator=generator) * 5, torch.randint(625, (32,), generator=generator)
    expected = F.cross_entropy(logits.double(), labels, label_smoothing=0.1).item()
    assert label_smoothing_loss(logits, labels).item() == pytest.approx(expected, abs=1e-5)


def test_label_smoothing_of_large_logits_is_finite():
    logits = torch.tensor([[6e4, -6e4, 0.0]], dtype=torch.float16, requires_grad=True)
    loss = label_smoothing_loss(logits, torch.tensor([1]), 0.1)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx((0.9 + 0.1 / 3) * 1.2e5 + 0.1 / 3 * 6e4, rel=1e-3)
    assert torch.isfinite(logits.grad).all()


def test_erasing_attention_on_logits_is_the_sum_of_the_published_code():
    assert erasing_attention_loss(ATTENTION, ERASED).item() == pytest.approx(((1 + 2) + 0.5) / 2)


def test_erasing_attention_on_scores_is_the_mean_of_the_paper():
    total = 0.0
    for row, marks in zip(ATTENTION.tolist(), ERASED.tolist(), strict=True):
        scores = [math.exp(a) / sum(math.exp(b) for b in row) for a in row]
        total += sum(score for score, mark in zip(scores, marks, strict=True) if mark) / 3
    assert erasing_attention_loss(ATTENTION, ERASED, "scores").item() == pytest.approx(total / 2, abs=1e-6)


def test_erased_marks_may_be_numbers():
    for form in ("logits", "scores"):
        expected = erasing_attention_loss(ATTENTION, ERASED, form)
        assert erasing_attention_loss(ATTENTION, ERASED.float(), form) == expected
        assert erasing_attention_loss(ATTENTION, ERASED.long(), form) == expected


def test_frame_that_was_not_erased_gets_no_gradient_on_logits():
    attention = ATTENTION.clone().requires_grad_()
    erasing_attention_loss(attention, ERASED).backward()
    torch.testing.assert_close(attention.grad, ERASED.float() / 2)


def test_erasing_attention_without_erased_frames_is_zero():
    for form in ("logits", "scores"):
        assert erasing_attention_loss(ATTENTION, torch.zeros_like(ERASED), form) == 0


def test_unknown_form_is_an_error():
    with pytest.raises(ValueError, match="form"):
        erasing_attention_loss(ATTENTION, ERASED, "both")
