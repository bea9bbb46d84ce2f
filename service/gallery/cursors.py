"""Cursors of a listing: where a page ended, in a form that no client takes for an id."""

import base64
import binascii

from service.gallery import checks
from service.gallery.records import InvalidArgument

_MARK = b"after:"


def encode(last_id: str) -> str:
    """The cursor that goes on after an id."""
    return base64.urlsafe_b64encode(_MARK + last_id.encode()).decode("ascii")


def decode(cursor: str) -> str:
    """The id after which a cursor goes on. Raises `InvalidArgument` for what `encode` did not make."""
    try:
        plain = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True)
        if not plain.startswith(_MARK):
            raise InvalidArgument("cursor is not one that this service gave out")
        last_id = plain.removeprefix(_MARK).decode()
    except (binascii.Error, UnicodeError) as error:
        raise InvalidArgument("cursor is not one that this service gave out") from error
    checks.check_text(last_id, "cursor")
    return last_id
