"""The program behind `bench.contenders.Reader`: reads all sockets in one way, and measures itself.

Run by its path, by the interpreter and with the packages that the image has. The argument says which way.
Each line of stdin says how many times; each is answered with a line of JSON: CPU and wall seconds of it all.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.sources import Source

    Read = Callable[[], object]

_DATAGRAM_SIZE = 1 << 16
_DONE = (20).to_bytes(4, sys.byteorder) + (3).to_bytes(2, sys.byteorder)  # nlmsg_len, NLMSG_DONE
_DONE_SIZE = 20


def floor() -> Read:
    """Send the requests of the exporter, and receive what the kernel answers without looking at it."""
    from sidecar import sockdiag

    return _receive(sockdiag.NOT_LISTENERS)


def floor_connected() -> Read:
    """Do as `floor` does, but do not ask for bound sockets, which nobody else does."""
    from sidecar import sockdiag
    from sidecar.model import TcpState

    return _receive(sockdiag.NOT_LISTENERS & ~(1 << TcpState.BOUND_INACTIVE))


def collection() -> Read:
    """Collect as the exporter does, from sock_diag, up to the metric families."""
    from sidecar.sources import SockDiagSource

    return _collect(SockDiagSource())


def collection_proc() -> Read:
    """Collect as the exporter does where it must read ``/proc``."""
    from sidecar.sources import ProcSource

    return _collect(ProcSource())


def psutil() -> Read:
    """List all connections with psutil, and count nothing."""
    import psutil

    return lambda: psutil.net_connections("tcp")


def ss() -> Read:
    """Run ``ss -tan``, its output thrown away."""
    command = [shutil.which("ss") or "ss", "-tan"]
    return lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True)  # noqa: S603


def _receive(states: int) -> Read:
    import socket

    from sidecar import sockdiag

    requests = [
        sockdiag.tcp_request(sockdiag.LISTENERS),
        sockdiag.tcp_request(states),
        sockdiag.udp_request(socket.AF_INET),
        sockdiag.udp_request(socket.AF_INET6),
    ]
    buffer = bytearray(_DATAGRAM_SIZE)

    def read() -> None:
        for request in requests:
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, sockdiag.NETLINK_SOCK_DIAG) as kernel:
                kernel.send(request)
                done = False
                while not done:
                    size = kernel.recv_into(buffer)
                    # The last message of a dump is a whole one, and its kind stands in its header.
                    done = buffer.startswith(_DONE, max(0, size - _DONE_SIZE))

    return read


def _collect(source: Source) -> Read:
    from sidecar.collector import PortCollector
    from sidecar.portnames import PORT_NAMES

    collector = PortCollector(pod_name="bench", sources=[source], port_names=PORT_NAMES, max_remotes=500)

    def read() -> None:
        collector.collect()
        if not collector.succeeded:
            raise SystemExit(f"reader: {source.name} failed; expected a collection")

    return read


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Answer each line of stdin until there is no more."""
    ways = {way.__name__: way for way in (floor, floor_connected, collection, collection_proc, psutil, ss)}
    way = ways[sys.argv[1]]
    clock = _cpu_of_children if way is ss else time.process_time
    read = way()
    for line in sys.stdin:
        cpu, wall = clock(), time.perf_counter()
        for _ in range(int(line)):
            read()
        answer = {"cpu": clock() - cpu, "wall": time.perf_counter() - wall}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
