"""Which thread runs a function."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest


def _is_in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def note_threads(patch: pytest.MonkeyPatch, owner: Any, name: str) -> list[bool]:
    """Note for each call of a function whether it is in the thread of an event loop."""
    calls: list[bool] = []
    function: Callable[..., Any] = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(_is_in_event_loop())
        return function(*args, **kwargs)

    patch.setattr(owner, name, call)
    return calls
