"""What the kernel tells of a network namespace besides its sockets: settings and counters. I/O."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from sidecar import procnet
from sidecar.model import Churn, KernelSettings, LocalPorts, SourceError

log = logging.getLogger(__name__)

IANA_DYNAMIC_PORTS = LocalPorts(49152, 65535)
"""RFC 6335, what macOS and Windows use."""


def read_settings(root: Path = Path("/proc"), platform: str = sys.platform) -> KernelSettings:
    """Read the settings of this network namespace.

    Raises:
        SourceError: the range of local ports cannot be read, on a kernel that has ``/proc``.
    """
    if platform != "linux" and not (root / "self").exists():
        return KernelSettings(IANA_DYNAMIC_PORTS)
    ipv4 = root / "sys/net/ipv4"
    try:
        port_range = (ipv4 / "ip_local_port_range").read_text()
    except OSError as error:
        raise SourceError(f"ip_local_port_range: {error}; expected two ports, low and high") from error
    reuse = _number(ipv4 / "tcp_tw_reuse", 0) if _number(ipv4 / "tcp_timestamps", 1) else 0
    return KernelSettings(
        procnet.parse_local_ports(port_range, _text(ipv4 / "ip_local_reserved_ports", "")),
        time_wait_reuse=reuse,
        time_wait_reuse_delay=_number(ipv4 / "tcp_tw_reuse_delay", 1000),
    )


def read_churn(root: Path = Path("/proc")) -> Churn:
    """Read the counters of this network namespace.

    Raises:
        OSError, SourceError: there are none, or not in their form.
    """
    with (root / "net/snmp").open() as lines:
        tcp = procnet.parse_counters("snmp", lines, "Tcp")
    try:
        with (root / "net/netstat").open() as lines:
            extended = procnet.parse_counters("netstat", lines, "TcpExt")
    except (OSError, SourceError):
        extended = {}  # gVisor has the names without the values
    try:
        return Churn(tcp["ActiveOpens"], tcp["AttemptFails"], extended.get("TCPTimeWaitOverflow"))
    except KeyError as name:
        raise SourceError(f"snmp: no {name} among the counters") from None


def _text(path: Path, default: str) -> str:
    try:
        return path.read_text()
    except OSError:  # a setting that this kernel does not have, or does not show
        return default


def _number(path: Path, default: int) -> int:
    text = _text(path, str(default))
    try:
        return int(text)
    except ValueError:
        log.warning("%s: %r; expected a number, taken as %d", path.name, text, default)
        return default
