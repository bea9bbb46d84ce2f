"""A search's result for people to look at: as a table and as a picture."""

from collections.abc import Sequence
from datetime import UTC
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from not3d.client.responses import Hit, SearchResult
from not3d.enrol.local_frames import find_local_frames
from not3d.picture import Card, Image, draw_ranked


def is_same_person(hit: Hit, person: str) -> bool | None:
    """Whether the hit shows the person; ``None`` where either is not known."""
    found = hit.metadata.get("person")
    return found == person if person and isinstance(found, str) else None


def make_table(result: SearchResult, person: str = "", *, reranked: bool = False) -> Table:
    """The hits as a table; the truth has its column where the query's person is known."""
    order = "In the order of re-ranking; score: cosine" if reranked else None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=order, title_justify="left", min_width=len(order or ""))
    table.add_column("rank", justify="right")
    table.add_column("id", overflow="fold")
    table.add_column("score", justify="right")
    table.add_column("camera")
    timed = any(hit.start_time for hit in result.hits)
    if timed:
        table.add_column("seen from (UTC)")
    if person:
        table.add_column("person")
    for hit in result.hits:
        # Ids and cameras are other people's text: Text keeps rich from reading markup in it.
        row = [Text(str(hit.rank)), Text(hit.id), Text(f"{hit.score:.3f}"), Text(hit.camera_id or "-")]
        if timed:
            row.append(Text(f"{hit.start_time.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if hit.start_time else "-"))
        if person:
            same = is_same_person(hit, person)
            row.append(Text("?") if same is None else Text("same", "green") if same else Text("another", "red"))
        table.add_row(*row)
    return table


def make_cards(result: SearchResult, person: str, folders: Sequence[Path], *, count: int = 5) -> list[Card]:
    """The best hits for `make_picture`, with the frames that are found below the folders."""
    return [
        Card(find_local_frames(hit.metadata, folders), hit.id, hit.camera_id, hit.score, is_same_person(hit, person))
        for hit in result.hits[:count]
    ]


def make_picture(query: Card, hits: Sequence[Card], *, subtitle: str) -> Image:
    """The query beside its hits, RGB ``[h, w, 3]``."""
    return draw_ranked(query, hits, title="Where else was this person seen?", subtitle=subtitle)
