"""The shapes that travel from the sources to the metric families. Nothing here reads anything.

A **flow** is what connections to one destination have in common, as 34 bytes: remote port (2, network
order), local address (16), remote address (16). An IPv4 address fills the first 4 of its 16 bytes, as in
the kernel's ``inet_diag_sockid``; the family stands beside the flow, not in it. Bytes and not objects,
because a pod may have tens of thousands of them and the exporter has 50 MiB.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

AF_INET, AF_INET6 = 2, 10
"""Address families as the Linux kernel numbers them (``include/linux/socket.h``), on every platform."""

FLOW_SIZE = 34
_MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291 2.5.5.2: the first 12 bytes of ::ffff:a.b.c.d


class SourceError(Exception):
    """A source could not tell which sockets there are; the message says where and why."""


class TcpState(IntEnum):
    """TCP states by the kernel's numbers and names (``include/net/tcp_states.h``)."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11
    NEW_SYN_RECV = 12
    BOUND_INACTIVE = 13


AGED_TIME_WAIT = 14
"""Not a kernel state: TIME_WAIT, and old enough that ``tcp_tw_reuse`` may hand its port out again."""

TIME_WAIT_MS = 60_000
"""How long TIME_WAIT lasts (``TCP_TIMEWAIT_LEN`` in ``include/net/tcp.h``; no setting changes it)."""

STATE_SLOTS = 16
STATE_NAMES: dict[int, str] = {
    **{int(state): state.name for state in TcpState},
    TcpState.NEW_SYN_RECV: TcpState.SYN_RECV.name,
    AGED_TIME_WAIT: TcpState.TIME_WAIT.name,
}


@dataclass(frozen=True)
class LocalPorts:
    """The local ports that the kernel may choose from.

    ``low`` and ``high`` are ``net.ipv4.ip_local_port_range``, both inclusive; ``reserved`` are the ports of
    ``net.ipv4.ip_local_reserved_ports``, in the range or not.
    """

    low: int
    high: int
    reserved: frozenset[int] = frozenset()

    @property
    def total(self) -> int:
        """How many ports the range spans."""
        return self.high - self.low + 1

    @cached_property
    def available(self) -> int:
        """How many ports of the range the kernel may hand out."""
        return sum(self.usable)

    @cached_property
    def usable(self) -> bytes:
        """One byte for each port from 0 to 65535: 1 where the kernel may hand it out, else 0."""
        table = bytearray(1 << 16)
        table[self.low : self.high + 1] = b"\1" * self.total
        for port in self.reserved:
            table[port] = 0
        return bytes(table)

    def spans(self, port: int) -> bool:
        """Tell whether a port lies in the range, reserved or not."""
        return self.low <= port <= self.high


@dataclass(frozen=True)
class KernelSettings:
    """The settings of a network namespace that decide when ``connect()`` finds no local port.

    Attributes:
        ports: the local ports that the kernel hands out.
        time_wait_reuse: ``net.ipv4.tcp_tw_reuse``: 0 never, 1 always, 2 between loopback addresses. 0 too
            where ``tcp_timestamps`` is off, which the kernel needs for it.
        time_wait_reuse_delay: ``net.ipv4.tcp_tw_reuse_delay``, in milliseconds (Linux 6.14; before, 1 s).
    """

    ports: LocalPorts
    time_wait_reuse: int = 0
    time_wait_reuse_delay: int = 1000

    @property
    def aged_below(self) -> int:
        """How many milliseconds a TIME_WAIT socket may have left to count as aged; -1 if none may."""
        return TIME_WAIT_MS - self.time_wait_reuse_delay if self.time_wait_reuse else -1


@dataclass(frozen=True)
class Churn:
    """The namespace's own: ``ActiveOpens``, ``AttemptFails``, and, if known, ``TCPTimeWaitOverflow``."""

    opened: int
    failed: int
    time_wait_overflow: int | None


Counts = dict[bytes, int]
"""Sockets by flow."""


