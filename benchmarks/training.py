"""Compare the trainer with a plain fp32 training loop: `python -m benchmarks.training`.

Both train the same network from the same weights on the same batches, with the same losses and learning rates. The
plain loop is eager fp32 in NCHW with PyTorch's `DataLoader` and two worker processes. They alternate, so ratios stay
meaningful on a shared machine, and their losses are compared step by step. A second plain run with other weights and
batches shows how far two fp32 runs differ by chance.
"""

import argparse
import copy
import gc
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peak import measure_peak
from model.frames import read_frame
from model.network import build_network
from training.batches.clips import BatchPlan
from training.batches.sampling import CLIP_SAMPLING
from training.datasets.catalog import read_training
from training.datasets.synthetic.dataset import write_synthetic
from training.datasets.tracklet import Tracklet
from training.loop.distributed import Ranks
from training.loop.objective import Objective
from training.loop.optimiser import build_optimiser, learning_rate
from training.loop.run import Run
from training.recipe import Recipe, find_recipe, load_recipe

RECIPES = {
    "light": ("light", {"network.frame_height": "128", "network.frame_width": "64", "batch.tracklets": "4"}),
    "paper": ("not3d", {}),
}
"""The bundled model's network at 128x64, and that of Not 3D Re-ID; both with its batch of 8 x 4 clips of 4 frames."""

TOLERANCE = 0.03
"""Two loss curves are equal if they end within this share of each other and differ no more than two seeds."""


class Loop(Protocol):
    def step(self) -> tuple[float, float]:
        """Train one step; return its loss and the seconds spent waiting for the batch."""


class OurLoop:
    def __init__(self, run: Run) -> None:
        self.run = run
        self._batches = run.source.batches(1, 0, run.recipe.schedule.epochs)
        self._epochs = epoch_of_each_step(run.source, run.recipe)
        run.network.train()

    def step(self) -> tuple[float, float]:
        started = time.perf_counter()
        batch = next(self._batches)
        waited = time.perf_counter() - started
        self.run.set_rate(*next(self._epochs))
        return self.run.step(batch)["total"], waited

    def close(self) -> None:
        self._batches.close()


class Clips(Dataset[tuple[Tensor, int, Tensor]]):
    """Clips by (epoch, batch, position, tracklet): `float32 [T, 3, H, W]`, label, and `bool [T]`: erased."""

    def __init__(self, tracklets: Sequence[Tracklet], labels: dict[str, int], recipe: Recipe) -> None:
        self.tracklets, self.labels, self.recipe = tracklets, labels, recipe
        self.mean, self.std = torch.tensor(recipe.network.mean), torch.tensor(recipe.network.std)

    def __getitem__(self, key: tuple[int, int, int, int]) -> tuple[Tensor, int, Tensor]:
        recipe, tracklet = self.recipe, self.tracklets[key[3]]
        rng = np.random.default_rng([recipe.seed, *key[:3]])
        chosen = CLIP_SAMPLING[recipe.batch.sampling](len(tracklet.frames), recipe.network.clip_length, rng)
        size = recipe.network.frame_height, recipe.network.frame_width
        frames = [read_frame(tracklet.frames[index].read_bytes(), *size) for index in chosen]
        fill = recipe.augmentation.fill(recipe.network.mean, recipe.network.std)
        clip, erased = recipe.augmentation.apply(np.stack(frames), fill, rng)
        pixels = (torch.from_numpy(clip).float() / 255 - self.mean) / self.std
        return pixels.permute(0, 3, 1, 2).contiguous(), self.labels[tracklet.person], torch.from_numpy(erased)


