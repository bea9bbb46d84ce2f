import pytest
import torch
from pydantic import ValidationError

from model.network import NetworkOutput, NetworkSpec, build_network
from training import losses
from training.loop.objective import LossWeights, Objective

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
ERASED = torch.tensor([[True, False], [False, False], [False, True]]).repeat(2, 1)

EVERY = LossWeights(
    frame_identity=1.0,
    ranked_list=1.0,
    triplet=1.0,
    center=5e-4,
    osm_caa=1.0,
    erasing_attention=1.0,
    distillation=1.0,
    relation=1.0,
)


@pytest.fixture
def output() -> NetworkOutput:
    torch.manual_seed(1)
    feature, raw, attention = torch.randn(6, 8), torch.randn(6, 8) + 1, torch.rand(6, 2)
    return NetworkOutput(
        torch.randn(6, 3), feature.requires_grad_(), raw.requires_grad_(), attention, torch.randn(12, 3)
    )


@pytest.fixture
def classifier() -> torch.Tensor:
    return torch.randn(3, 8, generator=torch.Generator().manual_seed(2), requires_grad=True)


def test_total_is_the_weighted_sum_of_the_parts(output, classifier):
    given = {"classifier": classifier, "teacher": torch.randn(6, 8)}
    parts = Objective(EVERY, classes=3, dimension=8)(output, LABELS, ERASED, **given)
    assert set(parts) == {*Objective.PARTS, "total"}
    torch.testing.assert_close(parts["total"], sum(parts[name] for name in Objective.PARTS))
    names = ("identity", "osm_caa", "triplet", "distillation", "relation")
    doubled = EVERY.model_copy(update={name: 2 * getattr(EVERY, name) for name in names})
    again = Objective(doubled, classes=3, dimension=8)(output, LABELS, ERASED, **given)
    for name in names:
        torch.testing.assert_close(again[name], 2 * parts[name])


