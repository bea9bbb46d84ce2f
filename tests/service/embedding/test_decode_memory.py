import threading

from service.embedding.decode_memory import DecodeMemory
from tests.service.live import wait_for


def test_pictures_wait_until_there_is_memory_for_them() -> None:
    memory = DecodeMemory(100)
    held, most, lock = 0, 0, threading.Lock()

    def decode(size: int) -> None:
        nonlocal held, most
        for _ in range(200):
            with memory.reserve(size):
                with lock:
                    held += size
                    most = max(most, held)
                with lock:
                    held -= size

    threads = [threading.Thread(target=decode, args=(size,)) for size in (10, 30, 60, 90, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held == 0
    assert most <= 100


def test_picture_that_needs_more_than_the_limit_is_decoded_alone() -> None:
    memory = DecodeMemory(100)
    order: list[str] = []

    def small() -> None:
        with memory.reserve(1):
            order.append("small")

    with memory.reserve(1_000):
        thread = threading.Thread(target=small)
        thread.start()
        wait_for(memory._next.locked)
        order.append("large")
    thread.join()
    assert order == ["large", "small"]


def test_small_pictures_do_not_overtake_a_large_one_for_ever() -> None:
    memory = DecodeMemory(100)
    order: list[int] = []

    def decode(size: int) -> None:
        with memory.reserve(size):
            order.append(size)

    threads = [threading.Thread(target=decode, args=(size,)) for size in (100, 1)]
    with memory.reserve(50):
        threads[0].start()
        wait_for(memory._next.locked)
        threads[1].start()
    for thread in threads:
        thread.join()
    assert order == [100, 1]


def test_error_while_decoding_returns_the_memory() -> None:
    memory = DecodeMemory(100)
    for _ in range(3):
        try:
            with memory.reserve(100):
                raise ValueError
        except ValueError:
            continue
    assert memory._free == 100
