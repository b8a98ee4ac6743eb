"""Asking the best source that works, and going back to a better one when it works again."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar

from sidecar.model import SourceError

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Mapping

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger(__name__)

PROBE_INTERVAL = 60.0
"""Seconds until the sources before the one in use are tried again."""


class Fallback(Generic[P, T]):
    """Several ways to read the same thing, the best first.

    Args:
        what: what is read, for the log.
        readers: by source name; a reader raises any exception if it cannot read.
        errors: counts the failures of each source.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        what: str,
        readers: Mapping[str, Callable[P, T]],
        errors: Counter[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._readers = list(readers.items())
        self._errors = errors
        self._clock = clock
        self._start = 0
        self._probe_at = 0.0
        self.active: str | None = None
        """The source of the last answer; None if the last try had none."""

    def read(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the answer of the first source that gives one.

        Raises:
            SourceError: none does; the message has each one's reason.
        """
        if self._start and self._clock() >= self._probe_at:
            self._start = 0
        reasons: list[str] = []
        # The one in use first; where it fails now, a better one may be back before it was to be tried.
        in_use = self._start
        for index, (name, reader) in sorted(enumerate(self._readers), key=lambda item: item[0] != in_use):
            try:
                answer = reader(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - whatever a source cannot do, another one may
                self._errors[name] += 1
                reasons.append(f"{name}: {str(error) or type(error).__name__}")
                continue
            if reasons:
                self._probe_at = self._clock() + PROBE_INTERVAL
            self._start = index
            self._tell(name, reasons)
            return answer
        self.active = None
        self._start = 0
        raise SourceError(f"{self._what}: no source works: {'; '.join(reasons)}")

    def _tell(self, name: str, reasons: list[str]) -> None:
        previous, self.active = self.active, name
        if name == previous:
            return  # said already, also when a better source has just been tried in vain
        if reasons:
            log.warning("%s: read from %s; %s", self._what, name, "; ".join(reasons))
        elif previous is not None:
            log.info("%s: read from %s again", self._what, name)
