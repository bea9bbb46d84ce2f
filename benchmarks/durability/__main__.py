"""Kill writers at random moments and check that no acknowledged change is lost: `python -m benchmarks.durability`.

Each round starts a process that changes a gallery from six threads and sends it SIGKILL while it writes, starts or
closes, or just before it opens, renames or removes a file. Then each acknowledged change must be stored, each
unacknowledged change completely or not at all, and the index must agree with the database. Each record must have its
one alert, and each alert its delivery. Every second round uses the approximate index. The exit status is 1 at the first
loss, and the files of that round remain.

With `--milvus` the writers are replicas of the service on one server, and the changes are enrolments by clients.
"""

import argparse
import logging
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.durability.rounds import Lost, Outcome, Plan, Rounds


def main() -> None:
    """Run the rounds and print what they showed as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None, help="seed of the first round (default: random)")
    parser.add_argument("--folder", type=Path, default=None, help="folder on the file system to test")
    parser.add_argument("--milvus", metavar="ADDRESS", help="kill replicas on this server, as in NOT3D_GALLERY")
    parser.add_argument("--replicas", type=int, default=2, help="with --milvus (%(default)s)")
    parser.add_argument("--clients", type=int, default=16, help="with --milvus (%(default)s)")
    parser.add_argument("--kills", type=int, default=50, help="with --milvus (%(default)s)")
    options = parser.parse_args()
    first = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    if options.milvus:
        print(_kill_replicas(options, first))
        return
    folder = Path(tempfile.mkdtemp(prefix="not3d-durability-", dir=options.folder))
    logging.disable(logging.WARNING)  # rebuilt indexes are expected here
    rounds, outcomes = Rounds(folder), []
    print(f"Seeds {first} to {first + options.rounds - 1}, in {folder}.", flush=True)
    for seed in range(first, first + options.rounds):
        plan = Plan.draw(seed, approximate=seed % 2 == 1)
        try:
            outcomes.append(rounds.run(plan))
        except Lost as error:
            sys.exit(f"Round {seed - first + 1}, {plan}: {error}\nThe files are in {folder}.")
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{len(outcomes)} of {options.rounds} rounds")
    print(summary(outcomes))
    shutil.rmtree(folder)


def _kill_replicas(options: argparse.Namespace, seed: int) -> str:
    from benchmarks.durability.replicas import kill_replicas

    print(f"Seed {seed}, replicas on {options.milvus.rpartition('@')[2]}.", flush=True)
    numbers = {"replicas": options.replicas, "clients": options.clients, "kills": options.kills}
    try:
        return kill_replicas(options.milvus, **numbers, seed=seed)
    except Lost as error:
        sys.exit(str(error))


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return a Markdown table of kills by moment."""
    lines = [
        "| killed while | rounds | changes acknowledged | unacknowledged when killed | of these found, complete "
        "| index being written |",
        "|---|---|---|---|---|---|",
    ]
    for moment in ("writing", "starting", "closing", "saving", "all"):
        some = [one for one in outcomes if moment in {one.plan.moment, "all"}]
        numbers = (
            len(some),
            sum(one.acknowledged for one in some),
            sum(one.begun for one in some),
            sum(one.kept for one in some),
            sum(one.index == "being written" for one in some),
        )
        lines.append(f"| {moment} | " + " | ".join(f"{number:,}" for number in numbers) + " |")
    seconds = np.array([one.seconds for one in outcomes])
    approximate = sum(one.plan.approximate for one in outcomes)
    lines += [
        "",
        f"Lost: 0. Found in part: 0. Alerts checked: {max(one.alerts for one in outcomes):,}, one for each record with "
        f"its delivery; none lost, none twice. {approximate} rounds with the approximate index; "
        f"{np.median(seconds):.1f} s a round (median), {seconds.max():.1f} s at most; "
        f"up to {max(one.records for one in outcomes)} records and "
        f"{max(one.log_bytes for one in outcomes) / 1e6:.1f} MB of write-ahead log at the kill.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
