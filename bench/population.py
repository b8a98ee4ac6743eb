"""The connections that are measured: many of them, real ones, out of a namespace of their own."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_network
from itertools import islice
from typing import TYPE_CHECKING

from lab.connections import Connections, Destination, Server
from lab.namespace import WORLD_NETWORK, pod_and_world

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.namespace import Namespace

_PORT = 443
_FEW = 8
_OPENING_TIMEOUT = 90.0


@dataclass(frozen=True)
class Population:
    """So many connections, half of them in TIME_WAIT, over so many remotes."""

    sockets: int
    remotes: int = _FEW

    @property
    def name(self) -> str:
        """What it is, for a heading."""
        return (
            f"{self.sockets:,}" if self.remotes == _FEW else f"{self.sockets:,} to {self.remotes:,} remotes"
        )

    def destinations(self) -> list[Destination]:
        """Spread the connections: every remote gets both kinds, if there are enough."""
        hosts = islice(ip_network(WORLD_NETWORK).hosts(), 1, self.remotes + 1)
        time_wait = self.sockets // 2
        return [
            Destination(
                str(IPv4Address(host)),
                _PORT,
                established=_share(self.sockets - time_wait, index, self.remotes),
                time_wait=_share(time_wait, self.remotes - 1 - index, self.remotes),
            )
            for index, host in enumerate(hosts)
        ]

    @contextmanager
    def alive(self) -> Iterator[Namespace]:
        """Open the connections, and yield the namespace that holds their near ends. TIME_WAIT lasts 60 s."""
        with (
            pod_and_world() as (pod, world),
            Server(world, [_PORT], capacity=self.sockets),
            Connections(pod, self.destinations(), deadline=_OPENING_TIMEOUT),
        ):
            yield pod


def _share(total: int, index: int, parts: int) -> int:
    return total // parts + (index < total % parts)