@dataclass
class TcpSockets:
    """Every TCP socket of a network namespace, counted once.

    Attributes:
        listening: ports with a listener.
        bound: ports held by sockets that are bound and neither connected nor listening.
        served: by state, the sockets whose local port has a listener, the listeners included.
        flows: the other sockets, by (local port is one the kernel hands out, family, state) and flow.
            Flows of IPv4-mapped IPv6 addresses stand with ``AF_INET``, where the kernel looks for them too.
    """

    listening: set[int] = field(default_factory=set)
    bound: set[int] = field(default_factory=set)
    served: Counter[int] = field(default_factory=Counter)
    flows: dict[tuple[bool, int, int], Counts] = field(default_factory=dict)

    def add_flows(self, *, ephemeral: bool, family: int, state: int, counts: Counts) -> None:
        """Add counted flows, which this object then owns; IPv4-mapped ones become IPv4."""
        if family == AF_INET6:
            mapped = [flow for flow in counts if is_mapped(flow)]
            if mapped:
                self._merge((ephemeral, AF_INET, state), {unmap(flow): counts.pop(flow) for flow in mapped})
        if counts:
            self._merge((ephemeral, family, state), counts)

    def _merge(self, key: tuple[bool, int, int], counts: Counts) -> None:
        known = self.flows.setdefault(key, counts)
        if known is not counts:
            for flow, count in counts.items():
                known[flow] = known.get(flow, 0) + count


class Socket(NamedTuple):
    """One TCP socket, for the sources that are read row by row. ``aged`` as in ``AGED_TIME_WAIT``."""

    family: int
    state: int
    local_port: int
    flow: bytes
    aged: bool = False


def count_sockets(sockets: Iterable[Socket], ports: LocalPorts) -> TcpSockets:
    """Count sockets that come in any order, listeners last too."""
    result = TcpSockets()
    # Whether a socket is a client's is only known when the last listener is: until then the local port
    # stands before the flow.
    pending: dict[tuple[int, int], Counts] = {}
    for socket in sockets:
        if socket.state == TcpState.LISTEN:
            result.listening.add(socket.local_port)
            result.served[TcpState.LISTEN] += 1
            continue
        if socket.state in (TcpState.CLOSE, TcpState.BOUND_INACTIVE):
            result.bound.add(socket.local_port)
            continue
        counts = pending.setdefault((socket.family, AGED_TIME_WAIT if socket.aged else socket.state), {})
        key = socket.local_port.to_bytes(2, "big") + socket.flow
        counts[key] = counts.get(key, 0) + 1
    while pending:
        (family, state), counts = pending.popitem()
        flows: dict[bool, Counts] = {True: {}, False: {}}
        while counts:
            key, count = counts.popitem()
            port, flow = int.from_bytes(key[:2], "big"), key[2:]
            if port in result.listening:
                result.served[state] += count
            else:
                known = flows[bool(ports.usable[port])]
                known[flow] = known.get(flow, 0) + count
        for ephemeral, counted in flows.items():
            result.add_flows(ephemeral=ephemeral, family=family, state=state, counts=counted)
    return result


def make_flow(local: bytes, remote: bytes, remote_port: int) -> bytes:
    """Build a flow from packed addresses of 4 or 16 bytes."""
    return remote_port.to_bytes(2, "big") + local.ljust(16, b"\0") + remote.ljust(16, b"\0")


def flow_remote(flow: bytes) -> bytes:
    """Return the 18 bytes of a flow that name the remote: port and address, without the local address."""
    return flow[:2] + flow[18:]


def is_mapped(flow: bytes) -> bool:
    """Tell whether an IPv6 flow's remote is an IPv4 host."""
    return flow.startswith(_MAPPED, 18)


def unmap(flow: bytes) -> bytes:
    """Return the IPv4 flow that an IPv4-mapped IPv6 flow stands for."""
    return make_flow(flow[14:18], flow[30:34], int.from_bytes(flow[:2], "big"))
