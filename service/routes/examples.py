"""The examples of a search: what is asked with, tracklets and embeddings of the same person, and rejected tracklets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.feedback import combine_examples
from service.callers import Caller
from service.cases.records import CaseQuery
from service.cases.view import CaseOutline
from service.embedding.tracklet import TrackletEmbedding
from service.gallery.records import Record
from service.gallery.visible import VisibleGallery
from service.http.problems import Fault, Problem
from service.http.schemas import MAX_EXAMPLES, SearchBody
from service.http.tracklet_request import check_embedding
from service.lifecycle import Service
from service.routes.cases import suits

Query = tuple[NDArray[np.float32], str | None]
"""An embedding `[D]` with which records are compared, and its camera."""


@dataclass(frozen=True, eq=False)
class Examples:
    """What a search is asked with.

    Attributes:
        vectors: of the same person `[E, D]`, at least one; the first is the query itself.
        cameras: the camera of each of them.
        rejects: of other people `[R, D]`.
        left_out: ids that are not in the results.
    """

    vectors: NDArray[np.float32]
    cameras: Sequence[str | None]
    rejects: NDArray[np.float32]
    left_out: tuple[str, ...]

    @property
    def camera(self) -> str | None:
        """The query's own camera."""
        return self.cameras[0]

    def combine(self, body: SearchBody) -> list[Query]:
        """Return the embeddings to search with: one, or several of which the best score counts.

        Raises:
            Problem: 422 if the examples cancel out.
        """
        try:
            queries = combine_examples(self.vectors, self.cameras, self.rejects, body.combine)
        except ValueError as error:
            names = [name for name in ("ids", "embeddings", "reject_ids") if getattr(body, name)]
            faults = [Fault(field=name, reason=str(error)) for name in names]
            ids = ", ".join([*body.ids, *body.reject_ids][:10])
            detail = f"{error}{f' ({ids})' if ids else ''}: leave some of them out, or send combine=max"
            raise Problem("unusable-examples", detail, errors=faults) from None
        if len(queries) == len(self.cameras):
            cameras = self.cameras
        else:  # the mean of examples of several cameras is of no camera
            cameras = (self.camera if len(set(self.cameras)) == 1 else None,)
        return list(zip(queries, cameras, strict=True))


def count_examples(body: SearchBody, *, with_footage: bool) -> int:
    """Return how many examples and rejected tracklets a search names; more than one are combined."""
    asked_with = with_footage + (body.embedding is not None)
    return asked_with + len(_ids(body)) + len(body.embeddings) + len(set(body.reject_ids))


def check_examples(body: SearchBody, *, with_footage: bool) -> None:
    """Check the number of examples, and that no tracklet is both an example and rejected.

    Raises:
        Problem: 400 or 422, naming the field and the id.
    """
    queries = {"embedding": body.embedding is not None, "id": body.id is not None, "frames": with_footage}
    given = [name for name, value in queries.items() if value]
    if len(given) > 1 or not (given or body.ids or body.embeddings):
        field = given[-1] if given else "embedding"
        found = " and ".join(given) or "none of them"
        raise Problem.of_field(field, f"send exactly one of embedding, id, or frames (or a video); got {found}")
    if body.embedding_space is not None and body.embedding is None and not body.embeddings:
        raise Problem.of_field("embedding_space", "is allowed only together with embedding or embeddings")
    if (count := len(body.ids) + len(body.embeddings)) > MAX_EXAMPLES:
        field = "embeddings" if body.embeddings else "ids"
        raise Problem.of_field(field, f"ids and embeddings together must be at most {MAX_EXAMPLES} (got {count})")
    examples = set(_ids(body))
    for index, id_ in enumerate(body.reject_ids):
        if id_ in examples:
            reason = f"{id_} is an example as well: name it in one of ids and reject_ids"
            raise Problem.of_field(f"reject_ids[{index}]", reason, "unusable-examples")


