"""What the demonstration plays with: the exporter, an application, and the services that it talks to."""

from __future__ import annotations

import json
import select
import subprocess
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from demo.application import Answer
from demo.scrape import Reading, ScrapeError, Scraper

if TYPE_CHECKING:
    from collections.abc import Sequence

_ANSWER_TIMEOUT = 20.0
_START_TIMEOUT = 15.0


class StageError(Exception):
    """Something on the stage broke; the message says what."""


@dataclass(frozen=True)
class Destination:
    """A service that the application talks to, by address, port, and the exporter's name for the port."""

    address: str
    port: int
    name: str

    @property
    def remote(self) -> str:
        """The label ``remote_addr``."""
        return f"{self.address} [{self.port}:{self.name}]"

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"


class Stage:
    """The exporter and the application, both running.

    Attributes:
        where: a sentence about it.
        url: where the exporter can be looked at from the host.
        destinations: the services; the first is the one that becomes full.
        ports: how many local ports there are towards each of them.
        own_ports: the same if the application keeps itself to them, 0 if the kernel's range is that small.
        can_fill: whether ``connect()`` is made to fail.
    """

    def __init__(
        self,
        *,
        where: str,
        url: str,
        destinations: Sequence[Destination],
        ports: int,
        own_ports: int,
        can_fill: bool,
        exporter: subprocess.Popen[Any],
        exporter_log: IO[bytes],
        application: subprocess.Popen[Any],
        scraper: Scraper,
    ) -> None:
        self.where = where
        self.url = url
        self.destinations = destinations
        self.ports = ports
        self.own_ports = own_ports
        self.can_fill = can_fill
        self._exporter = exporter
        self._exporter_log = exporter_log
        self._application = application
        self._scraper = scraper

    def wait(self) -> None:
        """Wait for the exporter's first answer.

        Raises:
            StageError: it gave none.
        """
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            try:
                self._scraper.scrape()
            except ScrapeError as error:
                self.check()
                if time.monotonic() > deadline:
                    raise StageError(f"exporter: no answer within {_START_TIMEOUT:g} s: {error}") from error
                time.sleep(0.05)
            else:
                return

    def scrape(self) -> Reading:
        """Return what the exporter says now.

        Raises:
            StageError: it does not.
        """
        try:
            return self._scraper.scrape()
        except ScrapeError as error:
            self.check()
            raise StageError(f"exporter: {error}") from error

    def open(self, destination: Destination, count: int) -> Answer:
        """Have the application open connections; return how many it could.

        Raises:
            StageError: it does not answer.
        """
        stdin, stdout = self._application.stdin, self._application.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(f"{destination.address} {destination.port} {count}\n".encode())
            stdin.flush()
        except BrokenPipeError:
            self.check()
            raise StageError("application: it hears nothing any more") from None
        ready, _, _ = select.select([stdout], [], [], _ANSWER_TIMEOUT)
        line = stdout.readline() if ready else b""
        if not line:
            self.check()
            raise StageError("application: no answer")
        return Answer(**json.loads(line))

    def check(self) -> None:
        """Make sure that nothing has died.

        Raises:
            StageError: something has.
        """
        for name, process in (("exporter", self._exporter), ("application", self._application)):
            # A closed pipe is seen a moment before the end of the process behind it.
            try:
                status = process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            lines = self._log_tail() if process is self._exporter else ""
            raise StageError(f"{name}: it ended, with status {status}{lines}")

    def _log_tail(self) -> str:
        self._exporter_log.seek(0)
        lines = self._exporter_log.read().decode(errors="replace").splitlines()
        return "".join(f"\n  {line}" for line in lines[-5:])
