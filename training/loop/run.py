"""A training run: what is trained, a step of it, and its state on disk."""

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
from training.datasets.tracklet import Tracklet
from training.evaluation.validation import accuracy, network_embedder, validate
from training.loop.attention_health import attention_health
from training.loop.checkpoint import Checkpoint, CheckpointError, save_checkpoint
from training.loop.distributed import Ranks
from training.loop.fast_cpu_layers import use_fast_cpu_layers
from training.loop.objective import Objective
from training.loop.optimiser import build_optimiser
from training.loop.run_log import Tally
from training.loop.schedule import learning_rate
from training.recipe import Recipe

LAST, BEST = "last.pt", "best.pt"
"""Files of a run: the state to resume from, and the model to use."""

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Run:
    """Network, objective and optimisers of a recipe, and where its training stands.

    It stands after ``tally.steps`` steps of the epoch that follows ``epoch``, the number of finished ones.

    Raises:
        ValueError: too few people for a batch, or one that cannot be divided among the processes.
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
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.validation, self.out, self.ranks, self.console = recipe, validation, out, ranks, console
        self.device, self.crops_source = ranks.device, crops_source
        pinned = self.device.type == "cuda"
        self.source = ClipSource(training, recipe, part=ranks.rank, parts=ranks.count, pinned=pinned)
        self.spec = recipe.network.model_copy(update={"classes": len(self.source.labels)})
        self.network: VideoReID = build_network(self.spec).to(self.device)
        self.network.to(memory_format=torch.channels_last)
        if self.device.type == "cpu" and not compile:
            use_fast_cpu_layers(self.network, winograd=recipe.winograd)
        ranks.share(self.network)
        self._forward: Any = self.network.train_forward
        if compile:
            self._forward = torch.compile(self._forward, dynamic=False)
        self.objective = Objective(recipe.losses, self.spec.classes, self.network.dimension).to(self.device)
        self.optimiser = build_optimiser(self.network, recipe.optimiser)
        self.center_optimiser = self.objective.center_optimiser()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "fp16")
        self._normalise = Normalise(self.spec.mean, self.spec.std, self.device)
        self.epoch, self.tally, self.best, self.warned = 0, Tally(), -1.0, False

    @property
    def people_aside(self) -> int:
        """How many people the model is chosen on."""
        return len({tracklet.person for tracklet in self.validation})

    def set_rate(self, epoch: int, done: float) -> float:
        """Sets and returns the learning rate in an epoch (from 1), of which ``done`` will be over after the step."""
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
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        return rate

    def step(self, batch: Batch) -> dict[str, float]:
        """Forward, backward, and a step of the optimisers; returns the losses and the attention's health.

        The losses are those of all processes' clips. In fp16, where a gradient overflows, that optimiser's step is left
        out and the loss scaled less from then on.
        """
        with self._autocast():
            output = self._forward(self._normalise(batch.clips), frames=self.recipe.losses.frame_identity > 0)
        output, (labels, erased) = self.ranks.gather(output, batch.labels.to(self.device), batch.erased.to(self.device))
        figures = self.objective(output, labels, erased, classifier=self.network.classifier.weight)
        self._descend(figures["total"])
        if output.attention is not None:
            figures |= attention_health(output.attention)
        return dict(zip(figures, torch.stack(list(figures.values())).tolist(), strict=True))

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = _AUTOCAST.get(self.recipe.precision)
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

    def measure(self, epoch: int, before_batch: Callable[[], None]) -> dict[str, float]:
        """Measures the people set aside and keeps the model if it is the best; ``before_batch`` may raise."""
        final = (self.spec.frame_height, self.spec.frame_width)
        size = final if self.spec.attention == "full_map" else self.recipe.frame_size(epoch)
        embed = network_embedder(self.network, self.device)

        def embed_batch(clips: NDArray[np.uint8]) -> NDArray[np.float32]:
            before_batch()
            return embed(clips)

        metrics = validate(embed_batch, self.validation, size, self.spec.clip_length)
        self.console.print(
            f"epoch {epoch} at {size[0]}x{size[1]}: rank-1 {100 * metrics.rank1:.1f} mAP {100 * metrics.mean_ap:.1f} "
            f"on {self.people_aside} people set aside, {metrics.valid_queries} queries"
        )
        # Only a model at its final frame size can be the one to use.
        if size == final and metrics.mean_ap > self.best:
            self.best = metrics.mean_ap
            self.save(BEST, [accuracy(metrics, self.validation, self.recipe.seed)])
        return {"rank1": metrics.rank1, "map": metrics.mean_ap}

    def save(self, name: str, measured: Sequence[dict[str, Any]] = ()) -> None:
        """Writes a checkpoint into the run's folder (the first process alone); in ``last.pt``, all that going on needs.

        ``measured`` is its accuracy, fields of :class:`model.spec.Accuracy`.
        """
        if not self.ranks.first:
            return
        checkpoint = Checkpoint(
            network_spec=self.spec,
            state_dict=self.network.state_dict(),
            recipe=self.recipe.model_dump(),
            training_data=self.recipe.card.training_data,
            data_terms=self.recipe.card.data_terms,
            accuracy=list(measured),
            crops_source=self.crops_source,
            progress=self._progress() if name == LAST else {},
        )
        save_checkpoint(checkpoint, self.out / name)

    def _progress(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "tally": asdict(self.tally),
            "best": self.best,
            "warned": self.warned,
            "data": self.source.digest(),
            "objective": self.objective.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "center_optimiser": self.center_optimiser.state_dict() if self.center_optimiser else {},
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes back to where a run stood.

        Raises:
            CheckpointError: the checkpoint is of another recipe or data, or not one to resume from.
        """
        state = checkpoint.progress
        if not state:
            raise CheckpointError("a checkpoint to use, not one to resume from")
        begun = Recipe.model_validate(checkpoint.recipe)
        different = _differences(begun.model_dump(), self.recipe.model_dump())
        if different == ["card.training_data"]:  # which the run itself wrote there
            read = begun.card.training_data, self.recipe.card.training_data
            raise CheckpointError(
                f"the run began with other data, {read[0]}, not {read[1]}; it can only go on with those"
            )
        if different:
            raise CheckpointError(f"the run began with another {', '.join(different)}; it can only go on as it began")
        # Runs of older versions did not write down their data.
        if checkpoint.network_spec != self.spec or state.get("data", self.source.digest()) != self.source.digest():
            raise CheckpointError("the run began with other data; it can only go on as it began")
        self.network.load_state_dict(checkpoint.state_dict)
        self.objective.load_state_dict(state["objective"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.center_optimiser:
            self.center_optimiser.load_state_dict(state["center_optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and state.get("random_cuda") is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        self.epoch, self.best = state["epoch"], state["best"]
        self.tally, self.warned = Tally(**state.get("tally", {})), state.get("warned", False)


def _differences(one: dict[str, Any], other: dict[str, Any], above: str = "") -> list[str]:
    """Dotted names of the values of a recipe that differ."""
    names = []
    for key, value in one.items():
        if isinstance(value, dict) and isinstance(other[key], dict):
            names += _differences(value, other[key], f"{above}{key}.")
        elif value != other[key]:
            names.append(f"{above}{key}")
    return names