async def find_examples(
    body: SearchBody, service: Service, gallery: VisibleGallery, embedded: TrackletEmbedding | None
) -> Examples:
    """Return the examples, the query itself first.

    Args:
        body: the request.
        service: names the embedding space.
        gallery: as the caller sees it.
        embedded: the query's footage, if it has any.

    Raises:
        Problem: 404 naming an id that is not enrolled; 400 or 409 for an embedding, as `check_embedding`.
    """
    vectors: list[NDArray[np.float32]] = []
    cameras: list[str | None] = []
    if embedded is not None:
        vectors, cameras = [embedded.embedding], [body.camera_id]
    elif body.embedding is not None:
        vectors = [check_embedding(body.embedding, body.embedding_space, service.space)]
        cameras = [body.camera_id]
    named = _ids(body)
    records = await _records_of([*named, *body.reject_ids], body, gallery)
    for id_ in named:
        vectors.append(records[id_].embedding)
        cameras.append((None if vectors[1:] else body.camera_id) or records[id_].camera_id)
    for index, values in enumerate(body.embeddings):
        vectors.append(check_embedding(values, body.embedding_space, service.space, f"embeddings[{index}]"))
        cameras.append(None if vectors[1:] else body.camera_id)
    rejected = list(dict.fromkeys(body.reject_ids))
    rejects = np.array([records[id_].embedding for id_ in rejected], np.float32)
    return Examples(
        vectors=np.stack(vectors),
        cameras=cameras,
        rejects=rejects.reshape(-1, service.space.dimension),
        left_out=(*named, *rejected),
    )


def with_case(body: SearchBody, view: CaseOutline, *, with_footage: bool) -> tuple[SearchBody, list[str]]:
    """Add what a case knows to a request: its query, if the request has none, its verdicts and its purpose.

    What the request says about a record counts more than the case.

    Returns:
        The request, and warnings in sentences.

    Raises:
        Problem: 400 if neither has anything to search with.
    """
    changed: dict[str, Any] = {}
    query = view.case.query
    asked = with_footage or body.embedding is not None or body.embeddings or body.id is not None or body.ids
    if not asked and query is not None:
        if query.vector is None:
            changed["id"] = query.id
        else:
            changed |= {"embedding": query.vector.tolist(), "embedding_space": query.embedding_space}
        changed["camera_id"] = body.camera_id or query.camera_id
    said = {*_ids(body), *body.reject_ids, changed.get("id")}
    same = [id_ for id_ in view.newest("same") if id_ not in said]
    different = [id_ for id_ in view.newest("different") if id_ not in said]
    if not asked and query is None and not same:
        raise Problem.of_field("case", "has no query and no confirmed record: send frames, an embedding or an id")
    free = MAX_EXAMPLES - len(body.ids) - len(body.embeddings), MAX_EXAMPLES - len(body.reject_ids)
    warnings = [
        f"The case has {len(found)} {name} records; the search uses the latest {max(0, limit)}."
        for name, found, limit in (("confirmed", same, free[0]), ("rejected", different, free[1]))
        if len(found) > limit
    ]
    changed["ids"] = [*body.ids, *same[: max(0, free[0])]]
    changed["reject_ids"] = [*body.reject_ids, *different[: max(0, free[1])]]
    changed["purpose"] = body.purpose or view.case.purpose
    return body.model_copy(update=changed), warnings


async def keep_query(
    view: CaseOutline,
    asked: SearchBody,
    embedded: TrackletEmbedding | None,
    service: Service,
    gallery: VisibleGallery,
    caller: Caller,
) -> None:
    """Keep what a request asks with as the query of its case, if the case is open, has none, and it suits the case."""
    case = view.case
    if case.query is not None or not case.is_open:
        return
    query = _query_of(asked, embedded, service)
    if query is not None and await suits(case, query, caller, gallery):
        await service.cases.set_query(case.id, query)


def _query_of(asked: SearchBody, embedded: TrackletEmbedding | None, service: Service) -> CaseQuery | None:
    if embedded is not None:
        vector = embedded.embedding
    elif asked.embedding is not None:
        vector = check_embedding(asked.embedding, asked.embedding_space, service.space)
    else:
        ids = _ids(asked)
        return CaseQuery(ids[0], camera_id=asked.camera_id) if ids else None
    pictures = embedded.thumbnails if embedded else ()
    return CaseQuery(None, vector, service.space.name, asked.camera_id, pictures)


def _ids(body: SearchBody) -> list[str]:
    """Return the ids of examples, each once."""
    return list(dict.fromkeys([*([body.id] if body.id is not None else []), *body.ids]))


async def _records_of(ids: Sequence[str], body: SearchBody, gallery: VisibleGallery) -> dict[str, Record]:
    if not ids:
        return {}
    records = dict(await gallery.get_all(list(dict.fromkeys(ids))))
    if body.id is not None and body.id not in records:
        raise Problem.of_field("id", f"{body.id} is not in the gallery", "not-found")
    faults = [
        Fault(field=f"{field}[{index}]", reason=f"{id_} is not in the gallery")
        for field in ("ids", "reject_ids")
        for index, id_ in enumerate(getattr(body, field))
        if id_ not in records
    ]
    if faults:
        raise Problem("not-found", f"{faults[0].field}: {faults[0].reason}", errors=faults)
    return records
