"""Writes ``tests/data/sidecar`` anew, from this kernel: ``python -m tests.sidecar.capture``, as root.

It works in network namespaces of its own, with addresses of the documentation ranges (RFC 5737, RFC 3849)
that live on ``lo``, so that nothing of the machine is in what it writes. What it opens there is what
``test_sockdiag`` and ``test_procnet`` expect, socket by socket.
"""

import contextlib
import ctypes
import os
import platform
import socket
import struct
import subprocess
import time
import traceback
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from pathlib import Path

DATA = Path(__file__).parents[1] / "data" / "sidecar"

SETTINGS = (
    "ip_local_port_range",
    "ip_local_reserved_ports",
    "tcp_timestamps",
    "tcp_tw_reuse",
    "tcp_tw_reuse_delay",
)
STATES = {
    1: "ESTABLISHED",
    2: "SYN_SENT",
    3: "SYN_RECV",
    5: "FIN_WAIT2",
    6: "TIME_WAIT",
    7: "CLOSE",
    8: "CLOSE_WAIT",
    10: "LISTEN",
}
CLONE_NEWNET = 0x40000000  # os.CLONE_NEWNET came with Python 3.12
GETSOCK, BY_FAMILY = 18, 20
LISTENING, CONNECTIONS, ANY = 1 << 10, 0x3FFE & ~(1 << 10), 0xFFFFFFFF


def main() -> None:
    for capture in (capture_sockets, capture_without_ipv6):
        in_child(unshare_and(capture))


def in_child(function: Callable[[], None]) -> None:
    child = os.fork()
    if not child:
        try:
            function()
        except BaseException:  # noqa: BLE001 - a child must not go on as its parent
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("capture failed")


def unshare_and(function: Callable[[], None]) -> Callable[[], None]:
    def unshared() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare; expected to be root")
        function()

    return unshared


def capture_sockets() -> None:
    run("ip link set lo up")
    for net in ("192.0.2.0/24", "198.51.100.0/24"):
        run(f"ip route add local {net} dev lo")
    for address in ("2001:db8::1", "2001:db8::10"):
        run(f"ip address add {address}/128 dev lo nodad")
    # Where packets vanish: for connections that are never answered.
    run("ip link add silent type veth peer name void")
    run("ip address add 203.0.113.1/24 dev silent")
    run("ip link set silent up arp off")
    run("ip link set void up arp off")
    Path("/proc/sys/net/ipv4/ip_local_reserved_ports").write_text("40100-40109,41000")
    with contextlib.ExitStack() as stack:
        open_tcp(stack)
        open_udp(stack)
        # Twice, because a message to a process with CAP_NET_ADMIN has an attribute more.
        write_dumps("-net-admin", "with CAP_NET_ADMIN", dump_all())
        in_child(dump_as_nobody)
        write_proc("proc-kernel", ("tcp", "tcp6", "udp", "udp6", "snmp", "netstat"))


