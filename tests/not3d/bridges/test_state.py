import os
import re
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from not3d.bridges.state import DueSearch, State, StateError
from not3d.bridges.tracklet import Tracklet

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def tracklet(id="a", frames=(b"1", b"2")):
    return Tracklet(id, "gate", frames, NOON, NOON, {"zones": ["door"]})


def test_a_track_goes_through_its_states_once(state):
    assert state.status("a") is None
    assert state.save("a", {"boxes": [1]})
    assert state.load("a") == {"boxes": [1]}
    assert state.hand_over(tracklet())
    assert state.next_waiting() == tracklet()
    assert not state.hand_over(tracklet(frames=(b"other",)))
    assert not state.save("a", {"boxes": [2]})
    assert state.load("a") is None
    state.enrolled("a")
    assert (state.status("a"), state.next_waiting(), state.waiting()) == ("enrolled", None, 0)
    assert not state.hand_over(tracklet())
    assert not state.dropped("a", "late")
    assert state.crops("a") == []


def test_a_dropped_track_is_named_with_its_reason(state):
    state.save("a", {})
    assert state.dropped("a", "empty_picture", "0 bytes")
    assert not state.dropped("a", "again")
    assert not state.hand_over(tracklet())
    (letter,) = state.dead_letters()
    assert (letter.id, letter.reason, letter.detail) == ("a", "empty_picture", "0 bytes")


def test_waiting_tracklets_come_in_order_and_once(state):
    for name in "cab":
        state.hand_over(tracklet(name))
        time.sleep(0.002)
    taken = set()
    for name in "cab":
        assert state.next_waiting(taken).id == name
        taken.add(name)
    assert state.next_waiting(taken) is None


def test_only_the_newest_crops_of_an_open_track_are_kept(state):
    state.save("a", {})
    for number in range(5):
        state.add_crop("a", number, b"%d" % number, keep=3)
    assert state.crops("a") == [(2.0, b"2"), (3.0, b"3"), (4.0, b"4")]


def test_the_end_of_an_unfinished_track_waits_for_the_enrolment_and_is_sent_once(state):
    state.hand_over(tracklet(), unfinished=True)
    assert state.amend("a", NOON, {"sub_label": "Ann"})
    assert state.next_change() is None
    state.enrolled("a")
    change = state.next_change()
    metadata = {"zones": ["door"], "sub_label": "Ann"}
    assert change == ("a", {"end_time": NOON.isoformat(), "metadata": metadata})
    assert not state.amend("a", NOON, {"zones": ["street"]})
    state.changed(*change)
    assert state.next_change() is None


def test_the_end_may_come_after_the_enrolment_and_only_for_unfinished_tracks(state):
    state.hand_over(tracklet("late"), unfinished=True)
    state.hand_over(tracklet("done"))
    state.enrolled("late")
    state.enrolled("done")
    assert state.amend("late", NOON, {})
    assert not state.amend("done", NOON, {})
    assert not state.amend("unknown", NOON, {})
    assert state.next_change()[0] == "late"


def test_handled_tracks_are_forgotten_after_some_days_and_waiting_ones_never(state):
    state.hand_over(tracklet("old"))
    state.enrolled("old")
    state.hand_over(tracklet("waits"))
    state.forget(days=-1)
    assert (state.status("old"), state.status("waits")) == (None, "waiting")


def test_marks_are_kept(state):
    assert state.mark("until") is None
    state.set_mark("until", "12.5")
    state.set_mark("until", "13.5")
    assert state.mark("until") == "13.5"


def test_what_was_kept_survives_kill(tmp_path):
    program = """
import os, signal, sys
from pathlib import Path
from not3d.bridges.state import State
from not3d.bridges.tracklet import Tracklet
state = State(Path(sys.argv[1]))
state.save("open", {"n": 1})
state.hand_over(Tracklet("waits", "gate", (b"picture",)))
os.kill(os.getpid(), signal.SIGKILL)
"""
    file = tmp_path / "state.sqlite"
    subprocess.run([sys.executable, "-c", program, file], check=False, cwd=Path(__file__).parents[3])
    with State(file) as state:
        assert state.load("open") == {"n": 1}
        assert state.next_waiting().frames == (b"picture",)


def test_two_bridges_cannot_share_a_file(state):
    with pytest.raises(StateError, match="give each its own --state file"):
        State(state.path)


def test_another_file_is_refused_with_the_cure(tmp_path):
    text = tmp_path / "text"
    text.write_text("no database, but long enough to be read as a header of one" * 20)
    with pytest.raises(StateError, match="not the state of a bridge"):
        State(text)
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as database:
        database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(StateError, match="another version"):
        State(other)


def test_the_file_is_readable_by_its_owner_only(state):
    assert state.path.stat().st_mode & 0o077 == 0


def test_a_search_is_due_from_the_enrolment_until_it_is_done(state):
    for name in ("a", "b"):
        state.hand_over(tracklet(name))
        state.enrolled(name, search=True)
    state.hand_over(tracklet("c"))
    state.enrolled("c")
    assert state.next_search() == DueSearch("a", "gate", "a")
    assert state.limit_searches(1) == 1
    assert state.next_search() == DueSearch("b", "gate", "b")
    state.searched("b")
    assert state.next_search() is None


def test_a_state_of_the_first_version_is_read(tmp_path):
    path = tmp_path / "bridge.sqlite"
    with State(path) as state:
        state.hand_over(tracklet())
    with sqlite3.connect(path) as database:
        for table in ("searches", "written_back", "observed", "sights"):
            database.execute(f"DROP TABLE {table}")
        database.execute("PRAGMA user_version=1")
    database.close()
    with State(path) as state:
        state.enrolled("a", search=True)
        assert state.next_search() == DueSearch("a", "gate", "a")


def test_what_is_no_file_is_refused_with_the_cure_and_keeps_its_rights(tmp_path):
    pipe, file = tmp_path / "pipe", tmp_path / "file"
    os.mkfifo(pipe)
    pipe.chmod(0o666)
    file.touch()
    for path, reason in ((pipe, "is not a file"), (tmp_path, "is not a file"), (file / "x.sqlite", "cannot be opened")):
        with pytest.raises(StateError, match=rf"{re.escape(str(path))} {reason}.*: choose another --state file"):
            State(path)
    assert pipe.stat().st_mode & 0o777 == 0o666


def test_the_database_of_another_program_is_not_changed(tmp_path):
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE tracks (id TEXT)")
    database.close()
    path.chmod(0o644)
    before = path.read_bytes()
    with pytest.raises(StateError, match="another program: choose another --state file"):
        State(path)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (before, 0o644)
