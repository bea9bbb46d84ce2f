"""Variables of the environment that look like settings and are none."""

import re
from collections.abc import Collection, Mapping
from difflib import SequenceMatcher, get_close_matches
from typing import Final, NamedTuple

from service.settings import PREFIX, Settings, variable_name

CLIENT_VARIABLES: Final = frozenset(
    {"NOT3D_URL", "NOT3D_API_KEY", "NOT3D_CA_FILE", "NOT3D_OPERATOR", "NOT3D_PICTURES", "NOT3D_SHARED_DATA"}
)
"""Variables with the service's prefix that the client commands and the tests read."""
BRIDGE_PREFIX: Final = "NOT3D_BRIDGE_"
"""Begins the variables of `not3d bridge`."""
MIN_LIKENESS: Final = 0.75
"""A variable whose name is at least so similar to a setting's, without the prefix, is a typo."""
_SERVICE_LINK: Final = re.compile(
    rf"{PREFIX}(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)


class UnknownVariables(NamedTuple):
    """Variables of the environment that are not settings."""

    misspelt: list[str]
    """One sentence for each that was probably meant as a setting. With a typo in `NOT3D_REQUIRE_PURPOSE`, none would be
    required."""
    ignored: list[str]
    """Names of the others that begin as a setting's; they are probably of other programs."""


def find_unknown_variables(environment: Mapping[str, str]) -> UnknownVariables:
    """Return the variables whose name begins as a setting's, or is almost one, but that are not settings.

    Upper and lower case are the same, as for settings. Variables that Kubernetes sets for a Service named not3d are no
    typos.
    """
    known = {variable_name(field) for field in Settings.model_fields} | CLIENT_VARIABLES
    found = UnknownVariables([], [])
    for name in sorted(environment):
        upper = name.upper()
        if upper in known or upper.startswith(BRIDGE_PREFIX) or _SERVICE_LINK.fullmatch(upper):
            continue
        if near := _find_near(upper, known):
            found.misspelt.append(f"{name} is not a setting; did you mean {near}? Rename or unset it")
        elif upper.startswith(PREFIX):
            found.ignored.append(name)
    return found


def _find_near(name: str, known: Collection[str]) -> str | None:
    """Return the known name that a name resembles: a few other letters, words in another order, or words missing."""
    if not name.startswith(PREFIX):
        return next(iter(get_close_matches(name, known, n=1, cutoff=0.9)), None)
    words = name.removeprefix(PREFIX).split("_")

    def likeness(other: str) -> float:
        its = other.removeprefix(PREFIX).split("_")
        pairs = ((words, its), (sorted(words), sorted(its)))
        return max(SequenceMatcher(None, "_".join(one), "_".join(two)).ratio() for one, two in pairs)

    near = max(known, key=likeness)
    if likeness(near) >= MIN_LIKENESS:
        return near
    with_all = [each for each in known if set(words) <= set(each.removeprefix(PREFIX).split("_"))]
    return max(with_all, key=likeness, default=None)
