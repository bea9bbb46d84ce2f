import os
import signal

import pytest
from rich.console import Console

from training.loop.interruption import Interruption


def test_the_second_ctrl_c_ends_at_once(capsys):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interruption(Console()) as interruption:  # noqa: PT012
        assert not interruption.asked
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.asked
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert capsys.readouterr().out.count("Stopping after this step") == 1


def test_a_process_of_torchrun_gets_one_ctrl_c_twice(capsys):
    with Interruption(Console(), patient=True) as interruption:
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert interruption.asked
    assert capsys.readouterr().out.count("Stopping after this step") == 1
