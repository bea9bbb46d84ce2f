"""`POST /search`: rank the gallery for footage, an embedding or an enrolled id."""

import json
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import numpy as np
from anyio import to_thread
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from model.ranking import k_reciprocal_rerank
from service.audit.evidence import describe_footage, describe_vector
from service.calibration import ActiveCalibration
from service.callers import Caller
from service.continuations import Continuation
from service.embedding.tracklet import Footage, TrackletEmbedding
from service.gallery.clock import now
from service.gallery.records import JSON, Filter, Hit, ScoreMode, SearchResult
from service.gallery.visible import VisibleGallery
from service.http.access import require_scope
from service.http.admission import Admission
from service.http.cancellation import until_disconnected
from service.http.contract import tracklet_body
from service.http.dependencies import NO_QUERY, CallersGallery, Ready, require_model
from service.http.links import thumbnail_url
from service.http.problems import Problem
from service.http.responses import respond, write_row
from service.http.schemas import CalibrationUsed, SearchAnswer, SearchBody, SearchHit
from service.http.tracklet_request import check_embedding, get_admission, read
from service.lifecycle import Service
from service.routes.cases import find_outline
from service.routes.examples import Query, check_examples, count_examples, find_examples, keep_query, with_case
from service.settings import Settings, variable_name

BYTES_OF_VALUE = 16
"""Bytes of metadata, as JSON, that count as an id: parsed, they can have fifteen times as many."""

router = APIRouter()


@router.post(
    "/search",
    response_model=SearchAnswer,
    response_model_exclude_unset=True,
    dependencies=NO_QUERY,
    openapi_extra=tracklet_body(SearchBody),
)
async def search(
    request: Request, service: Ready, gallery: CallersGallery, caller: Annotated[Caller, require_scope("search")]
) -> Response:
    """Rank the gallery by similarity to footage, an embedding, or an enrolled tracklet (not in its own results).

    Further examples of the person, and examples of other people, refine the search; none of them is in the results.
    Needs the scope `search`.

    If a calibration is in force, each hit also has the probability that it shows the query's person.

    With `paged` the answer has a cursor, which returns the next hits: each record at most once, and all those that are
    still there. A record that was enrolled meanwhile and ranks higher comes first on the next page.
    """
    start, started = time.perf_counter(), now()
    embedded = None
    shown: tuple[str, ...] = ()
    evidence: Mapping[str, JSON] = {}
    async with read(request, SearchBody, service) as (asked, footage):
        view = None if asked.case is None else await find_outline(asked.case, service, gallery, caller)
        warnings: list[str] = []
        if asked.cursor is not None:
            kept = _find_search(asked, footage, service, caller)
            body, embedded, evidence, shown = _continue(asked, kept, service.settings)
        else:
            body, warnings = (asked, []) if view is None else with_case(asked, view, with_footage=footage is not None)
            _check_options(body, footage, service.settings)
        calibration = find_calibration(
            body,
            service,
            gallery.score_mode,
            combined=count_examples(body, with_footage=bool(footage or embedded)) > 1,
        )
        if footage is not None:
            embedded = await until_disconnected(request, _embed(footage, body, service))
            evidence = await describe_footage(footage)
        elif body.embedding is not None:
            evidence = describe_vector(check_embedding(body.embedding, body.embedding_space, service.space))
    admission = get_admission(request)
    # After the work for its footage a request is not refused any more.
    with admission.gallery_call() if footage is None else nullcontext(), service.audit.expecting() as recorded:
        examples = await find_examples(body, service, gallery, embedded)
        camera = examples.camera
        if body.exclude_same_camera and camera is None:
            hint = "the enrolled tracklet has no camera_id" if body.id or body.ids else "send the query's camera_id"
            raise Problem.of_field("camera_id", f"exclude_same_camera needs the query's camera; {hint}")
        chosen = body.filter.to_filter(
            exclude_cameras=(camera,) if body.exclude_same_camera and camera is not None else (),
            exclude_ids=examples.left_out,
        )
        if view is not None:
            await keep_query(view, asked, embedded, service, gallery, caller)
        async with admission.result(_candidates(body, service, shown)):
            ranked = await rank(examples.combine(body), chosen, body, service, gallery, calibration, admission, shown)
            found = ranked.found
            await _record(body, evidence, found, caller, service, started, shown)
            recorded()
            answer = SearchAnswer(
                results=[],
                warnings=[*(embedded.warnings if embedded else ()), *warnings],
                embedding_space=service.space.name,
                score_mode=gallery.score_mode,
                searched=found.searched,
                exact=found.exact,
                took_ms=round((time.perf_counter() - start) * 1000, 3),
            )
            if ranked.calibration:
                answer = answer.model_copy(update={"calibration": ranked.calibration})
            if body.paged:
                own = None if embedded is None and body.embedding is None else examples.vectors[0]
                seen = (*shown, *(hit.record.id for hit in found.hits))
                has_more = (
                    not body.rerank
                    and len(found.hits) == body.top_k
                    and len(seen) < min(found.searched, service.settings.max_top_k)
                )
                cursor = service.continuations.keep(caller, _keep(body, own, evidence, seen)) if has_more else None
                answer = answer.model_copy(update={"next_cursor": cursor})

            def make() -> dict[str, Any]:
                hits = enumerate(found.hits, len(shown) + 1)
                results = [
                    write_row(_hit(request, rank, hit, ranked.probabilities), metadata=hit.record.metadata)
                    for rank, hit in hits
                ]
                return answer.model_dump(exclude_unset=True) | {"results": results}

            return await respond(admission, len(found.hits), make)


