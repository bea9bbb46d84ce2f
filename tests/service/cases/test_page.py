"""The page of an exported case."""

from typing import Any

from service.cases.page import render_record

RECORD: dict[str, Any] = {
    "id": "a", "camera_id": None, "start_time": None, "end_time": None, "score": None, "verdicts": [], "pictures": [],
}  # fmt: skip


def test_metadata_is_shown_as_on_the_search_page() -> None:
    values = {"text": "<b>", "flag": True, "none": None, "list": [1, {"x": "\u05e9"}], "number": 0}
    page = render_record(RECORD | {"metadata": values})
    for name, shown in (
        ("text", "&lt;b&gt;"),
        ("flag", "true"),
        ("none", "null"),
        ("list", "[1, {&quot;x&quot;: &quot;\u05e9&quot;}]"),
        ("number", "0"),
    ):
        assert f"<dt dir='auto'>metadata {name}</dt><dd dir='auto'>{shown}</dd>" in page
