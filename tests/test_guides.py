"""Commands, options and variables in all documents exist, and the configuration in `docs/integrate` parses."""

import json
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import cv2
import httpx
import numpy as np
import pytest
import typer
import yaml

from not3d.commands.app import app
from not3d.commands.serve import make_serve
from not3d.ports import free_port
from service.settings import Settings, variable_name
from service.variables import CLIENT_VARIABLES
from tests.bundles import make_bundle
from tests.service.live import Live, run_service, wait_for

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "integrate"
GUIDES = sorted(FOLDER.glob("*.md"))
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
MAX_LINES = 20
"""Lines of one block of configuration."""
MISSPELT = {"NOT3D_PURPOSE_REQUIRED"}
"""In `docs/operate.md`, as an example."""
OF_ENVIRONMENT = re.compile(r"\bNOT3D_[A-Z0-9_]*[A-Z0-9]\b")


def blocks(file: Path, *languages: str) -> Iterator[str]:
    """Yield the fenced blocks of a guide in these languages."""
    text = file.read_text(encoding="utf-8")
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if language in languages:
            yield block


class Lenient(yaml.SafeLoader):
    """Reads tags of other programs, such as `!secret` of Home Assistant, as their text."""


Lenient.add_multi_constructor("!", lambda loader, suffix, node: f"{suffix} {node.value}")


@cache
def commands() -> dict[tuple[str, ...], set[str]]:
    """Return the options of each command, by its words."""
    serve = typer.Typer()
    serve.command()(make_serve())
    found: dict[tuple[str, ...], set[str]] = {}

    def walk(words: tuple[str, ...], command: click.Command) -> None:
        found[words] = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        found[words] |= {"--help", "-h"}
        for name, child in getattr(command, "commands", {}).items():
            walk((*words, name), child)

    walk((), typer.main.get_command(app))
    found["serve",] = {name for each in typer.main.get_command(serve).params for name in each.opts} | {"--help"}
    return found


def calls(block: str) -> Iterator[list[str]]:
    """Yield the words of each call of `not3d` in a block of a shell."""
    joined = re.sub(r"\\\n\s*", " ", block)
    joined = re.sub(r"<<'(\w+)'\n.*?^\1$", "", joined, flags=re.MULTILINE | re.DOTALL)
    for line in joined.splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # a quote that ends on another line
            continue
        for at, word in enumerate(words):
            if word == "not3d" and (at == 0 or words[at - 1] in {"&&", "||", ";", "--", "*"} or "=" in words[at - 1]):
                yield list(until_end(words[at + 1 :]))


def until_end(words: list[str]) -> Iterator[str]:
    for word in words:
        if word in {"&&", "||", ";", "&", "|", ">"}:
            return
        yield word


def check_call(words: list[str]) -> str | None:
    """Return what is wrong with a call, or `None`."""
    known = commands()
    command: tuple[str, ...] = ()
    while words and (*command, words[0]) in known:
        command = (*command, words.pop(0))
    is_group = any(other[:-1] == command for other in known if other)
    if is_group and words and not words[0].startswith("-"):
        return f"not3d {' '.join([*command, *words[:1]])}: no such command"
    given = {word.partition("=")[0] for word in words if re.match(r"--?[A-Za-z]", word)}
    wrong = sorted(given - known[command])
    return f"not3d {' '.join(command)}: no option {', '.join(wrong)}" if wrong else None


@pytest.mark.parametrize("file", GUIDES, ids=lambda file: file.stem)
class TestGuide:
    def test_configuration_parses(self, file: Path) -> None:
        for block in blocks(file, "yaml", "yml"):
            assert list(yaml.load_all(block, Lenient))
        for block in blocks(file, "json"):
            json.loads(re.sub(r",?\s*\.\.\.(?=[\s,}\]]|$)", "", block))
        for block in blocks(file, "python"):
            compile(block, str(file), "exec")

    def test_configuration_is_short(self, file: Path) -> None:
        for block in blocks(file, "yaml", "yml", "toml", "ini"):
            assert len(block.splitlines()) <= MAX_LINES


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
class TestDocument:
    def test_commands_and_options_exist(self, file: Path) -> None:
        wrong = [fault for block in blocks(file, "sh") for words in calls(block) if (fault := check_call(words))]
        inline = re.findall(r"`((?:[\w=-]+ )*not3d [^`]+)`", file.read_text(encoding="utf-8"))
        wrong += [fault for text in inline for words in calls(text) if (fault := check_call(words))]
        assert wrong == []

    def test_variables_exist(self, file: Path) -> None:
        named = set(OF_ENVIRONMENT.findall(file.read_text(encoding="utf-8")))
        assert named - known_variables() - MISSPELT - {"NOT3D_TEST_MILVUS"} == set()


