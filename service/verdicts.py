"""Verdicts of operators, and which one counts."""

from collections import Counter
from collections.abc import Sequence
from typing import Final, Literal, Protocol, TypeAlias, get_args

VerdictKind: TypeAlias = Literal["same", "different", "unsure"]
VERDICTS: Final[tuple[VerdictKind, ...]] = get_args(VerdictKind)


class Given(Protocol):
    """What one operator said about something."""

    @property
    def author(self) -> str:
        """The operator as the client named them, otherwise the key."""
        ...

    @property
    def key(self) -> str:
        """The key or user with which the request came."""
        ...

    @property
    def verdict(self) -> VerdictKind:
        """Their verdict."""
        ...


def decide(verdicts: Sequence[Given], confirmations: int, trust_operator: bool) -> VerdictKind | None:
    """Return the verdict that counts, or `None`.

    Args:
        verdicts: on one record or alert, one of each author, oldest first.
        confirmations: if 1, the latest verdict counts. Otherwise a verdict counts if so many different people gave it
            and no other verdict is confirmed as well.
        trust_operator: whether different names under one key are different people. Otherwise a key or user is one
            person, whose latest verdict counts.
    """
    if confirmations == 1:
        return verdicts[-1].verdict if verdicts else None
    latest = {(each.key, each.author if trust_operator else ""): each.verdict for each in verdicts}
    counts = Counter(latest.values())
    confirmed = [kind for kind in VERDICTS if counts[kind] >= confirmations]
    return confirmed[0] if len(confirmed) == 1 else None