def open_tcp(stack: contextlib.ExitStack) -> None:
    https = listener(stack, "198.51.100.10", 443)
    dual = listener(stack, "::", 8080)
    postgres = listener(stack, "2001:db8::10", 5432)

    # Of an age at which tcp_tw_reuse may hand its port out; the others below are not.
    close(connect(stack, "192.0.2.1", 40001, "198.51.100.10", 443), accept(stack, https))
    time.sleep(2.5)

    for port in (40011, 40012, 40013):
        connect(stack, "192.0.2.1", port, "198.51.100.10", 443), accept(stack, https)
    connect(stack, "192.0.2.2", 40011, "198.51.100.10", 443), accept(stack, https)
    connect(stack, "2001:db8::1", 40021, "2001:db8::10", 5432), accept(stack, postgres)
    connect(stack, "2001:db8::1", 40022, "2001:db8::10", 5432), accept(stack, postgres)
    # IPv4-mapped: the client's side, and the server's.
    connect(stack, "::ffff:192.0.2.1", 40031, "::ffff:198.51.100.10", 443), accept(stack, https)
    connect(stack, "192.0.2.1", 40032, "198.51.100.20", 8080), accept(stack, dual)
    # FIN_WAIT2 on this side, CLOSE_WAIT on the other.
    connect(stack, "192.0.2.1", 40041, "198.51.100.10", 443).shutdown(socket.SHUT_WR), accept(stack, https)
    for port in range(40051, 40061):
        close(connect(stack, "192.0.2.1", port, "198.51.100.10", 443), accept(stack, https))
    close(connect(stack, "2001:db8::1", 40071, "2001:db8::10", 5432), accept(stack, postgres))
    # SYN_SENT.
    unanswered = stack.enter_context(socket.socket())
    unanswered.setblocking(False)
    unanswered.bind(("203.0.113.1", 40081))
    unanswered.connect_ex(("203.0.113.99", 443))
    # SYN_RECV: a SYN from an address whose SYN+ACK vanishes.
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(syn("203.0.113.98", 50001, "198.51.100.10", 443), ("198.51.100.10", 0))
    # Bound, and neither connected nor listening.
    for family, address, port in (
        (socket.AF_INET, "192.0.2.1", 40091),
        (socket.AF_INET6, "2001:db8::1", 40092),
    ):
        stack.enter_context(socket.socket(family)).bind((address, port))
    # A connection from a port that is not the kernel's to hand out, and one to a port that is.
    connect(stack, "192.0.2.1", 900, "198.51.100.10", 443), accept(stack, https)
    high = listener(stack, "198.51.100.30", 50000)
    connect(stack, "192.0.2.1", 40093, "198.51.100.30", 50000), accept(stack, high)


def open_udp(stack: contextlib.ExitStack) -> None:
    for family, address, port in (
        (socket.AF_INET, "192.0.2.1", 40201),
        (socket.AF_INET, "0.0.0.0", 53),
        (socket.AF_INET6, "2001:db8::1", 40202),
        (socket.AF_INET6, "::", 8125),
    ):
        stack.enter_context(socket.socket(family, socket.SOCK_DGRAM)).bind((address, port))
    connected = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    connected.bind(("192.0.2.1", 40203))
    connected.connect(("198.51.100.10", 53))


def capture_without_ipv6() -> None:
    run("ip link set lo up")
    run("ip route add local 192.0.2.0/24 dev lo")
    run("ip route add local 198.51.100.0/24 dev lo")
    with contextlib.ExitStack() as stack:
        server = listener(stack, "198.51.100.10", 6379)
        connect(stack, "192.0.2.1", 40001, "198.51.100.10", 6379), accept(stack, server)
        close(connect(stack, "192.0.2.1", 40002, "198.51.100.10", 6379), accept(stack, server))
        stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)).bind(("192.0.2.1", 40003))
        # A node started with ipv6.disable=1 has no tcp6 and no udp6.
        write_proc("proc-no-ipv6", ("tcp", "udp", "snmp", "netstat"))


def run(command: str) -> None:
    subprocess.run(command.split(), check=True)


def family_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def listener(stack: contextlib.ExitStack, address: str, port: int) -> socket.socket:
    server = stack.enter_context(socket.socket(family_of(address)))
    if address == "::":
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind((address, port))
    server.listen()
    return server


def connect(
    stack: contextlib.ExitStack, local: str, local_port: int, remote: str, remote_port: int
) -> socket.socket:
    client = stack.enter_context(socket.socket(family_of(local)))
    client.bind((local, local_port))
    client.connect((remote, remote_port))
    return client


def accept(stack: contextlib.ExitStack, server: socket.socket) -> socket.socket:
    return stack.enter_context(server.accept()[0])


def close(first: socket.socket, then: socket.socket) -> None:
    """Close both sides, so that the first is in TIME_WAIT and the other gone."""
    first.close()
    assert then.recv(1) == b""
    then.close()
    time.sleep(0.05)


def syn(source: str, source_port: int, target: str, target_port: int) -> bytes:
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    tcp = struct.pack("!HHIIBBHHH", source_port, target_port, 1, 0, 5 << 4, 2, 1024, 0, 0)
    summed = addresses + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(tcp)) + tcp
    total = sum(struct.unpack(f"!{len(summed) // 2}H", summed))
    total = (total & 0xFFFF) + (total >> 16)
    tcp = tcp[:16] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + tcp[18:]
    return struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_TCP, 0) + addresses + tcp


