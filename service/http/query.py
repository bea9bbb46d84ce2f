"""Calls without query parameters refuse those that a client sends all the same."""

from fastapi import Depends, Request

from service.http.problems import Fault, Problem


async def _refuse_query(request: Request) -> None:
    if names := list(request.query_params):
        faults = [Fault(field=name[:100], reason="the query parameter is unknown") for name in names[:10]]
        raise Problem("malformed", f"{faults[0].field}: {faults[0].reason}", errors=faults)


NO_QUERY = [Depends(_refuse_query)]