class PlainLoop:
    def __init__(self, source: BatchPlan, recipe: Recipe, weights: dict[str, Tensor], objective: Objective) -> None:
        self.device = next(iter(weights.values())).device
        self.network = build_network(recipe.network.model_copy(update={"classes": len(source.labels)})).to(self.device)
        self.network.load_state_dict(weights)
        self.network.train()
        self.objective, self.recipe = objective, recipe
        self.optimiser = build_optimiser(self.network, recipe.optimiser)
        self.centers = objective.center_optimiser()
        keys = [
            [(epoch, number, position, index) for position, index in enumerate(indices)]
            for epoch in range(1, recipe.schedule.epochs + 1)
            for number, indices in enumerate(source.plan(epoch))
        ]
        dataset = Clips(source.tracklets, source.labels, recipe)
        loader = DataLoader(dataset, batch_sampler=keys, num_workers=2, pin_memory=self.device.type == "cuda")
        self._batches: Iterator[Any] = iter(loader)
        self._epochs = epoch_of_each_step(source, recipe)

    def step(self) -> tuple[float, float]:
        started = time.perf_counter()
        clips, labels, erased = (part.to(self.device) for part in next(self._batches))
        waited = time.perf_counter() - started
        for group in self.optimiser.param_groups:
            group["lr"] = rate(self.recipe, *next(self._epochs))
        output = self.network.train_forward(clips, frames=self.recipe.losses.frame_identity > 0)
        loss = self.objective(output, labels, erased, classifier=self.network.classifier.weight)["total"]
        self.optimiser.zero_grad()
        if self.centers:
            self.centers.zero_grad()
        loss.backward()
        if self.recipe.optimiser.clip_gradient:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.optimiser.clip_gradient)
        self.optimiser.step()
        if self.centers:
            self.objective.unscale_centers()
            self.centers.step()
        return loss.item(), waited


