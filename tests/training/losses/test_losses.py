"""Each loss against its formula written out in loops, and its gradient against finite differences."""

import math

import pytest
import torch

from training.losses import (
    batch_hard_triplet_loss,
    center_loss,
    erasing_attention_loss,
    label_smoothing_loss,
    ranked_list_loss,
)

LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 2, 0])
CENTERS = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))

METRIC_LOSSES = {
    "ranked_list": lambda f, y: ranked_list_loss(f, y, margin=0.7, alpha=1.5, temperature=2.0),
    "triplet_cosine": lambda f, y: batch_hard_triplet_loss(f, y, 0.3),
    "triplet_euclidean": lambda f, y: batch_hard_triplet_loss(f, y, 0.3, "euclidean"),
    "center": lambda f, y: center_loss(f, y, CENTERS if f.dtype == torch.float64 else CENTERS.float()),
}


@pytest.fixture
def features():
    return torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)


def test_label_smoothing_written_out():
    logits = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([2, 0, 3])
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        log_sum = math.log(sum(math.exp(z) for z in row))
        targets = [0.1 / 4 + (0.9 if i == label else 0.0) for i in range(4)]
        total -= sum(q * (z - log_sum) for q, z in zip(targets, row, strict=True))
    assert label_smoothing_loss(logits, labels, 0.1).item() == pytest.approx(total / 3, abs=1e-12)


def test_ranked_list_written_out(features):
    alpha, margin, temperature = 1.5, 0.7, 2.0
    unit = [[v / math.dist(row, [0] * 6) for v in row] for row in features.tolist()]
    total = 0.0
    for i, anchor in enumerate(unit):
        others = [(math.dist(anchor, row), LABELS[j] == LABELS[i]) for j, row in enumerate(unit) if j != i]
        positives = [d for d, same in others if same]
        pull = sum(max(0.0, d - (alpha - margin)) for d in positives) / (len(positives) + 1e-5)
        weighed = [(math.exp(temperature * (alpha - d)), alpha - d) for d, same in others if not same and d < alpha]
        push = sum(w * v for w, v in weighed) / (sum(w for w, _ in weighed) + 1e-5)
        total += pull + push
    loss = ranked_list_loss(features, LABELS, margin=margin, alpha=alpha, temperature=temperature)
    assert loss.item() == pytest.approx(total / 8, abs=1e-9)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_batch_hard_triplet_written_out(features, metric):
    rows = features.tolist()

    def distance(a, b):
        if metric == "euclidean":
            return math.dist(a, b)
        return -sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))

    total = 0.0
    for i, anchor in enumerate(rows):
        same = [distance(anchor, r) for j, r in enumerate(rows) if j != i and LABELS[j] == LABELS[i]]
        other = [distance(anchor, r) for j, r in enumerate(rows) if LABELS[j] != LABELS[i]]
        total += max(0.0, 0.3 + max(same) - min(other))
    assert batch_hard_triplet_loss(features, LABELS, 0.3, metric).item() == pytest.approx(total / 8, abs=1e-6)


def test_center_loss_written_out(features):
    total = sum(math.dist(f, CENTERS[y].tolist()) ** 2 for f, y in zip(features.tolist(), LABELS.tolist(), strict=True))
    assert center_loss(features, LABELS, CENTERS).item() == pytest.approx(total / 8, abs=1e-9)


def test_erasing_attention_in_both_forms():
    attention = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]])
    erased = torch.tensor([[False, True, True], [False, False, True]])
    assert erasing_attention_loss(attention, erased).item() == pytest.approx((1 + 2 + 0) / 2)
    scores = torch.softmax(attention, dim=1)
    expected = (scores[0, 1] + scores[0, 2] + scores[1, 2]).item() / 3 / 2
    assert erasing_attention_loss(attention, erased, "scores").item() == pytest.approx(expected)
    with pytest.raises(ValueError, match="form"):
        erasing_attention_loss(attention, erased, "both")


@pytest.mark.parametrize("name", METRIC_LOSSES)
def test_gradients_agree_with_finite_differences(features, name):
    assert torch.autograd.gradcheck(lambda f: METRIC_LOSSES[name](f, LABELS), (features,))


def test_gradient_of_label_smoothing(features):
    assert torch.autograd.gradcheck(lambda f: label_smoothing_loss(f, LABELS, 0.1), (features,))


@pytest.mark.parametrize("name", METRIC_LOSSES)
@pytest.mark.parametrize("labels", [torch.zeros(8, dtype=torch.int64), torch.arange(8) % 3])
def test_degenerate_batches_stay_finite(name, labels):
    """One person only; every tracklet the same vector."""
    features = torch.ones(8, 6, requires_grad=True)
    loss = METRIC_LOSSES[name](features, labels)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(features.grad).all()


@pytest.mark.parametrize("name", ["ranked_list", "triplet_cosine", "triplet_euclidean"])
def test_one_tracklet_per_person_gives_no_pull(name):
    features = torch.randn(3, 6, requires_grad=True)
    loss = METRIC_LOSSES[name](features, torch.arange(3))
    loss.backward()
    assert torch.isfinite(features.grad).all()


@pytest.mark.parametrize("name", METRIC_LOSSES)
def test_half_precision_features_lose_nothing_but_their_rounding(features, name):
    wide = METRIC_LOSSES[name](features.detach().bfloat16().double(), LABELS)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = METRIC_LOSSES[name](features.detach().bfloat16(), LABELS)
    assert narrow.dtype == torch.float32
    assert narrow.item() == pytest.approx(wide.item(), rel=1e-5)