def _candidates(body: SearchBody, service: Service, shown: Sequence[str] = ()) -> int:
    """Return how many records are read to answer."""
    return max(body.top_k, service.settings.rerank_candidates) if body.rerank else len(shown) + body.top_k


def _find_search(
    asked: SearchBody, footage: Footage | None, service: Service, caller: Caller
) -> Continuation[SearchBody]:
    """Return the search that a request continues.

    Raises:
        Problem: 400 if something else is sent; 404 if the search is not kept.
    """
    allowed = {"cursor", "top_k", "purpose", "paged"}
    others = {name for name in asked.model_fields_set - allowed if getattr(asked, name) is not None}
    if others or footage is not None:
        other = min(others, default="frames")
        raise Problem.of_field(other, "is not allowed beside cursor, which stands for the first request: leave it out")
    assert asked.cursor is not None  # noqa: S101 - for the type checker
    if (found := service.continuations.find(asked.cursor, caller)) is None:
        raise Problem.of_field("cursor", "is not that of a search of the last ten minutes: search again", "not-found")
    return found


def _continue(
    asked: SearchBody, kept: Continuation[SearchBody], settings: Settings
) -> tuple[SearchBody, TrackletEmbedding | None, Mapping[str, JSON], tuple[str, ...]]:
    """Return the request for the next hits, its own vector, what the audit log says about it, and the shown ids."""
    top_k = asked.top_k if "top_k" in asked.model_fields_set else kept.body.top_k
    top_k = min(top_k, settings.max_top_k - len(kept.shown))
    changed = {"top_k": top_k, "purpose": asked.purpose or kept.body.purpose, "embeddings": kept.examples.tolist()}
    vector = None if kept.vector is None else TrackletEmbedding(kept.vector, frames=0, clips=0, rejected=())
    return kept.body.model_copy(update=changed), vector, kept.evidence, kept.shown


def _keep(
    body: SearchBody, own: NDArray[np.float32] | None, evidence: Mapping[str, JSON], shown: tuple[str, ...]
) -> Continuation[SearchBody]:
    """Return what a search is continued with.

    Args:
        body: the request.
        own: the query's vector `[D]`, unless it is that of a record.
        evidence: what the audit log says about the query.
        shown: ids of the hits up to now.
    """
    gone = dict.fromkeys(("embedding", "frames", "boxes", "max_clips"))
    rest = body.model_copy(update={**gone, "embeddings": []})
    examples = np.array(body.embeddings, np.float64)
    return Continuation(rest, own, examples, evidence, shown, count_values(rest))


