"""A search's result for people to look at: as a table and as a picture."""

from datetime import UTC

from rich import box
from rich.table import Table
from rich.text import Text

from not3d.answers import Hit, SearchResult
from not3d.footage import find_pictures
from not3d.picture import Card, Image, draw_ranked


def is_same_person(hit: Hit, person: str) -> bool | None:
    """Whether the hit shows the person; ``None`` where either is not known."""
    found = hit.metadata.get("person")
    return found == person if person and isinstance(found, str) else None


def make_table(result: SearchResult, person: str = "") -> Table:
    """The hits as a table; the truth has its column where the query's person is known."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
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


def make_picture(query: Card, person: str, result: SearchResult, *, subtitle: str, count: int = 5) -> Image:
    """The query beside its best hits, whose frames are read where they were enrolled from; RGB ``[h, w, 3]``."""
    cards = [
        Card(find_pictures(hit.metadata), hit.id, hit.camera_id, hit.score, is_same_person(hit, person))
        for hit in result.hits[:count]
    ]
    return draw_ranked(query, cards, title="Where else was this person seen?", subtitle=subtitle)
