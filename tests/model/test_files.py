from pathlib import Path

import pytest

from model.files import replace_text


def test_file_that_cannot_be_written_keeps_its_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "site.json"
    replace_text(path, "old")
    real = Path.write_text

    def full_disk(file: Path, text: str, **options: str) -> int:
        real(file, text[:1], **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="No space left"):
        replace_text(path, "new")
    with pytest.raises(OSError, match="No space left"):
        replace_text(tmp_path / "other.json", "new")

    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("site.json", "old")]
