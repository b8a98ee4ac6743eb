"""Real connections, by the hundred or by the ten thousand, in the namespaces of `lab.namespace`.

Many connections are spread over processes, because one may not open more than some 20,000 files. All of it is
bounded: in number, in time, and by the ``with`` statement.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lab.namespace import end_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab.namespace import Namespace

MOST = 200_000
"""More connections than this are refused: it would be a mistake."""
_PER_PROCESS = 15_000
_DIALLERS = 2  # at least, for many connections: one core opens them, another one answers
_FEW = 1000
_CONNECT_TIMEOUT = 10.0
_READY_TIMEOUT = 20.0
_OUR_NET = "/proc/thread-self/net"


@dataclass(frozen=True)
class Destination:
    """How many connections one destination gets: to stay open, and to be left in TIME_WAIT (for 60 s)."""

    address: str
    port: int
    established: int = 0
    time_wait: int = 0


class Server:
    """Accepts every connection to some ports, and closes it when its client does. For a ``with`` statement.

    Args:
        namespace: where it listens.
        ports: on which ports.
        capacity: how many connections may be open at once.
        address: the local address, all of them if not given.
    """

    def __init__(
        self, namespace: Namespace, ports: Sequence[int], capacity: int = 2000, address: str = "::"
    ) -> None:
        self._namespace = namespace
        self._order = {"ports": list(ports), "address": address}
        self._processes = _processes_for(capacity)
        self._workers: list[subprocess.Popen[Any]] = []

    def __enter__(self) -> Self:
        """Start listening."""
        for _ in range(self._processes):
            self._workers.append(_start(self._namespace, "serve.py", self._order))
        for worker in self._workers:
            line = _answer(worker, time.monotonic() + _READY_TIMEOUT)
            if line != "ready":
                self.close()
                raise RuntimeError(f"server: {line!r}; expected 'ready'")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening, and close all connections."""
        end_all(self._workers)


class Connections:
    """Many connections out of a namespace, all there when the ``with`` block begins.

    Args:
        namespace: where they begin.
        destinations: where they go, and how many of them.
        deadline: within how many seconds all must be open.

    Raises:
        RuntimeError: on entering, if one cannot be opened, or the time is up.
    """

    def __init__(
        self, namespace: Namespace, destinations: Sequence[Destination], deadline: float = 60.0
    ) -> None:
        self._namespace = namespace
        self._destinations = destinations
        self._deadline = deadline
        self._workers: list[subprocess.Popen[Any]] = []
        self.established = sum(destination.established for destination in destinations)
        self.time_wait = sum(destination.time_wait for destination in destinations)
        if self.established + self.time_wait > MOST:
            raise ValueError(f"{self.established + self.time_wait} connections; expected at most {MOST}")

    def __enter__(self) -> Self:
        """Open them."""
        end = time.monotonic() + self._deadline
        closing_before, waiting = _closing(self._namespace), _in_time_wait(self._namespace) + self.time_wait
        # On two cores the server's FIN may overtake its ACK. The ACK then draws a reset, which would end the
        # TIME_WAIT of one connection in a hundred (RFC 1337).
        self._namespace.sysctl("ipv4.tcp_rfc1337", 1)
        try:
            for share in self._shares():
                order = {"timeout": _CONNECT_TIMEOUT, "destinations": share}
                self._workers.append(_start(self._namespace, "dial.py", order))
            for worker in self._workers:
                answer = json.loads(_answer(worker, end) or "{}")
                if answer.get("error", "no answer"):
                    raise RuntimeError(f"connections: {answer or 'no answer in time'}")
            # The last ones are on their way through FIN_WAIT.
            while self.time_wait and (
                (found := _in_time_wait(self._namespace)) < waiting
                or _closing(self._namespace) > closing_before
            ):
                if time.monotonic() > end:
                    raise RuntimeError(f"connections: {found} in TIME_WAIT; expected {waiting}")
                time.sleep(0.02)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close those that are open."""
        end_all(self._workers)

    def _shares(self) -> list[list[tuple[str, int, int, int]]]:
        processes = _processes_for(self.established)
        if self.established + self.time_wait > _FEW:
            processes = max(processes, _DIALLERS)
        shares: list[list[tuple[str, int, int, int]]] = [[] for _ in range(processes)]
        for position, item in enumerate(self._destinations):
            for index, share in enumerate(shares):
                turn = (index + position) % processes  # the odd ones go to each process in turn
                established = item.established // processes + (turn < item.established % processes)
                time_wait = item.time_wait // processes + (turn < item.time_wait % processes)
                if established or time_wait:
                    share.append((item.address, item.port, established, time_wait))
        return shares


class Dialler:
    """Connections that this process opens one by one; all are closed at the end of the ``with`` block."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self.connections: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        for connection in self.connections:
            connection.close()
        self.connections.clear()

    def connect(self, address: str, port: int, source: str = "") -> socket.socket:
        """Open a connection, from a local address if one is given.

        Raises:
            OSError: as ``connect()`` does; EADDRNOTAVAIL where no local port is left.
        """
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self._namespace.entered():
            connection = socket.socket(family)
        try:
            connection.settimeout(_CONNECT_TIMEOUT)
            if source:
                # Without it bind() would take a port of its own, whatever the destination.
                connection.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
                connection.bind((source, 0))
            connection.connect((address, port))
        except OSError:
            connection.close()
            raise
        self.connections.append(connection)
        return connection

    def fill(self, address: str, port: int, limit: int = 1000, source: str = "") -> OSError | None:
        """Open connections until one fails; return its error, or None if ``limit`` were opened."""
        for _ in range(limit):
            try:
                self.connect(address, port, source)
            except OSError as error:
                return error
        return None


def _processes_for(connections: int) -> int:
    return max(1, -(-connections // _PER_PROCESS))


def _start(namespace: Namespace, program: str, order: object) -> subprocess.Popen[Any]:
    worker = namespace.popen(
        [sys.executable, "-I", "-S", str(Path(__file__).with_name(program))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert worker.stdin is not None
    with suppress(BrokenPipeError):  # its answer, or the lack of one, tells why
        worker.stdin.write(json.dumps(order).encode() + b"\n")
        worker.stdin.flush()
    return worker


def _answer(worker: subprocess.Popen[Any], end: float) -> str:
    assert worker.stdout is not None
    ready, _, _ = select.select([worker.stdout], [], [], max(0.0, end - time.monotonic()))
    return worker.stdout.readline().decode().strip() if ready else ""


def _in_time_wait(namespace: Namespace) -> int:
    """Count sockets in TIME_WAIT, and those in FIN_WAIT2 that nobody holds any more."""
    # "TCP: inuse 27 orphan 0 tw 5 alloc 49 mem 3", of the namespace of the thread that reads it.
    with namespace.entered():
        text = Path(_OUR_NET, "sockstat").read_text()
    fields = next(line.split() for line in text.splitlines() if line.startswith("TCP:"))
    return int(fields[fields.index("tw") + 1])


def _closing(namespace: Namespace) -> int:
    """Count sockets in FIN_WAIT1, FIN_WAIT2 and CLOSING."""
    with namespace.entered():
        tables = [table for name in ("tcp", "tcp6") if (table := Path(_OUR_NET, name)).exists()]
        return sum(state in (b"04", b"05", b"0B") for table in tables for state in _states(table))


def _states(table: Path) -> list[bytes]:
    _, *rows = table.read_bytes().splitlines()
    return [row.split(None, 4)[3] for row in rows]
