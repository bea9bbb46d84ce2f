"""Each metric loss against its formula written out in loops."""

import math

import pytest
import torch

from tests.training.losses.written_out import LABELS, distance, draw, unit
from training.losses import batch_hard_triplet_loss, center_loss, ranked_list_loss


def ranked_list(rows, labels, margin, alpha, temperature, *, form="code", balance=1.0):
    rows = [unit(row) for row in rows]
    small = 1e-5 if form == "code" else 0.0
    total = 0.0
    for i, anchor in enumerate(rows):
        positives = [distance(anchor, row) for j, row in enumerate(rows) if j != i and labels[j] == labels[i]]
        negatives = [distance(anchor, row) for j, row in enumerate(rows) if labels[j] != labels[i]]
        beyond = [max(0.0, d - (alpha - margin)) for d in positives]
        counted = len(positives) if form == "code" else sum(value > 0 for value in beyond)
        if counted:
            total += sum(beyond) / (counted + small)
        weighed = [(math.exp(temperature * (alpha - d)), alpha - d) for d in negatives if d < alpha]
        if weighed:
            total += balance * sum(w * v for w, v in weighed) / (sum(w for w, _ in weighed) + small)
    return total / len(rows)


@pytest.mark.parametrize("form", ["code", "paper"])
@pytest.mark.parametrize(
    ("margin", "alpha", "temperature"), [(1.3, 2.0, 1.0), (0.04, 2.0, 1.0), (0.7, 1.5, 2.0), (0.4, 1.2, 10.0)]
)
def test_ranked_list(margin, alpha, temperature, form):
    features = draw()
    loss = ranked_list_loss(features, LABELS, margin=margin, alpha=alpha, temperature=temperature, form=form)
    expected = ranked_list(features.tolist(), LABELS.tolist(), margin, alpha, temperature, form=form)
    assert loss.item() == pytest.approx(expected, abs=1e-9)


def test_ranked_list_weighs_its_negatives():
    features = draw()
    loss = ranked_list_loss(features, LABELS, margin=0.7, alpha=1.5, temperature=2.0, balance=0.25)
    expected = ranked_list(features.tolist(), LABELS.tolist(), 0.7, 1.5, 2.0, balance=0.25)
    assert loss.item() == pytest.approx(expected, abs=1e-9)


def test_ranked_list_forms_differ_where_positives_are_trivial():
    features = draw()
    code, paper = (
        ranked_list_loss(features, LABELS, margin=0.3, alpha=1.5, temperature=1.0, form=form).item()
        for form in ("code", "paper")
    )
    assert paper > code + 1e-3


def test_ranked_list_does_not_see_lengths():
    features = draw()
    lengths = torch.rand(len(LABELS), 1, dtype=torch.float64) + 0.5
    torch.testing.assert_close(ranked_list_loss(features * lengths, LABELS), ranked_list_loss(features, LABELS))


def triplet(rows, labels, margin, metric):
    """The anchor is among its own positives, as published."""

    def between(a, b):
        if metric == "euclidean":
            return distance(a, b)
        return -sum(x * y for x, y in zip(unit(a), unit(b), strict=True))

    total = 0.0
    for i, anchor in enumerate(rows):
        same = [between(anchor, row) for j, row in enumerate(rows) if labels[j] == labels[i]]
        other = [between(anchor, row) for j, row in enumerate(rows) if labels[j] != labels[i]]
        total += max(0.0, margin + max(same) - min(other))
    return total / len(rows)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("margin", [0.0, 4.4132437486402204e-05, 0.040520629258433416, 0.3, 2.0])
def test_batch_hard_triplet(metric, margin):
    features = draw()
    expected = triplet(features.tolist(), LABELS.tolist(), margin, metric)
    assert batch_hard_triplet_loss(features, LABELS, margin, metric).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_only_clip_of_a_person_is_pushed_from_its_nearest_negative(metric):
    features, labels = draw() / 3, torch.tensor([0, 0, 1, 1, 2, 3, 3, 4])
    expected = triplet(features.tolist(), labels.tolist(), 1.2, metric)
    loss = batch_hard_triplet_loss(features, labels, 1.2, metric)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    alone = batch_hard_triplet_loss(features, torch.arange(8), 1.2, metric)
    assert alone.item() == pytest.approx(triplet(features.tolist(), list(range(8)), 1.2, metric), abs=1e-6)
    assert alone > 0


def test_an_unknown_metric_or_form_is_an_error():
    features, centers = draw(), torch.zeros(3, 6)
    with pytest.raises(ValueError, match="metric"):
        batch_hard_triplet_loss(features, LABELS, 0.3, "manhattan")
    with pytest.raises(ValueError, match="form"):
        ranked_list_loss(features, LABELS, form="both")
    with pytest.raises(ValueError, match="form"):
        center_loss(features, LABELS, centers, form="both")


@pytest.mark.parametrize("rows", [3, 751])
def test_center_loss_as_in_the_code_clamps_every_entry_of_its_masked_matrix(rows):
    features = draw()
    centers = torch.randn(rows, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    features = torch.cat([features, centers[:1]])  # a clip on its center
    labels = torch.cat([LABELS, LABELS.new_zeros(1)])
    total = 0.0
    for row, label in zip(features.tolist(), labels.tolist(), strict=True):
        for k, center in enumerate(centers.tolist()):
            masked = math.dist(row, center) ** 2 if k == label else 0.0
            total += min(max(masked, 1e-12), 1e12)
    assert center_loss(features, labels, centers).item() == pytest.approx(
        total / 9, abs=1e-11
    )  # the constant is 7.5e-10 with 751 rows


def test_center_loss_as_in_the_paper_is_half_the_sum():
    features = draw()
    centers = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    total = sum(math.dist(f, centers[y].tolist()) ** 2 for f, y in zip(features.tolist(), LABELS.tolist(), strict=True))
    assert center_loss(features, LABELS, centers, form="paper").item() == pytest.approx(total / 2, rel=1e-12)


def test_one_step_moves_a_center_by_its_share_of_the_batch():
    """System A: ``c <- c - (n / B) (c - mean f)`` with SGD at rate 0.5 and the loss's weight taken out."""
    features, centers = draw(), torch.zeros(4, 6, dtype=torch.float64, requires_grad=True)
    center_loss(features, LABELS, centers).backward()
    moved = centers.detach() - 0.5 * centers.grad
    for person in range(3):
        own = features[person == LABELS]
        torch.testing.assert_close(moved[person], len(own) / 8 * own.mean(dim=0))
    assert not moved[3].any()


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_single_precision_holds_at_the_papers_size(scale):
    """8 people x 4 clips, 2048 channels, not all of one direction: within 1e-5 of float64 loops."""
    generator = torch.Generator().manual_seed(11)
    labels = torch.arange(8).repeat_interleave(4)
    people = torch.randn(8, 2048, generator=generator)[labels]
    features = scale * (people + 0.5 * torch.randn(32, 2048, generator=generator))
    rows, ids = features.double().tolist(), labels.tolist()
    found = ranked_list_loss(features, labels, margin=1.3, alpha=2.0, temperature=1.0).item()
    assert found == pytest.approx(ranked_list(rows, ids, 1.3, 2.0, 1.0), abs=1e-5)
    found = batch_hard_triplet_loss(features, labels, 0.8).item()
    assert found == pytest.approx(triplet(rows, ids, 0.8, "cosine"), abs=1e-5)
    found = batch_hard_triplet_loss(features, labels, 50.0 * scale, "euclidean").item()
    assert found == pytest.approx(triplet(rows, ids, 50.0 * scale, "euclidean"), rel=1e-5)
