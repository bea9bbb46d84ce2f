import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from service.threads import start_threads


def test_all_threads_of_a_pool_are_started() -> None:
    with ThreadPoolExecutor(5, thread_name_prefix="started-early") as pool:
        start_threads(pool, 5)
        assert sum(thread.name.startswith("started-early") for thread in threading.enumerate()) == 5
        assert pool.submit(lambda: 3).result() == 3


def test_a_system_without_threads_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    begun = []

    def refuse(thread: threading.Thread, *args: Any) -> None:
        if len(begun) == 2:
            raise RuntimeError("can't start new thread")
        begun.append(thread)
        start(thread, *args)

    with ThreadPoolExecutor(5) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            start_threads(pool, 5)
        assert pool.submit(lambda: 3).result() == 3
