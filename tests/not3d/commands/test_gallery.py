"""`not3d gallery` on the command line."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model.bundle import Bundle
from model.errors import Not3dError
from model.space import EmbeddingSpace
from not3d.commands.app import app
from service.gallery import Filter
from service.gallery.embedded.gallery import EmbeddedGallery
from service.settings import Settings
from tests.bundles import make_bundle
from tests.service.gallery.samples import enrol, open_gallery, record, vector

RUN = CliRunner()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    gallery = open_gallery(tmp_path / "data")
    enrol(gallery, [record(f"r{number}") for number in range(5)])
    gallery.close()
    return tmp_path / "data"


def run(*words: str | Path, env: dict[str, str] | None = None) -> str:
    result = RUN.invoke(app, ["gallery", *map(str, words)], env=env)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output.replace("\n", " ")


def refusal(*words: str | Path) -> str:
    result = RUN.invoke(app, ["gallery", *map(str, words)])
    assert isinstance(result.exception, Not3dError), result.output
    return str(result.exception)


def test_the_help_names_every_command() -> None:
    said = run("--help")
    for command in ("snapshot", "restore", "verify", "compact", "export", "import", "audit"):
        assert command in said
        assert "Example" in run(command, "--help")


def test_a_snapshot_is_taken_checked_and_restored(data: Path, tmp_path: Path) -> None:
    assert "5 records" in run("snapshot", tmp_path / "s", env={"NOT3D_DATA_DIR": str(data)})
    assert json.loads((tmp_path / "s" / "manifest.json").read_text())["records"] == 5
    assert "No damage found" in run("verify", tmp_path / "s")
    restored = run("restore", tmp_path / "s", "--data-dir", tmp_path / "new")
    assert "5 records" in restored
    assert "Records erased after that are in it again" in restored
    assert "No damage found" in run("verify", tmp_path / "new")
    assert "not empty" in refusal("restore", tmp_path / "s", "--data-dir", tmp_path / "new")
    assert "exists" in refusal("snapshot", "--data-dir", data, tmp_path / "s")


def test_a_gallery_is_compacted(data: Path) -> None:
    gallery = open_gallery(data)
    assert "is open already" in refusal("compact", "--data-dir", data)
    gallery.erase(Filter(exclude_ids=("r1",)), dry_run=False)
    gallery.close()
    assert "MB now" in run("compact", "--data-dir", data)
    assert "No damage found" in run("verify", data)
    assert "there is no gallery" in refusal("compact", "--data-dir", data / "nowhere")


def test_erasures_after_the_snapshot_are_repeated(data: Path, tmp_path: Path) -> None:
    run("snapshot", "--data-dir", data, tmp_path / "s")
    gallery = open_gallery(data)
    gallery.delete("r1", by="key-7")
    gallery.erase(Filter(exclude_ids=("r2", "r3")), dry_run=False)
    (tmp_path / "audit.jsonl").write_text(
        RUN.invoke(app, ["gallery", "audit", "--data-dir", str(data), "--json"]).output
    )
    gallery.close()
    for number, log in enumerate((data, tmp_path / "audit.jsonl")):
        new = tmp_path / f"new-{number}"
        assert "because they were erased after that: 3 records." in run(
            "restore", tmp_path / "s", "--data-dir", new, "--erase-again", log
        )
        gallery = open_gallery(new)
        assert [item.id for item in gallery.list().items] == ["r2", "r3"]
        gallery.close()
        assert sorted(path.name for path in new.iterdir()) == ["gallery.sqlite", "index.faiss", "lock"]
        assert "No damage found" in run("verify", new)
    (tmp_path / "audit.jsonl").write_text("hello")
    restoring = ("restore", tmp_path / "s", "--data-dir", tmp_path / "more", "--erase-again", tmp_path / "audit.jsonl")
    assert "line 1 is not an entry" in refusal(*restoring)
    assert not (tmp_path / "more").exists()


def test_the_audit_log_is_shown_while_the_service_runs(data: Path) -> None:
    gallery = open_gallery(data)
    gallery.delete("r1", by="key-7")
    gallery.erase(Filter(camera_ids=("c1",)), dry_run=False, by="key-8")
    said = RUN.invoke(app, ["gallery", "audit", "--data-dir", str(data)], env={"COLUMNS": "200"}).output
    gallery.close()
    for word in ("delete", "key-7", '{"id": "r1"}', "erase", "key-8", '{"camera_ids": ["c1"]}'):
        assert word in said
    lines = RUN.invoke(app, ["gallery", "audit", "--data-dir", str(data), "--json"]).output.splitlines()
    assert [(entry["action"], entry["erased"]) for entry in map(json.loads, lines)] == [("erase", 4), ("delete", 1)]
    newest = RUN.invoke(app, ["gallery", "audit", "--data-dir", str(data), "--json", "--limit", "1"]).output
    assert len(newest.splitlines()) == 1


def test_records_move_as_parquet(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    gallery = open_gallery(data)  # the service
    assert "5 records" in run("export", "--data-dir", data, tmp_path / "out.parquet")
    importing = ("import", tmp_path / "out.parquet", "--data-dir")
    assert "is open already" in refusal(*importing, data, "--replace")
    gallery.close()
    assert "5 enrolled" in run(*importing, tmp_path / "new")
    assert "5 of the file's 5 ids are enrolled already" in refusal(*importing, tmp_path / "new")
    assert "0 enrolled, 5 skipped" in run(*importing, tmp_path / "new", "--skip-existing")
    assert "0 enrolled, 5 replaced" in run(*importing, tmp_path / "new", "--replace")
    assert RUN.invoke(app, ["gallery", *map(str, importing), "x", "--replace", "--skip-existing"]).exit_code == 2
    open_gallery(tmp_path / "other", embedding_space="f" * 16).close()
    assert "different models" in refusal(*importing, tmp_path / "other")
    assert "exists" in refusal("export", "--data-dir", data, tmp_path / "out.parquet")


def test_a_gallery_on_a_server_is_reached_by_its_address(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command opens what the service would open for these settings. An embedded gallery stands in for Milvus."""
    pytest.importorskip("pyarrow")
    bundle = Bundle.load(make_bundle(tmp_path / "bundle"))
    stamp = {"dimension": bundle.spec.dimension, "embedding_space": bundle.embedding_space}
    asked = []

    def open_server(settings: Settings, space: EmbeddingSpace) -> EmbeddedGallery:
        asked.append((settings.gallery, space.name))
        return open_gallery(tmp_path / "server", **stamp)

    monkeypatch.setattr("service.gallery.opening.open_gallery", open_server)
    server = ("--gallery", "milvus://there:19530", "--bundle", bundle.path)
    assert "different models" in refusal("import", export(data, tmp_path / "other.parquet"), *server)
    gallery = open_gallery(tmp_path / "mine", **stamp)
    gallery.add(record("a", embedding=vector("a", bundle.spec.dimension)))
    gallery.close()
    assert "1 enrolled" in run("import", export(tmp_path / "mine", tmp_path / "mine.parquet"), *server)
    assert "1 record of" in run("export", tmp_path / "again.parquet", *server)
    assert set(asked) == {("milvus://there:19530", bundle.embedding_space)}
    assert "milvus://" in refusal("export", tmp_path / "no.parquet", "--gallery", "mongodb://there")


def export(directory: Path, out: Path) -> Path:
    run("export", "--data-dir", directory, out)
    return out


def test_damage_ends_with_a_message_that_says_what_to_do(data: Path, tmp_path: Path) -> None:
    run("snapshot", "--data-dir", data, tmp_path / "s")
    for folder, advice in ((tmp_path / "s", "use another snapshot"), (data, "not3d gallery restore")):
        with (folder / "gallery.sqlite").open("r+b") as file:
            file.seek(8192)
            file.write(os.urandom(8192 * 3))
        assert advice in refusal("verify", folder)
    assert "there is no gallery" in refusal("verify", tmp_path)
