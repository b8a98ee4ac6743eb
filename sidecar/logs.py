"""Log lines on stderr, as text or JSON, and no more of them than somebody would read."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

REPEAT_INTERVAL = 60.0
"""Seconds until the same error is logged again."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its line end."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up(level: str, log_format: str) -> None:
    """Send the log to stderr. ``log_format`` is ``text`` or ``json``."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonFormatter()
        if log_format == "json"
        else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # It would log a line for each of many requests that come at once.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)


class RateLimit:
    """Logs the errors of one kind at most every `REPEAT_INTERVAL`, also if they come and go."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._quiet_until: dict[str, float] = {}
        self._left_out: dict[str, int] = {}
        self._told: set[str] = set()

    def error(self, kind: str, message: str, *args: object) -> None:
        """Log an error, or count it for the next line of its kind."""
        now = self._clock()
        if now < self._quiet_until.get(kind, now):
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return
        self._quiet_until[kind] = now + REPEAT_INTERVAL
        self._told.add(kind)
        left_out = self._left_out.pop(kind, 0)
        if left_out:
            message, args = f"{message} (and %d times since the last line)", (*args, left_out)
        self._log.error(message, *args)

    def over(self, kind: str, message: str) -> None:
        """Log that errors of a kind have ended, if one was logged since this was last said."""
        if kind in self._told:
            self._told.discard(kind)
            self._log.info(message)
