import math

import pytest
import torch

from tests.training.losses.written_out import LABELS, distance, draw, unit
from training.losses import osm_caa_loss

VECTORS = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(7))

MARS = (0.9047814732165316, 2.8436551583293728, 0.5873389293193368)
PRID = (0.8769823511927456, 1.5747007053351507, 0.5241677630566622)
CODE = (0.8, 1.2, 0.5)


def written_out(rows, labels, vectors, sigma, alpha, balance):
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
def test_it_is_the_formula(sigma, alpha, balance):
    features = draw()
    expected = written_out(features.tolist(), LABELS.tolist(), VECTORS.tolist(), sigma, alpha, balance)
    found = osm_caa_loss(features, LABELS, VECTORS, sigma=sigma, alpha=alpha, balance=balance).item()
    assert found == pytest.approx(expected, abs=1e-9)


def test_the_papers_size_in_single_precision():
    generator = torch.Generator().manual_seed(11)
    labels = torch.arange(8).repeat_interleave(4)
    features = torch.randn(8, 256, generator=generator)[labels] + 0.5 * torch.randn(32, 256, generator=generator)
    vectors = torch.randn(751, 256, generator=generator)
    expected = written_out(features.double().tolist(), labels.tolist(), vectors.double().tolist(), *MARS)
    sigma, alpha, balance = MARS
    found = osm_caa_loss(features * 9, labels, vectors, sigma=sigma, alpha=alpha, balance=balance).item()
    assert found == pytest.approx(expected, abs=1e-5)


def test_class_vectors_count_by_direction_and_through_every_row():
    found = osm_caa_loss(draw(), LABELS, VECTORS)
    torch.testing.assert_close(osm_caa_loss(draw(), LABELS, VECTORS * 100), found)
    assert osm_caa_loss(draw(), LABELS, VECTORS[:3]) != found  # rows without people are in the softmax


def test_gradient_reaches_features_and_class_vectors():
    features, vectors = draw().requires_grad_(), VECTORS.clone().requires_grad_()
    sigma, alpha, balance = MARS
    assert torch.autograd.gradcheck(
        lambda f, v: osm_caa_loss(f, LABELS, v, sigma=sigma, alpha=alpha, balance=balance), (features, vectors)
    )


@pytest.mark.parametrize("labels", [torch.zeros(8, dtype=torch.int64), torch.arange(8) % 5, torch.arange(8)])
def test_without_positives_or_without_negatives_that_side_is_zero(labels):
    vectors = torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    features = draw().requires_grad_()
    sigma, alpha, balance = MARS
    loss = osm_caa_loss(features, labels, vectors, sigma=sigma, alpha=alpha, balance=balance)
    loss.backward()
    expected = written_out(features.tolist(), labels.tolist(), vectors.tolist(), *MARS)
    assert loss.item() == pytest.approx(expected, abs=1e-9)
    assert torch.isfinite(features.grad).all()


def test_a_small_sigma_does_not_make_every_weight_zero():
    """exp(-d^2 / sigma^2) is 0 in single precision here; the ratio of such weights is not 0 / 0."""
    features = draw().float().requires_grad_()
    loss = osm_caa_loss(features, LABELS, VECTORS.float(), sigma=0.05, alpha=1.2, balance=0.5)
    loss.backward()
    expected = written_out(draw().tolist(), LABELS.tolist(), VECTORS.tolist(), 0.05, 1.2, 0.5)
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    assert torch.isfinite(features.grad).all()
