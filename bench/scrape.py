"""Scraping as Prometheus does, over a new connection each time."""

from __future__ import annotations

import gzip
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lab.namespace import Namespace

PROMETHEUS = {
    "Accept": "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    "Accept-Encoding": "gzip",
    "User-Agent": "Prometheus/2.42.0",
}
"""What Prometheus asks for."""
PLAIN: dict[str, str] = {}
"""What curl gets: the text format, not compressed."""

_TIMEOUT = 60.0
_SOURCE_PORT = 19_999


@dataclass(frozen=True)
class Scraper:
    """Scrapes ``/metrics`` on the loopback address of a namespace, always from the same port.

    From one port, the TIME_WAIT that each scrape leaves with the server is taken over by the next one, so
    that scraping does not add to the sockets that are being counted.
    """

    namespace: Namespace
    port: int

    def scrape(self, headers: Mapping[str, str]) -> str:
        """Return the metrics.

        Raises:
            OSError: there is no answer.
            ValueError: the answer is not 200.
        """
        with self.namespace.entered():
            connection = socket.socket()
        with connection:
            connection.settimeout(_TIMEOUT)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            connection.bind(("127.0.0.1", _SOURCE_PORT))
            connection.connect(("127.0.0.1", self.port))
            lines = ["GET /metrics HTTP/1.1", f"Host: 127.0.0.1:{self.port}", "Connection: close"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            answer = bytearray()
            while data := connection.recv(1 << 18):
                answer += data
        head, _, body = bytes(answer).partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise ValueError(f"scrape: {head[:80]!r}; expected HTTP/1.1 200")
        if b"transfer-encoding: chunked" in head.lower():
            body = _unchunked(body)
        return (gzip.decompress(body) if b"content-encoding: gzip" in head.lower() else body).decode()

    def await_first(self, seconds: float) -> str:
        """Scrape until it works, and return the metrics; the last error is raised when the time is up."""
        end = time.monotonic() + seconds
        while True:
            try:
                return self.scrape(PROMETHEUS)
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.005)


def _unchunked(body: bytes) -> bytes:
    result = bytearray()
    while True:
        size_line, _, rest = body.partition(b"\r\n")
        size = int(size_line, 16)
        if not size:
            return bytes(result)
        result += rest[:size]
        body = rest[size + 2 :]
