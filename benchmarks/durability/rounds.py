"""One round: kill a writer and compare its files with what it reported."""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.durability.writer import (
    ABSENT,
    IDS_OF_A_THREAD,
    PASSING,
    THREADS,
    WEBHOOK,
    make_record,
    open_gallery,
    thumbnail,
    vector,
)
from service.gallery import AuditEntry, Filter
from service.gallery.archive.verify import verify
from service.gallery.embedded.gallery import EmbeddedGallery
from service.gallery.watch.records import FIRST_CURSOR, AlertQuery, OutboxCount

ROOT = Path(__file__).parents[2]
LONGEST = 120.0
"""Seconds after which a writer is killed if it did not reach its planned point."""

Moment = Literal["writing", "starting", "closing", "saving"]


class Lost(AssertionError):
    """An acknowledged change is missing, or a change is stored in part."""


@dataclass(frozen=True, slots=True)
class Plan:
    """When a writer is killed: seconds after it begins to write, start or close, or at a file operation."""

    seed: int
    moment: Moment
    seconds: float
    step: int
    approximate: bool
    reopen: bool
    """Whether the gallery itself is opened and closed before the next writer, or only a copy."""

    @classmethod
    def draw(cls, seed: int, *, approximate: bool) -> "Plan":
        """Draw a plan: half of the kills hit writing, the others starting, closing or a file operation."""
        dice = random.Random(f"plan-{seed}")
        moment: Moment = dice.choice(("writing", "writing", "writing", "starting", "closing", "saving"))
        longest = {"writing": 0.6, "starting": 0.15, "closing": 0.05, "saving": 0.0}[moment]
        step = dice.randrange(1, 60) if moment == "saving" else 0
        return cls(seed, moment, dice.uniform(0, longest), step, approximate, dice.random() < 0.5)


@dataclass(slots=True)
class WriterReport:
    """The writer's reports: acknowledged changes, and the change in progress of each thread."""

    known: dict[str, str]
    in_progress: dict[int, dict[str, str]] = field(default_factory=dict)
    receipts: set[str] = field(default_factory=set)
    deleted: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    phases: list[str] = field(default_factory=list)

    def read_line(self, line: bytes) -> None:
        facts: dict[str, Any] = json.loads(line)
        if facts["phase"] == "begin":
            self.in_progress[facts["thread"]] = facts["changes"]
        elif facts["phase"] == "done":
            self.known |= facts["changes"]
            del self.in_progress[facts["thread"]]
            self.acknowledged += 1
            self.deleted.update(facts.get("deleted", []))
            self.receipts |= {facts["receipt"]} if "receipt" in facts else set()
        else:
            self.phases.append(facts["phase"])


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a round; of `begun` unacknowledged changes, `kept` were found, complete."""

    plan: Plan
    acknowledged: int
    begun: int
    kept: int
    records: int
    index: str
    log_bytes: int
    alerts: int
    seconds: float


class Rounds:
    """Rounds on one data directory; each begins with the files of the last one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "data"
        self._directory.mkdir()
        self._exists = False
        self._copy = directory / "copy"
        self._known: dict[str, str] = {}
        self._newest: str | None = None
        self._alerts: dict[str, str] = {}

    def run(self, plan: Plan) -> Outcome:
        """Kill a writer and check its files. Raises `Lost`."""
        begin = time.monotonic()
        report = self._write(plan)
        self._exists = self._exists or "open" in report.phases
        files = {path.name: path.stat().st_size for path in self._directory.iterdir()}
        if self._exists:  # otherwise its creation may have been interrupted
            problems = verify(self._directory).problems
            expect(problems == [], f"verify finds problems in what was left: {problems}")
        kept = self.check(plan, report)
        return Outcome(
            plan,
            report.acknowledged,
            len(report.in_progress),
            kept,
            sum(state != ABSENT for state in self._known.values()),
            "being written" if "index.faiss.part" in files else "there" if "index.faiss" in files else "none",
            files.get("gallery.sqlite-wal", 0),
            len(self._alerts),
            time.monotonic() - begin,
        )

    def check(self, plan: Plan, report: WriterReport | None = None) -> int:
        """Compare the files with the reports; return the number of unacknowledged changes found. Raises `Lost`."""
        report = report or WriterReport(dict(self._known))
        directory = self._directory
        if not plan.reopen:
            # The next writer opens the directory exactly as the killed one left it.
            shutil.rmtree(self._copy, ignore_errors=True)
            directory = Path(shutil.copytree(self._directory, self._copy))
        gallery = open_gallery(directory, approximate=plan.approximate)
        try:
            found, kept = _find_states(gallery, report)
            _check_search(gallery, found)
            self._check_alerts(gallery, found)
            newest = _check_audit(gallery, report, self._newest)
        finally:
            gallery.close()
        verified = verify(directory)
        messages = verified.problems + verified.remarks
        expect(messages == [], f"verify: {messages}")
        self._exists = self._exists or plan.reopen
        self._known, self._newest = found, newest if plan.reopen else self._newest
        return kept

    def _check_alerts(self, gallery: EmbeddedGallery, found: dict[str, str]) -> None:
        """Check that each record has its one alert and each alert its delivery, and that no id stands for two."""
        alerts = gallery.alerts(AlertQuery(10_000, after=FIRST_CURSOR))
        records = Counter(alert.record for alert in alerts)
        expected = Counter(name for name, state in found.items() if state != ABSENT)
        expect(records == expected, f"alerts are lost or raised twice: {records - expected}, {expected - records}")
        for alert in alerts:
            known = self._alerts.setdefault(alert.id, alert.record)
            expect(known == alert.record, f"the alert {alert.id} is of {known} and of {alert.record}")
        waiting = gallery.count_deliveries().get(WEBHOOK, OutboxCount()).waiting
        expect(waiting == len(alerts), f"{waiting} deliveries wait, and there are {len(alerts)} alerts")

    def _write(self, plan: Plan) -> WriterReport:
        given = {
            "directory": str(self._directory),
            "seed": plan.seed,
            "approximate": plan.approximate,
            "step": plan.step,
            "closing": 0.2 if plan.moment == "closing" else None,
        }
        child = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.durability.writer", json.dumps(given)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        if child.stdin is None or child.stdout is None or child.stderr is None:
            raise RuntimeError("the writer has no pipes")
        report = WriterReport(dict(self._known))
        killers = [_kill_after(LONGEST, child)]
        awaited = {"writing": "done", "starting": "opening", "closing": "closing", "saving": ""}[plan.moment]
        with child.stdin, child.stdout, child.stderr:
            child.stdin.write(json.dumps(self._known).encode())
            child.stdin.close()
            for line in child.stdout:
                if not line.endswith(b"\n"):
                    break
                report.read_line(line)
                if awaited and awaited in {*report.phases, "done" if report.acknowledged else ""}:
                    killers.append(_kill_after(plan.seconds, child))
                    awaited = ""
            errors = child.stderr.read().decode()
        for killer in killers:
            killer.cancel()
        status = child.wait()
        expect(status == -9 and not errors, f"the writer ended by itself with {status}: {errors}")
        return report


