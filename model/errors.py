"""The base of all errors that a person may see, and what to say when an optional package is missing."""

from collections.abc import Iterator
from contextlib import contextmanager

_OWN_PACKAGES = frozenset({"not3d", "service", "training", "model"})


class Not3dError(Exception):
    """Something that the person at the command line can understand and mend.

    The message is for that person: it says what is wrong, with the value and the limit, and what to do. The command
    line catches this class once, prints the message without a traceback and ends with status 1. A bug is never a
    `Not3dError`: it keeps its traceback.
    """


class MissingExtra(Not3dError):
    """An optional package is not installed or cannot be imported."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Import optional packages inside this context, for one clear error if one is missing.

    Example: `with extra("train"): import torch`.

    Args:
        name: the extra of this project that installs them.

    Raises:
        MissingExtra: a package is missing or cannot be imported; the message names it and the extra.
    """
    try:
        yield
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package in _OWN_PACKAGES:  # a wrong import in this project is a bug
            raise
        if isinstance(error, ModuleNotFoundError):
            fault = f"the package `{package}` is not installed"
        else:
            fault = f"the package `{package}` cannot be imported ({error})" if package else str(error)
        raise MissingExtra(f"{fault}; it comes with the extra `{name}`: pip install 'not3d[{name}]'") from error