@dataclass
class Course:
    """The loss of each step; for each turn the seconds, the processor's seconds and the seconds waiting for batches.

    Processor time is that of this process: workers of a `DataLoader` are not counted.
    """

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def take_turn(self, loop: Loop, steps: int) -> None:
        waited, started, busy = 0.0, time.perf_counter(), time.process_time()
        for _ in range(steps):
            loss, wait = loop.step()
            self.losses.append(loss)
            waited += wait
        self.seconds.append(time.perf_counter() - started)
        self.processor.append(time.process_time() - busy)
        self.waited.append(waited)

    def forget_times(self) -> None:
        self.seconds, self.waited, self.processor = [], [], []

    def rates(self, frames: int) -> list[float]:
        """Return the frames per second of each turn."""
        return [frames / seconds for seconds in self.seconds]

    @property
    def waiting(self) -> float:
        """The median share of time spent waiting for batches."""
        return statistics.median(w / s for w, s in zip(self.waited, self.seconds, strict=True))

    def smooth(self, steps: int) -> list[float]:
        return [statistics.fmean(self.losses[max(0, end - steps) : end]) for end in range(1, len(self.losses) + 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=sorted(RECIPES), default="light", help="light (default) or paper")
    parser.add_argument("--data", type=Path, action="append", help="datasets (default: people drawn by the project)")
    parser.add_argument("--rounds", type=int, default=7, help="alternating turns of each loop")
    parser.add_argument("--steps", type=int, default=10, help="steps per turn")
    parser.add_argument("--threads", type=int, help="PyTorch's threads (default: its own choice)")
    parser.add_argument("--one-seed", action="store_true", help="skip the second plain run")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        tracklets = read_training(arguments.data or [_draw(Path(folder))])
        _measure(arguments, tracklets, device)


def _draw(folder: Path) -> Path:
    write_synthetic(folder, people=48, cameras=4, frames=8, seed=1)
    return folder


def _measure(arguments: argparse.Namespace, tracklets: Sequence[Tracklet], device: torch.device) -> None:
    recipe = _recipe(arguments.network, 1)
    run = Run(recipe, tracklets, [], Path(), Ranks(0, 1, device), Console(quiet=True))
    weights = copy.deepcopy(run.network.state_dict())
    ours = OurLoop(run)
    plain = PlainLoop(run.source, recipe, weights, copy.deepcopy(run.objective))
    batch = recipe.batch.people * recipe.batch.tracklets * recipe.network.clip_length
    print(
        f"{recipe.network.backbone} at {recipe.network.frame_height}x{recipe.network.frame_width}, {batch} frames a "
        f"batch, {len(tracklets)} tracklets; {device}, {torch.get_num_threads()} threads"
    )
    courses = {"plain, fp32": Course(), f"this trainer, {recipe.precision}": Course()}
    first, second = courses.values()
    # Start-up costs (threads, kernels, first allocations) are not measured.
    for loop, course in ((plain, first), (ours, second)):
        course.take_turn(loop, 1)
        course.forget_times()
    for _ in range(arguments.rounds):
        first.take_turn(plain, arguments.steps)
        second.take_turn(ours, arguments.steps)
    frames = arguments.steps * batch
    print("\n| loop | frames per second | slowest to fastest turn | waiting for batches |\n|---|---|---|---|")
    for name, course in courses.items():
        rates = course.rates(frames)
        print(
            f"| {name} | {statistics.median(rates):.1f} | {min(rates):.1f} to {max(rates):.1f} | {course.waiting:.1%} |"
        )
    _print_ratio("Ratio", first.seconds, second.seconds)
    _print_ratio("Ratio in processor time, without the DataLoader's workers", first.processor, second.processor)
    other = None
    if not arguments.one_seed:
        torch.manual_seed(2)
        other_recipe = _recipe(arguments.network, 2)
        source = BatchPlan(tracklets, other_recipe)
        fresh = build_network(run.spec).to(device).state_dict()
        other = Course()
        other.take_turn(
            PlainLoop(source, other_recipe, fresh, Objective(recipe.losses, run.spec.classes, run.network.dimension)),
            len(first.losses),
        )
    _compare(first, second, other)
    _share_of_peak(plain.network, run, statistics.median(second.rates(frames)), device)
    if device.type == "cuda":
        # Only of this trainer: network, optimiser and buffers of the plain loop are freed first.
        del plain
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        Course().take_turn(ours, 2)
        print(f"Peak memory: {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB")
    ours.close()


def _print_ratio(name: str, plain: Sequence[float], ours: Sequence[float]) -> None:
    ratios = [a / b for a, b in zip(plain, ours, strict=True)]
    print(
        f"\n{name}: {statistics.median(ratios):.2f} (of {len(ratios)} rounds, {min(ratios):.2f} to {max(ratios):.2f})"
    )


def _compare(plain: Course, ours: Course, other: Course | None) -> None:
    window = max(1, len(plain.losses) // 4)
    curves = [course.smooth(window) for course in (plain, ours, other) if course]
    names = ["plain", "this trainer", "plain, another seed"][: len(curves)]
    print(f"\n| step | {' | '.join(names)} |\n|{'---|' * (1 + len(names))}")
    marks = sorted({round(at * (len(plain.losses) - 1) / 6) for at in range(7)})
    for at in marks:
        print(f"| {at + 1} | " + " | ".join(f"{curve[at]:.3f}" for curve in curves) + " |")
    ends = [curve[-1] for curve in curves]
    apart = abs(ends[1] / ends[0] - 1)
    distances = [statistics.fmean(abs(a - b) for a, b in zip(curves[0], curve, strict=True)) for curve in curves[1:]]
    print(
        f"\nRunning means of {window} steps. They end {apart:.1%} apart (at most {TOLERANCE:.0%}); mean distance of "
        "the curves " + ", between two plain seeds ".join(f"{distance:.4f}" for distance in distances)
    )
    equal = apart <= TOLERANCE and (other is None or distances[0] <= distances[1])
    print(f"Equal loss curves: {'yes' if equal else 'NO'}")


def _share_of_peak(network: torch.nn.Module, run: Run, rate_: float, device: torch.device) -> None:
    """Print the share of a matrix product's speed that training reaches, by the plain network's operations."""
    spec = run.spec
    clips = torch.zeros(2, spec.clip_length, 3, spec.frame_height, spec.frame_width, device=device)
    with FlopCounterMode(display=False) as counter:
        network.train_forward(clips).logits.sum().backward()  # type: ignore[operator]
    each = counter.get_total_flops() / (2 * spec.clip_length)
    peak = measure_peak(device.type, torch.bfloat16)
    print(
        f"\n{each / 1e9:.2f} GFLOP per frame, forward and backward: {each * rate_ / 1e12:.3f} TFLOP/s, "
        f"{each * rate_ / peak:.0%} of a bf16 matrix product's {peak / 1e12:.3f}"
    )


def epoch_of_each_step(source: BatchPlan, recipe: Recipe) -> Iterator[tuple[int, float]]:
    """Yield the epoch and the share of it that is complete after each step."""
    for epoch in range(1, recipe.schedule.epochs + 1):
        steps = len(source.plan(epoch))
        for step in range(steps):
            yield epoch, (step + 1) / steps


def rate(recipe: Recipe, epoch: int, done: float) -> float:
    schedule = recipe.schedule
    return learning_rate(
        epoch - 1 + done if schedule.form == "cosine" else epoch,
        schedule.form,
        base=recipe.optimiser.learning_rate,
        warm_up=schedule.warm_up,
        milestones=schedule.milestones,
        decay=schedule.decay,
        epochs=schedule.epochs,
    )


def _recipe(name: str, seed: int) -> Recipe:
    recipe, changes = RECIPES[name]
    always = {"resolutions": "[]", "precision": "bf16", "seed": str(seed)}
    return load_recipe(find_recipe(recipe), changes | always)


if __name__ == "__main__":
    main()
