"""Socket dumps for tests: captured ones, and messages built byte by byte, in either byte order."""

import struct
import sys
from pathlib import Path

DATA = Path(__file__).parents[1] / "data" / "sidecar"

GETSOCK, BY_FAMILY = 18, 20
NOOP, ERROR, DONE = 1, 2, 3
MULTI, DUMP_INTR = 0x2, 0x10

MARK = bytes.fromhex("05000800 00000000")
"""An attribute as it follows a socket: 8 bytes."""

_PREFIX = {"little": "<", "big": ">"}
# Of the numbers in a message, those that are in the machine's byte order and not in the network's.
_HEADER_NUMBERS = ((0, 4), (4, 2), (6, 2), (8, 4), (12, 4))
_SOCKET_NUMBERS = tuple((offset, 4) for offset in range(56, 88, 4))


def load(name, order=sys.byteorder):
    """Return the datagrams of a captured dump."""
    datagrams = []
    for line in (DATA / f"{name}.hex").read_text().splitlines():
        if line == "datagram":
            datagrams.append(b"")
        elif not line.startswith("#") and line:
            datagrams[-1] += bytes.fromhex(line)
    assert datagrams
    assert all(datagrams)
    return [b"".join(_reorder(message, order) for message in split(datagram)) for datagram in datagrams]


def split(datagram, order="little"):
    """Return the messages of a datagram."""
    messages = []
    while datagram:
        (length,) = struct.unpack_from(_PREFIX[order] + "I", datagram)
        assert 16 <= length <= len(datagram)
        messages.append(datagram[:length])
        datagram = datagram[length:]
    return messages


def boundaries(datagram):
    """Return the offsets at which messages begin or end."""
    offsets = [0]
    for message in split(datagram, sys.byteorder):
        offsets.append(offsets[-1] + len(message))
    return offsets


def _reorder(message, order):
    if order == "little":
        return message
    kind = int.from_bytes(message[4:6], "little")
    numbers = _HEADER_NUMBERS + (_SOCKET_NUMBERS if kind in (GETSOCK, BY_FAMILY) else ((16, 4),))
    result = bytearray(message)
    for offset, size in numbers:
        result[offset : offset + size] = result[offset : offset + size][::-1]
    return bytes(result)


def message(kind, body=b"", flags=MULTI, length=None, order=sys.byteorder):
    length = 16 + len(body) if length is None else length
    return struct.pack(_PREFIX[order] + "IHHII", length, kind, flags, 0, 4711) + body


def done(code=0, flags=MULTI):
    return message(DONE, struct.pack("=i", code), flags)


def error(code):
    return message(ERROR, struct.pack("=i", code) + bytes(20), flags=0)


def socket_message(
    state,
    local_port,
    remote_port=0,
    local=b"\xc0\0\2\1",
    remote=b"\xc6\x33\x64\x0a",
    *,
    kind=GETSOCK,
    family=None,
    expires=0,
    attributes=MARK,
    flags=MULTI,
    order=sys.byteorder,
):
    """Build the message of a socket; addresses are packed, of 4 or 16 bytes."""
    family = {4: 2, 16: 10}[len(local)] if family is None else family
    body = struct.pack("=BBBB", family, state, 0, 0) + struct.pack("!HH", local_port, remote_port)
    body += local.ljust(16, b"\0") + remote.ljust(16, b"\0")
    body += struct.pack(_PREFIX[order] + "IQIIIII", 0, 0xABCD, expires, 0, 0, 1000, 12345)
    return message(kind, body + attributes, flags, order=order)
