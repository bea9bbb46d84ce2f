"""What was acknowledged is there after SIGKILL, whole, whatever was going on."""

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from service.gallery import EmbeddedGallery, Filter
from tests.service.gallery.samples import assert_same, open_gallery, record, vector
from tests.service.gallery.writing_child import DIMENSION

ROOT = Path(__file__).parents[3]
ROUNDS = 8


def write_until_killed(directory: Path, seed: int, known: dict[str, str]) -> list[list[str]]:
    """Start the child, kill it some time after its first acknowledgement, and return the words of its lines."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.service.gallery.writing_child", str(directory), str(seed)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    with child.stdin, child.stdout, child.stderr:
        child.stdin.write("".join(f"{name} {state}\n" for name, state in known.items()).encode())
        child.stdin.close()
        delay = random.Random(seed).uniform(0.02, 0.6)
        killer: threading.Timer | None = None
        lines = []
        for line in child.stdout:
            lines.append(line)
            if killer is None and line.startswith(b"done"):
                killer = threading.Timer(delay, child.kill)
                killer.start()
        complaint = child.stderr.read().decode()
    assert killer is not None, complaint
    killer.join()
    assert child.wait() == -9, complaint
    assert complaint == ""
    return [line.decode().split() for line in lines if line.endswith(b"\n")]


def possible_states(lines: list[list[str]], known: dict[str, str]) -> dict[str, set[str]]:
    """The state acknowledged last of every id and, where a change was under way, the state that it leads to."""
    possible = {name: {state} for name, state in known.items()}
    for word, name, state in lines:
        if word == "begin":
            possible.setdefault(name, {"absent"}).add(state)
        else:
            possible[name] = {state}
    return possible


def check(gallery: EmbeddedGallery, possible: dict[str, set[str]]) -> dict[str, str]:
    """Compare records, listing and index with what is possible, and return the state found of every id."""
    found: dict[str, str] = {}
    for name, states in possible.items():
        kept = gallery.get(name)
        found[name] = "absent" if kept is None else str(kept.metadata["state"])
        assert found[name] in states
        if kept is None:
            continue
        thread = name[1 : name.index("-")]
        expected = record(
            name,
            embedding=vector(found[name], DIMENSION),
            camera_id=f"camera-{thread}",
            metadata={"state": found[name]},
        )
        assert_same(kept, expected)
        nearest = gallery.search(expected.embedding, 1)
        assert [hit.record.id for hit in nearest.hits] == [name]
        assert nearest.hits[0].score == pytest.approx(1, abs=1e-6)
        assert gallery.search(vector("q", DIMENSION), 1, Filter(metadata={"state": found[name]})).searched == 1
    gallery.erase(Filter(camera_ids=("passing",)), dry_run=False)
    present = {name for name, state in found.items() if state != "absent"}
    assert {item.id for item in gallery.list(limit=10_000).items} == present
    assert gallery.count() == gallery.search(vector("q", DIMENSION), 1).searched == len(present)
    return found


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    known: dict[str, str] = {}
    acknowledged = 0
    for seed in range(ROUNDS):
        lines = write_until_killed(tmp_path, seed, known)
        acknowledged += sum(line[0] == "done" for line in lines)
        gallery = open_gallery(tmp_path, dimension=DIMENSION)
        known = check(gallery, possible_states(lines, known))
        gallery.close()
    assert acknowledged > 10 * ROUNDS
