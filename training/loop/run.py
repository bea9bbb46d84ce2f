"""A training run: what is trained, one step of it, and its state on disk."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from model.network import VideoReID, build_network
from training.batches.clips import Batch, ClipSource, Normalise
from training.batches.device_clips import DeviceClipSource
from training.datasets.catalog import kind_of
from training.datasets.tracklet import Tracklet
from training.evaluation.validation import accuracy, network_embedder, validate
from training.importing.weights import load_trunk, transfer_weights
from training.loop.averaging import WeightAverage
from training.loop.checkpoint import Checkpoint, CheckpointError, save_checkpoint
from training.loop.distributed import Ranks
from training.loop.fast_cpu_layers import use_fast_cpu_layers
from training.loop.freezing import freeze
from training.loop.live_teacher import LiveTeacher
from training.loop.objective import Objective
from training.loop.optimiser import build_optimiser, learning_rate, set_learning_rates
from training.loop.precision_check import CLIPS, find_wrong_layer
from training.loop.run_log import EpochTotals, attention_health
from training.loop.teacher import TeacherTargets
from training.loop.trained_weights import load_trained_weights
from training.recipe import NOT_STATED, ModelCardTexts, Recipe

LAST, BEST = "last.pt", "best.pt"
"""Files of a run: the state to resume from, and the model with the best accuracy."""

_CLASS_VECTOR_LENGTH = 0.5
"""Of class vectors that start as the targets of a teacher: with features after the neck, logits are then about 10."""

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Run:
    """Network, objective and optimisers of a recipe, and the progress of the training.

    `epoch` is the number of finished epochs, `totals.steps` the number of finished steps of the next one, and `steps`
    that of all epochs.

    Raises:
        ValueError: too few people for a batch, a batch that cannot be divided among the processes, parts to freeze
            that the network does not have, or a teacher whose features are of another length.
    """

    def __init__(
        self,
        recipe: Recipe,
        training: Sequence[Tracklet],
        validation: Sequence[Tracklet],
        out: Path,
        ranks: Ranks,
        console: Console,
        *,
        compile: bool = False,
        crops_source: str | None = None,
        teacher: TeacherTargets | LiveTeacher | None = None,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.validation, self.out, self.ranks, self.console = recipe, validation, out, ranks, console
        self.device, self.crops_source = ranks.device, crops_source
        self.source = clip_source(training, recipe, ranks, teacher)
        self.spec = recipe.network.model_copy(update={"classes": len(self.source.labels)})
        self.network: VideoReID = build_network(self.spec).to(self.device)
        teacher_length = None if self.source.teacher is None else self.source.teacher.dimension
        if recipe.losses.distillation and teacher_length not in (None, self.network.dimension):
            raise ValueError(
                f"distillation needs features of the teacher's length (got {self.network.dimension} and "
                f"{teacher_length}): set network.embedding = {teacher_length}, or losses.distillation = 0"
            )
        self.network.to(memory_format=torch.channels_last)
        if self.device.type == "cpu" and not compile:
            use_fast_cpu_layers(self.network)
        freeze(self.network, recipe.freeze, fast=self.device.type == "cpu" and not compile)
        ranks.share_batch_norm(self.network, kept=self.network.base if recipe.freeze.statistics else None)
        self._forward: Any = self.network.train_forward
        if compile:
            self._forward = torch.compile(self._forward, dynamic=False)
        self.objective = Objective(recipe.losses, self.spec.classes, self.network.dimension).to(self.device)
        self.optimiser = build_optimiser(self.network, recipe.optimiser)
        self.center_optimiser = self.objective.center_optimiser()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "fp16")
        self.precision: str = recipe.precision
        self._normalise = Normalise(self.spec.mean, self.spec.std, self.device)
        self.average = WeightAverage(self.network, recipe.optimiser.average) if recipe.optimiser.average else None
        self.epoch, self.steps, self.totals, self.best, self.warned = 0, 0, EpochTotals(), -1.0, False

    @property
    def validation_people(self) -> int:
        """Number of people that the best epoch is chosen on."""
        return len({tracklet.person for tracklet in self.validation})

    def load_initial_weights(self, transfer: Path | None, start: Path | None = None) -> None:
        """Load the weights that training starts from.

        These are the backbone that the recipe names, then backbone and attention of a checkpoint, as published; or all
        weights of a model. If the classifier is not among them, the class vector of each person starts as the mean
        target of the teacher.

        Args:
            transfer: a checkpoint, for backbone and attention
            start: a bundle or a checkpoint, for all weights; the recipe's are then not loaded

        Raises:
            WeightsError: the weights do not fit, or cannot be read.
        """
        has_classifier = False
        if start is not None:
            loaded = load_trained_weights(self.network, start, self.source.people_digest())
            has_classifier = "classifier.weight" not in (*loaded.missing, *loaded.unused)
            self.console.print(str(loaded), highlight=False)
        elif self.recipe.start.weights != "none":
            loaded = load_trunk(self.network, self.recipe.start.weights, console=self.console)
            self.console.print(str(loaded), highlight=False)
        if transfer is not None:
            self.console.print(str(transfer_weights(self.network, transfer)), highlight=False)
        teacher = self.source.teacher
        if teacher is not None and not has_classifier and self.network.dimension == teacher.dimension:
            with torch.no_grad():
                for person, label in self.source.labels.items():
                    self.network.classifier.weight[label] = _CLASS_VECTOR_LENGTH * torch.from_numpy(
                        teacher.people[person]
                    )
        if self.average:
            self.average.restart()

    def check_precision(self) -> None:
        """Compare bf16 or fp16 with fp32 at each frame size that is left to train, and use fp32 if they differ.

        Weights, statistics and random states do not change, so the run computes what it would without the check.
        """
        dtype = _AUTOCAST.get(self.precision)
        if dtype is None:
            return
        first_epochs: dict[tuple[int, int], int] = {}
        for epoch in range(self.epoch + 1, self.recipe.schedule.epochs + 1):
            first_epochs.setdefault(self.recipe.frame_size(epoch), epoch)
        for (height, width), epoch in first_epochs.items():
            clips = self._normalise(self.source.sample(epoch, CLIPS).clips)
            wrong = find_wrong_layer(self.network, clips, dtype)
            if self.ranks.any(wrong is not None):
                self.console.print(
                    f"{self.precision} gives wrong results on this machine for frames of {height}x{width}: "
                    f"{wrong or 'see the other processes'}. This run trains in fp32.",
                    style="yellow",
                    highlight=False,
                )
                self.precision, self.scaler = "fp32", torch.amp.GradScaler(self.device.type, enabled=False)
                return

    def set_rate(self, epoch: int, done: float) -> float:
        """Set and return the learning rate of a step.

        Args:
            epoch: from 1
            done: share of the epoch that is finished after the step
        """
        schedule = self.recipe.schedule
        rate = learning_rate(
            epoch - 1 + done if schedule.form == "cosine" else epoch,
            schedule.form,
            base=self.recipe.optimiser.learning_rate,
            warm_up=schedule.warm_up,
            milestones=schedule.milestones,
            decay=schedule.decay,
            epochs=schedule.epochs,
        )
        set_learning_rates(self.optimiser.param_groups, self.recipe.optimiser, rate, self.steps)
        return rate

    def step(self, batch: Batch) -> dict[str, float]:
        """Do a forward and a backward pass and a step of the optimisers; return the losses and the attention health.

        The losses are over the clips of all processes. If a gradient overflows in fp16, the step of that optimiser is
        skipped and the loss is scaled less in later steps.
        """
        with self._autocast(), _fastest_convolutions(fixed=self.recipe.batch.on_device):
            output = self._forward(self._normalise(batch.clips), frames=self.recipe.losses.frame_identity > 0)
        output, (labels, erased) = self.ranks.gather(output, batch.labels.to(self.device), batch.erased.to(self.device))
        teacher = None if batch.teacher is None else self.ranks.gather_tensor(batch.teacher.to(self.device))
        figures = self.objective(output, labels, erased, classifier=self.network.classifier.weight, teacher=teacher)
        with _fastest_convolutions(fixed=self.recipe.batch.on_device):
            self._descend(figures["total"])
        self.steps += 1
        if self.average:
            self.average.update()
        if output.attention is not None:
            figures |= attention_health(output.attention)
        return dict(zip(figures, torch.stack(list(figures.values())).tolist(), strict=True))

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = _AUTOCAST.get(self.precision)
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)

    def _descend(self, loss: torch.Tensor) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        if self.center_optimiser:
            self.center_optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.ranks.average_gradients([*self.network.parameters(), *self.objective.parameters()])
        self.scaler.unscale_(self.optimiser)
        if self.recipe.optimiser.clip_gradient:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.optimiser.clip_gradient)
        self.scaler.step(self.optimiser)
        if self.center_optimiser:
            self.scaler.unscale_(self.center_optimiser)
            self.objective.unscale_centers()
            self.scaler.step(self.center_optimiser)
        self.scaler.update()

    def averaged(self) -> AbstractContextManager[None]:
        """Give the network the averaged weights inside this context, if the recipe wants an average."""
        return self.average.applied() if self.average else nullcontext()

    def measure(self, epoch: int, before_batch: Callable[[], None]) -> dict[str, float]:
        """Measure the validation people and save the model if it is the best; `before_batch` may raise."""
        final = (self.spec.frame_height, self.spec.frame_width)
        size = final if self.spec.attention == "full_map" else self.recipe.frame_size(epoch)
        embed = network_embedder(self.network, self.device)

        def embed_batch(clips: NDArray[np.uint8]) -> NDArray[np.float32]:
            before_batch()
            return embed(clips)

        with self.averaged():
            metrics = validate(embed_batch, self.validation, size, self.spec)
        self.console.print(
            f"epoch {epoch} at {size[0]}x{size[1]}: rank-1 {100 * metrics.rank1:.1f} mAP {100 * metrics.mean_ap:.1f} "
            f"on {self.validation_people} validation people, {metrics.valid_queries} queries"
        )
        # The best model must be one at the final frame size.
        if size == final and metrics.mean_ap > self.best:
            self.best = metrics.mean_ap
            self.save(BEST, [accuracy(metrics, self.validation, self.recipe.seed)])
        return {"rank1": metrics.rank1, "map": metrics.mean_ap}

    def save(self, name: str, measured: Sequence[dict[str, Any]] = ()) -> None:
        """Write a checkpoint into the folder of the run (first process only); `last.pt` can be resumed from.

        `last.pt` has the weights of the last step, the others the averaged weights, if there is an average.

        Args:
            name: of the file
            measured: its accuracy, as fields of `model.spec.Accuracy`
        """
        if not self.ranks.first:
            return
        with nullcontext() if name == LAST else self.averaged():
            weights = {key: value.detach().clone() for key, value in self.network.state_dict().items()}
        checkpoint = Checkpoint(
            network_spec=self.spec,
            state_dict=weights,
            recipe=self.recipe.model_dump(),
            training_data=self.recipe.card.training_data,
            data_terms=self.recipe.card.data_terms,
            accuracy=list(measured),
            crops_source=self.crops_source,
            people=self.source.people_digest(),
            progress=self._progress() if name == LAST else {},
        )
        save_checkpoint(checkpoint, self.out / name)

    def _progress(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "steps": self.steps,
            "average": self.average.state_dict() if self.average else {},
            "tally": asdict(self.totals),
            "best": self.best,
            "warned": self.warned,
            "data": self.source.digest(),
            "teacher": "" if self.source.teacher is None else self.source.teacher.space,
            "objective": self.objective.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "center_optimiser": self.center_optimiser.state_dict() if self.center_optimiser else {},
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the state of a run.

        Raises:
            CheckpointError: the checkpoint has another recipe or other data, or cannot be resumed from.
        """
        state = checkpoint.progress
        if not state:
            raise CheckpointError(f"the checkpoint holds no state to resume from: resume from {LAST}")
        begun = Recipe.model_validate(checkpoint.recipe)
        different = _differences(begun.model_dump(), self.recipe.model_dump())
        if different == ["card.training_data"]:  # `describe_data` wrote it
            read = begun.card.training_data, self.recipe.card.training_data
            raise CheckpointError(f"the run began with other data, {read[0]}, not {read[1]}: resume it with those")
        if different:
            raise CheckpointError(f"the run began with another {', '.join(different)}: resume it without this change")
        # Runs of older versions did not record their data.
        if checkpoint.network_spec != self.spec or state.get("data", self.source.digest()) != self.source.digest():
            raise CheckpointError("the run began with other data: resume it with those")
        own = "" if self.source.teacher is None else self.source.teacher.space
        if state.get("teacher", own) != own:
            raise CheckpointError("the run began with another teacher: resume it with that one")
        self.network.load_state_dict(checkpoint.state_dict)
        self.objective.load_state_dict(state["objective"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.center_optimiser:
            self.center_optimiser.load_state_dict(state["center_optimiser"])
        if state["scaler"]:  # empty in fp32 and bf16
            self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and state.get("random_cuda") is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        self.epoch, self.best = state["epoch"], state["best"]
        self.steps = state.get("steps", 0)
        if self.average:
            self.average.load_state_dict(state["average"])
        self.totals, self.warned = EpochTotals(**state.get("tally", {})), state.get("warned", False)


def describe_data(
    recipe: Recipe,
    data: Sequence[Path],
    tracklets: Sequence[Tracklet],
    split: int | None,
    out: Path,
    teacher: Path | None = None,
) -> Recipe:
    """Return the recipe with the training data, and a teacher that its losses use, in its card.

    A card that holds for other datasets or another number of people is replaced, and the recipe gets the name of the
    folder of the run.
    """
    names = ", ".join(path.name for path in data)
    read = f"{names}{'' if split is None else f', split {split}'}: {len(tracklets)} tracklets"
    if teacher is not None and recipe.losses.need_teacher:
        read += f"; teacher: {teacher.name}"
    people = len({tracklet.person for tracklet in tracklets})
    has_other = not {kind_of(path) for path in data} <= set(recipe.card.datasets)
    if recipe.card.datasets and (has_other or recipe.card.people not in (None, people)):
        return recipe.model_copy(update={"name": out.resolve().name, "card": ModelCardTexts(training_data=read)})
    if recipe.card.training_data == NOT_STATED:
        return recipe.model_copy(update={"card": recipe.card.model_copy(update={"training_data": read})})
    return recipe


def _fastest_convolutions(*, fixed: bool) -> AbstractContextManager[Any]:
    """Let cuDNN time its algorithms once for each layer, which pays if the sizes of batches never change."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=True) if fixed else nullcontext()


def clip_source(
    training: Sequence[Tracklet], recipe: Recipe, ranks: Ranks, teacher: TeacherTargets | LiveTeacher | None
) -> ClipSource | DeviceClipSource:
    """Return where a run gets its batches from: made on its device, or by threads beside it.

    Raises:
        ValueError: the recipe cannot be used with this number of processes or people.
    """
    if not recipe.batch.on_device:
        stored = teacher if isinstance(teacher, TeacherTargets) else None
        pinned = ranks.device.type == "cuda"
        return ClipSource(training, recipe, part=ranks.rank, parts=ranks.count, pinned=pinned, teacher=stored)
    if ranks.count > 1:
        raise ValueError(f"batch.on_device trains in one process (got {ranks.count}): leave out torchrun")
    return DeviceClipSource(training, recipe, ranks.device, teacher if isinstance(teacher, LiveTeacher) else None)


_TEXTS = ("name", "description", "start.transfer")
"""Values of a recipe that only describe it; they may differ when a run is resumed."""


def _differences(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted names of the values that differ between two recipes."""
    names = []
    for key, value in one.items():
        if isinstance(value, dict) and isinstance(other[key], dict):
            names += _differences(value, other[key], f"{prefix}{key}.")
        elif value != other[key] and f"{prefix}{key}" not in _TEXTS:
            names.append(f"{prefix}{key}")
    return names
