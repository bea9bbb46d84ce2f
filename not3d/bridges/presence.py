"""Where the person of a watchlist was just seen, for sensors that say `nobody` after a while.

It is kept in the bridge's state. So a bridge that was stopped, even by `kill -9`, shows the person until the time is
over, and then removes the picture that the broker has retained.
"""

import json
import time

from not3d.bridges.state import State

PRESENT = "watchlists.present"
PICTURED = "watchlists.pictured"


class Presence:
    """The watchlists whose person is present, and those with a picture.

    Args:
        state: keeps both.
        window: seconds after its last alert for which a person is present.
    """

    def __init__(self, state: State, window: float) -> None:
        self._state, self._window = state, window
        self._seen: dict[str, tuple[float, str]] = {
            name: (at, camera) for name, (at, camera) in json.loads(state.mark(PRESENT) or "{}").items()
        }
        self._pictured: set[str] = set(json.loads(state.mark(PICTURED) or "[]"))

    def camera(self, watchlist: str) -> str | None:
        """Return where the person is, or `None`."""
        seen = self._seen.get(watchlist)
        return seen[1] if seen else None

    def has_picture(self, watchlist: str) -> bool:
        """Whether a picture of the watchlist was ever published."""
        return watchlist in self._pictured

    def see(self, watchlist: str, camera: str, age: float) -> bool:
        """Note an alert that was raised `age` seconds ago; return whether the person is still present."""
        if age >= self._window:
            return False
        self._seen[watchlist] = (time.time() - max(0.0, age), camera)
        self._save()
        return True

    def add_picture(self, watchlist: str) -> bool:
        """Note that a picture is published; return whether it is the first one of the watchlist."""
        if watchlist in self._pictured:
            return False
        self._pictured.add(watchlist)
        self._save()
        return True

    def expire(self) -> list[str]:
        """Return the watchlists whose person is not present any more, once."""
        now = time.time()
        over = [name for name, (at, _) in self._seen.items() if now - at >= self._window]
        for name in over:
            del self._seen[name]
        if over:
            self._save()
        return over

    def forget(self, watchlist: str) -> None:
        """Forget a watchlist that was removed."""
        self._seen.pop(watchlist, None)
        self._pictured.discard(watchlist)
        self._save()

    def _save(self) -> None:
        self._state.set_mark(PRESENT, json.dumps(self._seen))
        self._state.set_mark(PICTURED, json.dumps(sorted(self._pictured)))
