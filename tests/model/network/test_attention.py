"""The attention of aas_rfu compared with its formulas, computed cell by cell."""

import pytest
import torch

from model.network.attention import stripe_scores, weight_stripes

T, C, H, W = 3, 5, 8, 4


def draw(height: int = H) -> torch.Tensor:
    return torch.rand(2, T, C, height, W, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).square()


def compute_in_loops(maps: torch.Tensor, rows_of: list[range]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scores `[T, M]` and the clip feature `[C]` of one clip."""
    frames, channels, height, width = maps.shape
    energy = [
        [[sum(maps[n, d, h, w] ** 2 for d in range(channels)) for w in range(width)] for h in range(height)]
        for n in range(frames)
    ]
    shares = []
    for n in range(frames):
        total = sum(sum(row) for row in energy[n])
        shares.append([sum(energy[n][h][w] / total for h in rows for w in range(width)) for rows in rows_of])
    scores = [
        [shares[n][m] / sum(shares[k][m] for k in range(frames)) for m in range(len(rows_of))] for n in range(frames)
    ]
    feature = [
        sum(
            scores[n][m] * maps[n, c, h, w]
            for n in range(frames)
            for m, rows in enumerate(rows_of)
            for h in rows
            for w in range(width)
        )
        / (height * width)
        for c in range(channels)
    ]
    return torch.tensor(scores, dtype=torch.float64), torch.stack(feature)


@pytest.mark.parametrize(
    ("height", "rows_of"),
    [
        (8, [range(2), range(2, 4), range(4, 6), range(6, 8)]),
        (8, [range(8)]),
        (5, [range(2), range(2, 5)]),  # rows that the stripes do not divide
    ],
)
def test_scores_and_features_are_the_formula_of_the_paper(height, rows_of):
    maps = draw(height)
    scores = stripe_scores(maps, len(rows_of))
    features = weight_stripes(maps, scores)
    for clip in range(2):
        expected_scores, expected_feature = compute_in_loops(maps[clip], rows_of)
        torch.testing.assert_close(scores[clip], expected_scores)
        torch.testing.assert_close(features[clip], expected_feature)


def test_scores_of_a_stripe_sum_to_one_over_the_frames():
    torch.testing.assert_close(stripe_scores(draw(), 4).sum(dim=1), torch.ones(2, 4, dtype=torch.float64))


def test_score_depends_on_where_the_energy_is_and_not_on_its_amount():
    maps = draw()
    louder = maps * torch.tensor([1.0, 7.0, 0.1], dtype=torch.float64).view(1, 3, 1, 1, 1)
    torch.testing.assert_close(stripe_scores(louder, 4), stripe_scores(maps, 4))


def test_gradients_agree_with_finite_differences():
    maps = draw()[:1, :, :2].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: weight_stripes(x, stripe_scores(x, 4)), (maps,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_maps_of_zeros_and_large_maps_give_finite_results(dtype):
    for maps in (torch.zeros(1, T, C, H, W, dtype=dtype), torch.full((1, T, C, H, W), 500.0, dtype=dtype)):
        maps.requires_grad_()
        scores = stripe_scores(maps, 4)
        feature = weight_stripes(maps, scores)
        feature.sum().backward()
        torch.testing.assert_close(scores, torch.full((1, T, 4), 1 / T))
        assert torch.isfinite(feature).all()
        assert torch.isfinite(maps.grad).all()
