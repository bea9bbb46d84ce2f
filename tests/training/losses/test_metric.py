"""Each metric loss compared with its formula, computed in loops."""

import math

import pytest
import torch

from tests.training.losses.lists import LABELS, distance, draw, unit
from training.losses import batch_hard_triplet_loss, center_loss, osm_caa_loss, ranked_list_loss


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


def test_ranked_list_uses_the_weight_of_negatives():
    features = draw()
    loss = ranked_list_loss(features, LABELS, margin=0.7, alpha=1.5, temperature=2.0, balance=0.25)
    expected = ranked_list(features.tolist(), LABELS.tolist(), 0.7, 1.5, 2.0, balance=0.25)
    assert loss.item() == pytest.approx(expected, abs=1e-9)


def test_ranked_list_forms_differ_if_positives_are_trivial():
    features = draw()
    code, paper = (
        ranked_list_loss(features, LABELS, margin=0.3, alpha=1.5, temperature=1.0, form=form).item()
        for form in ("code", "paper")
    )
    assert paper > code + 1e-3


def test_ranked_list_ignores_the_lengths_of_features():
    features = draw()
    lengths = torch.rand(len(LABELS), 1, dtype=torch.float64) + 0.5
    torch.testing.assert_close(ranked_list_loss(features * lengths, LABELS), ranked_list_loss(features, LABELS))


def triplet(rows, labels, margin, metric):
    """Compute the triplet loss; an anchor is one of its own positives, as published."""

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
def test_only_clip_of_a_person_is_pushed_from_its_nearest_negative(metric):
    features, labels = draw() / 3, torch.tensor([0, 0, 1, 1, 2, 3, 3, 4])
    expected = triplet(features.tolist(), labels.tolist(), 1.2, metric)
    loss = batch_hard_triplet_loss(features, labels, 1.2, metric)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    alone = batch_hard_triplet_loss(features, torch.arange(8), 1.2, metric)
    assert alone.item() == pytest.approx(triplet(features.tolist(), list(range(8)), 1.2, metric), abs=1e-6)
    assert alone > 0


def test_unknown_metric_or_form_is_an_error():
    features, centers = draw(), torch.zeros(3, 6)
    with pytest.raises(ValueError, match="metric"):
        batch_hard_triplet_loss(features, LABELS, 0.3, "manhattan")
    with pytest.raises(ValueError, match="form"):
        ranked_list_loss(features, LABELS, form="both")
    with pytest.raises(ValueError, match="form"):
        center_loss(features, LABELS, centers, form="both")


@pytest.mark.parametrize("rows", [3, 751])
def test_center_loss_in_code_form_clamps_each_entry_of_its_masked_matrix(rows):
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


def test_center_loss_in_paper_form_is_half_the_sum():
    features = draw()
    centers = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    total = sum(math.dist(f, centers[y].tolist()) ** 2 for f, y in zip(features.tolist(), LABELS.tolist(), strict=True))
    assert center_loss(features, LABELS, centers, form="paper").item() == pytest.approx(total / 2, rel=1e-12)


def test_step_moves_a_center_by_its_share_of_the_batch():
    """not3d: `c <- c - (n / B) (c - mean f)`, with SGD at rate 0.5 and without the weight of the loss."""
    features, centers = draw(), torch.zeros(4, 6, dtype=torch.float64, requires_grad=True)
    center_loss(features, LABELS, centers).backward()
    moved = centers.detach() - 0.5 * centers.grad
    for person in range(3):
        own = features[person == LABELS]
        torch.testing.assert_close(moved[person], len(own) / 8 * own.mean(dim=0))
    assert not moved[3].any()


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_single_precision_is_exact_at_the_size_of_the_papers(scale):
    """8 people x 4 clips with 2048 channels and different directions: within 1e-5 of loops in float64."""
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


VECTORS = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(7))

MARS = (0.9047814732165316, 2.8436551583293728, 0.5873389293193368)
PRID = (0.8769823511927456, 1.5747007053351507, 0.5241677630566622)
CODE = (0.8, 1.2, 0.5)


