import torch
from torch import nn

from training.loop.averaging import WeightAverage


def test_average_follows_the_weights_and_early_steps_count_less():
    layer = nn.Linear(1, 1, bias=False)
    average = WeightAverage(layer, 0.9)
    expected, values = layer.weight.item(), [float(i) for i in range(40)]
    for step, value in enumerate(values):
        nn.init.constant_(layer.weight, value)
        average.update()
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    with average.applied():
        assert abs(layer.weight.item() - expected) < 1e-4
    assert layer.weight.item() == values[-1]


def test_counters_are_copied_and_statistics_averaged():
    norm = nn.BatchNorm1d(2)
    average = WeightAverage(norm, 0.5)
    norm.train()(torch.randn(8, 2) + 5)
    average.update()
    with average.applied():
        assert norm.num_batches_tracked == 1
        assert 0 < norm.running_mean.mean() < 0.6


def test_state_goes_on_where_it_stood():
    def steps(average, layer, count):
        for _ in range(count):
            with torch.no_grad():
                layer.weight.add_(1)
            average.update()

    torch.manual_seed(0)
    layer, other = nn.Linear(2, 2), nn.Linear(2, 2)
    whole = WeightAverage(layer, 0.9)
    steps(whole, layer, 3)
    half = WeightAverage(other, 0.9)
    half.load_state_dict(whole.state_dict())
    other.load_state_dict(layer.state_dict())
    steps(whole, layer, 5)
    steps(half, other, 5)
    with whole.applied(), half.applied():
        torch.testing.assert_close(layer.weight, other.weight, rtol=0, atol=0)
