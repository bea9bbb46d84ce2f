import subprocess
import sys

PROGRAM = """
import gc, os, signal, sys
from pathlib import Path
from model.bundle import Bundle
from model.engines.openvino_engine import OpenVinoEngine

engines = [OpenVinoEngine(Bundle.load(Path(sys.argv[1])), threads=1) for _ in range(3)]
while engines:
    engines.pop(0)
    gc.collect()
signal.signal(signal.SIGINT, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGINT)
"""


def test_a_signal_is_handled_after_engines_were_closed_in_the_order_in_which_they_were_opened(bundle):
    run = subprocess.run([sys.executable, "-c", PROGRAM, str(bundle.path)], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "handled\n"), run.stderr
