"""The application whose connections are counted: a child process that opens them as it is told.

A request is a line ``ADDRESS PORT COUNT`` on stdin; the answer is a JSON object in a line on stdout, see
`Answer`. The connections stay open until stdin ends.
"""

from __future__ import annotations

import json
import resource
import socket
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

IP_LOCAL_PORT_RANGE = 51
"""``include/uapi/linux/in.h``, Linux 6.3: a range for one socket, ``high << 16 | low``."""

_TIMEOUT = 5.0


@dataclass(frozen=True)
class Answer:
    """How many connections were opened, and what ended it: ``errno`` is 0 if all of them were."""

    opened: int
    errno: int = 0
    error: str = ""


def as_option(local_ports: int) -> bytes:
    """Return a range as ``setsockopt()`` takes it: a ``__u32`` in the machine's byte order."""
    return local_ports.to_bytes(4, sys.byteorder)


def connect(address: str, port: int, local_ports: int = 0) -> socket.socket:
    """Return a new connection, from the port range given (as the socket option has it), 0 for the system's.

    Raises:
        OSError: it failed, with EADDRNOTAVAIL where no local port is free.
    """
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        connection.settimeout(_TIMEOUT)
        # Closed by a reset: a demonstration leaves no TIME_WAIT behind.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        if local_ports:
            connection.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, as_option(local_ports))
        connection.connect((address, port))
    except OSError:
        connection.close()
        raise
    return connection


def run(requests: TextIO, answers: TextIO, local_ports: int) -> None:
    """Answer requests until they end."""
    connections = []
    for request in requests:
        address, port, count = request.split()
        opened, answer = 0, None
        while opened < int(count) and answer is None:
            try:
                connections.append(connect(address, int(port), local_ports))
                opened += 1
            except OSError as error:
                answer = Answer(opened, error.errno or -1, error.strerror or str(error))
        print(json.dumps(asdict(answer or Answer(opened))), file=answers, flush=True)


def main() -> None:
    """Run with the range of local ports as the only argument, if it is limited."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    run(sys.stdin, sys.stdout, int(sys.argv[1]) if len(sys.argv) > 1 else 0)


if __name__ == "__main__":
    main()
