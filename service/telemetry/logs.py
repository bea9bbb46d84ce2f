"""Logs as JSON lines, with request ids, routes, counts and times; never pixels, embeddings or keys."""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request that the current task answers."""


class JsonFormatter(logging.Formatter):
    """Formats one JSON object per line: time, level, logger, message, request id, and `extra={"facts": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one record as a line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (current := request_id.get()) is not None:
            line["request_id"] = current
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logs(level: str, stream: TextIO | None = None) -> None:
    """Write the records of all loggers from this level ("debug" to "error") up, to `stream` or to standard error."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    # Libraries log each call that they make with its URL, which may hold a secret, and at debug level cookies too.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # The form parser logs each malformed form as a warning and each chunk at debug level. The access log has refusals.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
