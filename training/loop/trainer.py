"""The trainer: one training loop, with all settings in a recipe."""

import math
import signal
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from model.errors import Not3dError
from training.batches.clips import Batch
from training.datasets.catalog import one_per_person_and_camera, read_training, set_aside, split_count
from training.datasets.tracklet import Tracklet
from training.evaluation.embed import FeatureError
from training.loop.checkpoint import CheckpointError, load_checkpoint
from training.loop.distributed import Ranks, join_processes
from training.loop.live_teacher import LiveTeacher
from training.loop.run import BEST, LAST, Run, describe_data
from training.loop.run_log import EpochTotals, RunLog, attention_warning
from training.loop.teacher import TeacherTargets, teacher_targets
from training.recipe import Recipe, load_recipe


class TrainingError(Not3dError):
    """Training cannot start or continue; the message says why and what to do."""


class DivergedError(TrainingError):
    """Loss, weights or features are no longer finite."""


class TrainingInterrupted(KeyboardInterrupt):
    """Training was interrupted between two steps; its state is complete."""


def train(
    recipe_path: Path,
    data: Sequence[Path],
    out: Path,
    *,
    resume: bool = False,
    overrides: dict[str, str] | None = None,
    device: str = "auto",
    console: Console | None = None,
    split: int | None = None,
    transfer: Path | None = None,
    compile: bool = False,
    teacher: Path | None = None,
    start: Path | None = None,
    as_published: bool = False,
) -> Path:
    """Train a recipe on datasets and return the checkpoint with the best validation mAP, `out/best.pt`.

    The best epoch is chosen on validation people, who are not trained on, and never on a test set. After Ctrl-C or
    SIGTERM, the current step is finished and `out/last.pt` is written, from which `resume` continues. In one CPU
    process with the same number of threads, the result is bit-identical to that of an uninterrupted run. With
    torchrun, the processes train one model, divide the batch of the recipe, and only the first process writes files.

    Args:
        recipe_path: see `training.recipe.find_recipe`
        data: datasets, which share their person ids
        out: folder of the run
        resume: continue the run in `out`; initial weights are not read again
        overrides: see `training.recipe.load_recipe`
        device: auto, cpu or cuda
        console: for progress; standard error by default
        split: number of the train/test split, for datasets that have several
        transfer: checkpoint whose backbone and attention are loaded
        compile: compile the network (`torch.compile`), once for each frame size
        teacher: bundle whose features are learned from, for a recipe whose losses need one
        start: bundle or checkpoint whose weights are loaded instead of those that the recipe names
        as_published: take the choices of the paper's program, see `training.recipe.load_recipe`

    Raises:
        TrainingError: there is no run to resume, `out` already holds a run, there are too few people, the recipe
            requires a checkpoint, or loss or weights are not finite.
        RecipeError, DatasetError, CheckpointError, WeightsError: an input is wrong.
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    with join_processes(device) as ranks:
        console = (console or Console(stderr=True)) if ranks.first else Console(quiet=True)
        out.mkdir(parents=True, exist_ok=True)
        if (out / LAST).exists() and not resume:
            raise TrainingError(f"{out} already holds a run: continue it with --resume, or give another folder")
        if resume and not (out / LAST).exists():
            raise TrainingError(f"{out} holds no run to resume")
        recipe = load_recipe(recipe_path, overrides, as_published=as_published)
        if start is not None and transfer is not None:
            raise TrainingError("--start and --transfer cannot be used together: give one of them")
        if recipe.start.transfer and transfer is None and start is None and not resume:
            raise TrainingError(
                f"the recipe starts from {recipe.start.transfer}: give its checkpoint with --transfer, or the "
                "weights of all layers with --start"
            )
        if split is not None and all(split_count(path) == 1 for path in data if path.exists()):
            raise TrainingError(f"split {split}: none of the datasets has splits; leave it out")
        tracklets = read_training(data, split)
        recipe = describe_data(recipe, data, tracklets, split, out, teacher)
        training, validation = set_aside(tracklets, recipe.validation_share, recipe.seed)
        targets = _read_teacher(recipe, teacher, training, ranks, console)
        try:
            run = Run(
                recipe,
                training,
                one_per_person_and_camera(validation),
                out,
                ranks,
                console,
                compile=compile,
                crops_source=str(data[0].resolve()),
                teacher=targets,
            )
        except ValueError as error:
            raise TrainingError(str(error)) from None
        if resume:
            checkpoint = load_checkpoint(out / LAST)
            try:
                run.restore(checkpoint)
            except (KeyError, TypeError, ValueError, RuntimeError, AttributeError):
                raise CheckpointError(
                    f"{out / LAST} is damaged, or of another version of not3d: train again, in another folder"
                ) from None
        else:
            run.load_initial_weights(transfer, start)
        return finish(run)


def finish(run: Run) -> Path:
    """Train the remaining epochs of a run; return the path of the best checkpoint.

    Raises:
        DivergedError: loss, weights or features are not finite.
        TrainingInterrupted: after Ctrl-C or SIGTERM; `last.pt` holds the current state.
        KeyboardInterrupt: after a second Ctrl-C; the files on disk do not change.
    """
    epochs = run.recipe.schedule.epochs
    batches = run.source.batches(run.epoch + 1, run.totals.steps, epochs)
    log = RunLog(run.out, run.epoch) if run.ranks.first else None
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with (
        Interruption(run.console, ignore_repeats=run.ranks.count > 1) as interruption,
        Progress(*columns, console=run.console) as progress,
    ):
        _announce(run)
        run.check_precision()
        bar = progress.add_task("epoch", total=epochs, completed=run.epoch)
        try:
            while run.epoch < epochs:
                for share in _train_epoch(run, batches):
                    progress.update(bar, completed=run.epoch + share)
                    _stop_if_requested(run, interruption)
                _check_weights(run)
                progress.update(bar, description="measuring, epoch")
                figures = run.totals.means() | _evaluate(run, run.epoch + 1, interruption)
                run.epoch, run.totals = run.epoch + 1, EpochTotals()
                _warn_of_dead_attention(run, figures)
                if log:
                    log.write(run.epoch, figures)
                run.save(LAST)
                progress.update(bar, description=f"loss {figures['total']:.3f}, epoch")
        except TrainingInterrupted:
            run.save(LAST)
            raise
        finally:
            batches.close()
            if log:
                log.close()
    return run.out / BEST


class Interruption:
    """Delays Ctrl-C and SIGTERM until `requested` is read; a second signal interrupts immediately.

    With `ignore_repeats`, further signals do nothing: processes of torchrun get each Ctrl-C twice, from the terminal
    and from torchrun, which ends them itself after 30 seconds. Only the main thread can handle signals, so in other
    threads nothing is delayed.
    """

    def __init__(self, console: Console, *, ignore_repeats: bool = False) -> None:
        self.requested, self._ignore_repeats = False, ignore_repeats
        self._console = console
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.requested and not self._ignore_repeats:
            raise KeyboardInterrupt
        if not self.requested:
            hint = "" if self._ignore_repeats else "; press again to stop immediately, without a checkpoint"
            self._console.print(f"Stopping after this step, with a checkpoint{hint}.")
        self.requested = True


def _read_teacher(
    recipe: Recipe, teacher: Path | None, training: Sequence[Tracklet], ranks: Ranks, console: Console
) -> TeacherTargets | LiveTeacher | None:
    """Return the targets of the teacher or a live one, or `None` if the losses of the recipe need none."""
    if not recipe.losses.need_teacher:
        return None
    if teacher is None:
        raise TrainingError("the losses of the recipe need a teacher: give its bundle with --teacher")
    if recipe.teacher.live:
        return LiveTeacher(teacher, recipe.teacher, ranks.device)
    if not ranks.first:
        ranks.any(False)  # wait until the first process has stored the features
    targets = teacher_targets(teacher, training, recipe.teacher, recipe.seed, console)
    if ranks.first:
        ranks.any(False)
    return targets


def _train_epoch(run: Run, batches: Generator[Batch]) -> Iterator[float]:
    """Train the remaining steps of the current epoch; yield the finished share of it after each step."""
    run.network.train()
    epoch, steps = run.epoch + 1, len(run.source.plan(run.epoch + 1))
    while run.totals.steps < steps:
        started = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - started
        rate = run.set_rate(epoch, (run.totals.steps + 1) / steps)
        figures = run.step(batch)
        if not math.isfinite(figures["total"]):
            raise DivergedError(
                f"the loss is not finite in epoch {epoch}, step {run.totals.steps + 1}: lower optimiser.learning_rate"
            )
        run.totals.add(figures | {"learning_rate": rate}, time.perf_counter() - started, waited)
        yield run.totals.steps / steps


def _check_weights(run: Run) -> None:
    """Raise if a step ruined the weights. A loss shows only what the steps before it did."""
    name = next((name for name, value in run.network.state_dict().items() if not value.isfinite().all()), None)
    if run.ranks.any(name is not None):
        raise DivergedError(
            f"the weights are not finite after epoch {run.epoch + 1} ({name or 'in another process'}): lower "
            "optimiser.learning_rate"
        )


def _evaluate(run: Run, epoch: int, interruption: Interruption) -> dict[str, float]:
    """Measure on the validation people, in the epochs that the recipe selects. Only the first process measures."""
    schedule = run.recipe.schedule
    figures: dict[str, float] = {}
    if not run.validation:
        run.save(BEST)
    elif run.ranks.first and (epoch % schedule.evaluate_every == 0 or epoch == schedule.epochs):
        # A single process can stop between two batches; several processes stop together, below.
        alone = run.ranks.count == 1
        try:
            figures = run.measure(epoch, lambda: _stop_if_requested(run, interruption) if alone else None)
        except FeatureError:
            raise DivergedError(
                f"the features are not finite after epoch {epoch}: lower optimiser.learning_rate"
            ) from None
    _stop_if_requested(run, interruption)
    return figures


def _stop_if_requested(run: Run, interruption: Interruption) -> None:
    if run.ranks.any(interruption.requested):
        raise TrainingInterrupted


def _announce(run: Run) -> None:
    processes = f", {run.ranks.count} processes" if run.ranks.count > 1 else ""
    run.console.print(
        f"{run.recipe.name}: {run.spec.classes} people, {len(run.source.tracklets)} tracklets; validation: "
        f"{run.validation_people} people, {len(run.validation)} tracklets; "
        f"{sum(p.numel() for p in run.network.parameters()):,} parameters on {run.device}{processes}"
    )
    if not run.validation:
        cameras: dict[str, set[str]] = {}
        for tracklet in run.source.tracklets:
            cameras.setdefault(tracklet.person, set()).add(tracklet.camera)
        if any(len(seen) > 1 for seen in cameras.values()):
            why = f"none were drawn from those seen by two cameras (validation_share = {run.recipe.validation_share:g})"
            cure = "To measure it: --set validation_share=0.3"
        else:
            why, cure = "no person was seen by two cameras", "To measure it, add people whom two cameras saw"
        run.console.print(
            f"No validation people: {why}. Accuracy is not measured, and {BEST} is the last epoch. {cure}",
            style="yellow",
        )


def _warn_of_dead_attention(run: Run, figures: dict[str, float]) -> None:
    """Warn once per run."""
    warning = None if run.warned else attention_warning(figures)
    if warning:
        run.warned = True
        run.console.print(f"Epoch {run.epoch}: {warning}", style="yellow", highlight=False)
