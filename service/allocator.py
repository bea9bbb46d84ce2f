"""Memory that is freed goes back to the system. Without this, a service with mixed requests grows for hours.

glibc keeps what was freed in up to 8 heaps for each CPU, in case that the same thread needs it again. Requests have all
sizes and are answered by changing threads, so each heap grows to the largest sum that it ever had, with gaps.
"""

import ctypes
from functools import cache
from typing import Final

_libc = ctypes.CDLL(None)
# glibc has both functions; musl and others do not.
_malloc_trim = getattr(_libc, "malloc_trim", None)
_mallopt = getattr(_libc, "mallopt", None)
# The options' numbers in glibc's malloc.h.
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_MMAP_THRESHOLD_BYTES: Final = 256 * 1024
_HEAPS: Final = 2


def trim_memory() -> None:
    """Return free pages to the operating system, also those between pages in use."""
    if _malloc_trim is not None:
        _malloc_trim(0)


@cache
def map_large_blocks() -> None:
    """Let malloc get each block of 256 KiB or more from the system, and return it as soon as it is freed.

    By default glibc keeps blocks of up to 32 MiB after the first of them is freed. A thousand lists that grow together
    leave gaps that no list fits into: 600 MB of codes took 1,000 MB, and take 700 MB with this setting.
    """
    if _mallopt is not None:
        _mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)


@cache
def limit_heaps() -> None:
    """Let all threads share two heaps. Call it before threads are started: a heap that exists stays."""
    if _mallopt is not None:
        _mallopt(_M_ARENA_MAX, _HEAPS)
