from typing import Any


def measure_peers(*a: Any) -> None: ...
