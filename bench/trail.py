"""What one user asked of the API server, read from its audit log as it grows."""

from __future__ import annotations

import collections
import json
from typing import TYPE_CHECKING, NamedTuple

from tests.apiserver.reconciler import WRITING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

LEASES = "leases.coordination.k8s.io"


class Request(NamedTuple):
    """One request that was answered; a watch counts when it begins."""

    verb: str
    resource: str
    """With its group and subresource: `deployments.apps`, `pods/log`."""
    name: str
    code: int

    @property
    def writes(self) -> bool:
        """Whether it is one that changes something."""
        return self.verb in WRITING


class Trail:
    """Reads on from where it was: a large log is read once.

    Args:
        log: the audit log.
        user: whose requests count, `system:serviceaccount:<namespace>:<name>`.
    """

    def __init__(self, log: Path, user: str) -> None:
        self._log = log
        self._user = user
        self._read = 0
        self._watches: set[str] = set()

    def more(self) -> list[Request]:
        """Return the requests that were answered since this was called last."""
        with self._log.open("rb") as log:
            log.seek(self._read)
            text = log.read()
        # A line without its end is still being written.
        text = text[: text.rfind(b"\n") + 1]
        self._read += len(text)
        events = (json.loads(line) for line in text.splitlines() if self._user.encode() in line)
        return list(self._requests(events))

    def _requests(self, events: Iterable[dict]) -> Iterable[Request]:  # type: ignore[type-arg]
        for event in events:
            if event["user"]["username"] != self._user:
                continue
            if event["verb"] == "watch":
                if event["auditID"] in self._watches:
                    continue
                self._watches.add(event["auditID"])
            reference = event.get("objectRef", {})
            resource = ".".join(filter(None, (reference.get("resource"), reference.get("apiGroup"))))
            resource = "/".join(filter(None, (resource or "discovery", reference.get("subresource"))))
            name = "/".join(filter(None, (reference.get("namespace"), reference.get("name"))))
            yield Request(event["verb"], resource, name, event.get("responseStatus", {}).get("code", 0))


def short(value: float) -> str:
    """Return a figure with as many digits as say something."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def described(requests: Iterable[Request], minutes: float) -> str:
    """Return how many there were per minute of what, the most frequent first."""
    counts = collections.Counter(f"{request.verb} {request.resource}" for request in requests)
    return ", ".join(f"{what} {short(count / minutes)}" for what, count in counts.most_common()) or "none"
