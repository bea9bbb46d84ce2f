import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.service.live import wait_for

REPOSITORY = Path(__file__).parents[1]
TESTS = """
import subprocess, sys, time
from tests.leftovers import end_with_this_process
end_with_this_process()
child = "import subprocess; sleep = subprocess.Popen(['sleep', '300'], start_new_session=True)"
child += "; print(sleep.pid, flush=True); sleep.wait()"
subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
time.sleep(300)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_processes_of_tests_that_are_killed_end(number: signal.Signals) -> None:
    """Also those that a process of the tests has started in a session of its own."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen([sys.executable, "-c", TESTS], env=environment, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout
        grandchild = Path("/proc", tests.stdout.readline().strip())
        assert grandchild.exists()
        tests.send_signal(number)
    wait_for(lambda: not grandchild.exists(), 10)
