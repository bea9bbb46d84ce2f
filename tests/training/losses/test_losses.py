"""What holds for all losses: gradients, edge cases of batches, and half precision."""

import pytest
import torch

from tests.training.losses.lists import LABELS, draw
from training.losses import (
    batch_hard_triplet_loss,
    center_loss,
    erasing_attention_loss,
    label_smoothing_loss,
    osm_caa_loss,
    ranked_list_loss,
)

VECTORS = torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
ERASED = torch.randn(8, 6, generator=torch.Generator().manual_seed(6)) > 0


def vectors(features):
    """Return class vectors like parameters: in single precision, also under autocast."""
    return VECTORS if features.dtype == torch.float64 else VECTORS.float()


LOSSES = {
    "label_smoothing": lambda f, y: label_smoothing_loss(f, y % 6, 0.1),
    "ranked_list": lambda f, y: ranked_list_loss(f, y, margin=0.7, alpha=1.5, temperature=2.0),
    "ranked_list_paper": lambda f, y: ranked_list_loss(f, y, margin=0.7, alpha=1.5, temperature=2.0, form="paper"),
    "ranked_list_hot": lambda f, y: ranked_list_loss(f, y, margin=0.7, alpha=1.5, temperature=80.0),
    "triplet_cosine": lambda f, y: batch_hard_triplet_loss(f, y, 0.3),
    "triplet_euclidean": lambda f, y: batch_hard_triplet_loss(f, y, 0.3, "euclidean"),
    "center": lambda f, y: center_loss(f, y, vectors(f)),
    "center_paper": lambda f, y: center_loss(f, y, vectors(f), form="paper"),
    "osm_caa": lambda f, y: osm_caa_loss(f, y, vectors(f), sigma=0.9, alpha=2.8, balance=0.6),
    "erasing_attention": lambda f, y: erasing_attention_loss(f.relu(), ERASED[: len(f)]),
    "erasing_attention_scores": lambda f, y: erasing_attention_loss(f.relu(), ERASED[: len(f)], "scores"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_with_finite_differences(name):
    assert torch.autograd.gradcheck(lambda f: LOSSES[name](f, LABELS), (draw().requires_grad_(),))


EDGES = {
    "one person": (draw(), torch.zeros(8, dtype=torch.int64)),
    "one tracklet per person": (draw(), torch.arange(8)),
    "one clip": (draw()[:1], LABELS[:1]),
    "all clips equal": (torch.ones(8, 6), LABELS),
    "all clips zero": (torch.zeros(8, 6), LABELS),
    "one zero clip": (draw() * torch.arange(8).clamp(max=1).unsqueeze(1), LABELS),
    "two people, each twice the same vector": (draw()[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1])),
    "two people with the same vector": (draw()[[0, 0, 0, 0]], torch.tensor([0, 0, 1, 1])),
    "opposite": (draw()[[0, 0, 1, 1]] * torch.tensor([[1], [-1], [1], [-1]]), torch.tensor([0, 0, 1, 1])),
    "huge": (draw() * 1e6, LABELS),
    "tiny": (draw() * 1e-6, LABELS),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("edge", EDGES)
def test_edge_cases_are_finite(name, edge):
    values, labels = EDGES[edge]
    features = values.float().requires_grad_()
    loss = LOSSES[name](features, labels)
    loss.backward()
    assert loss.shape == ()
    assert torch.isfinite(loss)
    assert loss >= 0
    assert torch.isfinite(features.grad).all()
    assert not features.grad[values.eq(0).all(dim=1)].abs().gt(100).any(), "the direction of a zero row has no gradient"


@pytest.mark.parametrize("name", ["ranked_list", "triplet_cosine", "triplet_euclidean", "osm_caa"])
def test_single_clip_has_no_loss(name):
    features = draw()[:1].requires_grad_()
    loss = LOSSES[name](features, LABELS[:1])
    loss.backward()
    assert loss == 0
    assert not features.grad.any()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_features_lose_only_their_rounding(name, half):
    """The lengths are about 700; their squares overflow float16."""
    features = (draw() * 300).to(half)
    wide = LOSSES[name](features.double(), LABELS)
    narrow = features.clone().requires_grad_()
    with torch.autocast("cpu", half):
        loss = LOSSES[name](narrow, LABELS)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(wide.item(), rel=1e-5, abs=1e-6)
    assert torch.isfinite(narrow.grad).all()
