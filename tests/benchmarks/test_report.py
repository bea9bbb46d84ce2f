from pathlib import Path

import pytest

from benchmarks.report import markdown_table, write_section


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text("# Page\n\nIntroduction.\n")
    return path


def test_new_section_is_appended_and_an_old_one_replaced(page: Path) -> None:
    write_section(page, "one", "## One\n\nfirst\n")
    write_section(page, "two", "## Two\n")
    write_section(page, "one", "## One\n\nsecond\n")
    assert page.read_text() == (
        "# Page\n\nIntroduction.\n\n<!-- begin one -->\n## One\n\nsecond\n<!-- end one -->\n\n"
        "<!-- begin two -->\n## Two\n<!-- end two -->\n"
    )


def test_section_with_one_marker_is_refused(page: Path) -> None:
    page.write_text("<!-- begin one -->\n")
    with pytest.raises(ValueError, match="needs both markers"):
        write_section(page, "one", "text")
    assert page.read_text() == "<!-- begin one -->\n"


def test_table_has_a_line_for_each_row() -> None:
    assert markdown_table(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"
