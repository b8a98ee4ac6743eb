"""The three sources say the same of the same live sockets, and the kernel's counters count what they say."""

import errno
import socket

import pytest

from lab.connections import Connections, Destination
from lab.namespace import POD, POD6, VOID, VOID6, WORLD, has_ipv6
from sidecar.kernel import read_churn
from sidecar.sources import ProcSource, PsutilSource, SockDiagSource
from tests.kernel.reading import read_tcp, read_udp
from tests.kernel.waiting import eventually

SOURCES = [SockDiagSource(), ProcSource(), PsutilSource()]
PORT = 443
A, A6 = "10.77.0.1", "fd77::1"

pytestmark = pytest.mark.skipif(
    not has_ipv6(), reason="the kernel has no IPv6: half of the sockets are of it"
)


class Sockets:
    """Sockets in the pod and in the world, closed together."""

    def __init__(self, pod, world):
        self._pod, self._world = pod, world
        self._opened = []

    def in_pod(self, family=socket.AF_INET, kind=socket.SOCK_STREAM):
        return self._open(self._pod, family, kind)

    def in_world(self, family=socket.AF_INET, kind=socket.SOCK_STREAM):
        return self._open(self._world, family, kind)

    def _open(self, namespace, family, kind):
        with namespace.entered():
            self._opened.append(socket.socket(family, kind))
        return self._opened[-1]

    def accept(self, listener):
        connection, _ = listener.accept()
        self._opened.append(connection)
        return connection

    def close(self):
        for one in self._opened:
            one.close()


@pytest.fixture
def sockets(pod_and_its_world, world):
    sockets = Sockets(*pod_and_its_world)
    yield sockets
    sockets.close()


def attempt(connection, *address):
    connection.setblocking(False)
    with pytest.raises(BlockingIOError):
        connection.connect(address)


def listen(listener, address, port):
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind((address, port))
    listener.listen(20)
    return listener


def open_listeners(sockets):
    """Listen on IPv4, IPv6 and both, inside the range and outside; return the listener on both."""
    four, six = socket.AF_INET, socket.AF_INET6
    listen(sockets.in_pod(four), "0.0.0.0", 8081)
    listen(sockets.in_pod(six), "::1", 8082)
    # An accepted handshake is not passed on before data comes: SYN_RECV.
    deferring = sockets.in_pod(four)
    deferring.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 60)
    listen(deferring, "0.0.0.0", 8083)
    return listen(sockets.in_pod(six), "::", 20050)


def open_every_kind(pod, world, sockets, dual):
    """Open sockets of every state that lasts, of IPv4, IPv6 and in between; return what they add up to."""
    four, six = socket.AF_INET, socket.AF_INET6
    expected = {}

    def connect(family, host, port, remote):
        connection = sockets.in_pod(family)
        connection.connect((host, port))
        expected[remote, "ESTABLISHED"] = expected.get((remote, "ESTABLISHED"), 0) + 1
        return connection

    for _ in range(3):
        connect(four, A, PORT, f"{A} [443:https]")
    for _ in range(4):
        connect(six, A6, PORT, f"{A6} [443:https]")
    connect(six, f"::ffff:{A}", PORT, f"{A} [443:https]")
    connect(six, "::ffff:10.77.0.2", 5432, "10.77.0.2 [5432:postgres]")

    # SYN_SENT
    attempt(sockets.in_pod(four), VOID, PORT)
    attempt(sockets.in_pod(six), VOID6, PORT)
    expected[f"{VOID} [443:https]", "SYN_SENT"] = expected[f"{VOID6} [443:https]", "SYN_SENT"] = 1

    expected["OTHER", "LISTEN"] = 4
    # Clients of ours: of IPv4 and of IPv6 to the same listener.
    sockets.in_world(four).connect((POD, 20050))
    sockets.in_world(six).connect((POD6, 20050))
    sockets.accept(dual)
    sockets.accept(dual)
    expected["OTHER", "ESTABLISHED"] = 2
    sockets.in_world(four).connect((POD, 8083))
    expected["OTHER", "SYN_RECV"] = 1

    # Half-closed ones, and then a cut cable, over which no FIN is acknowledged.
    peer = listen(sockets.in_world(four), WORLD, 8080)
    for state in ("FIN_WAIT1", "FIN_WAIT2", "CLOSE_WAIT", "CLOSE_WAIT", "LAST_ACK"):
        ours = sockets.in_pod(four)
        ours.connect((WORLD, 8080))
        theirs = sockets.accept(peer)
        key = (f"{WORLD} [8080:http-proxy]", state)
        expected[key] = expected.get(key, 0) + 1
        if state == "FIN_WAIT2":
            ours.shutdown(socket.SHUT_WR)
        elif state == "FIN_WAIT1":
            cut_first = ours
        else:
            theirs.shutdown(socket.SHUT_WR)
            assert ours.recv(1) == b""
        if state == "LAST_ACK":
            cut_last = ours
    eventually("FIN_WAIT2", lambda: (f"{WORLD} [8080:http-proxy]", "FIN_WAIT2") in read_tcp(pod).usage.used)
    world.cut()
    cut_first.shutdown(socket.SHUT_WR)
    cut_last.shutdown(socket.SHUT_WR)
    return expected


