"""Memory that was freed goes back to the system, where the C library can be asked for it."""

import ctypes
from functools import cache

_LARGE = 256 * 1024
_MMAP_THRESHOLD = -3
"""`M_MMAP_THRESHOLD` of glibc's malloc.h."""

_library = ctypes.CDLL(None)
# glibc has both, musl and others have not.
_trim = getattr(_library, "malloc_trim", None)
_option = getattr(_library, "mallopt", None)


def give_back_freed() -> None:
    """Return free pages to the system, also those between pages in use."""
    if _trim is not None:
        _trim(0)


@cache
def map_large_blocks() -> None:
    """From now on the system is asked for each block of 256 KiB or more, and gets it back as soon as it is freed.

    By itself glibc keeps blocks of up to 32 MiB for later, once the first of them was freed. A thousand lists that grow
    together leave gaps that none of them fits into: 600 MB of codes took 1,000 MB, and take 700 MB this way.
    """
    if _option is not None:
        _option(_MMAP_THRESHOLD, _LARGE)