def osm_caa(rows, labels, vectors, sigma, alpha, balance):
    rows, vectors = [unit(row) for row in rows], [unit(row) for row in vectors]
    attention = []
    for row, label in zip(rows, labels, strict=True):
        exponentials = [math.exp(sum(x * e for x, e in zip(row, vector, strict=True))) for vector in vectors]
        attention.append(exponentials[label] / sum(exponentials))
    sums = {"pull": [0.0, 0.0], "push": [0.0, 0.0]}
    for i in range(len(rows)):
        for j in range(len(rows)):
            if i == j:
                continue
            d = distance(rows[i], rows[j])
            h = max(alpha - d, 1e-12)
            both = min(attention[i], attention[j])
            if labels[i] == labels[j]:
                side, weight, value = "pull", math.exp(-(d**2) / sigma**2) * both, d**2
            else:
                side, weight, value = "push", h * both, h**2
            sums[side][0] += weight * value
            sums[side][1] += weight
    pull, push = (0.5 * top / bottom if bottom else 0.0 for top, bottom in sums.values())
    return (1 - balance) * pull + balance * push


@pytest.mark.parametrize(("sigma", "alpha", "balance"), [MARS, PRID, CODE, (0.3, 0.9, 0.2)])
def test_osm_caa(sigma, alpha, balance):
    features = draw()
    expected = osm_caa(features.tolist(), LABELS.tolist(), VECTORS.tolist(), sigma, alpha, balance)
    found = osm_caa_loss(features, LABELS, VECTORS, sigma=sigma, alpha=alpha, balance=balance).item()
    assert found == pytest.approx(expected, abs=1e-9)


def test_osm_caa_in_single_precision_at_the_size_of_the_papers():
    generator = torch.Generator().manual_seed(11)
    labels = torch.arange(8).repeat_interleave(4)
    features = torch.randn(8, 256, generator=generator)[labels] + 0.5 * torch.randn(32, 256, generator=generator)
    vectors = torch.randn(751, 256, generator=generator)
    expected = osm_caa(features.double().tolist(), labels.tolist(), vectors.double().tolist(), *MARS)
    sigma, alpha, balance = MARS
    found = osm_caa_loss(features * 9, labels, vectors, sigma=sigma, alpha=alpha, balance=balance).item()
    assert found == pytest.approx(expected, abs=1e-5)


def test_osm_caa_uses_directions_and_all_rows_of_class_vectors():
    found = osm_caa_loss(draw(), LABELS, VECTORS)
    torch.testing.assert_close(osm_caa_loss(draw(), LABELS, VECTORS * 100), found)
    assert osm_caa_loss(draw(), LABELS, VECTORS[:3]) != found  # rows without people count in the softmax


def test_osm_caa_gradient_reaches_features_and_class_vectors():
    features, vectors = draw().requires_grad_(), VECTORS.clone().requires_grad_()
    sigma, alpha, balance = MARS
    assert torch.autograd.gradcheck(
        lambda f, v: osm_caa_loss(f, LABELS, v, sigma=sigma, alpha=alpha, balance=balance), (features, vectors)
    )


@pytest.mark.parametrize("labels", [torch.zeros(8, dtype=torch.int64), torch.arange(8) % 5, torch.arange(8)])
def test_osm_caa_without_pairs_of_one_kind_is_zero_there(labels):
    vectors = torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    features = draw().requires_grad_()
    sigma, alpha, balance = MARS
    loss = osm_caa_loss(features, labels, vectors, sigma=sigma, alpha=alpha, balance=balance)
    loss.backward()
    expected = osm_caa(features.tolist(), labels.tolist(), vectors.tolist(), *MARS)
    assert loss.item() == pytest.approx(expected, abs=1e-9)
    assert torch.isfinite(features.grad).all()


def test_osm_caa_with_a_small_sigma_has_nonzero_weights():
    """exp(-d^2 / sigma^2) is 0 in single precision here, but the ratio of such weights is not 0 / 0."""
    features = draw().float().requires_grad_()
    loss = osm_caa_loss(features, LABELS, VECTORS.float(), sigma=0.05, alpha=1.2, balance=0.5)
    loss.backward()
    expected = osm_caa(draw().tolist(), LABELS.tolist(), VECTORS.tolist(), 0.05, 1.2, 0.5)
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    assert torch.isfinite(features.grad).all()
