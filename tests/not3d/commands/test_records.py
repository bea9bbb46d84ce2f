"""`not3d list`, `cameras`, `delete`, `erase` and `case`, and searches with several examples, against a real service."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from not3d.client import Client
from tests.not3d.conftest import Run


@pytest.fixture
def filled(client: Client) -> Client:
    dimension = client.info().model["dimension"]
    for number in range(6):
        vector = [1.0 if place == number else 0.1 * number for place in range(dimension)]
        client.put(embedding=vector, id=f"r{number}", camera_id=f"cam{number % 2}", metadata={"lane": number % 3})
    return client


def test_an_erasure_removes_only_the_number_of_records_that_was_agreed_to(
    filled: Client, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    vector = [1.0] * filled.info().model["dimension"]

    def agree_late(question: str, **options: object) -> bool:
        assert question == "Erase 2 records?"
        filled.put(embedding=vector, id="late", metadata={"lane": 0})
        return True

    monkeypatch.setattr("typer.confirm", agree_late)
    status, _, err = run("erase", "--metadata", "lane=0", "--url", filled.url)
    assert (status, "3 records pass the filter now, not 2" in err) == (1, True)
    assert len(list(filled.records())) == 7
    monkeypatch.setattr("typer.confirm", lambda question, **options: question == "Erase 3 records?")
    assert "3 records erased" in run("erase", "--metadata", "lane=0", "--url", filled.url)[1]


def test_records_are_listed_deleted_and_erased(filled: Client, run: Run) -> None:
    url = ("--url", filled.url)
    status, out, _ = run("list", "--camera", "cam1", "--json", *url)
    assert status == 0
    listed = json.loads(out)
    assert [record["id"] for record in listed["items"]] == ["r1", "r3", "r5"]
    assert listed == filled._call("GET", "/gallery?camera_id=cam1").json()
    assert json.loads(run("list", "--metadata", "lane=2", "--json", *url)[1])["items"][0]["id"] == "r2"
    cameras = json.loads(run("cameras", "--json", *url)[1])
    assert [(camera["camera_id"], camera["records"]) for camera in cameras] == [("cam0", 3), ("cam1", 3)]
    assert run("delete", "r0", "absent", *url)[0] == 0
    status, out, _ = run("erase", "--metadata", "lane=0", "--dry-run", "--json", *url)
    assert (status, json.loads(out)["matched"], json.loads(out)["erased"]) == (0, 1, 0)
    status, out, err = run("erase", "--metadata", "lane=0", "--before", "2100-01-01T00:00:00Z", "--yes", *url)
    assert (status, out.startswith("0 records erased; receipt ")) == (0, True)
    assert "because they have no time: 1 record." in err
    assert "1 record erased" in run("erase", "--metadata", "lane=0", "--yes", *url)[1]
    assert [record.id for record in filled.records()] == ["r1", "r2", "r4", "r5"]
    status, out, _ = run("list", *url)
    assert (status, "r1" in out) == (0, True)


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (["--time-of-day", "22:00-06:00"], ["night"]),
        (["--time-of-day", "08:00-10:00"], ["day"]),
        (["--time-of-day", "08:00:00-10:00:00+02:00"], ["morning"]),
        (["--without-time"], ["never"]),
        (["--metadata", "lane=3"], ["day"]),
        (["--metadata", 'lane="3"'], ["night"]),
        (["--exclude-camera-ids", "gate", "--exclude-camera-ids", "door"], ["morning", "never"]),
        (["--created-before", "2001-01-01T00:00:00Z"], []),
        (["--created-after", "2001-01-01T00:00:00Z", "--camera-ids", "gate"], ["day"]),
    ],
)
def test_a_search_finds_what_meets_the_conditions(
    client: Client, run: Run, conditions: list[str], expected: list[str]
) -> None:
    vector = [1.0] * client.info().model["dimension"]
    for name, hour, camera, lane in (("day", 9, "gate", 3), ("night", 23, "door", "3"), ("morning", 7, "hall", 1)):
        seen = datetime(2026, 5, 4, hour, tzinfo=UTC)
        client.put(embedding=vector, id=name, camera_id=camera, start_time=seen, metadata={"lane": lane})
    client.put(embedding=vector, id="never")
    client.put(embedding=vector, id="query", camera_id="gate", metadata={"lane": 0})
    status, out, err = run("search", "--id", "query", *conditions, "--json", "--url", client.url)
    assert status == 0, err
    assert sorted(hit["id"] for hit in json.loads(out)["results"]) == expected


def test_a_part_of_the_day_has_a_start_and_an_end(client: Client, run: Run) -> None:
    status, _, err = run("search", "--id", "a", "--time-of-day", "22:00", "--url", client.url)
    assert status == 2
    assert "22:00 is not FROM-TO" in " ".join(err.split())


def test_an_erasure_names_the_cases_that_keep_footage_of_the_person(filled: Client, run: Run) -> None:
    url = ("--url", filled.url)
    vector = [1.0] * filled.info().model["dimension"]
    case = filled.create_case("theft", "report 2", query={"embedding": vector}).id
    filled.put_verdict(case, "r1", "same")
    other = filled.create_case("loss", "report 3", query={"id": "r1"}).id
    status, out, err = run("erase", "--metadata", "lane=1", "--dry-run", *url)
    assert (status, out.strip()) == (0, "2 records would be erased")
    told = " ".join(err.split())
    assert f"Case {other} (open, loss) asks with one of the records; verdicts: 0." in told
    assert f"Case {case} (open, theft) keeps footage that" in told
    assert "not3d case delete CASE" in told
    (dry,) = (each for each in filled.erase(metadata={"lane": 1}, dry_run=True).cases if each.id == case)
    assert (dry.query, dry.status, dry.verdicts) == ("footage", "open", 1)
    assert run("case", "delete", case, "--yes", *url)[0] == 0
    assert [each.id for each in filled.cases()] == [other]


def test_a_search_with_several_examples_prints_the_services_answer(filled: Client, run: Run) -> None:
    arguments = ("--id", "r1", "--id", "r2", "--reject", "r3", "--json", "-k", "3", "--url", filled.url)
    status, out, err = run("search", *arguments)
    assert status == 0, err
    body = {"id": "r1", "ids": ["r2"], "reject_ids": ["r3"], "top_k": 3, "camera_id": "cam1"}
    answer = filled._call("POST", "/search", json=body).json()
    assert {**json.loads(out), "took_ms": 0} == {**answer, "took_ms": 0}
    assert {hit["id"] for hit in answer["results"]} == {"r0", "r4", "r5"}


def test_a_case_from_its_start_to_its_file(filled: Client, run: Run, tmp_path: Path) -> None:
    url = ("--url", filled.url)
    status, out, _ = run("case", "create", "theft", "--purpose", "report 1", "--id", "r0", "--operator", "Änn", *url)
    case = out.strip()
    assert (status, filled.case(case).created_by) == (0, "Änn")
    assert run("case", "judge", case, "r1", "same", "--note", "hat", "--operator", "Änn", *url)[0] == 0
    assert run("case", "judge", case, "r2", "different", *url)[0] == 0
    assert filled.case(case).decided["same"] == ("r1",)
    shown = run("case", "show", case, *url)[1]
    assert "hat" in shown
    found = json.loads(run("search", "--case", case, "--json", *url)[1])
    assert {hit["id"] for hit in found["results"]} == {"r3", "r4", "r5"}
    assert run("case", "judge", case, "r2", "none", *url)[0] == 0
    assert run("case", "close", case, *url)[0] == 0
    status, _, err = run("case", "judge", case, "r2", "same", *url)
    assert (status, "closed" in err) == (1, True)
    file = tmp_path / "case.zip"
    status, out, err = run("case", "export", case, str(file), *url)
    assert (status, f"case {case}" in err) == (0, True)
    assert run("case", "verify", str(file), "--expect", out.strip())[0] == 0
    assert run("case", "verify", str(file), "--expect", "0" * 64)[0] == 1
    file.write_bytes(file.read_bytes() + b"x")
    status, _, err = run("case", "verify", str(file))
    assert (status, "bytes were added" in err) == (1, True)
    assert run("case", "reopen", case, *url)[0] == 0
    assert next(each.id for each in filled.cases()) == case
    assert case in run("case", "list", "--open", "--json", *url)[1]