def test_the_sources_agree_on_every_kind_of_socket(pod, world, sockets):
    pod.sysctl("ipv4.tcp_tw_reuse", 0)
    time_wait = [Destination(A, 80, time_wait=5), Destination(A6, 80, time_wait=4)]
    dual = open_listeners(sockets)  # first, while no connection has their ports
    with Connections(pod, time_wait):
        expected = open_every_kind(pod, world, sockets, dual)
        expected[f"{A} [80:http]", "TIME_WAIT"], expected[f"{A6} [80:http]", "TIME_WAIT"] = 5, 4

        readings = {source.name: read_tcp(pod, source) for source in SOURCES}

    assert {name: dict(reading.usage.used) for name, reading in readings.items()} == dict.fromkeys(
        ("sock_diag", "proc", "psutil"), expected
    )
    for reading in readings.values():
        assert reading.usage == readings["sock_diag"].usage
        assert reading.sockets.listening == {8081, 8082, 8083, 20050}


def test_the_sources_agree_on_exhaustion(pod, sockets, dialler):
    listen(sockets.in_pod(socket.AF_INET6), "::", 20050)
    assert dialler.fill(A, PORT).errno == errno.EADDRNOTAVAIL

    for source in SOURCES:
        reading = read_tcp(pod, source)
        assert (reading.tcp.ratio, reading.tcp.pinned, reading.tcp.free) == (1.0, 1, 0)


@pytest.mark.parametrize("source", SOURCES[:2], ids=lambda source: source.name)
def test_reused_time_wait_frees_ports_for_the_sources_that_see_its_age(pod, dialler, source):
    pod.sysctl("ipv4.tcp_tw_reuse", 1)
    with Connections(pod, [Destination(A, PORT, time_wait=100)]):
        assert read_tcp(pod, source).tcp.ratio == 1.0
        eventually("old TIME_WAIT", lambda: read_tcp(pod, source).tcp.ratio == 0.0)
        assert dialler.fill(A, PORT, limit=100) is None


def test_bound_idle_sockets_are_pinned_where_the_source_lists_them(pod, sockets):
    for port in (20010, 20020):
        sockets.in_pod().bind((POD, port))
    sockets.in_pod().bind((POD, 8000))

    pinned = {source.name: read_tcp(pod, source).tcp.pinned for source in SOURCES}

    assert pinned == {"sock_diag": 2, "proc": 0, "psutil": 0}
    assert not read_tcp(pod).usage.used


def test_the_sources_agree_on_udp(pod, sockets):
    four, six = socket.AF_INET, socket.AF_INET6
    for family, address in ((four, "127.0.0.1"), (four, "0.0.0.0"), (six, "::1"), (six, "::")):
        sockets.in_pod(family, socket.SOCK_DGRAM).bind((address, 0))
    sockets.in_pod(four, socket.SOCK_DGRAM).connect((A, 53))
    sockets.in_pod(six, socket.SOCK_DGRAM).connect((f"::ffff:{A}", 53))
    sockets.in_pod(four, socket.SOCK_DGRAM).bind(("0.0.0.0", 53))

    readings = [read_udp(pod, source) for source in SOURCES]

    assert readings[0].pinned in range(4, 7)  # two that are bound to one address each may share a port
    assert readings == [readings[0]] * 3


def test_a_namespace_without_ipv6_is_read_by_all_sources(pod, sockets):
    pod.sysctl("ipv6.conf.all.disable_ipv6", 1)
    sockets.in_pod().connect((A, PORT))

    for source in SOURCES:
        assert read_tcp(pod, source).usage.used == {(f"{A} [443:https]", "ESTABLISHED"): 1}


# The counters


def churn(pod):
    with pod.entered():
        return read_churn()


def test_opened_counts_the_connections_of_this_namespace_and_no_others(pod, sockets, dialler):
    listener = listen(sockets.in_pod(), "0.0.0.0", 8080)
    before = churn(pod)
    assert dialler.fill(A, PORT, limit=7) is None
    sockets.in_world().connect((POD, 8080))
    sockets.accept(listener)

    assert churn(pod).opened - before.opened == 7
    assert churn(pod).failed == before.failed


def test_failed_counts_refused_connections_but_none_that_found_no_port(pod, sockets, dialler):
    for _ in range(3):
        assert dialler.fill(A, 1, limit=1).errno == errno.ECONNREFUSED
    assert churn(pod).failed == 3
    assert dialler.fill(A, PORT).errno == errno.EADDRNOTAVAIL

    assert churn(pod).failed == 3


def test_time_wait_overflow_counts_what_the_kernel_did_not_keep(pod, world):
    pod.sysctl("ipv4.tcp_max_tw_buckets", 5)
    with (
        Connections(pod, [Destination(A, PORT, time_wait=5)]),
        Connections(pod, [Destination(A, 80)]) as more,
    ):
        assert churn(pod).time_wait_overflow == 0
        del more
        overflow(pod, 10)
        eventually("ten not kept", lambda: churn(pod).time_wait_overflow == 10)


def overflow(pod, count):
    for _ in range(count):
        with pod.entered():
            connection = socket.create_connection((A, PORT))
        connection.close()
