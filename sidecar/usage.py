"""From counted sockets to what the metrics say: local ports used, and how near ``connect()`` is to failing.

The kernel gives one local port to many connections as long as their destinations differ. So a destination is
full when its own connections and the ports that nobody can have leave none of the range:

- TCP: a destination is (local address, remote address, remote port). Its connections have distinct local
  ports, since the four together must be unique; so counting sockets counts ports. A port with a listener or
  a bound socket is closed to every destination (``fastreuse`` in ``__inet_hash_connect``). A TIME_WAIT
  socket counts, unless ``tcp_tw_reuse`` lets a new connection have its port.
- UDP: ``connect()`` and ``sendto()`` first take a port that no socket of any local address has, whatever the
  destination (``udp_lib_get_port`` for the wildcard address).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from heapq import nsmallest
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from sidecar.model import (
    AF_INET,
    AF_INET6,
    AGED_TIME_WAIT,
    STATE_NAMES,
    flow_remote,
)
from sidecar.portnames import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from sidecar.model import Counts, KernelSettings, LocalPorts, TcpSockets

OTHER = "OTHER"
MAX_DESTINATIONS = 10

_REUSE_ALWAYS, _REUSE_ON_LOOPBACK = 1, 2  # net.ipv4.tcp_tw_reuse
_LOOPBACK_NET, _LOOPBACK_6 = 127, bytes(15) + b"\1"
_NO_ADDRESS = bytes(16)

Remote = tuple[int, bytes]
"""Family, and `flow_remote`."""


@dataclass(frozen=True)
class Exhaustion:
    """How far the fullest destination is, for one protocol.

    Attributes:
        pinned: ports of the range that are closed to every destination.
        ratio: 0 to 1; at 1 the next ``connect()`` to the fullest destination fails.
        free: how many more connections the fullest destination takes.
    """

    pinned: int
    ratio: float
    free: int


@dataclass
class Usage:
    """What the TCP families say.

    Attributes:
        used: sockets by (``remote_addr``, state name).
        folded: how many remotes beyond the cap were counted as `OTHER`.
        exhaustion: of TCP ports.
        destinations: by ``remote_addr``, the ratio of the fullest ones.
    """

    used: Counter[tuple[str, str]]
    folded: int
    exhaustion: Exhaustion
    destinations: dict[str, float] = field(default_factory=dict)


def tcp_usage(
    sockets: TcpSockets, kernel: KernelSettings, names: Mapping[int, str], max_remotes: int
) -> Usage:
    """Compute the usage of TCP ports.

    Args:
        sockets: the sockets of the namespace.
        kernel: its settings.
        names: port names; these ports are a server's even inside the ephemeral range.
        max_remotes: how many remotes, the largest ones, are named; the others are counted as `OTHER`.
    """
    key_of = {family: _remote_key(sockets, family) for family in (AF_INET, AF_INET6)}
    named, folded = _largest_remotes(sockets, key_of, kernel.ports, names, max_remotes)
    used: Counter[tuple[str, str]] = Counter()
    for state, count in sockets.served.items():
        used[OTHER, STATE_NAMES[state]] += count
    for (_, family, state), counts in sockets.flows.items():
        state_name, labels, remote_key = STATE_NAMES[state], named[family], key_of[family]
        for flow, count in counts.items():
            used[labels.get(remote_key(flow), OTHER), state_name] += count

    available = kernel.ports.available
    pinned = _count_usable(sockets.listening | sockets.bound, kernel.ports)
    fullest = _fullest_destinations(sockets, kernel.time_wait_reuse)
    destinations: dict[str, float] = {}
    for connections, remote in fullest:
        if connections and len(destinations) < MAX_DESTINATIONS:
            # Of a remote's several local addresses, the fullest comes first.
            destinations.setdefault(format_remote(remote, names), _ratio(pinned + connections, available))
    return Usage(used, folded, _exhaustion(pinned, fullest[0][0] if fullest else 0, available), destinations)


def udp_exhaustion(held: Collection[int], ports: LocalPorts) -> Exhaustion:
    """Compute the exhaustion of UDP ports from the local ports that UDP sockets hold."""
    return _exhaustion(_count_usable(held, ports), 0, ports.available)


def format_remote(remote: Remote, names: Mapping[int, str]) -> str:
    """Write a remote as ``<ip> [<port>:<port name>]``, the address as in RFC 5952."""
    family, packed = remote
    port = int.from_bytes(packed[:2], "big")
    address = IPv4Address(packed[2:6]) if family == AF_INET else IPv6Address(packed[2:])
    return f"{address} [{port}:{names.get(port, UNKNOWN)}]"


def _remote_key(sockets: TcpSockets, family: int) -> Callable[[bytes], bytes]:
    """Return what makes a flow the key of its remote: it takes the local address away.

    With one local address, as most pods have, the flow itself is that key: 2 MiB less for 28,000 remotes.
    """
    flows = [counts for (_, of_family, _), counts in sockets.flows.items() if of_family == family]
    first = next((flow[2:18] for counts in flows for flow in counts), b"")
    if all(flow.startswith(first, 2) for counts in flows for flow in counts):
        return lambda flow: flow
    return lambda flow: flow[:2] + _NO_ADDRESS + flow[18:]


def _largest_remotes(
    sockets: TcpSockets,
    key_of: Mapping[int, Callable[[bytes], bytes]],
    ports: LocalPorts,
    names: Mapping[int, str],
    max_remotes: int,
) -> tuple[dict[int, dict[bytes, str]], int]:
    """Return the labels of the remotes that get one, and how many could have had one but for the cap.

    The labels are by family and by the key that ``key_of`` makes of a flow.
    """
    totals: dict[int, Counts] = {family: {} for family in key_of}
    for (_, family, _), counts in sockets.flows.items():
        by_remote, remote_key = totals[family], key_of[family]
        for flow, count in counts.items():
            port = int.from_bytes(flow[:2], "big")
            if not ports.spans(port) or port in names:
                key = remote_key(flow)
                by_remote[key] = by_remote.get(key, 0) + count
    # Of equally large ones the lowest addresses win, so that one scrape agrees with the next.
    candidates = ((-count, family, key) for family in totals for key, count in totals[family].items())
    labels: dict[int, dict[bytes, str]] = {family: {} for family in key_of}
    for _, family, key in nsmallest(max_remotes, candidates):
        labels[family][key] = format_remote((family, flow_remote(key)), names)
    return labels, sum(map(len, totals.values())) - sum(map(len, labels.values()))


def _fullest_destinations(sockets: TcpSockets, time_wait_reuse: int) -> list[tuple[int, Remote]]:
    """Return (connections, remote) of the fullest destinations, the fullest first.

    A remote appears once for each local address. There are enough of them that the `MAX_DESTINATIONS`
    fullest remotes are among them.
    """
    result: list[tuple[int, Remote]] = []
    for family in (AF_INET, AF_INET6):
        tables = [
            (state == AGED_TIME_WAIT, counts)
            for (ephemeral, of_family, state), counts in sockets.flows.items()
            if ephemeral and of_family == family
        ]
        local_addresses = {flow[2:18] for _, counts in tables for flow in counts}
        fullest = nsmallest(
            MAX_DESTINATIONS * len(local_addresses),
            _negative_connections_by_flow(tables, _reuses_time_wait(family, time_wait_reuse)),
        )
        result += [(-fewer, (family, flow_remote(flow))) for fewer, flow in fullest]
    # Of equally full ones the lowest addresses win, as above.
    return sorted(result, key=lambda item: (-item[0], item[1]))


def _negative_connections_by_flow(
    tables: list[tuple[bool, Counts]], reuses: Callable[[bytes], bool]
) -> Iterator[tuple[int, bytes]]:
    """Add up each flow's connections over its states, below zero, so that the smallest is the fullest.

    The ``tables`` are (of aged TIME_WAIT, counts).
    """
    for index, (_, counts) in enumerate(tables):
        for flow in counts:
            if not any(flow in earlier for _, earlier in tables[:index]):
                yield (
                    -sum(more.get(flow, 0) for aged, more in tables[index:] if not (aged and reuses(flow))),
                    flow,
                )


def _reuses_time_wait(family: int, time_wait_reuse: int) -> Callable[[bytes], bool]:
    """Tell of which flows a new connection may have the port of an aged TIME_WAIT socket."""
    if time_wait_reuse != _REUSE_ON_LOOPBACK:
        return lambda _: time_wait_reuse == _REUSE_ALWAYS
    # tcp_twsk_unique(): either end is a loopback address.
    if family == AF_INET:
        return lambda flow: flow[2] == _LOOPBACK_NET or flow[18] == _LOOPBACK_NET
    return lambda flow: flow[2:18] == _LOOPBACK_6 or flow[18:] == _LOOPBACK_6


def _exhaustion(pinned: int, connections: int, available: int) -> Exhaustion:
    taken = pinned + connections
    return Exhaustion(pinned, _ratio(taken, available), max(available - taken, 0))


def _ratio(taken: int, available: int) -> float:
    # Above 1 where a bound port has connections too, which a dump does not tell apart.
    return min(taken / available, 1.0) if available else 1.0


def _count_usable(held: Collection[int], ports: LocalPorts) -> int:
    return sum(ports.usable[port] for port in held)
