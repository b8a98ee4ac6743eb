"""Local ports of a machine that is not ours: its range, and a few of them that nobody uses."""

from __future__ import annotations

import socket
from pathlib import Path

from demo.application import IP_LOCAL_PORT_RANGE, as_option


def host_range() -> tuple[int, int]:
    """Return the lowest and the highest port that the kernel hands out."""
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    return low, high


def free_window(low: int, high: int, count: int) -> tuple[int, int]:
    """Return the highest so many ports in a row that nobody uses; of a range without them, the highest."""
    last = high
    for port in range(high, low - 1, -1):
        with socket.socket() as trial:
            try:
                trial.bind(("", port))
            except OSError:
                last = port - 1
        if last - port + 1 == count:
            return port, last
    return max(low, high - count + 1), high


def can_confine(local_ports: int) -> bool:
    """Tell whether a socket can be kept to a range of its own."""
    with socket.socket() as trial:
        try:
            trial.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, as_option(local_ports))
        except OSError:  # Linux before 6.3
            return False
    return True
