"""Where sockets and settings are read: the kernel's netlink dump, its text files, psutil. The I/O edge.

All sources answer the same two questions, for the network namespace that the process is in: which TCP sockets
are there, and which local ports do UDP sockets hold.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sidecar import procnet, sockdiag
from sidecar.model import (
    AF_INET,
    AF_INET6,
    Socket,
    SourceError,
    TcpState,
    count_sockets,
    make_flow,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidecar.model import KernelSettings, TcpSockets

_DATAGRAM_SIZE = 1 << 16  # the kernel makes them of 32 KiB at most
_KERNEL_TIMEOUT = struct.pack("@ll", 2, 0)  # struct timeval
_INTERRUPTED_TRIES = 4


class Source(Protocol):
    """One way to learn which sockets there are. Both methods raise `SourceError` or `OSError`."""

    name: str

    def tcp(self, kernel: KernelSettings) -> TcpSockets:
        """Count the TCP sockets."""

    def udp_ports(self) -> set[int]:
        """Return the local ports that UDP sockets hold."""


class SockDiagSource:
    """The kernel's binary dump.

    Args:
        connect: opens a netlink socket; tests give a peer of their own.
    """

    name = "sock_diag"

    def __init__(self, connect: Callable[[], socket.socket] | None = None) -> None:
        self._connect = connect or _connect_sock_diag
        self._buffer = bytearray(_DATAGRAM_SIZE)

    def tcp(self, kernel: KernelSettings) -> TcpSockets:
        """Count the TCP sockets, in two dumps of which the first is of the few listeners."""
        for _ in range(_INTERRUPTED_TRIES - 1):
            try:
                return self._tcp(kernel)
            except sockdiag.DumpInterruptedError:
                continue
        return self._tcp(kernel)

    def udp_ports(self) -> set[int]:
        """Return the local ports that UDP sockets hold."""
        dump = sockdiag.UdpDump()
        for family in (AF_INET, AF_INET6):
            self._dump(sockdiag.udp_request(family), dump.add)
        return dump.ports

    def _tcp(self, kernel: KernelSettings) -> TcpSockets:
        dump = sockdiag.TcpDump(kernel.ports, kernel.aged_below)
        self._dump(sockdiag.tcp_request(sockdiag.LISTENERS), dump.add_listeners)
        self._dump(sockdiag.tcp_request(sockdiag.NOT_LISTENERS), dump.add_others)
        return dump.result()

    def _dump(self, request: bytes, add: Callable[[bytearray, int], bool]) -> None:
        # A socket for each dump: what is left of one that failed cannot be mistaken for the next.
        with self._connect() as kernel:
            kernel.send(request)
            complete = False
            while not complete:
                try:
                    size = kernel.recv_into(self._buffer, 0, socket.MSG_TRUNC)
                except BlockingIOError:
                    raise SourceError("sock_diag: no answer for 2 s; expected a datagram") from None
                if not 0 < size <= _DATAGRAM_SIZE:
                    raise SourceError(f"sock_diag: datagram of {size} bytes; expected 1..{_DATAGRAM_SIZE}")
                complete = add(self._buffer, size)


def _connect_sock_diag() -> socket.socket:
    if not hasattr(socket, "AF_NETLINK"):
        raise SourceError("sock_diag: no netlink on this platform; expected Linux")
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    kernel = socket.socket(socket.AF_NETLINK, kind, sockdiag.NETLINK_SOCK_DIAG)
    kernel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _KERNEL_TIMEOUT)
    return kernel


class ProcSource:
    """The kernel's text files, where netlink is not allowed (hardened nodes) or not there (gVisor).

    Sockets that are bound and not connected do not stand in them.

    Args:
        root: what is mounted at ``/proc``; tests give a folder.
    """

    name = "proc"

    def __init__(self, root: Path = Path("/proc")) -> None:
        self._net = root / "net"

    def tcp(self, kernel: KernelSettings) -> TcpSockets:
        """Count the TCP sockets."""
        return count_sockets(self._tcp(kernel.aged_below), kernel.ports)

    def udp_ports(self) -> set[int]:
        """Return the local ports that UDP sockets hold."""
        return {port for name in self._files("udp") for port in self._udp(name)}

    def _tcp(self, aged_below: int) -> Iterator[Socket]:
        for name in self._files("tcp"):
            with (self._net / name).open("rb") as lines:
                yield from procnet.parse_tcp(name, lines, aged_below)

    def _udp(self, name: str) -> Iterator[int]:
        with (self._net / name).open("rb") as lines:
            yield from procnet.parse_udp_ports(name, lines)

    def _files(self, protocol: str) -> list[str]:
        # There is no tcp6 where IPv6 is disabled.
        of_ipv6 = f"{protocol}6"
        return [protocol, of_ipv6] if (self._net / of_ipv6).exists() else [protocol]


class PsutilSource:
    """psutil, which knows other kernels too: for a developer's machine."""

    name = "psutil"

    def tcp(self, kernel: KernelSettings) -> TcpSockets:
        """Count the TCP sockets."""
        return count_sockets(self._tcp(), kernel.ports)

    def udp_ports(self) -> set[int]:
        """Return the local ports that UDP sockets hold."""
        return {connection.laddr.port for connection in _psutil_connections("udp") if connection.laddr}

    def _tcp(self) -> Iterator[Socket]:
        for connection in _psutil_connections("tcp"):
            state = TcpState.__members__.get(connection.status)
            if state is None or not connection.laddr:
                continue
            family = AF_INET6 if connection.family == socket.AF_INET6 else AF_INET
            remote, remote_port = connection.raddr or (None, 0)
            flow = make_flow(
                _pack(connection.family, connection.laddr.ip), _pack(connection.family, remote), remote_port
            )
            yield Socket(family, state, connection.laddr.port, flow)


def _psutil_connections(kind: str) -> list[Any]:
    import psutil  # not above: it costs memory and start-up that a pod has no use for

    try:
        return list(psutil.net_connections(kind))
    except psutil.Error as error:
        raise SourceError(f"psutil: {error}; expected the list of connections") from error


def _pack(family: int, address: str | None) -> bytes:
    return socket.inet_pton(family, address.partition("%")[0]) if address else b""
