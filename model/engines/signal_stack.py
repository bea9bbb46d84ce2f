"""Keeping a thread's alternate signal stack as it is while OpenVINO compiles.

Each model that OpenVINO 2026 compiles on x86 installs an alternate signal stack in the calling thread, and puts back
what it found there when it is freed. Of two models freed in the order in which they were made, the second one puts back
the freed stack of the first, and the next signal (a Ctrl-C, a SIGTERM) is a segmentation fault.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Puts back, at the end, the calling thread's alternate signal stack of the beginning; elsewhere than on Linux:
    nothing.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    libc = ctypes.CDLL(None)
    before = _Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)
