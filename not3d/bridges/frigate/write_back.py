"""Names an event in Frigate after a watchlist, when an operator has confirmed the alert."""

from collections.abc import Mapping
from typing import Any

from not3d.bridges.frigate.api import Frigate, FrigateError, NotFound, Refused
from not3d.bridges.results import OnConfirmed
from not3d.bridges.telemetry import Telemetry


def write_back_confirmed(frigate: Frigate, telemetry: Telemetry) -> OnConfirmed:
    """Return what is done with a confirmed alert: the event gets the watchlist's name as its `sub_label`.

    Only events of Frigate are named. Frigate overwrites a name that it had given. What Frigate refuses is tried again,
    because an operator has to mend the role of the user; an event that it no longer has is left out.
    """

    async def write(alert: Mapping[str, Any]) -> None:
        kind, _, rest = str(alert["record_id"]).partition(":")
        event = rest.partition(":")[2]
        if kind != "frigate" or not event:
            return
        score = alert.get("probability") or alert.get("score") or 1.0
        try:
            await frigate.set_sub_label(event, str(alert["watchlist"]), float(score))
        except NotFound as error:
            telemetry.message("sub_label_not_found", id=alert["record_id"], reason=str(error))
        except Refused as error:
            telemetry.message("sub_label_refused", id=alert["record_id"], reason=str(error))
            raise
        except FrigateError as error:
            telemetry.retry("sub_label", id=alert["record_id"], reason=str(error))
            raise
        else:
            telemetry.message("sub_label_written")

    return write
