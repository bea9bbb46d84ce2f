"""The trainer: one loop, everything that decides it read from a recipe."""

import math
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from model.errors import Not3dError
from training.batches.clips import Batch
from training.datasets.catalog import one_per_person_and_camera, read_training, set_aside, split_count
from training.loop.attention_health import attention_warning
from training.loop.checkpoint import load_checkpoint
from training.loop.distributed import joined
from training.loop.interruption import Interruption, Stopped
from training.loop.run import BEST, LAST, Run
from training.loop.run_log import RunLog, Tally
from training.loop.start import name_run, start_network
from training.recipe import load_recipe


class TrainingError(Not3dError):
    """Training cannot start or go on; the message says why and what to do."""


class DivergedError(TrainingError):
    """The loss is not finite any more."""


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
) -> Path:
    """Trains a recipe on datasets and returns the checkpoint with the best held-out mAP, ``out/best.pt``.

    A share of the people is set aside and the model chosen on them, never on a test set. Ctrl-C (or SIGTERM) ends the
    step under way and leaves ``out/last.pt``, from which ``resume`` goes on: on one CPU process, and with the same
    number of threads, to the same bits as if it had not been interrupted. Started by torchrun, all processes train one
    model on the recipe's batch, and the first one writes.

    Args:
        recipe_path: see :func:`training.recipe.find_recipe`
        data: datasets, whose person ids are shared
        out: folder of the run
        resume: go on with the run in ``out``; weights to start from are not read again
        overrides: as for :func:`training.recipe.load_recipe`
        device: auto, cpu or cuda
        console: where progress goes; standard error by default
        split: number of the train/test split, for datasets that have several
        transfer: checkpoint that trunk and attention are taken from
        compile: compiles the network (``torch.compile``), anew for each frame size

    Raises:
        TrainingError: nothing to resume, a run already there, too few people, no checkpoint for a recipe that starts
            from one, or a loss that is not finite.
        RecipeError, DatasetError, CheckpointError, WeightsError: from what is read.
        KeyboardInterrupt: by Ctrl-C.
    """
    with joined(device) as ranks:
        console = (console or Console(stderr=True)) if ranks.first else Console(quiet=True)
        out.mkdir(parents=True, exist_ok=True)
        if (out / LAST).exists() and not resume:
            raise TrainingError(f"{out} holds a run already: resume it, or give another folder")
        if resume and not (out / LAST).exists():
            raise TrainingError(f"{out} holds no run to resume")
        recipe = load_recipe(recipe_path, overrides)
        if recipe.start.transfer and transfer is None and not resume:
            raise TrainingError(f"the recipe starts from {recipe.start.transfer}: give its checkpoint with --transfer")
        if split is not None and all(split_count(path) == 1 for path in data if path.exists()):
            raise TrainingError(f"split {split}: none of the datasets has splits; leave it out")
        tracklets = read_training(data, split)
        recipe = name_run(recipe, data, len(tracklets), split, out)
        training, aside = set_aside(tracklets, recipe.validation_share, recipe.seed)
        crops = str(data[0].resolve())
        try:
            run = Run(
                recipe,
                training,
                one_per_person_and_camera(aside),
                out,
                ranks,
                console,
                compile=compile,
                crops_source=crops,
            )
        except ValueError as error:
            raise TrainingError(str(error)) from None
        if resume:
            run.restore(load_checkpoint(out / LAST))
        else:
            start_network(run.network, recipe, transfer, console)
        return finish(run)


def finish(run: Run) -> Path:
    """Trains the epochs that are left of a run; returns the best checkpoint's path.

    Raises:
        DivergedError: the loss is not finite.
        Stopped: by Ctrl-C or SIGTERM; ``last.pt`` is where it stood.
        KeyboardInterrupt: by a second Ctrl-C, which leaves what there was before.
    """
    epochs = run.recipe.schedule.epochs
    batches = run.source.batches(run.epoch + 1, run.tally.steps, epochs)
    log = RunLog(run.out, run.epoch) if run.ranks.first else None
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    patient = run.ranks.count > 1
    with (
        Interruption(run.console, patient=patient) as interruption,
        Progress(*columns, console=run.console) as progress,
    ):
        _announce(run)
        bar = progress.add_task("epoch", total=epochs, completed=run.epoch)
        try:
            while run.epoch < epochs:
                for share in _train_epoch(run, batches):
                    progress.update(bar, completed=run.epoch + share)
                    _stop_if_asked(run, interruption)
                progress.update(bar, description="measuring, epoch")
                row = run.tally.means() | _evaluate(run, run.epoch + 1, interruption)
                run.epoch, run.tally = run.epoch + 1, Tally()
                _warn(run, row)
                if log:
                    log.write(run.epoch, row)
                run.save(LAST)
                progress.update(bar, description=f"loss {row['total']:.3f}, epoch")
        except Stopped:
            run.save(LAST)
            raise
        finally:
            batches.close()
            if log:
                log.close()
    return run.out / BEST


def _train_epoch(run: Run, batches: Generator[Batch]) -> Iterator[float]:
    """Trains what is left of the epoch under way; gives, after each step, the share of it that is done."""
    run.network.train()
    epoch, steps = run.epoch + 1, len(run.source.plan(run.epoch + 1))
    while run.tally.steps < steps:
        started = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - started
        rate = run.set_rate(epoch, (run.tally.steps + 1) / steps)
        figures = run.step(batch)
        if not math.isfinite(figures["total"]):
            raise DivergedError(f"the loss is not finite in epoch {epoch}, step {run.tally.steps + 1}: lower the rate")
        run.tally.add(figures | {"learning_rate": rate}, time.perf_counter() - started, waited)
        yield run.tally.steps / steps


def _evaluate(run: Run, epoch: int, interruption: Interruption) -> dict[str, float]:
    """Measures the people set aside in the epochs that the recipe wants; the first process does it for all."""
    schedule = run.recipe.schedule
    figures: dict[str, float] = {}
    if not run.validation:
        run.save(BEST)
    elif run.ranks.first and (epoch % schedule.evaluate_every == 0 or epoch == schedule.epochs):
        # One process may stop between batches; several stop together, below.
        alone = run.ranks.count == 1
        figures = run.measure(epoch, lambda: _stop_if_asked(run, interruption) if alone else None)
    _stop_if_asked(run, interruption)
    return figures


def _stop_if_asked(run: Run, interruption: Interruption) -> None:
    if run.ranks.any(interruption.asked):
        raise Stopped


def _announce(run: Run) -> None:
    processes = f", {run.ranks.count} processes" if run.ranks.count > 1 else ""
    run.console.print(
        f"{run.recipe.name}: {run.spec.classes} people, {len(run.source.tracklets)} tracklets; set aside "
        f"{run.people_aside} people, {len(run.validation)} tracklets; "
        f"{sum(p.numel() for p in run.network.parameters()):,} parameters on {run.device}{processes}"
    )
    if not run.validation:
        run.console.print(
            f"Nobody is set aside: of the people whom two cameras saw, a share of {run.recipe.validation_share:g} "
            f"(--set validation_share=0.3 for more). Nothing is measured, and {BEST} is the last epoch.",
            style="yellow",
        )


def _warn(run: Run, figures: dict[str, float]) -> None:
    """Says once that the attention is dead."""
    warning = None if run.warned else attention_warning(figures)
    if warning:
        run.warned = True
        run.console.print(f"Epoch {run.epoch}: {warning}", style="yellow", highlight=False)
