from concurrent.futures import ThreadPoolExecutor

from service.telemetry.request_cost import Cost, current_cost


def test_threads_add_to_one_stage() -> None:
    cost = Cost()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: [cost.add("infer", 0.5) for _ in range(2000)], range(4)))
    cost.add("decode", 1)
    assert cost.seconds == {"infer": 4000, "decode": 1}


def test_outside_of_a_request_there_is_none() -> None:
    assert current_cost.get() is None