def expect(condition: bool, message: str) -> None:
    """Raise `Lost` with a message if the condition is false."""
    if not condition:
        raise Lost(message)


def _kill_after(seconds: float, child: subprocess.Popen[bytes]) -> threading.Timer:
    killer = threading.Timer(seconds, child.kill)
    killer.daemon = True
    killer.start()
    return killer


def _find_states(gallery: EmbeddedGallery, report: WriterReport) -> tuple[dict[str, str], int]:
    """Return the state of each id and the number of unacknowledged changes found."""
    found = {}
    for thread in range(THREADS):
        for number in range(IDS_OF_A_THREAD):
            name = f"t{thread}-{number}"
            found[name] = _find_state(gallery, name)
    kept = 0
    for thread in range(THREADS):
        names = [name for name in found if name.startswith(f"t{thread}-")]
        before = {name: report.known.get(name, ABSENT) for name in names}
        after = before | report.in_progress.get(thread, {})
        now = {name: found[name] for name in names}
        differing = {name: (before[name], after[name], now[name]) for name in names if now[name] != before[name]}
        expect(now in (before, after), f"thread {thread}: changes are lost or stored in part: {differing}")
        kept += now == after != before
    return found, kept


def _find_state(gallery: EmbeddedGallery, name: str) -> str:
    """Return a record's state after checking that vector, camera, metadata, counts and thumbnail agree with it."""
    record = gallery.get(name)
    if record is None:
        expect(gallery.thumbnail(name) is None, f"{name} is gone and its thumbnail is not")
        return ABSENT
    state = str(record.metadata["state"])
    expected = make_record(name, state)
    expect(
        record.embedding.tobytes() == expected.embedding.tobytes(), f"{name} has another vector than its metadata say"
    )
    for field_ in ("id", "camera_id", "start_time", "metadata", "frames", "clips", "created_at", "expires_at"):
        expect(
            getattr(record, field_) == getattr(expected, field_), f"{name} has another {field_} than its metadata say"
        )
    expect(gallery.thumbnail(name) == thumbnail(state), f"{name} has another thumbnail than its metadata say")
    return state


def _check_search(gallery: EmbeddedGallery, found: dict[str, str]) -> None:
    """Check that the index finds each record by its vector, and no others."""
    gallery.erase(Filter(camera_ids=(PASSING,)), dry_run=False)
    present = {name for name, state in found.items() if state != ABSENT}
    expect({item.id for item in gallery.list(limit=10_000).items} == present, "the listing has other records")
    expect(gallery.count() == len(present), f"{gallery.count()} records are counted, and {len(present)} are there")
    for name in sorted(present):
        hits = gallery.search(vector(found[name]), 1).hits
        expect([hit.record.id for hit in hits] == [name], f"{name} is not found by its vector")
        expect(hits[0].score > 1 - 1e-6, f"{name} is found with a score of {hits[0].score}")
        only = gallery.search(vector("query"), 2, Filter(metadata={"state": found[name]}))
        expect([hit.record.id for hit in only.hits] == [name], f"{name} is not found by its metadata")
    searched = gallery.search(vector("query"), 1).searched
    expect(searched == len(present), f"{searched} records are searched, and {len(present)} are there")


def _check_audit(gallery: EmbeddedGallery, report: WriterReport, newest: str | None) -> str | None:
    """Check that each acknowledged removal and each older entry is in the audit log; return the newest entry."""
    entries: list[AuditEntry] = []
    while page := gallery.audit(limit=500, before=entries[-1].receipt if entries else None):
        entries += page
        if any(entry.receipt == newest for entry in page):
            break
    receipts = {entry.receipt for entry in entries}
    expect(newest is None or newest in receipts, "an entry of the audit log is gone")
    expect(report.receipts <= receipts, "a receipt was given that the audit log does not know")
    deleted = Counter(str(entry.filter["id"]) for entry in entries if entry.action == "delete")
    expect(report.deleted <= deleted, "a deletion is not in the audit log")
    return entries[0].receipt if entries else None
