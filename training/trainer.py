"""The trainer: one loop, everything that decides it read from a recipe."""

import csv
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from model.network import VideoReID, build_network
from training.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from training.clips import ClipSource, Normalise
from training.datasets.catalog import kind_of, one_per_person_and_camera, read_training, set_aside
from training.datasets.tracklet import Tracklet
from training.evaluation.metrics import RankMetrics
from training.objective import Objective
from training.recipe import NOT_STATED, Card, Recipe, load_recipe
from training.schedule import learning_rate
from training.validation import network_embedder, validate

LAST, BEST, LOG = "last.pt", "best.pt", "log.csv"
"""Files of a run: the state to resume from, the model to use, and a line per epoch."""


class TrainingError(RuntimeError):
    """Training cannot start or go on; the message says why and what to do."""


def train(
    recipe_path: Path,
    data: Sequence[Path],
    out: Path,
    *,
    resume: bool = False,
    overrides: dict[str, str] | None = None,
    device: str = "auto",
    console: Console | None = None,
) -> Path:
    """Trains a recipe on datasets and returns the checkpoint with the best held-out mAP, ``out/best.pt``.

    A share of the people is set aside and the model chosen on them, never on a test set. Interrupted by Ctrl-C, the
    epoch under way is lost; ``resume`` goes on from ``out/last.pt``.

    Raises:
        TrainingError: nothing to resume, a run already there, too few people, or a loss that is not finite.
        RecipeError, DatasetError, CheckpointError: from the recipe, the data, or the run to resume.
    """
    out.mkdir(parents=True, exist_ok=True)
    if (out / LAST).exists() and not resume:
        raise TrainingError(f"{out} holds a run already: resume it, or give another folder")
    if resume and not (out / LAST).exists():
        raise TrainingError(f"{out} holds no run to resume")
    recipe = load_recipe(recipe_path, overrides)
    tracklets = read_training(data)
    read = f"{', '.join(path.name for path in data)}: {len(tracklets)} tracklets"
    if recipe.card.datasets and not {kind_of(path) for path in data} <= set(recipe.card.datasets):
        # Another model than the one that the recipe describes: it is named after its run.
        recipe = recipe.model_copy(update={"name": out.resolve().name, "card": Card(training_data=read)})
    elif recipe.card.training_data == NOT_STATED:
        recipe = recipe.model_copy(update={"card": recipe.card.model_copy(update={"training_data": read})})
    training, aside = set_aside(tracklets, recipe.validation_share, recipe.seed)
    people = len({tracklet.person for tracklet in training})
    if people < recipe.batch.people:
        raise TrainingError(f"a batch of the recipe has {recipe.batch.people} people, the training set only {people}")
    run = Run(recipe, training, one_per_person_and_camera(aside), out, device, console or Console(stderr=True))
    run.crops_source = str(data[0].resolve())
    if resume:
        run.restore(load_checkpoint(out / LAST))
    return run.finish()