def count_values(body: SearchBody) -> int:
    """Return as how many ids a request without vectors counts that is kept."""
    chosen = body.filter
    texts = len(body.ids) + len(body.reject_ids) + len(chosen.camera_ids or ()) + len(chosen.exclude_camera_ids)
    return texts + (len(json.dumps(chosen.metadata)) // BYTES_OF_VALUE if chosen.metadata else 0)


def _embed(footage: Footage, body: SearchBody, service: Service) -> Coroutine[Any, Any, TrackletEmbedding]:
    # A case keeps pictures of what it asks with, if the service keeps pictures at all.
    thumbnails = service.settings.thumbnails if body.case is not None else 0
    return require_model(service).embedder.embed(footage, body.max_clips, thumbnails=thumbnails)


def _check_options(body: SearchBody, footage: Footage | None, settings: Settings) -> None:
    check_examples(body, with_footage=footage is not None)
    if body.max_clips is not None and footage is None:
        raise Problem.of_field("max_clips", "is allowed only together with frames or a video")
    if settings.require_purpose and body.purpose is None:
        raise Problem.of_field("purpose", "this service requires a purpose for every search, such as a case number")
    if body.top_k > settings.max_top_k:
        raise Problem.of_field("top_k", f"must be at most {settings.max_top_k} (got {body.top_k})")


def find_calibration(
    body: SearchBody, service: Service, score_mode: ScoreMode, *, combined: bool
) -> ActiveCalibration | None:
    """Return the calibration for the scores of this answer, of `combined` examples or of one; `None` if there is none.

    Raises:
        Problem: 409 if the request needs one.
    """
    active = service.calibration
    mode = _mode(body, score_mode, combined=combined)
    cure = f"fit one with `not3d calibrate` and name its file in {variable_name('calibration')}, or send min_score"
    if active is None:
        reason = "this service has no calibration for its model"
    elif active.calibration.embedding_space != service.gallery.embedding_space:
        spaces = f"{active.calibration.embedding_space}, the gallery is of {service.gallery.embedding_space}"
        reason = f"the calibration {active.calibration.id} was fitted in the embedding space {spaces}"
    elif active.calibration.mode != mode:
        reason = f"the calibration {active.calibration.id} was fitted on {active.calibration.mode} scores, not {mode}"
        if active.calibration.mode == score_mode:
            wrong = "send one example and no rejected ones" if combined else "leave out rerank"
            cure = f"{wrong}, or {cure}"
    else:
        return active
    if body.min_probability is not None:
        raise Problem.of_field("min_probability", f"{reason}: {cure}", "not-calibrated")
    return None


def _mode(body: SearchBody, score_mode: ScoreMode, *, combined: bool) -> str:
    """Return which scores an answer has, in the words of `Calibration.mode`."""
    mode: str = score_mode
    if body.rerank:
        # A calibration of re-ranked answers was fitted on cosines.
        mode = "reranked" if mode == "cosine" else "reranked and centred"
    return f"{mode} of several examples" if combined else mode


async def _record(
    body: SearchBody,
    evidence: Mapping[str, JSON],
    found: SearchResult,
    caller: Caller,
    service: Service,
    started: int,
    shown: Sequence[str],
) -> None:
    """Write the search to the audit log. Without a full record of what was shown, nothing is shown."""
    options = {
        "top_k",
        "min_score",
        "min_probability",
        "exclude_same_camera",
        "rerank",
        "combine",
        "purpose",
        "case",
        "filter",
    }
    details: dict[str, JSON] = body.model_dump(mode="json", include=options, exclude_defaults=True, by_alias=True)
    details |= {"query": dict(evidence), "searched": found.searched, "returned": len(found.hits)}
    if shown:
        details["returned_before"] = len(shown)
    if body.embeddings:
        vectors = [check_embedding(values, body.embedding_space, service.space) for values in body.embeddings]
        details["examples"] = [describe_vector(vector) for vector in vectors]
    named: list[dict[str, JSON]] = [{"role": "query", "id": body.id}] if body.id else []
    named += [{"role": "example", "id": id_} for id_ in dict.fromkeys(body.ids) if id_ != body.id]
    named += [{"role": "rejected", "id": id_} for id_ in dict.fromkeys(body.reject_ids)]
    named += [
        {"role": "result", "rank": rank, "id": hit.record.id, "score": hit.score}
        for rank, hit in enumerate(found.hits, len(shown) + 1)
    ]
    await service.audit.record("search", caller, details, named, started=started)


@dataclass(frozen=True)
class Ranked:
    """What was found, and if a calibration is in force, the probability of each hit by its id."""

    found: SearchResult
    probabilities: dict[str, float] = field(default_factory=dict)
    calibration: CalibrationUsed | None = None


async def rank(
    queries: Sequence[Query],
    chosen: Filter,
    body: SearchBody,
    service: Service,
    gallery: VisibleGallery,
    calibration: ActiveCalibration | None,
    admission: Admission,
    shown: Sequence[str] = (),
) -> Ranked:
    """Search with one query, or with several of which the best score counts, as the body asks, after the shown hits."""
    candidates = _candidates(body, service, shown)
    if len(queries) == 1:
        embedding, camera = queries[0]
        found = await gallery.search(embedding, candidates, chosen, body.min_score, camera)
    else:
        found = await gallery.search_best(queries, candidates, chosen, body.min_score)
    if shown:
        known = frozenset(shown)
        found = replace(found, hits=[hit for hit in found.hits if hit.record.id not in known][: body.top_k])
    ranked = _assess(found, body, calibration)
    if not body.rerank:
        return ranked
    found = ranked.found
    with service.metrics.stage("rerank"):
        vectors = np.stack([embedding for embedding, _ in queries])
        hits = await to_thread.run_sync(_rerank, vectors, found, limiter=admission.reranking)
    return replace(ranked, found=replace(found, hits=hits[: body.top_k]))


def _assess(found: SearchResult, body: SearchBody, calibration: ActiveCalibration | None) -> Ranked:
    """Compute the probability of each hit, and leave out those below `min_probability`.

    The comparison uses the numbers of the answer and no score computed from `min_probability`, whose rounding could let
    a hit pass or fail against its own number.
    """
    if calibration is None:
        return Ranked(found)
    prior = calibration.prior_of(body.prior, found.searched)
    probabilities = calibration.probabilities(found.hits, prior)
    least = body.min_probability or 0.0
    hits = [hit for hit in found.hits if probabilities[hit.record.id] >= least]
    fitted = calibration.calibration
    used = CalibrationUsed(
        id=fitted.id,
        source=calibration.source,
        prior=prior,
        fitted_people=fitted.people,
        fitted_cameras=fitted.cameras,
        fitted_at=calibration.fitted_at,
    )
    return Ranked(replace(found, hits=hits), probabilities, used)


def _rerank(queries: NDArray[np.float32], found: SearchResult) -> list[Hit]:
    """Return the hits in the order of their k-reciprocal distance to the nearest query `[Q, D]`; ties rank by id."""
    hits = found.hits
    if len(hits) < 2:
        return hits
    compared = queries if found.centred_query is None else np.atleast_2d(found.centred_query)
    rows = np.stack([hit.record.embedding if hit.centred is None else hit.centred for hit in hits])
    distances = k_reciprocal_rerank(compared, rows).min(axis=0)
    order = sorted(range(len(hits)), key=lambda index: (float(distances[index]), hits[index].record.id))
    return [hits[index] for index in order]


def _hit(request: Request, rank: int, hit: Hit, probabilities: Mapping[str, float]) -> SearchHit:
    """Return a hit without its metadata."""
    record = hit.record
    answer = SearchHit(
        rank=rank,
        id=record.id,
        score=hit.score,
        camera_id=record.camera_id,
        start_time=record.start_time,
        end_time=record.end_time,
        metadata={},
        thumbnails=record.thumbnail_count,
    )
    # Fields that are not set are absent from the answer.
    optional: dict[str, object] = {}
    if record.thumbnail_count:
        optional["thumbnail_url"] = thumbnail_url(request, record.id)
    if record.id in probabilities:
        optional["probability"] = probabilities[record.id]
    return answer.model_copy(update=optional)
