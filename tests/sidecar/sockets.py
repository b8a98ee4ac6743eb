"""Sockets written as people write them, ``"192.0.2.1:40000"``, and what is counted of them."""

import ipaddress

from sidecar.model import (
    AF_INET,
    AF_INET6,
    KernelSettings,
    LocalPorts,
    Socket,
    TcpState,
    count_sockets,
    make_flow,
)

DEFAULT = KernelSettings(LocalPorts(32768, 60999), time_wait_reuse=2)
HUNDRED = KernelSettings(LocalPorts(10000, 10099), time_wait_reuse=2)


def endpoint(text):
    address, _, port = text.rpartition(":")
    return ipaddress.ip_address(address.strip("[]")).packed, int(port)


def sock(local, remote="0.0.0.0:0", state="ESTABLISHED", *, aged=False):
    (address, port), (remote_address, remote_port) = endpoint(local), endpoint(remote)
    if len(address) == 16 and remote == "0.0.0.0:0":
        remote_address = bytes(16)
    family = {4: AF_INET, 16: AF_INET6}[len(address)]
    return Socket(family, TcpState[state], port, make_flow(address, remote_address, remote_port), aged)


def connections(count, remote, state="ESTABLISHED", *, local="192.0.2.1", first=10000, aged=False):
    """Return connections from as many local ports as there are of them."""
    return [sock(f"{local}:{port}", remote, state, aged=aged) for port in range(first, first + count)]


def counted(*sockets, kernel=DEFAULT):
    return count_sockets(sockets, kernel.ports)
