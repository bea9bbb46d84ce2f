import time
from pathlib import Path

from service.app import create_app, prepare_routes
from service.settings import Settings


def test_the_first_request_finds_the_routes_prepared(tmp_path: Path) -> None:
    """FastAPI prepares them in the event loop when the first request comes, unless something asked for them before."""
    start = time.thread_time()
    app = create_app(Settings(data_dir=tmp_path))
    made = time.thread_time() - start
    start = time.thread_time()
    prepare_routes(app)
    assert time.thread_time() - start < made / 5
