"""Memory that was freed goes back to the system, where the C library can be asked for it."""

import ctypes

__all__ = ["give_back_freed"]

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl and others have not


def give_back_freed() -> None:
    """Return free pages to the system, also those between pages in use.

    Lists that grow together leave gaps behind: a gallery of a million kept as much free memory as it used.
    """
    if _trim is not None:
        _trim(0)
