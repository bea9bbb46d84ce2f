"""The HTML page of an exported case. It opens from the disk, without a server, scripts or anything from elsewhere."""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

_STYLE: Final = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.25; }
dl { display: grid; grid-template-columns: fit-content(40%) minmax(0, 1fr); gap: 0.25rem 1rem; }
h1, dt, dd { overflow-wrap: anywhere; } dt { font-weight: 600; } dd { margin: 0; }
ul { list-style: none; padding: 0; display: grid; gap: 1rem; }
@media (min-width: 40rem) { ul { grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); } }
li { border: 1px solid GrayText; padding: 0.75rem; overflow-wrap: anywhere; }
img { height: 8rem; margin: 0 0.25rem 0.25rem 0; }
p { margin: 0.25rem 0; }
"""
_TITLES: Final = {
    "same": "Probable appearances, confirmed",
    "different": "Rejected: other people",
    "unsure": "Unsure",
    "none": "Not decided: too few verdicts, or verdicts that disagree",
}
_NOTICE: Final = (
    "A probable appearance is a reason to look at the footage. It is not an identification. The pictures are small "
    "copies of single frames."
)


def render_page(case: Mapping[str, Any], items: Sequence[tuple[str | None, bytes]]) -> bytes:
    """Return the page of a case, in UTF-8. Every text of it is escaped.

    Args:
        case: as in `case.json`, without the records.
        items: of each record the verdict that counts, or `None`, and what `render_record` wrote.
    """
    query = case["query"]
    sections = [
        _facts(case),
        f"<h2>Query</h2>{_query(query)}" if query else "<h2>Query</h2><p>None is kept.</p>",
    ]
    found = [_section(title, [item for verdict, item in items if (verdict or "none") == kind])
             for kind, title in _TITLES.items()]  # fmt: skip
    name = escape(case["name"])
    # Nothing is loaded from elsewhere, and no script runs, whatever a text contains.
    policy = "script-src 'none'; object-src 'none'; base-uri 'none'; form-action 'none'; connect-src 'none'"
    start = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title><style>{_STYLE}</style></head>\n"
        f'<body><main><h1 dir="auto">{name}</h1>\n<p>{_NOTICE}</p>\n'
    )
    return start.encode() + b"\n".join([*(each.encode() for each in sections), *found]) + b"\n</main></body></html>\n"


def render_record(record: Mapping[str, Any]) -> str:
    """Return a record, given as in `case.json`, as an item of the page."""
    times = " to ".join(time for time in (record["start_time"], record["end_time"]) if time)
    facts = {
        "Camera": record["camera_id"],
        "Time": times,
        "Score with the query": None if record["score"] is None else f"{record['score']:.3f}",
        **{f"metadata {key}": _text(value) for key, value in record["metadata"].items()},
    }
    said = (
        f"<p dir='auto'><strong>{escape(each['verdict'])}</strong> {escape(each['author'])}, {escape(each['time'])}"
        f"{': ' + escape(each['note']) if each['note'] else ''}</p>"
        for each in record["verdicts"]
    )
    shown = _list({name: value for name, value in facts.items() if value})
    return (
        f"<li>{_pictures(record['pictures'], record['id'])}<p><strong dir='auto'>{escape(record['id'])}</strong></p>"
        f"{shown}{''.join(said)}</li>\n"
    )


def _text(value: Any) -> str:
    """Return a value of the metadata as the search page shows it: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _facts(case: Mapping[str, Any]) -> str:
    service, calibration = case["service"], case["calibration"]
    fitted = (
        "none: scores have no probability"
        if calibration is None
        else f"{calibration['id']} ({calibration['source']}), fitted on {calibration['fitted_people']} people"
    )
    confirmations = case["confirmations"]
    counts = "the latest verdict counts" if confirmations == 1 else f"{confirmations} operators must agree"
    closed = f"closed {case['closed_at']} by {case['closed_by']}" if case["closed_at"] else "open"
    return _list(
        {
            "Case": case["id"],
            "Purpose": case["purpose"],
            "Created": f"{case['created_at']} by {case['created_by']}",
            "Status": closed,
            "Verdicts": counts,
            "Software": f"not3d {service['version']}",
            "Model": f"{case['model']['name']}, embedding space {case['model']['embedding_space']}",
            "Calibration": fitted,
        }
    )


def _query(query: Mapping[str, Any]) -> str:
    facts = {"Tracklet": query["id"], "Camera": query["camera_id"], "SHA-256 of the vector": query["sha256"]}
    return _pictures(query["pictures"], "query") + _list({name: value for name, value in facts.items() if value})


def _section(title: str, items: Sequence[bytes]) -> bytes:
    if not items:
        return b""
    return f"<h2>{title} ({len(items)})</h2>\n<ul>\n".encode() + b"".join(items) + b"</ul>"


def _pictures(paths: Iterable[str], of: str) -> str:
    return "".join(f'<img src="{escape(path)}" alt="{escape(of)}">' for path in paths)


def _list(facts: Mapping[str, str]) -> str:
    rows = (f"<dt dir='auto'>{escape(name)}</dt><dd dir='auto'>{escape(value)}</dd>" for name, value in facts.items())
    return f"<dl>{''.join(rows)}</dl>"
