"""The calls of the client about cases: named searches with a purpose and the verdicts of operators."""

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import httpx

from not3d.client.responses import Case, read, read_list


class CaseCalls:
    """Calls about cases, for `Client`, which has `_call`."""

    @abstractmethod
    def _call(self, method: str, path: str, **request: Any) -> httpx.Response: ...

    def cases(
        self, *, status: Literal["open", "closed"] | None = None, limit: int = 100, before: str | None = None
    ) -> Sequence[Case]:
        """Return cases without their verdicts, newest first; with `before`, only those older than this case."""
        params = {"status": status, "limit": limit, "before": before}
        given = {name: value for name, value in params.items() if value is not None}
        body = json.loads(self._call("GET", "/cases", params=given).content)
        return read_list(Case, json.dumps(body["items"]).encode())

    def case(self, case: str) -> Case:
        """Return a case with its verdicts; `ProblemError` 404 if it does not exist."""
        return read(Case, self._call("GET", _path(case)).content)

    def create_case(self, name: str, purpose: str, *, query: Mapping[str, Any] | None = None) -> Case:
        """Create a case. `query` has an enrolled `id`, or an `embedding`; by default the first search sets it."""
        body = {"name": name, "purpose": purpose} | ({} if query is None else {"query": dict(query)})
        return read(Case, self._call("POST", "/cases", json=body).content)

    def change_case(
        self,
        case: str,
        *,
        name: str | None = None,
        purpose: str | None = None,
        status: Literal["open", "closed"] | None = None,
    ) -> Case:
        """Change a case, close it, or open it again."""
        fields = {"name": name, "purpose": purpose, "status": status}
        body = {field: value for field, value in fields.items() if value is not None}
        return read(Case, self._call("PATCH", _path(case), json=body).content)

    def put_verdict(
        self, case: str, id: str, verdict: Literal["same", "different", "unsure"], *, note: str = ""
    ) -> Case:
        """Say whether a record shows the person of the query, or replace what this operator said."""
        body = {"verdict": verdict, "note": note}
        return read(Case, self._call("PUT", f"{_path(case)}/verdicts/{id}", json=body).content)

    def delete_verdict(self, case: str, id: str) -> Case:
        """Take back what this operator said about a record."""
        return read(Case, self._call("DELETE", f"{_path(case)}/verdicts/{id}").content)

    def delete_case(self, case: str) -> None:
        """Remove a case with its verdicts, if it exists; needs a key with the scope `admin`."""
        self._call("DELETE", _path(case))

    def export_case(self, case: str) -> bytes:
        """Return the zip file of a case, which `not3d case verify` checks."""
        return self._call("GET", f"{_path(case)}/export").content


def _path(case: str) -> str:
    return f"/cases/{case}"
