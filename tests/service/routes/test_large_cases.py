"""Cases with many records: what is read, how often, and in which thread."""

import asyncio
import io
import json
import threading
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from service.cases import page
from service.cases.archive import indent_json, to_json
from service.cases.records import Verdict
from service.gallery.embedded import rows
from service.gallery.records import JSON, StoredJson
from service.http.admission import LARGE_RESULT, Admission
from service.http.case_schemas import VerdictAnswer
from tests.service.gallery.samples import record
from tests.service.live import Live, run_service
from tests.service.problem import check_problem
from tests.service.threads import note_threads

KEYS, RECORDS = 200, 2 * LARGE_RESULT
DIMENSION = 8


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with run_service(None, tmp_path_factory.mktemp("data"), space="x", dimension=DIMENSION) as live:
        metadata: dict[str, JSON] = {f"k{number}": "<é>" for number in range(KEYS)}
        live.service.gallery._gallery.enrol([record(f"r{n:03}", metadata=metadata) for n in range(RECORDS)], "error")
        yield live


def case_of(live: Live, records: int) -> str:
    """Return a case with verdicts on so many records."""
    case: str = live.client.post("/cases", json={"name": "theft", "purpose": "case 12/26"}).json()["id"]

    async def judge() -> None:
        for number in range(records):
            await live.service.cases.put_verdict(case, f"r{number:03}", "same", "ann", "key", "<note>")

    asyncio.run(judge())
    return case


class Counter:
    """An attribute of `Verdict` whose reads are counted."""

    def __init__(self, slot: Any) -> None:
        self.reads, self._slot, self._lock = 0, slot, threading.Lock()

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        with self._lock:
            self.reads += 1
        return self._slot.__get__(instance, owner)

    def __set__(self, instance: Any, value: Any) -> None:
        self._slot.__set__(instance, value)


def test_an_export_parses_metadata_once_and_writes_outside_the_event_loop(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(live, 10)
    parses, escapes = note_threads(monkeypatch, StoredJson, "parse"), note_threads(monkeypatch, page, "escape")
    dumps = note_threads(monkeypatch, json, "dumps")
    answer = live.client.get(f"/cases/{case}/export")
    assert answer.status_code == 200
    assert len(parses) == 10
    assert not any(parses)
    assert len(escapes) > 10 * KEYS
    assert not any(escapes)
    assert sum(dumps) < 10  # the audit log's


def test_the_work_of_an_export_grows_with_the_number_of_verdicts_and_not_with_its_square(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    for records in (RECORDS // 4, RECORDS):
        case = case_of(live, records)
        with monkeypatch.context() as patch:
            patch.setattr(Verdict, "record", counter := Counter(Verdict.__dict__["record"]))
            assert live.client.get(f"/cases/{case}/export").status_code == 200
        reads.append(counter.reads)
    assert reads[1] <= 5 * reads[0]


def test_an_export_that_is_written_record_by_record_is_the_canonical_json(live: Live) -> None:
    for records in (0, 2):
        answer = live.client.get(f"/cases/{case_of(live, records)}/export")
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            text = archive.read("case.json")
            shown = archive.read("index.html").decode()
        content = json.loads(text)
        assert len(content["records"]) == records
        assert text.decode() == json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        assert shown.count("&lt;note&gt;") == shown.count("<li>") == records
    nested = {"a": [{"é": "\n"}, []], "b": {}}
    assert to_json({"k": nested}, records=[indent_json(nested, 4)]) == to_json({"k": nested, "records": [nested]})


def test_an_export_that_is_larger_than_answers_may_be_is_refused(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(live, 10)
    size = len(live.client.get(f"/cases/{case}/export").content)
    monkeypatch.setattr(live.app.state.admission, "max_answer_bytes", size // 2)
    check_problem(live.client.get(f"/cases/{case}/export"), 413, "too-large", field="case")
    assert live.client.get(f"/cases/{case_of(live, 1)}/export").status_code == 200


def test_the_bytes_of_an_export_count_while_it_is_sent(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    answer = Admission.answer

    def count(self: Admission, size: int) -> Any:
        sizes.append(size)
        return answer(self, size)

    monkeypatch.setattr(Admission, "answer", count)
    export = live.client.get(f"/cases/{case_of(live, 10)}/export")
    assert len(export.content) in sizes


def test_lists_and_verdicts_read_no_records(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record can have a hundred kilobytes, a case ten thousand records, and a list many cases."""
    cases = {case_of(live, records): records for records in (3, RECORDS)}
    decoded = note_threads(monkeypatch, rows, "_decode")
    listed = live.client.get("/cases?limit=2").json()["items"]
    assert {each["id"]: each["counts"]["same"] for each in listed} == cases
    case = next(iter(cases))
    assert live.client.get(f"/cases/{case}").json()["counts"]["same"] == 3
    assert live.client.delete(f"/cases/{case}/verdicts/r001").json()["counts"]["same"] == 3  # of another author
    assert decoded == []
    assert live.client.put(f"/cases/{case}/verdicts/r005", json={"verdict": "same"}).json()["counts"]["same"] == 4
    assert len(decoded) == 1


def test_large_cases_are_counted_one_after_the_other(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    for records in (3, RECORDS):
        case_of(live, records)
    waited: list[int] = []
    result = Admission.result

    @asynccontextmanager
    async def note(self: Admission, records: int) -> AsyncIterator[None]:
        waited.append(records)
        async with result(self, records):
            yield

    monkeypatch.setattr(Admission, "result", note)
    assert live.client.get("/cases?limit=2").status_code == 200
    assert waited == [RECORDS, 3]


def test_the_verdicts_of_an_answer_are_written_outside_the_event_loop(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(live, 10)
    written = note_threads(monkeypatch, VerdictAnswer, "__init__")
    found = live.client.get(f"/cases/{case}").json()
    assert [each["id"] for each in found["verdicts"]] == [f"r{number:03}" for number in range(10)]
    assert found["decided"]["same"] == [f"r{number:03}" for number in reversed(range(10))]
    assert written == [False] * 10