def dump_as_nobody() -> None:
    os.seteuid(65534)  # and the files written below belong to who runs this
    answers = dump_all()
    os.seteuid(0)
    write_dumps("", "without capabilities", answers)


def dump_all() -> dict[str, list[bytes]]:
    compat = struct.Struct("=BBBB48xII")
    by_family = struct.Struct("=BBBBI48x")
    return {
        "tcp-listeners": dump(GETSOCK, compat.pack(0, 0, 0, 0, LISTENING, 0)),
        "tcp-others": dump(GETSOCK, compat.pack(0, 0, 0, 0, CONNECTIONS, 0)),
        "udp-ipv4": dump(BY_FAMILY, by_family.pack(socket.AF_INET, socket.IPPROTO_UDP, 0, 0, ANY)),
        "udp-ipv6": dump(BY_FAMILY, by_family.pack(socket.AF_INET6, socket.IPPROTO_UDP, 0, 0, ANY)),
        # A protocol that nobody has, and a request that is cut: how the kernel says no.
        "unknown-protocol": dump(BY_FAMILY, by_family.pack(socket.AF_INET, 253, 0, 0, ANY)),
        "short-request": dump(BY_FAMILY, b"\2\6\0\0"),
    }


def dump(kind: int, body: bytes) -> list[bytes]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as kernel:
        kernel.settimeout(2)
        kernel.send(struct.pack("=IHHII", 16 + len(body), kind, 0x301, 0, 0) + body)
        datagrams = []
        while not datagrams or messages(datagrams[-1])[-1][4] not in (2, 3):
            # A small buffer, so that the kernel needs more than one datagram for a few sockets.
            datagrams.append(kernel.recv(4096))
        return datagrams


def messages(datagram: bytes) -> list[bytes]:
    found = []
    while datagram:
        (length,) = struct.unpack_from("=I", datagram)
        found.append(datagram[:length])
        datagram = datagram[length:]
    return found


def write_dumps(suffix: str, who: str, answers: dict[str, list[bytes]]) -> None:
    for name, datagrams in answers.items():
        if suffix and name in ("unknown-protocol", "short-request"):
            continue
        lines = [f"# {name}: what Linux {'.'.join(platform.release().split('.')[:2])} answers {who}"]
        for datagram in datagrams:
            lines += ["", "datagram"]
            for message in messages(datagram):
                lines += describe(message)
        write(DATA / f"{name}{suffix}.hex", "\n".join(lines) + "\n")


def describe(message: bytes) -> list[str]:
    length, kind, _, _, _ = struct.unpack_from("=IHHII", message)
    if kind in (2, 3):
        (code,) = struct.unpack_from("=i", message, 16)
        return [f"# {('NLMSG_ERROR', 'NLMSG_DONE')[kind - 2]} {code}", f"{message.hex(' ', -4)}"]
    family, state = message[16:18]
    ports = struct.unpack_from("!HH", message, 20)
    ends = [
        f"[{IPv6Address(packed)}]:{port}" if family == socket.AF_INET6 else f"{ip_address(packed[:4])}:{port}"
        for packed, port in zip((message[24:40], message[40:56]), ports, strict=True)
    ]
    return [
        f"# {length} bytes: {ends[0]} > {ends[1]} {STATES[state]}",
        message[:16].hex(" ", -4),
        "  " + message[16:24].hex(" ", -4) + "  " + message[24:40].hex() + "  " + message[40:56].hex(),
        "  " + message[56:].hex(" ", -4),
    ]


def write_proc(name: str, files: tuple[str, ...]) -> None:
    root = DATA / name
    for file in files:
        write(root / "net" / file, Path("/proc/self/net", file).read_text())
    for setting in SETTINGS:
        write(root / "sys/net/ipv4" / setting, Path("/proc/sys/net/ipv4", setting).read_text())
    write(root / "self" / "comm", "metrics-sidecar\n")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


if __name__ == "__main__":
    main()
