import math

import pytest
import torch

from tests.training.runs import rows
from training.loop.run_log import LOG, RunLog, attention_health, attention_warning


def test_all_zero_logits_count_as_dead_and_have_equal_weights():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 2.0], [1.0, 1.0, 1.0, 1.0]])
    figures = attention_health(logits)
    assert figures["dead_attention"] == pytest.approx(1 / 3)
    weights = [math.exp(v) / (3 + math.exp(2)) for v in (0, 0, 0, 2)]
    entropy = -sum(w * math.log(w) for w in weights) / math.log(4)
    assert figures["attention_entropy"] == pytest.approx((1 + entropy + 1) / 3)


def test_clips_of_one_frame_have_no_figures():
    assert attention_health(torch.zeros(3, 1)) == {}
    assert attention_warning({}) is None


@pytest.mark.parametrize(
    ("dead", "entropy", "says"),
    [(0.0, 0.98, None), (0.49, 0.99, None), (0.97, 0.998, "97 % of the clips"), (0.0, 0.9999, "0.9999 of log T")],
)
def test_warning_says_what_was_found_and_what_to_do(dead, entropy, says):
    warning = attention_warning({"dead_attention": dead, "attention_entropy": entropy})
    if says is None:
        assert warning is None
    else:
        assert says in warning
        assert "network.attention_bias" in warning
        assert 'losses.erasing_attention_form = "scores"' in warning


@pytest.mark.parametrize("rest", ["", "2", "x,1\n", ",\n", "\0\0\0", "\ufffd\n"])
def test_log_that_a_killed_run_left_unfinished_is_continued(tmp_path, rest):
    first = RunLog(tmp_path, 0)
    first.write(1, {"total": 0.5})
    first.close()
    with (tmp_path / LOG).open("a", encoding="utf-8") as file:
        file.write(rest)

    again = RunLog(tmp_path, 1)
    again.write(2, {"total": 0.25})
    again.close()

    assert [(row["epoch"], row["total"]) for row in rows(tmp_path)] == [("1", "0.5"), ("2", "0.25")]


def test_log_of_another_program_is_replaced(tmp_path):
    (tmp_path / LOG).write_text("name,value\na,1\n")
    RunLog(tmp_path, 1).close()
    assert rows(tmp_path) == []
