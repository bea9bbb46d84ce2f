import math

import pytest
import torch

from training.losses import erasing_attention_loss

ATTENTION = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.5]])
ERASED = torch.tensor([[False, True, True], [False, False, True]])


def test_on_logits_it_is_the_sum_over_the_clip_as_in_the_published_code():
    assert erasing_attention_loss(ATTENTION, ERASED).item() == pytest.approx(((1 + 2) + 0.5) / 2)


def test_on_scores_it_is_the_mean_over_the_clip_as_in_the_paper():
    total = 0.0
    for row, marks in zip(ATTENTION.tolist(), ERASED.tolist(), strict=True):
        scores = [math.exp(a) / sum(math.exp(b) for b in row) for a in row]
        total += sum(score for score, mark in zip(scores, marks, strict=True) if mark) / 3
    assert erasing_attention_loss(ATTENTION, ERASED, "scores").item() == pytest.approx(total / 2, abs=1e-6)


def test_marks_may_be_numbers():
    for form in ("logits", "scores"):
        whole = erasing_attention_loss(ATTENTION, ERASED, form)
        assert erasing_attention_loss(ATTENTION, ERASED.float(), form) == whole
        assert erasing_attention_loss(ATTENTION, ERASED.long(), form) == whole


def test_a_frame_that_was_not_erased_gets_no_gradient_on_logits():
    attention = ATTENTION.clone().requires_grad_()
    erasing_attention_loss(attention, ERASED).backward()
    torch.testing.assert_close(attention.grad, ERASED.float() / 2)


def test_without_erased_frames_it_is_zero():
    for form in ("logits", "scores"):
        assert erasing_attention_loss(ATTENTION, torch.zeros_like(ERASED), form) == 0


def test_an_unknown_form_is_an_error():
    with pytest.raises(ValueError, match="form"):
        erasing_attention_loss(ATTENTION, ERASED, "both")