class Run:
    """One training run: network, objective, optimisers and where it stands."""

    def __init__(
        self,
        recipe: Recipe,
        training: Sequence[Tracklet],
        validation: Sequence[Tracklet],
        out: Path,
        device: str,
        console: Console,
    ) -> None:
        torch.manual_seed(recipe.seed)
        name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self.device = torch.device(name)
        self.recipe, self.validation, self.out, self.console = recipe, validation, out, console
        self.source = ClipSource(training, recipe)
        self.spec = recipe.network.model_copy(update={"classes": len(self.source.labels)})
        self.network: VideoReID = build_network(self.spec).to(self.device)
        self.network.to(memory_format=torch.channels_last)
        self.objective = Objective(recipe.losses, self.spec.classes, self.network.dimension).to(self.device)
        self.optimiser = self._optimiser()
        self.center_optimiser = self.objective.center_optimiser()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "fp16")
        self.normalise = Normalise(self.spec.mean, self.spec.std, self.device)
        self.epoch, self.best = 0, -1.0
        self.crops_source: str | None = None

    def finish(self) -> Path:
        """Trains the epochs that are left; returns the best checkpoint's path."""
        schedule = self.recipe.schedule
        people = len({tracklet.person for tracklet in self.validation})
        self.console.print(
            f"{self.recipe.name}: {self.spec.classes} people, {len(self.source.tracklets)} tracklets; set aside "
            f"{people} people, {len(self.validation)} tracklets; {sum(p.numel() for p in self.network.parameters()):,} "
            f"parameters on {self.device}"
        )
        if not self.validation:
            self.console.print(
                "Nobody is set aside (the recipe's validation_share of the people whom two cameras saw): nothing is "
                f"measured, and {BEST} is the last epoch.",
                style="yellow",
            )
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task("training", total=schedule.epochs * len(self.source))
            progress.update(task, completed=self.epoch * len(self.source))
            while self.epoch < schedule.epochs:
                started = time.perf_counter()
                losses = self._train_epoch(self.epoch + 1, lambda: progress.advance(task))
                self.epoch += 1
                row = {"epoch": self.epoch, "seconds": time.perf_counter() - started, **losses}
                if self.validation and (self.epoch % schedule.evaluate_every == 0 or self.epoch == schedule.epochs):
                    row |= self._evaluate(people)
                elif not self.validation:
                    save_checkpoint(self._checkpoint([]), self.out / BEST)
                save_checkpoint(replace(self._checkpoint([]), progress=self._progress()), self.out / LAST)
                self._log(row)
                progress.update(task, description=f"epoch {self.epoch} loss {losses['total']:.3f}")
        return self.out / BEST

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes back to where a run stood.

        Raises:
            CheckpointError: the checkpoint is of another recipe or data, or not one to resume from.
        """
        state = checkpoint.progress
        if not state or checkpoint.network_spec != self.spec or checkpoint.recipe != self.recipe.model_dump():
            raise CheckpointError("the run was made with another recipe or other data; it can only go on as it began")
        self.network.load_state_dict(checkpoint.state_dict)
        self.objective.load_state_dict(state["objective"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.center_optimiser:
            self.center_optimiser.load_state_dict(state["center_optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        self.epoch, self.best = state["epoch"], state["best"]

    def _train_epoch(self, epoch: int, advance: Any) -> dict[str, float]:
        """One pass; returns the mean of each loss, the learning rate and the share of frames without attention."""
        self.network.train()
        totals: dict[str, float] = {}
        rate = 0.0
        for step, batch in enumerate(self.source.epoch(epoch)):
            rate = self._set_rate(epoch, step)
            labels, erased = batch.labels.to(self.device), batch.erased.to(self.device)
            with self._autocast():
                output = self.network.train_forward(
                    self.normalise(batch.clips), frames=self.recipe.losses.frame_identity > 0
                )
            losses = self.objective(output, labels, erased)
            if not torch.isfinite(losses["total"]):
                raise TrainingError(f"the loss is not finite in epoch {epoch}, step {step}: lower the learning rate")
            self._step(losses["total"])
            if output.attention is not None:
                losses["dead_attention"] = (output.attention == 0).float().mean()
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + value.item()
            advance()
        return {name: total / len(self.source) for name, total in totals.items()} | {"learning_rate": rate}

    def _step(self, loss: torch.Tensor) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        if self.center_optimiser:
            self.center_optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimiser)
        if self.recipe.optimiser.clip_gradient:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.optimiser.clip_gradient)
        self.scaler.step(self.optimiser)
        if self.center_optimiser:
            self.scaler.unscale_(self.center_optimiser)
            self.objective.unscale_centers()
            self.scaler.step(self.center_optimiser)
        self.scaler.update()

    def _set_rate(self, epoch: int, step: int) -> float:
        schedule = self.recipe.schedule
        at = epoch - 1 + (step + 1) / len(self.source) if schedule.form == "cosine" else epoch
        rate = learning_rate(
            at,
            schedule.form,
            base=self.recipe.optimiser.learning_rate,
            warm_up=schedule.warm_up,
            milestones=schedule.milestones,
            epochs=schedule.epochs,
        )
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        return rate

    def _optimiser(self) -> torch.optim.Optimizer:
        settings = self.recipe.optimiser
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        if settings.name == "adam":
            return torch.optim.Adam(parameters, settings.learning_rate, weight_decay=settings.weight_decay)
        # AdamW's decay is not for biases and normalisation, whose scale the next layer undoes.
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, settings.learning_rate)

    def _autocast(self) -> Any:
        types = {"bf16": torch.bfloat16, "fp16": torch.float16}
        dtype = types.get(self.recipe.precision)
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)

    def _evaluate(self, people: int) -> dict[str, float]:
        size = (self.spec.frame_height, self.spec.frame_width)
        if self.spec.attention != "full_map":
            size = self.recipe.frame_size(self.epoch)
        embed = network_embedder(self.network, self.device)
        metrics = validate(embed, self.validation, size, self.spec.clip_length)
        self.console.print(
            f"epoch {self.epoch} at {size[0]}x{size[1]}: rank-1 {100 * metrics.rank1:.1f} "
            f"mAP {100 * metrics.mean_ap:.1f} on {people} people set aside, {metrics.valid_queries} queries"
        )
        # Only a model at its final frame size can be the one to use.
        if size == (self.spec.frame_height, self.spec.frame_width) and metrics.mean_ap > self.best:
            self.best = metrics.mean_ap
            save_checkpoint(self._checkpoint([self._accuracy(metrics, people)]), self.out / BEST)
        return {"rank1": metrics.rank1, "map": metrics.mean_ap}

    def _accuracy(self, metrics: RankMetrics, people: int) -> dict[str, Any]:
        return {
            "dataset": f"{people} training people set aside (seed {self.recipe.seed})",
            "protocol": "one tracklet per person and camera, cross-camera, cosine, all clips; "
            "epoch chosen on the same people",
            "people": people,
            "queries": metrics.valid_queries,
            "gallery": len(self.validation),
            "rank1": round(100 * metrics.rank1, 2),
            "map": round(100 * metrics.mean_ap, 2),
        }

    def _checkpoint(self, accuracy: list[dict[str, Any]]) -> Checkpoint:
        return Checkpoint(
            network_spec=self.spec,
            state_dict=self.network.state_dict(),
            recipe=self.recipe.model_dump(),
            training_data=self.recipe.card.training_data,
            data_terms=self.recipe.card.data_terms,
            accuracy=accuracy,
            crops_source=self.crops_source,
        )

    def _progress(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "best": self.best,
            "objective": self.objective.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "center_optimiser": self.center_optimiser.state_dict() if self.center_optimiser else {},
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
        }

    def _log(self, row: dict[str, float]) -> None:
        path = self.out / LOG
        columns = ["epoch", "seconds", "learning_rate", "total", "rank1", "map", "dead_attention"]
        columns += [name for name in Objective.PARTS if name in row]
        fresh = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore", restval="")
            if fresh:
                writer.writeheader()
            writer.writerow({key: f"{value:.6g}" for key, value in row.items()})