def test_clips_without_a_label_count_only_for_the_losses_of_a_teacher(output, classifier):
    teacher = torch.randn(6, 8)
    labels = torch.tensor([0, 0, 1, 1, -1, -1])
    objective = Objective(EVERY, classes=3, dimension=8)
    parts = objective(output, labels, ERASED, classifier=classifier, teacher=teacher)
    every = objective(output, LABELS, ERASED, classifier=classifier, teacher=teacher)
    first = NetworkOutput(*(value[: len(value) * 4 // 6] for value in output))
    people = objective(first, labels[:4], ERASED[:4], classifier=classifier, teacher=teacher[:4])
    for name in Objective.PARTS:
        torch.testing.assert_close(parts[name], (every if name in ("distillation", "relation") else people)[name])


def test_options_reach_the_losses(output, classifier):
    """fantastic on PRID2011: beta divides the weight between triplet and OSM-CAA."""
    sigma, alpha, balance, margin, beta = 0.877, 1.575, 0.524, 0.0405, 0.71
    weights = LossWeights(
        triplet=1 - beta,
        triplet_margin=margin,
        osm_caa=beta,
        osm_caa_sigma=sigma,
        osm_caa_alpha=alpha,
        osm_caa_balance=balance,
        ranked_list=0.4,
        ranked_list_margin=0.5,
        ranked_list_alpha=1.1,
        ranked_list_temperature=3.0,
        ranked_list_balance=0.5,
        ranked_list_form="paper",
        center=5e-5,
        center_form="paper",
        erasing_attention=1.0,
        erasing_attention_form="scores",
    )
    objective = Objective(weights, classes=3, dimension=8)
    parts = objective(output, LABELS, ERASED, classifier=classifier)
    f = output.feature
    expected = {
        "identity": losses.label_smoothing_loss(output.logits, LABELS, 0.1),
        "triplet": (1 - beta) * losses.batch_hard_triplet_loss(f, LABELS, margin),
        "osm_caa": beta * losses.osm_caa_loss(f, LABELS, classifier, sigma=sigma, alpha=alpha, balance=balance),
        "ranked_list": 0.4
        * losses.ranked_list_loss(f, LABELS, margin=0.5, alpha=1.1, temperature=3.0, balance=0.5, form="paper"),
        "center": 5e-5 * losses.center_loss(f, LABELS, objective.centers, form="paper"),
        "erasing_attention": losses.erasing_attention_loss(output.attention, ERASED, "scores"),
    }
    assert set(parts) == {*expected, "total"}
    for name, value in expected.items():
        torch.testing.assert_close(parts[name], value)


@pytest.mark.parametrize(("side", "field"), [("raw", "raw"), ("batch_normed", "feature")])
def test_triplet_loss_uses_the_feature_before_or_after_the_neck(output, side, field):
    weights = LossWeights(triplet=1.0, triplet_metric="euclidean", triplet_feature=side)
    parts = Objective(weights, classes=3, dimension=8)(output, LABELS, ERASED)
    expected = losses.batch_hard_triplet_loss(getattr(output, field), LABELS, 0.3, "euclidean")
    torch.testing.assert_close(parts["triplet"], expected)


class TestCenters:
    WEIGHTS = LossWeights(identity=0.0, center=5e-4, osm_caa=1.0, osm_caa_vectors="centers")

    def gradients(self, output: NetworkOutput, **update: object) -> torch.Tensor:
        torch.manual_seed(3)
        objective = Objective(self.WEIGHTS.model_copy(update=update), classes=3, dimension=8)
        objective(output, LABELS, ERASED)["total"].backward()
        objective.unscale_centers()
        assert objective.centers is not None
        assert objective.centers.grad is not None
        return objective.centers.grad

    def test_osm_caa_does_not_move_them(self, output):
        torch.testing.assert_close(self.gradients(output), self.gradients(output, osm_caa=0.0))

    def test_osm_caa_moves_them_2000_fold_as_in_the_published_code(self, output):
        torch.manual_seed(3)
        centers = torch.randn(3, 8, requires_grad=True)
        losses.osm_caa_loss(output.feature.detach(), LABELS, centers, sigma=0.8, alpha=1.2, balance=0.5).backward()
        extra = self.gradients(output, detach_centers=False) - self.gradients(output)
        torch.testing.assert_close(extra, 2000 * centers.grad, rtol=1e-3, atol=1e-5)

    def test_rows_without_people_count_in_the_softmax_and_do_not_move(self, output):
        gradient = self.gradients(output, num_centers=751)
        assert gradient.shape == (751, 8)
        assert gradient[:3].any()
        assert not gradient[3:].any()

    def test_too_few_rows_are_an_error(self):
        with pytest.raises(ValueError, match=r"num_centers must be at least 3, the number of people \(got 2\)"):
            Objective(self.WEIGHTS.model_copy(update={"num_centers": 2}), classes=3, dimension=8)

    def test_their_learning_rate_does_not_depend_on_the_weight(self, output):
        moved = []
        for weight in (5e-4, 1.0):
            torch.manual_seed(3)
            objective = Objective(LossWeights(center=weight), classes=3, dimension=8)
            optimiser = objective.center_optimiser()
            objective(output, LABELS, ERASED)["total"].backward()
            objective.unscale_centers()
            optimiser.step()
            moved.append(objective.centers.detach().clone())
        torch.testing.assert_close(*moved)


def test_class_vectors_of_the_classifier_get_a_gradient(output, classifier):
    objective = Objective(LossWeights(identity=0.0, osm_caa=1.0), classes=3, dimension=8)
    assert objective.centers is None
    objective(output, LABELS, ERASED, classifier=classifier)["total"].backward()
    assert classifier.grad.any()


class TestErrors:
    def test_without_any_loss(self):
        with pytest.raises(ValidationError, match="every loss has weight 0"):
            LossWeights(identity=0.0)

    def test_centers_as_class_vectors_without_center_loss(self):
        with pytest.raises(ValidationError, match="needs center loss"):
            LossWeights(osm_caa=1.0, osm_caa_vectors="centers")

    def test_osm_caa_without_the_classifier(self, output):
        with pytest.raises(ValueError, match="classifier"):
            Objective(LossWeights(osm_caa=1.0), classes=3, dimension=8)(output, LABELS, ERASED)

    @pytest.mark.parametrize(
        ("part", "missing"), [("erasing_attention", "attention"), ("frame_identity", "frame_logits")]
    )
    def test_loss_without_the_output_it_needs(self, output, part, missing):
        objective = Objective(LossWeights.model_validate({part: 1.0}), classes=3, dimension=8)
        with pytest.raises(ValueError, match=part):
            objective(output._replace(**{missing: None}), LABELS, ERASED)

    @pytest.mark.parametrize("attention", ["mean", "max", "sta"])
    def test_erasing_attention_on_a_network_without_logits(self, attention):
        with pytest.raises(ValueError, match=attention):
            LossWeights(erasing_attention=1.0).check_network(NetworkSpec(attention=attention))
        LossWeights(erasing_attention=1.0).check_network(NetworkSpec())
        LossWeights().check_network(NetworkSpec(attention=attention))


# Not smaller: with 64x32, PyTorch 2.14.1 returns NaN for bf16 convolutions with stride 2 on CPUs with AMX.
LIGHT = {"backbone": "resnet18_x0_75", "frame_height": 96, "frame_width": 48, "clip_length": 2, "classes": 3}


@pytest.mark.parametrize(
    ("fields", "weights"),
    [
        ({"attention_bias": 1.0}, EVERY),
        ({"attention": "sta", "embedding": 16}, LossWeights(triplet=1.0, triplet_feature="raw")),
        ({"last_stride": 2, "neck": "none", "classifier_bias": True, "attention_bias": 1.0}, LossWeights(triplet=1.0)),
        ({"attention": "max", "neck": "none"}, LossWeights(center=5e-4, osm_caa=1.0, osm_caa_vectors="centers")),
    ],
    ids=["all losses", "aas_rfu", "temporal attention", "maximum pooling"],
)
@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_loss_of_each_network_falls_and_all_weights_have_a_gradient(fields, weights, precision):
    torch.manual_seed(4)
    network = build_network(NetworkSpec.model_validate(LIGHT | fields))
    weights.check_network(network.spec)
    objective = Objective(weights, network.spec.classes, network.dimension)
    clips = torch.randn(6, 2, 3, 96, 48) + torch.randn(3, 1, 3, 1, 1)[LABELS]
    optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], 1e-3)
    seen = []
    for _ in range(3):
        with torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None):
            output = network.train_forward(clips, frames=weights.frame_identity > 0)
        teacher = torch.ones(6, network.dimension)
        total = objective(output, LABELS, ERASED, classifier=network.classifier.weight, teacher=teacher)["total"]
        optimiser.zero_grad()
        total.backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None or not parameter.requires_grad, name
        optimiser.step()
        seen.append(total.item())
    assert seen[-1] < 0.9 * seen[0]


def test_distillation_without_targets_is_an_error(output, classifier):
    objective = Objective(LossWeights(distillation=1.0), classes=3, dimension=8)
    with pytest.raises(ValueError, match="need the targets of a teacher"):
        objective(output, LABELS, ERASED, classifier=classifier)
