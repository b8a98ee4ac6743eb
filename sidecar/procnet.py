"""The kernel's text files about sockets, ``/proc/net`` and ``/proc/sys/net``: what they say. No I/O.

A row of ``tcp`` or ``tcp6`` (``net/ipv4/tcp_ipv4.c``, ``get_tcp4_sock`` and its siblings)::

    sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
     0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 ...

Addresses are 32-bit words in hexadecimal, each in the machine's byte order; ``tm->when`` is the time left of
the timer in hundredths of a second.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING

from sidecar.model import AF_INET, AF_INET6, LocalPorts, Socket, SourceError, TcpState, make_flow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_TICK_MS = 10  # USER_HZ is 100 on every architecture that Linux still runs on
_HEX_DIGITS = b"0123456789ABCDEFabcdef"
_STATES = {b"%02X" % state: state for state in TcpState}
_ADDRESS_DIGITS = {8: AF_INET, 32: AF_INET6}


def parse_tcp(name: str, lines: Iterable[bytes], aged_below: int = -1) -> Iterator[Socket]:
    """Yield the sockets of a ``tcp`` or ``tcp6`` file.

    Args:
        name: the file's name, for errors.
        lines: its lines, each with its line end.
        aged_below: a TIME_WAIT socket with at most this many milliseconds left is an aged one.

    Raises:
        SourceError: a line is cut or is none of a socket.
    """
    for row in _rows(name, lines):
        try:
            local, _, port = row[1].partition(b":")
            family, flow = _flow(local, row[2])
            state, local_port = _STATES[row[3]], _port(port)
            aged = state == TcpState.TIME_WAIT and int(row[5].partition(b":")[2], 16) * _TICK_MS <= aged_below
        except (ValueError, LookupError, struct.error):
            raise SourceError(f"{name}: {b' '.join(row)!r}; expected the row of a TCP socket") from None
        yield Socket(family, state, local_port, flow, aged)


def parse_udp_ports(name: str, lines: Iterable[bytes]) -> Iterator[int]:
    """Yield the local port of each socket of a ``udp`` or ``udp6`` file; errors as in `parse_tcp`."""
    for row in _rows(name, lines):
        try:
            yield _endpoint(row[1])[2]
        except (ValueError, IndexError, struct.error):
            raise SourceError(f"{name}: {b' '.join(row)!r}; expected the row of a UDP socket") from None


def _rows(name: str, lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    line = b""
    for number, line in enumerate(lines):
        row = line.split()
        if number:
            # A number and a colon, and up to the inode, which every kernel writes.
            if len(row) < 10 or not row[0].endswith(b":"):
                raise SourceError(f"{name}: {line!r}; expected the row of a socket")
            yield row
        elif row[:2] != [b"sl", b"local_address"]:
            raise SourceError(f"{name}: begins with {line!r}; expected the heading of a socket table")
    if not line.endswith(b"\n"):
        raise SourceError(f"{name}: ends with {line!r}; expected a whole line")


def _endpoint(text: bytes) -> tuple[int, bytes, int]:
    address, _, port = text.partition(b":")
    return *_address(address), _port(port)


@lru_cache(maxsize=4096)  # connections have few remotes, seldom one each
def _flow(local: bytes, remote: bytes) -> tuple[int, bytes]:
    family, packed = _address(local)
    remote_family, remote_packed, remote_port = _endpoint(remote)
    if family != remote_family:
        raise ValueError(remote)
    return family, make_flow(packed, remote_packed, remote_port)


def _address(text: bytes) -> tuple[int, bytes]:
    family = _ADDRESS_DIGITS.get(len(text))
    if family is None or text.strip(_HEX_DIGITS):
        raise ValueError(text)
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    return family, struct.pack(f"={len(words)}I", *words)


def _port(text: bytes) -> int:
    # int() would also take a sign, and a port below zero.
    if len(text) != 4 or text.strip(_HEX_DIGITS):
        raise ValueError(text)
    return int(text, 16)


@lru_cache(maxsize=1)  # scrape after scrape the same text; what is derived from it is kept with it
def parse_local_ports(port_range: str, reserved: str) -> LocalPorts:
    r"""Read ``ip_local_port_range``, ``"32768\t60999"``, and ``ip_local_reserved_ports``, ``"80,90-99"``.

    Raises:
        SourceError: one of them is not of that form.
    """
    try:
        low, high = map(int, port_range.split())
        if not 0 < low <= high < 1 << 16:
            raise ValueError
    except ValueError:
        raise SourceError(f"ip_local_port_range: {port_range!r}; expected two ports, low and high") from None
    ports: set[int] = set()
    try:
        for part in filter(None, reserved.strip().split(",")):
            first, dash, last = part.partition("-")
            low_end, high_end = int(first), int(last if dash else first)
            if not 0 <= low_end <= high_end < 1 << 16:
                raise ValueError
            ports.update(range(low_end, high_end + 1))
    except ValueError:
        raise SourceError(f"ip_local_reserved_ports: {reserved!r}; expected ports and ranges") from None
    return LocalPorts(low, high, frozenset(ports))


def parse_counters(name: str, lines: Iterable[str], prefix: str) -> dict[str, int]:
    """Read one group of ``/proc/net/snmp`` or ``netstat``: a line of names, then one of values.

    Returns:
        The counters of the group ``prefix``, for example ``{"ActiveOpens": 12, ...}`` of ``Tcp``.

    Raises:
        SourceError: there is no such group, or its two lines do not match.
    """
    rows = [line.split() for line in lines if line.startswith(f"{prefix}: ")]
    try:
        names, values = rows
        return dict(zip(names[1:], map(int, values[1:]), strict=True))
    except ValueError:
        raise SourceError(f"{name}: {len(rows)} lines of {prefix!r}; expected names and values") from None
