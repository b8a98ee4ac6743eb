"""The program behind `lab.connections.Connections`: opens connections and holds them.

Stands alone, as `lab.serve` does. One line of JSON on stdin lists what to open; one line of JSON on stdout
says how many are open, and the error that stopped it, if any; the end of stdin ends it.
"""

import json
import resource
import socket
import sys


def main() -> None:
    """Open what the order lists: first what stays open, then what goes to TIME_WAIT, which lasts 60 s."""
    order = json.loads(sys.stdin.readline())
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    held: list[socket.socket] = []
    closed, error = 0, ""
    try:
        for address, port, established, _ in order["destinations"]:
            held.extend(_connect(address, port, order["timeout"]) for _ in range(established))
        for address, port, _, time_wait in order["destinations"]:
            for _ in range(time_wait):
                # Closing first is what leaves TIME_WAIT with us.
                _connect(address, port, order["timeout"]).close()
                closed += 1
    except OSError as failure:
        error = f"{address}:{port}: {failure}"
    sys.stdout.write(json.dumps({"held": len(held), "closed": closed, "error": error}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


def _connect(address: str, port: int, timeout: float) -> socket.socket:
    connection = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    connection.settimeout(timeout)
    try:
        connection.connect((address, port))
    except OSError:
        connection.close()
        raise
    return connection


if __name__ == "__main__":
    main()
