"""System C's attention against its formulas written out cell by cell."""

import pytest
import torch

from model.network.attention import stripe_scores, weigh_stripes

T, C, H, W = 3, 5, 8, 4


def draw(height: int = H) -> torch.Tensor:
    return torch.rand(2, T, C, height, W, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).square()


def written_out(maps: torch.Tensor, rows_of: list[range]) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores ``[T, M]`` and the clip feature ``[C]`` of one clip."""
    frames, channels, height, width = maps.shape
    energy = [
        [[sum(maps[n, d, h, w] ** 2 for d in range(channels)) for w in range(width)] for h in range(height)]
        for n in range(frames)
    ]
    shares = []
    for n in range(frames):
        whole = sum(sum(row) for row in energy[n])
        shares.append([sum(energy[n][h][w] / whole for h in rows for w in range(width)) for rows in rows_of])
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
def test_it_is_the_papers_formula(height, rows_of):
    maps = draw(height)
    scores = stripe_scores(maps, len(rows_of))
    features = weigh_stripes(maps, scores)
    for clip in range(2):
        expected_scores, expected_feature = written_out(maps[clip], rows_of)
        torch.testing.assert_close(scores[clip], expected_scores)
        torch.testing.assert_close(features[clip], expected_feature)


def test_every_stripe_shares_one_among_the_frames():
    torch.testing.assert_close(stripe_scores(draw(), 4).sum(dim=1), torch.ones(2, 4, dtype=torch.float64))


def test_a_frame_counts_by_where_its_energy_is_not_by_how_much():
    maps = draw()
    louder = maps * torch.tensor([1.0, 7.0, 0.1], dtype=torch.float64).view(1, 3, 1, 1, 1)
    torch.testing.assert_close(stripe_scores(louder, 4), stripe_scores(maps, 4))


def test_gradients_agree_with_finite_differences():
    maps = draw()[:1, :, :2].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: weigh_stripes(x, stripe_scores(x, 4)), (maps,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_maps_of_zeros_and_large_maps_stay_finite(dtype):
    for maps in (torch.zeros(1, T, C, H, W, dtype=dtype), torch.full((1, T, C, H, W), 500.0, dtype=dtype)):
        maps.requires_grad_()
        scores = stripe_scores(maps, 4)
        feature = weigh_stripes(maps, scores)
        feature.sum().backward()
        torch.testing.assert_close(scores, torch.full((1, T, 4), 1 / T))
        assert torch.isfinite(feature).all()
        assert torch.isfinite(maps.grad).all()
