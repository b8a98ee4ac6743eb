"""What the exporter's own code says of a namespace, without the process and HTTP around it."""

from dataclasses import dataclass

from sidecar.kernel import read_settings
from sidecar.model import KernelSettings, TcpSockets
from sidecar.portnames import PORT_NAMES
from sidecar.sources import SockDiagSource
from sidecar.usage import Exhaustion, Usage, tcp_usage, udp_exhaustion


@dataclass
class Reading:
    kernel: KernelSettings
    sockets: TcpSockets
    usage: Usage

    @property
    def tcp(self) -> Exhaustion:
        return self.usage.exhaustion


def read_tcp(namespace, source=None, max_remotes=500):
    with namespace.entered():
        kernel = read_settings()
        sockets = (source or SockDiagSource()).tcp(kernel)
    return Reading(kernel, sockets, tcp_usage(sockets, kernel, PORT_NAMES, max_remotes))


def read_udp(namespace, source=None):
    with namespace.entered():
        ports = read_settings().ports
        return udp_exhaustion((source or SockDiagSource()).udp_ports(), ports)


@dataclass
class Brim:
    """How a destination filled up: the error of the first `connect()` that failed, what was read just before
    it, and just before the last one that did not fail."""

    error: OSError | None
    full: Exhaustion
    one_before: Exhaustion
    connects: int


def fill_to_the_brim(connect, read, limit=400):
    """Call `connect` until it fails, reading before each call."""
    one_before = full = read()
    for connects in range(limit):
        try:
            connect()
        except OSError as error:
            return Brim(error, full, one_before, connects)
        one_before, full = full, read()
    return Brim(None, full, one_before, limit)
