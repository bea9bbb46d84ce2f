"""The version of what is installed."""

from importlib.metadata import PackageNotFoundError, version

API_VERSION = "1"
"""Of the HTTP contract; changes with it and not with every release."""


def read_version() -> str:
    """The installed distribution's version; in a checkout that is not installed, there is none to know."""
    try:
        return version("not3d")
    except PackageNotFoundError:
        return "unreleased"
