"""Vectors of drawn people, and calls about watchlists and alerts, for the tests of both."""

from typing import Any

import numpy as np

from tests.service.live import Live

DIMENSION = 32


def person(number: int) -> np.ndarray[Any, Any]:
    """A direction that is orthogonal to those of other people."""
    vector = np.zeros(DIMENSION)
    vector[number] = 1
    return vector


def near(number: int, cosine: float, other: int = DIMENSION - 1) -> list[float]:
    """A vector with this cosine to a person; the rest is of another one."""
    return [float(value) for value in cosine * person(number) + np.sqrt(1 - cosine**2) * person(other)]


def enrol(live: Live, id: str, vector: list[float], camera: str | None = "gate", **fields: Any) -> None:
    body = {"embedding": vector, **({} if camera is None else {"camera_id": camera}), **fields}
    answer = live.client.put(f"/gallery/{id}", json=body)
    assert answer.status_code in {200, 201}, answer.text


def watch(live: Live, name: str, **fields: Any) -> Any:
    answer = live.client.put(f"/watchlists/{name}", json={"min_score": 0.5, "cooldown": 0} | fields)
    assert answer.status_code in {200, 201}, answer.text
    return answer.json()


def alerts_of(live: Live, name: str, **query: Any) -> list[Any]:
    answer = live.client.get("/alerts", params={"watchlist": name, **query})
    assert answer.status_code == 200, answer.text
    items: list[Any] = answer.json()["items"]
    return items
