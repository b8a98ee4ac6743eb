"""A stage without processes: a kernel with so many ports, and an exporter that may lie."""

import errno
from io import StringIO

from demo.application import Answer
from demo.scrape import Reading
from demo.screen import Screen
from demo.stage import Destination

DESTINATIONS = (
    Destination("10.20.0.5", 5432, "postgres"),
    Destination("10.20.0.6", 6379, "redis"),
    Destination("10.20.0.7", 443, "https"),
)


class FakeStage:
    def __init__(
        self, ports=200, *, kernel_ports=None, own_ports=0, can_fill=True, told=1.0, broken=(), error=0
    ):
        self.ports = ports
        self.own_ports = own_ports
        self.can_fill = can_fill
        self.destinations = DESTINATIONS
        self._kernel_ports = ports if kernel_ports is None else kernel_ports
        self._told = told
        self._broken = broken
        self._error = error or errno.EADDRNOTAVAIL
        self.connections = dict.fromkeys(DESTINATIONS, 0)

    def scrape(self):
        ratios = {item.remote: count / 200 * self._told for item, count in self.connections.items()}
        ratio = max(ratios.values())
        return Reading(
            total=200,
            usage=sum(ratios.values()) * 100,
            ratio=ratio,
            free=round(200 * (1 - ratio)),
            destinations={remote: ratio for remote, ratio in ratios.items() if ratio},
            connections={item.remote: count for item, count in self.connections.items()},
            text=f'port_exhaustion_ratio{{pod_name="shop-x2x9p",protocol="tcp"}} {ratio}\n',
        )

    def open(self, destination, count):
        free = 0 if destination in self._broken else self._kernel_ports - self.connections[destination]
        opened = min(count, free)
        self.connections[destination] += opened
        return Answer(opened) if opened == count else Answer(opened, self._error, "no")


class Window(StringIO):
    """What thinks it is a terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True

    def fileno(self):
        raise OSError("no window")


def pipe():
    return Screen(StringIO(), {})
