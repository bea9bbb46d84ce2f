"""Fine-tune a teacher on the training people before a network learns from it.

A teacher that was trained elsewhere knows more people than the training set has, but not its cameras. Fine-tuning
teaches it those, and makes it forget some of the others; the mean of the weights before and after keeps most of both
(Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

from model.bundle import ONNX_FILE, Bundle
from model.network import NetworkOutput
from model.spec import BundleSpec
from model.tracklet import normalise
from training.batches.device_clips import DeviceClipSource
from training.datasets.catalog import one_per_person_and_camera, read_training, set_aside
from training.datasets.tracklet import Tracklet
from training.evaluation.embed import EmbedClips
from training.evaluation.metrics import RankMetrics
from training.evaluation.validation import validate
from training.export.bundle_assembly import ExportResult, assemble_bundle, refuse_occupied
from training.export.reference import Reference, batches, choose_reference_clips
from training.importing.onnx_module import OnnxModule, open_module
from training.loop.distributed import join_processes
from training.loop.objective import Objective
from training.loop.optimiser import build_optimiser, learning_rate, set_learning_rates
from training.loop.teacher import TeacherError
from training.recipe import Recipe, load_recipe

_BATCH = 64
_STEPS_BETWEEN_LINES = 100

_LOGIT_SCALE = 30.0
"""Of the cosines between features and class vectors."""


@dataclass(frozen=True)
class Adapted:
    """A written bundle, and the accuracy of the teacher on the people set aside."""

    bundle: ExportResult
    accuracy: dict[float, RankMetrics]
    """by the share of the fine-tuned weights: 0 is the teacher as it was, 1 the fine-tuned one; empty without people"""


def adapt_teacher(
    recipe_path: Path,
    bundle: Path,
    data: Sequence[Path],
    out: Path,
    *,
    share: float = 0.5,
    overrides: dict[str, str] | None = None,
    device: str = "auto",
    console: Console | None = None,
) -> Adapted:
    """Fine-tune matrices, kernels and biases of a teacher, and write a bundle with a mean of its old and new weights.

    Of the recipe, these hold: seed, people set aside, batches without composites, augmentation, optimiser without its
    average, schedule, and the losses on labels. The frames are those of the teacher.

    Args:
        recipe_path: with `batch.on_device`
        bundle: of ONNX, with clips of one frame
        data: datasets, which share their person ids
        out: folder of the new bundle
        share: of the fine-tuned weights, 0 to 1
        overrides: see `training.recipe.load_recipe`
        device: auto, cpu or cuda
        console: for progress; standard error by default

    Raises:
        TeacherError: the bundle has clips of several frames, the recipe does not fit, there are too few people, or the
            loss is not finite.
        RecipeError, DatasetError, ExportError, SelfTestError: an input is wrong.
    """
    refuse_occupied(out)
    console = console or Console(stderr=True)
    recipe = load_recipe(recipe_path, overrides)
    if not recipe.batch.on_device:
        raise TeacherError(f"{recipe_path}: a teacher is adapted with batch.on_device = true")
    loaded = Bundle.load(bundle)
    if loaded.spec.clip_length != 1:
        raise TeacherError(f"{bundle} takes clips; adapting needs single frames: import it with --clip-length 1")
    recipe = _for_teacher(recipe, loaded.spec)
    training, validation = set_aside(read_training(data), recipe.validation_share, recipe.seed)
    validated = one_per_person_and_camera(validation)
    accuracy: dict[float, RankMetrics] = {}
    with join_processes(device) as ranks:
        if ranks.count > 1:
            raise TeacherError(f"a teacher is adapted in one process (got {ranks.count}): leave out torchrun")
        torch.manual_seed(recipe.seed)
        network = open_module(bundle).to(ranks.device)

        def measure(part: float) -> None:
            if validated:
                size = (recipe.network.frame_height, recipe.network.frame_width)
                accuracy[part] = validate(_embedder(network, ranks.device), validated, size, recipe.network)

        before = _copy(network)
        measure(0.0)
        try:
            _fine_tune(network, recipe, training, ranks.device, console)
        except ValueError as error:
            raise TeacherError(str(error)) from None
        after = _copy(network)
        measure(1.0)
        network.load_state_dict({name: torch.lerp(before[name], after[name], share) for name in before})
        measure(share)
        network.to("cpu")
    for part, metrics in sorted(accuracy.items()):
        console.print(
            f"{part:4.0%} fine-tuned: rank-1 {100 * metrics.rank1:.1f} mAP {100 * metrics.mean_ap:.1f} on "
            f"{len({t.person for t in validated})} people set aside, {metrics.valid_queries} queries"
        )
    if not accuracy:
        console.print("Accuracy is not measured: no people that two cameras saw are set aside.", style="yellow")
    spec = loaded.spec.model_copy(
        update={
            "name": f"{loaded.spec.name}-adapted",
            "training_data": f"{loaded.spec.training_data}; then {', '.join(path.name for path in data)}, "
            f"{share:g} of the fine-tuned weights",
            "recipe": recipe.model_dump(mode="json"),
            "accuracy": (),
        }
    )
    clips, crops = choose_reference_clips(spec, None)
    reference = Reference("PyTorch in fp32", _embedder(network, torch.device("cpu")))
    written = assemble_bundle(
        out, spec, lambda folder: network.save(folder / ONNX_FILE), reference, clips=clips, crops=crops
    )
    return Adapted(written, accuracy)


def _for_teacher(recipe: Recipe, spec: BundleSpec) -> Recipe:
    """Return the recipe with the frames of the teacher, and without what only a network that learns from one needs."""
    size = {"frame_height": spec.frame_height, "frame_width": spec.frame_width}
    form = {"clip_length": 1, "clip_weights": spec.clip_weights, "resampling": spec.preprocessing.resampling}
    parts = {
        "network": recipe.network.model_copy(update=size | form),
        "batch": recipe.batch.model_copy(update={"composites": 0}),
        "losses": recipe.losses.model_copy(update={"distillation": 0.0, "relation": 0.0}),
    }
    return recipe.model_copy(update=parts | {"resolutions": ()})


class _Learner(nn.Module):
    """A teacher with a class vector for each person."""

    def __init__(self, network: OnnxModule, class_vectors: Tensor) -> None:
        super().__init__()
        self.base = network
        self.classifier = nn.Parameter(class_vectors)

    def forward(self, clips: Tensor) -> NetworkOutput:
        features = self.base(clips).float()
        logits = _LOGIT_SCALE * F.normalize(features, dim=1) @ F.normalize(self.classifier, dim=1).t()
        return NetworkOutput(logits, features, features, None, None)


def _fine_tune(
    network: OnnxModule, recipe: Recipe, training: Sequence[Tracklet], device: torch.device, console: Console
) -> None:
    source = DeviceClipSource(training, recipe, device)
    schedule, settings = recipe.schedule, recipe.optimiser
    learner = _Learner(network, _class_vectors(network, source))
    objective = Objective(recipe.losses, len(source.labels), learner.classifier.shape[1]).to(device)
    optimiser = build_optimiser(learner, settings)
    steps = sum(len(source.plan(epoch)) for epoch in range(1, schedule.epochs + 1))
    progress = track(source.batches(1, 0, schedule.epochs), "teacher", total=steps, console=console)
    for number, batch in enumerate(progress, 1):
        rate = learning_rate(
            number / steps * schedule.epochs,
            schedule.form,
            base=settings.learning_rate,
            warm_up=schedule.warm_up,
            milestones=schedule.milestones,
            decay=schedule.decay,
            epochs=schedule.epochs,
        )
        set_learning_rates(optimiser.param_groups, settings, rate, number - 1)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            output = learner(batch.clips)
        loss = objective(output, batch.labels, batch.erased)["total"]
        if not loss.isfinite():
            raise TeacherError(f"the loss is not finite in step {number}: lower optimiser.trunk_rate")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if settings.clip_gradient:
            nn.utils.clip_grad_norm_(learner.parameters(), settings.clip_gradient)
        optimiser.step()
        if number % _STEPS_BETWEEN_LINES == 0 or number == steps:
            console.print(f"step {number}: loss {loss.item():.3f}", highlight=False)


def _class_vectors(network: OnnxModule, source: DeviceClipSource) -> Tensor:
    """Return the mean feature of each person as its class vector `[K, D]`, from one crop of each tracklet."""
    features: list[Tensor] = []
    with torch.no_grad():
        for start in range(0, len(source.tracklets), _BATCH):
            part = range(start, min(start + _BATCH, len(source.tracklets)))
            crops = torch.cat([source.crop(i, [len(source.tracklets[i].frames) // 2]) for i in part])
            features.append(F.normalize(network(crops.permute(0, 2, 3, 1)[:, None]), dim=1))
    values = torch.cat(features)
    owner = torch.tensor([source.labels[tracklet.person] for tracklet in source.tracklets], device=values.device)
    sums = values.new_zeros(len(source.labels), values.shape[1]).index_add(0, owner, values)
    return F.normalize(sums, dim=1)


def _embedder(network: OnnxModule, device: torch.device) -> EmbedClips:
    def embed(clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            rows = [network(torch.from_numpy(part).to(device)).float().cpu().numpy() for part in batches(clips)]
        return normalise(np.concatenate(rows))

    return embed


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
