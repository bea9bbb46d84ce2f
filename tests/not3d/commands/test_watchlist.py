"""`not3d watchlist` and `not3d alerts`, and the client's calls, on a real service that is also restarted."""

import json
import threading
from pathlib import Path

import pytest

from not3d.client import Client, ProblemError
from not3d.client.responses import Alert
from not3d.demo import running_service
from tests.not3d.conftest import Run
from training.datasets.tracklet import Tracklet


def appear(client: Client, tracklet: Tracklet, id: str, camera: str = "c9") -> None:
    client.put(list(tracklet.frames), id=id, camera_id=camera)


def test_a_watchlist_is_put_listed_and_deleted(run: Run, client: Client, tracklet: Tracklet) -> None:
    appear(client, tracklet, "example")
    code, out, err = run("watchlist", "put", "w", "--id", "example", "--min-score", 0.9, "--cooldown", 0,
                         "--camera", "c9", "--url", client.url)  # fmt: skip
    assert (code, out) == (0, "w: 1 example, alerts at scores from 0.900\n"), err
    code, out, _ = run("watchlist", "list", "--url", client.url)
    assert code == 0
    assert "0.900" in out
    appear(client, tracklet, "seen")
    code, out, _ = run("alerts", "--url", client.url)
    assert code == 0
    assert "probable appearance (score 1.000)  c9  seen" in out
    code, out, _ = run("alerts", "--json", "--watchlist", "w", "--url", client.url)
    (alert,) = map(json.loads, out.splitlines())
    assert (alert["record_id"], alert["example_id"]) == ("seen", "example")
    judged = client.judge_alert(alert["id"], "same")
    assert judged.verdict == "same"
    assert [each.id for each in client.watchlist("w").examples] == ["example", "seen"]
    assert client.judge_alert(alert["id"], None).verdict is None
    assert client.alert(alert["id"]).record_id == "seen"
    assert run("watchlist", "delete", "w", "--url", client.url)[0] == 0
    assert list(client.watchlists()) == []


def test_a_watchlist_is_made_or_changed_only_if_no_other_one_would_be_lost(
    run: Run, client: Client, tracklet: Tracklet
) -> None:
    appear(client, tracklet, "example")
    command = ("watchlist", "put", "new", "--id", "example", "--new", "--url", client.url, "--min-score")
    assert run(*command, 0.9)[0] == 0
    code, _, err = run(*command, 0.8)
    assert code == 1
    assert "the watchlist new exists" in err
    read = client.watchlist("new")
    assert client.put_watchlist("new", min_score=0.7, replaces=read).min_score == 0.7
    with pytest.raises(ProblemError, match="412"):
        client.put_watchlist("new", min_score=0.6, replaces=read)
    assert client.put_watchlist("new", min_score=0.6).min_score == 0.6
    client.delete_watchlist("new")


def test_what_another_program_reads_is_not_cut(run: Run, client: Client, tracklet: Tracklet) -> None:
    names = [f"{letter * 60}-{number}" for number, letter in enumerate("wv")]
    appear(client, tracklet, "example", camera="c" * 120)
    for name in names:
        client.put_watchlist(name, ids=["example"], min_score=0.9)
    _, listed, _ = run("watchlist", "list", "--url", client.url)
    _, cameras, _ = run("cameras", "--url", client.url)
    for name in names:
        (line,) = [line for line in listed.splitlines() if name in line]
        assert line.split() == [name, "yes", "1", "0", "0.900", "60", "s", "never"]
        client.delete_watchlist(name)
    assert any(line.split()[0] == "c" * 120 for line in cameras.splitlines() if line.strip())


def test_wrong_options_are_explained(run: Run, client: Client) -> None:
    code, _, err = run("watchlist", "put", "w", "--min-score", 0.9, "--url", client.url)
    assert code == 1
    assert "send ids, embeddings or a case" in err
    code, _, err = run("watchlist", "put", "w", "--min-score", 0.9, "--expires", "tomorrow", "--url", client.url)
    assert code == 2
    assert "2026-12-01T00:00:00Z" in err


def test_alerts_are_followed_over_a_restart_of_the_service(bundle: Path, tmp_path: Path, tracklet: Tracklet) -> None:
    seen: list[Alert] = []
    options = ("--engine", "onnxruntime")
    with running_service(bundle, tmp_path, *options) as client:
        port = client.url.rpartition(":")[2]
        appear(client, tracklet, "example")
        client.put_watchlist("w", ids=["example"], min_score=0.9, cooldown=0)
        appear(client, tracklet, "before")
        start = client.alerts().items[-1].id

        def follow() -> None:
            with Client(f"http://127.0.0.1:{port}") as follower:
                for alert in follower.follow_alerts(after=start, watchlists=["w"]):
                    seen.append(alert)
                    if alert.record_id == "last":
                        return

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        appear(client, tracklet, "during")
    with running_service(bundle, tmp_path, *options, port=int(port)) as client:
        appear(client, tracklet, "last")
        thread.join(120)
    assert not thread.is_alive()
    assert [alert.record_id for alert in seen] == ["during", "last"]


def test_a_stream_that_is_refused_says_why(client: Client) -> None:
    with pytest.raises(ProblemError) as caught:
        next(client.follow_alerts(after="nonsense"))
    assert caught.value.status == 400
