"""The kernel's socket dump, ``NETLINK_SOCK_DIAG``: the requests, and what the answers say. No I/O.

A dump is asked for with one message and comes as many datagrams, each full of messages, the last of which
is ``NLMSG_DONE``::

    struct nlmsghdr {              /* include/uapi/linux/netlink.h */
        __u32 nlmsg_len;           /* with the header */
        __u16 nlmsg_type;
        __u16 nlmsg_flags;
        __u32 nlmsg_seq;
        __u32 nlmsg_pid;
    };

    struct inet_diag_msg {         /* include/uapi/linux/inet_diag.h */
        __u8  idiag_family;
        __u8  idiag_state;
        __u8  idiag_timer;
        __u8  idiag_retrans;
        struct inet_diag_sockid {
            __be16 idiag_sport;
            __be16 idiag_dport;
            __be32 idiag_src[4];
            __be32 idiag_dst[4];
            __u32  idiag_if;
            __u32  idiag_cookie[2];
        } id;
        __u32 idiag_expires;       /* milliseconds left of the timer */
        __u32 idiag_rqueue;
        __u32 idiag_wqueue;
        __u32 idiag_uid;
        __u32 idiag_inode;
    };                             /* attributes follow; how many depends on state and privileges */

A dump that the kernel interrupted, cut short or ended with an error raises `SourceError`: it must never
pass for a smaller number of sockets.
"""

from __future__ import annotations

import errno
import struct
import sys
from collections import defaultdict
from functools import lru_cache
from typing import TYPE_CHECKING

