"""Logs: one JSON object per line, on stderr, for stdout may be a pipe."""

import datetime as dt
import json
import logging
import sys
from typing import Any

# What a LogRecord has of its own; whatever else is on it was given with `extra=`.
_KNOWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


class JsonFormatter(logging.Formatter):
    """Writes a record as JSON: time, level, logger, message, and what was given with `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        when = dt.datetime.fromtimestamp(record.created, dt.UTC)
        line: dict[str, Any] = {
            "time": when.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        # kopf adds structures of its own, which mean nothing outside of it.
        line |= {
            key: value
            for key, value in record.__dict__.items()
            if key not in _KNOWN and isinstance(value, str | int | float | None)
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(level: str, *, kopf: int = logging.WARNING) -> None:
    """Send all logs of the process to stderr; of kopf's own only those of some level and above."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # At INFO kopf writes several lines per review, which cost more than the review itself.
    logging.getLogger("kopf").setLevel(max(kopf, logging.getLevelName(level)))
    # It warns that signals are not its business, which is how it is to be (see `reconciler.watch`).
    logging.getLogger("kopf._core.reactor.running").setLevel(max(kopf, logging.ERROR))
    # It warns that a login was cancelled, which is how ours always ends (see `admission.handlers`).
    logging.getLogger("kopf.activities.authentication").setLevel(logging.ERROR)
