"""What Prometheus would see: `/metrics`, fetched over HTTP and read."""

from __future__ import annotations

import http.client
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping


class ScrapeError(Exception):
    """The exporter did not answer as one; the message says how."""


@dataclass(frozen=True)
class Reading:
    """One scrape: the figures that the demonstration shows, and the text that they come from."""

    total: int
    usage: float
    ratio: float
    free: int
    destinations: Mapping[str, float] = field(default_factory=dict)
    connections: Mapping[str, int] = field(default_factory=dict)
    text: str = ""

    def lines(self, start: str, part: str = "") -> list[str]:
        """Return the lines of the text that start with one text and hold another."""
        return [line for line in self.text.splitlines() if line.startswith(start) and part in line]


def read(text: str, pod_name: str) -> Reading:
    """Read an answer of the exporter of that pod.

    Raises:
        ScrapeError: it is another pod's, or figures are missing.
    """
    values: dict[str, float] = {}
    destinations: dict[str, float] = {}
    connections: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for name, labels, value, *_ in family.samples:
            if labels.get("pod_name") != pod_name or labels.get("protocol", "tcp") != "tcp":
                continue
            if name == "port_destination_ratio":
                destinations[labels["remote_addr"]] = value
            elif name == "port_used":
                connections[labels["remote_addr"]] += int(value)
            else:
                values[name] = value
    try:
        return Reading(
            total=int(values["port_total"]),
            usage=values["port_usage"],
            ratio=values["port_exhaustion_ratio"],
            free=int(values["port_exhaustion_free"]),
            destinations=destinations,
            connections=connections,
            text=text,
        )
    except KeyError as name:
        raise ScrapeError(f"/metrics: no {name} of pod {pod_name}") from None


class Scraper:
    """Scrapes one exporter, over a connection that it keeps: a new one each time would be counted too.

    Args:
        dial: opens a connection to the exporter; raises OSError.
        pod_name: whose metrics they have to be.
    """

    def __init__(self, dial: Callable[[], socket.socket], pod_name: str) -> None:
        self._pod_name = pod_name
        self._connection = _Connection(dial)

    def scrape(self) -> Reading:
        """Return what the exporter says now.

        Raises:
            ScrapeError: it cannot be reached, or says something else.
        """
        try:
            self._connection.request("GET", "/metrics")
            answer = self._connection.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise ScrapeError(f"/metrics: {error or type(error).__name__}") from error
        if answer.status != http.client.OK:
            raise ScrapeError(f"/metrics: HTTP {answer.status}; expected 200")
        return read(text, self._pod_name)

    def close(self) -> None:
        """Close the connection; the next scrape opens another one."""
        self._connection.close()


class _Connection(http.client.HTTPConnection):
    def __init__(self, dial: Callable[[], socket.socket]) -> None:
        super().__init__("exporter")
        self._dial = dial

    def connect(self) -> None:
        self.sock = self._dial()
