"""`GET /gallery/{id}/track`: the probable appearances of one person in time order."""

import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from service.callers import Caller
from service.gallery.clock import add_to_time, now
from service.gallery.records import JSON, Filter, Hit, Record
from service.gallery.visible import VisibleGallery
from service.http.access import require_scope
from service.http.admission import Admission
from service.http.cancellation import until_disconnected
from service.http.dependencies import CallersGallery, Ready
from service.http.links import thumbnail_url
from service.http.problems import Problem
from service.http.responses import respond
from service.http.schemas import SearchBody
from service.http.track_schemas import StepAnswer, TrackAnswer, TrackQuery
from service.http.tracklet_request import get_admission
from service.lifecycle import Service
from service.linking import CANDIDATES, Links, Place, ProbablePath, Step, find_path
from service.routes.gallery import PathId
from service.routes.search import Ranked, find_calibration, rank

HALF_WINDOW = timedelta(hours=12)
DEFAULT_PROBABILITY = 0.5

router = APIRouter()


@router.get("/gallery/{id}/track", response_model=TrackAnswer, response_model_exclude_unset=True)
async def find_track(
    request: Request,
    tracklet: PathId,
    service: Ready,
    gallery: CallersGallery,
    caller: Annotated[Caller, require_scope("search")],
    query: Annotated[TrackQuery, Query()],
) -> Response:
    """Link the probable appearances of the person of a record through the cameras, in time order.

    A record is added if at least half of the records on the path are linked with it, the strongest link first, unless
    it contradicts time or another record explains it better: a person is on one camera at a moment, unless the views
    overlap, and needs the site's minimum time between two cameras. Gaps stay gaps. Wrong links happen. Needs the scope
    `search`; audited as a search.
    """
    start, started = time.perf_counter(), now()
    if service.settings.require_purpose and query.purpose is None:
        raise Problem.of_field("purpose", "this service requires a purpose for every search, such as a case number")
    admission = get_admission(request)
    with admission.gallery_call():
        seed = await gallery.get(tracklet)
        if seed is None:
            raise Problem.of_field("id", f"{tracklet} is not in the gallery", "not-found")
        search = _Search.of(seed, query, service, gallery, admission)
        async with admission.result(CANDIDATES + query.max_steps):
            path = await until_disconnected(request, search.find(seed, query.max_steps))
            await _record(query, search, path, seed, caller, service, started)
            answer = TrackAnswer(
                id=seed.id,
                steps=_steps(request, path),
                after=search.after,
                before=search.before,
                min_score=search.body.min_score,
                min_probability=search.body.min_probability,
                complete=path.is_complete,
                embedding_space=service.space.name,
                score_mode=gallery.score_mode,
                searched=search.first.found.searched,
                searches=path.searches,
                exact=search.is_exact,
                took_ms=round((time.perf_counter() - start) * 1000, 3),
            )
            if search.first.calibration:
                answer = answer.model_copy(update={"calibration": search.first.calibration})
            return await respond(admission, len(path.steps), lambda: answer.model_dump(exclude_unset=True))


@dataclass
class _Search:
    """The searches of one path: their window and thresholds, and what they said."""

    body: SearchBody
    after: datetime
    before: datetime
    service: Service
    gallery: VisibleGallery
    admission: Admission
    answers: list[Ranked] = field(default_factory=list)
    is_exact: bool = True

    @classmethod
    def of(
        cls, seed: Record, query: TrackQuery, service: Service, gallery: VisibleGallery, admission: Admission
    ) -> "_Search":
        place = Place.of(seed)
        if place is None:
            reason = f"{seed.id} has neither start_time nor end_time, so nothing comes before or after it: PATCH it"
            raise Problem.of_field("id", reason, "without-time")
        after = query.after or add_to_time(place.start, -HALF_WINDOW)
        before = query.before or add_to_time(place.end, HALF_WINDOW)
        if after > before:
            raise Problem.of_field("after" if query.after else "before", "leaves no time between after and before")
        least = query.min_probability
        if least is None and query.min_score is None:
            least = DEFAULT_PROBABILITY
        body = SearchBody(
            id=seed.id, top_k=CANDIDATES, min_score=query.min_score, min_probability=least, prior=query.prior
        )
        return cls(body, after, before, service, gallery, admission)

    @property
    def first(self) -> Ranked:
        return self.answers[0]

    def find(self, seed: Record, max_steps: int) -> Coroutine[Any, Any, ProbablePath]:
        calibration = find_calibration(self.body, self.service, self.gallery.score_mode, combined=False)
        times = self.service.travel_times
        everything = self.body.model_copy(update={"min_score": None, "min_probability": None})

        async def search(record: Record) -> Links:
            chosen = Filter(after=self.after, before=self.before, exclude_ids=(record.id,))
            query = [(record.embedding, record.camera_id)]
            ranked = await rank(query, chosen, everything, self.service, self.gallery, calibration, self.admission)
            if not self.answers:
                self.answers.append(ranked)
            self.is_exact = self.is_exact and ranked.found.exact
            hits, probabilities = ranked.found.hits, ranked.probabilities
            linked = frozenset(hit.record.id for hit in hits if self._passes(hit, probabilities))
            return Links(hits, linked, probabilities)

        return find_path(seed, search, self.gallery.get, travel_times=times, max_steps=max_steps)

    def _passes(self, hit: Hit, probabilities: Mapping[str, float]) -> bool:
        least = self.body.min_score
        if least is not None and hit.score < least:
            return False
        probable = self.body.min_probability
        return probable is None or probabilities[hit.record.id] >= probable


def _steps(request: Request, path: ProbablePath) -> list[StepAnswer]:
    answers = []
    latest: datetime | None = None
    for step in path.steps:
        gap = None if latest is None else (step.place.start - latest).total_seconds()
        answers.append(_step(request, step, gap))
        latest = step.place.end if latest is None else max(latest, step.place.end)
    return answers


def _step(request: Request, step: Step, gap: float | None) -> StepAnswer:
    record = step.record
    answer = StepAnswer(
        id=record.id,
        camera_id=record.camera_id,
        start_time=step.place.start,
        end_time=step.place.end,
        score=step.score,
        linked_to=step.linked_to,
        links=step.links,
        gap_seconds=gap,
        thumbnails=record.thumbnail_count,
    )
    optional: dict[str, object] = {}
    if step.probability is not None:
        optional["probability"] = step.probability
    if record.thumbnail_count:
        optional["thumbnail_url"] = thumbnail_url(request, record.id)
    return answer.model_copy(update=optional)


async def _record(
    query: TrackQuery, search: _Search, path: ProbablePath, seed: Record, caller: Caller, service: Service, started: int
) -> None:
    """Write the path to the audit log as a search. Without a full record of what was shown, nothing is shown."""
    details: dict[str, JSON] = query.model_dump(mode="json", exclude_none=True)
    found = [step for step in path.steps if step.linked_to is not None]
    details |= {"call": "track", "query": {}, "searched": search.first.found.searched, "returned": len(found)}
    named: list[dict[str, JSON]] = [{"role": "query", "id": seed.id}]
    named += [
        {"role": "result", "rank": rank, "id": step.record.id, "score": step.score}
        for rank, step in enumerate(found, 1)
    ]
    await service.audit.record("search", caller, details, named, started=started)
