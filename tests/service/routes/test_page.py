import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.routes.page import FOLDER, load_files
from tests.service.live import Live, run_service

INDEX_LINKS = re.compile(r'(?:href|src)="([^"]+)"')
IMPORTS = re.compile(r'(?:import|export)[^;"]*?from ?"([^"]+)"')
KEY = "a-key-of-the-page-tests"


@pytest.fixture(scope="module")
def guarded(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with run_service(bundle, tmp_path_factory.mktemp("data"), api_keys=KEY, root_path="/reid") as live:
        yield live


def test_the_page_has_a_strict_policy_and_no_inline_code(shared):
    answer = shared.client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=", answer.text)
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_every_link_and_import_leads_to_a_file_that_may_be_kept_for_ever(shared):
    links = INDEX_LINKS.findall(shared.client.get("/").text)
    assert links
    assert not any(link.startswith(("/", "http")) for link in links)  # right behind any proxy
    for link in links:
        answer = shared.client.get(f"/{link}")
        assert answer.status_code == 200, link
        assert "immutable" in answer.headers["cache-control"]
    version = load_files().version
    for script in sorted(FOLDER.rglob("*.js")):
        folder = script.parent.relative_to(FOLDER).as_posix()
        for name in IMPORTS.findall(script.read_text(encoding="utf-8")):
            assert name.startswith("./"), f"{script.name} imports {name}"
            assert shared.client.get(f"/page/{version}/{folder}/{name}").status_code == 200, f"{script.name}: {name}"


def test_an_unchanged_file_is_not_sent_again(shared):
    for path in ["/", f"/page/{load_files().version}/app.js"]:
        first = shared.client.get(path)
        again = shared.client.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]


def test_files_are_compressed_for_clients_that_can_read_it(shared):
    path = f"/page/{load_files().version}/app.js"
    plain = shared.client.get(path, headers={"Accept-Encoding": "identity"})
    refused = shared.client.get(path, headers={"Accept-Encoding": "gzip;q=0"})
    small = shared.client.get(path, headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert "content-encoding" not in refused.headers
    assert small.headers["content-encoding"] == "gzip"
    assert small.content == plain.content
    assert plain.headers["content-type"] == "text/javascript; charset=utf-8"


@pytest.mark.parametrize(
    "path", ["/page/0/app.js", "/page/{version}/missing.js", "/page/{version}/../app.py", "/page/{version}/README.md"]
)
def test_other_files_are_not_found(shared, path):
    answer = shared.client.get(path.format(version=load_files().version))
    assert answer.status_code == 404
    assert answer.json()["type"] == "urn:not3d:problem:not-found"


def test_the_page_needs_no_key_and_works_below_a_prefix(guarded):
    assert guarded.client.get("/reid/info").status_code == 401
    for path in ["/", "/reid", "/reid/"]:
        links = INDEX_LINKS.findall(guarded.client.get(path).text)
        assert links
        for link in links:
            assert link.startswith("/reid/page/")
            assert guarded.client.get(link).status_code == 200


def test_the_page_weighs_less_than_200_kb():
    files = load_files()
    assert len(files.index) + sum(len(file.data) for file in files.by_name.values()) < 200_000