@cache
def known_variables() -> set[str]:
    """Return the settings of the service, and the variables that the commands read."""
    of_commands: set[str] = set()

    def walk(command: click.Command) -> None:
        for parameter in command.params:
            names: Any = parameter.envvar or ()
            of_commands.update([names] if isinstance(names, str) else names)
        for child in getattr(command, "commands", {}).values():
            walk(child)

    walk(typer.main.get_command(app))
    return {variable_name(field) for field in Settings.model_fields} | CLIENT_VARIABLES | of_commands


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with run_service(make_bundle(tmp_path_factory.mktemp("bundle")), tmp_path_factory.mktemp("data")) as live:
        yield live


def test_the_receiver_of_webhooks_enrols_what_its_example_sends(service: Live, tmp_path: Path) -> None:
    guide = (FOLDER / "webhook.md").read_text(encoding="utf-8")
    [receiver] = blocks(FOLDER / "webhook.md", "python")
    [sent] = re.findall(r"curl http://127\.0\.0\.1:9000 -d '(.*?)'", guide, re.DOTALL)
    picture = np.full((480, 640, 3), 90, np.uint8)
    picture[100:228, 300:364] = (200, 30, 30)
    cv2.imwrite(str(tmp_path / json.loads(sent)["picture"]), picture)
    port = free_port()
    program = receiver.replace("/srv/snapshots", str(tmp_path)).replace("9000", str(port))
    program = program.replace("http://127.0.0.1:8000", service.url)
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE) as process:
        try:
            wait_for(lambda: is_open(port))
            answer = httpx.post(f"http://127.0.0.1:{port}", content=sent, timeout=30)
        finally:
            process.kill()
    assert answer.status_code == 204
    record = service.client.get("/gallery/gate-17-0").json()
    assert (record["camera_id"], record["start_time"]) == ("gate", "2026-05-04T09:00:00Z")


def test_the_body_of_viseron_is_json_of_its_event() -> None:
    jinja2 = pytest.importorskip("jinja2")
    [hook] = [block for block in blocks(FOLDER / "webhook.md", "yaml") if "webhook" in block]
    settings = yaml.safe_load(hook)["webhook"]["not3d"]
    box = {"rel_x1": 0.1, "rel_y1": 0.2, "rel_x2": 0.3, "rel_y2": 0.9}
    objects = [{"label": "person", **box}, {"label": "car", **box}, {"label": "person", **box}]
    event = {"camera_identifier": "gate", "objects": objects}
    environment = jinja2.Environment()
    rendered = environment.from_string(settings["payload"]).render(event=event)
    assert json.loads(rendered) == {"camera": "gate", "boxes": [[0.1, 0.2, 0.3, 0.9]] * 2}
    condition = environment.from_string(settings["trigger"]["condition"])
    assert condition.render(event=event) == "True"
    assert condition.render(event=event | {"objects": objects[1:2]}) == "False"


def is_open(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def test_the_index_names_every_guide_and_fits_a_page() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert {file.name for file in GUIDES} - {"README.md"} <= set(re.findall(r"\]\(([\w-]+\.md)\)", text))
    assert len(text.splitlines()) <= 50


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        ("not3d serve --vectors-only --space a --dimension 3", None),
        ("not3d gallery export --data-dir data out.parquet", None),
        ("not3d gallery exports", "no such command"),
        ("not3d serve --vector-only", "no option --vector-only"),
        ("A=1 not3d search --idd x", "no option --idd"),
    ],
)
def test_the_check_finds_faults(call: str, fault: str | None) -> None:
    [words] = calls(call)
    found = check_call(words)
    assert found is None if fault is None else fault in (found or "")