from sidecar.model import (
    AF_INET,
    AF_INET6,
    AGED_TIME_WAIT,
    STATE_SLOTS,
    LocalPorts,
    SourceError,
    TcpSockets,
    TcpState,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Datagram = bytes | bytearray | memoryview

NETLINK_SOCK_DIAG = 4
IPPROTO_UDP = 17

LISTENERS = 1 << TcpState.LISTEN
NOT_LISTENERS = ((1 << TcpState.BOUND_INACTIVE + 1) - 1) & ~LISTENERS & ~1
"""State masks. Listeners are few and come from a table of their own; bound sockets (listed since Linux 6.8)
stand with the connections, because asking for them alone makes the kernel walk the connections too."""

_TCPDIAG_GETSOCK, _SOCK_DIAG_BY_FAMILY = 18, 20
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_MULTI, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 0x1, 0x2, 0x10, 0x300

# "=": the machine's byte order and no padding, which "@" would put before the 48 bytes of the sockid.
_HEADER = struct.Struct("=IHHII")
_TYPE_AND_FLAGS = struct.Struct("=HH")
_ERRNO = struct.Struct("=i")
_REQUEST = struct.Struct("=BBBB48xII")  # struct inet_diag_req: IPv4 and IPv6 in one dump, TCP only
_REQUEST_V2 = struct.Struct("=BBBBI48x")  # struct inet_diag_req_v2: one family, any protocol
# What counting needs of a message: length; type and flags as one number; family; state; local port; flow
# (remote port, local address, remote address); milliseconds left of the timer.
_RECORD = struct.Struct("=II8xBB2xH34s12xI16x")
_RECORD_SIZE = _RECORD.size

# Type and flags of the message of a socket, as one number.
_TCP_SOCKET, _UDP_SOCKET = (
    int.from_bytes(_TYPE_AND_FLAGS.pack(kind, _NLM_F_MULTI), sys.byteorder)
    for kind in (_TCPDIAG_GETSOCK, _SOCK_DIAG_BY_FAMILY)
)

# What a local port is: the values of `LocalPorts.usable`, and one more for ports with a listener.
_FIXED, _EPHEMERAL, _SERVED = 0, 1, 2
# Comparing with a member of an IntEnum takes longer.
_ESTABLISHED, _TIME_WAIT, _CLOSE = int(TcpState.ESTABLISHED), int(TcpState.TIME_WAIT), int(TcpState.CLOSE)


class DumpInterruptedError(SourceError):
    """The table changed under the dump, which is therefore inconsistent. Asking again helps."""


def tcp_request(states: int) -> bytes:
    """Ask for all TCP sockets, IPv4 and IPv6, in the states of a bit mask."""
    return _request(_TCPDIAG_GETSOCK, _REQUEST.pack(0, 0, 0, 0, states, 0))


def udp_request(family: int) -> bytes:
    """Ask for all UDP sockets of one family."""
    return _request(_SOCK_DIAG_BY_FAMILY, _REQUEST_V2.pack(family, IPPROTO_UDP, 0, 0, 0xFFFFFFFF))


def _request(kind: int, body: bytes) -> bytes:
    size = _HEADER.size + len(body)
    return _HEADER.pack(size, kind, _NLM_F_REQUEST | _NLM_F_DUMP, 0, 0) + body


class TcpDump:
    """Counts TCP sockets, datagram by datagram, keeping none of them.

    First comes the dump of ``tcp_request(LISTENERS)``, for `add_listeners`, then that of
    ``tcp_request(NOT_LISTENERS)``, for `add_others`: the listeners tell whether a connection was opened by
    this pod or to it. The methods take a buffer and how many bytes of it are the datagram; they tell whether
    the dump is complete, and raise `SourceError` where the datagram is cut, is no socket dump, or says that
    the dump failed. After an error, what was counted is worth nothing.

    Args:
        ports: the local ports that the kernel hands out.
        aged_below: a TIME_WAIT socket with at most this many milliseconds left is an aged one.
    """

    def __init__(self, ports: LocalPorts, aged_below: int = -1) -> None:
        self._aged_below = aged_below
        self._sockets = TcpSockets()
        self._served = [0] * STATE_SLOTS
        # What each local port is, at the index that its two bytes make when read in this machine's order.
        self._kinds = bytearray(_swap_table(ports.usable))
        # By what the local port is, then family, then state.
        self._flows = {
            kind: {
                family: [defaultdict[bytes, int](int) for _ in range(STATE_SLOTS)]
                for family in (AF_INET, AF_INET6)
            }
            for kind in (_FIXED, _EPHEMERAL)
        }

    def add_listeners(self, buffer: Datagram, size: int) -> bool:
        """Take the listeners from a datagram."""

        def add(port: int) -> None:
            self._kinds[port] = _SERVED
            self._served[TcpState.LISTEN] += 1
            self._sockets.listening.add(_swap(port))

        return _each_local_port(buffer, size, _TCP_SOCKET, add)

    def add_others(self, buffer: Datagram, size: int) -> bool:
        """Count the connections in a datagram, and note the bound sockets."""
        # The one loop that runs for every socket of the pod, and most of what a scrape costs: locals, and no
        # call but the unpacking.
        unpack, kinds, flows, served = _RECORD.unpack_from, self._kinds, self._flows, self._served
        aged_below = self._aged_below
        offset = 0
        while offset < size:
            try:
                length, head, family, state, port, flow, expires = unpack(buffer, offset)
            except struct.error:
                return _end_of_dump(buffer, offset, size)
            if head != _TCP_SOCKET or length < _RECORD_SIZE:
                return _end_of_dump(buffer, offset, size)
            offset += length
            if state != _ESTABLISHED:
                if state == _TIME_WAIT:
                    if expires <= aged_below:
                        state = AGED_TIME_WAIT
                elif state == _CLOSE:
                    self._sockets.bound.add(_swap(port))
                    continue
                elif not 0 < state < AGED_TIME_WAIT:  # its slot may be there, and be another's
                    raise _unknown(family, state)
            kind = kinds[port]
            try:
                if kind == _SERVED:
                    served[state] += 1
                else:
                    flows[kind][family][state][flow] += 1
            except LookupError:
                raise _unknown(family, state) from None
        _expect_whole(offset, size)
        return False

    def result(self) -> TcpSockets:
        """Return what was counted. To be called once, when both dumps are complete."""
        self._sockets.served.update({state: count for state, count in enumerate(self._served) if count})
        for kind, families in self._flows.items():
            for family, by_state in families.items():
                for state, counts in enumerate(by_state):
                    ephemeral = kind == _EPHEMERAL
                    self._sockets.add_flows(ephemeral=ephemeral, family=family, state=state, counts=counts)
        self._flows.clear()
        return self._sockets


class UdpDump:
    """Collects the local ports that UDP sockets hold, in ``ports``; fed as `TcpDump` is."""

    def __init__(self) -> None:
        self.ports: set[int] = set()

    def add(self, buffer: Datagram, size: int) -> bool:
        """Take the local ports from a datagram."""
        return _each_local_port(buffer, size, _UDP_SOCKET, lambda port: self.ports.add(_swap(port)))


def _each_local_port(buffer: Datagram, size: int, socket_head: int, add: Callable[[int], None]) -> bool:
    """Call ``add`` with the local port, in network order, of each socket of a datagram."""
    offset = 0
    while offset < size:
        try:
            length, head, _, _, port, _, _ = _RECORD.unpack_from(buffer, offset)
        except struct.error:
            return _end_of_dump(buffer, offset, size)
        if head != socket_head or length < _RECORD_SIZE:
            return _end_of_dump(buffer, offset, size)
        offset += length
        add(port)
    _expect_whole(offset, size)
    return False


def _unknown(family: int, state: int) -> SourceError:
    return SourceError(f"sock_diag: family {family}, state {state}; expected a TCP socket")


def _expect_whole(offset: int, size: int) -> None:
    # A buffer may hold more than the datagram, so that the last message is read beyond its end unnoticed.
    if offset != size:
        raise SourceError(f"sock_diag: datagram of {size} bytes; expected {offset}, where a socket ends")


def _end_of_dump(buffer: Datagram, offset: int, size: int) -> bool:
    """Return True if the message at ``offset`` ends the dump well; raise what is wrong otherwise."""
    left = size - offset
    if left < _HEADER.size:
        raise SourceError(f"sock_diag: {left} bytes at the end; expected a header of {_HEADER.size}")
    length, kind, flags, _, _ = _HEADER.unpack_from(buffer, offset)
    if flags & _NLM_F_DUMP_INTR:
        raise DumpInterruptedError("sock_diag: the table changed during the dump; expected a consistent one")
    if kind in (_NLMSG_ERROR, _NLMSG_DONE):
        # Both carry zero or a negative errno: a dump may still fail after its first datagrams.
        if not _HEADER.size + _ERRNO.size <= length <= left:
            raise SourceError(f"sock_diag: control message of {length} bytes in the last {left}")
        (code,) = _ERRNO.unpack_from(buffer, offset + _HEADER.size)
        if code < 0:
            name = errno.errorcode.get(-code, str(-code))
            raise SourceError(f"sock_diag: the kernel answered {name}; expected sockets")
        if kind == _NLMSG_DONE:
            return True
    raise SourceError(f"sock_diag: message of type {kind} and {length} bytes; expected a whole socket")


def _swap(port: int) -> int:
    """Turn a port from network order into this machine's, or back."""
    return port if sys.byteorder == "big" else (port & 0xFF) << 8 | port >> 8


@lru_cache(maxsize=1)  # the same table scrape after scrape
def _swap_table(table: bytes) -> bytes:
    """Order a table of 65536 bytes, one for each port, by the ports' other byte order."""
    return table if sys.byteorder == "big" else b"".join(table[low::256] for low in range(256))
