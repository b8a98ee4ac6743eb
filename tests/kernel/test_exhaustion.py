"""What the exhaustion families say is what connect() does: each case is filled until it really fails."""

import errno
import socket
from contextlib import suppress

import pytest

from lab.connections import Connections, Destination, Server
from lab.namespace import POD, VOID, WORLD, has_ipv6
from tests.kernel.conftest import PORTS
from tests.kernel.reading import fill_to_the_brim, read_tcp, read_udp
from tests.kernel.waiting import eventually

A, B, C = "10.77.0.1", "10.77.0.2", "10.77.0.3"
A6 = "fd77::1"
POD_TOO = "10.76.0.3"
PORT = 443
FIRST = PORTS[0]

needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="the kernel has no IPv6")


def tcp_socket(namespace, family=socket.AF_INET):
    with namespace.entered():
        return socket.socket(family)


@pytest.fixture
def keep(pod):
    """Sockets of the pod, closed at the end: `keep(family)` opens one."""
    opened = []

    def keep(family=socket.AF_INET, kind=socket.SOCK_STREAM):
        with pod.entered():
            opened.append(socket.socket(family, kind))
        return opened[-1]

    yield keep
    for one in opened:
        one.close()


@pytest.fixture
def fill(pod, dialler):
    """Fill a destination from the pod, and hold the promise of the families to it: at 1 and with none free
    the next connect() fails, and one connection before it was below 1, with one free."""

    def fill(address=A, port=PORT, source=""):
        brim = fill_to_the_brim(lambda: dialler.connect(address, port, source), lambda: read_tcp(pod).tcp)
        assert errno.errorcode[brim.error.errno] == "EADDRNOTAVAIL"
        assert (brim.full.ratio, brim.full.free) == (1.0, 0)
        assert brim.one_before.ratio < 1.0
        assert brim.one_before.free == 1
        return brim

    return fill


def test_a_destination_is_full_after_as_many_connections_as_there_are_ports(fill):
    assert fill().connects == 100


def test_each_connection_takes_one_hundredth(pod, dialler):
    ratios = []
    for _ in range(100):
        dialler.connect(A, PORT)
        ratios.append(read_tcp(pod).tcp.ratio)

    assert ratios == [pytest.approx(count / 100) for count in range(1, 101)]


def test_another_destination_takes_a_hundred_on_the_same_ports(pod, fill, dialler):
    fill(A)
    ports_of_a = {connection.getsockname()[1] for connection in dialler.connections}
    assert dialler.fill(B, PORT, limit=99) is None
    # The fullest destination is still A.
    assert read_tcp(pod).tcp.ratio == 1.0
    assert read_tcp(pod).usage.destinations == {f"{A} [443:https]": 1.0, f"{B} [443:https]": 0.99}
    dialler.connect(B, PORT)

    assert dialler.fill(B, PORT).errno == errno.EADDRNOTAVAIL
    assert {connection.getsockname()[1] for connection in dialler.connections[100:]} == ports_of_a
    assert read_tcp(pod).usage.used.total() == 200


def test_another_port_of_the_same_host_is_another_destination(fill, dialler):
    fill(A, 443)

    assert dialler.fill(A, 80, limit=100) is None


def test_bind_finds_no_port_where_connections_have_all_but_one_on_another_address_does(pod, fill, keep):
    pod.add_address(f"{POD_TOO}/24", "eth0")
    fill()

    with pytest.raises(OSError, match="in use") as failed:
        keep().bind((POD, 0))
    keep().bind((POD_TOO, 0))

    assert failed.value.errno == errno.EADDRINUSE
    assert read_tcp(pod).tcp.pinned == 1
    assert read_tcp(pod).tcp.ratio == 1.0


def test_a_socket_bound_to_another_address_takes_its_port_from_every_destination(pod, fill, keep):
    pod.add_address(f"{POD_TOO}/24", "eth0")
    keep().bind((POD_TOO, 0))

    assert fill().connects == 99


def test_a_second_local_address_has_a_hundred_of_its_own_to_the_same_destination(pod, fill, dialler):
    pod.add_address(f"{POD_TOO}/24", "eth0")
    fill(A)

    # Bound with IP_BIND_ADDRESS_NO_PORT: the port is only looked for when the destination is known.
    assert dialler.fill(A, PORT, limit=99, source=POD_TOO) is None
    assert read_tcp(pod).tcp.ratio == 1.0
    dialler.connect(A, PORT, source=POD_TOO)
    assert dialler.fill(A, PORT, source=POD_TOO).errno == errno.EADDRNOTAVAIL


def test_the_fuller_of_two_local_addresses_counts(pod, dialler):
    pod.add_address(f"{POD_TOO}/24", "eth0")
    assert dialler.fill(A, PORT, limit=30) is None
    assert dialler.fill(A, PORT, limit=40, source=POD_TOO) is None

    reading = read_tcp(pod)

    assert reading.tcp.ratio == pytest.approx(0.4)
    assert reading.usage.destinations == {f"{A} [443:https]": pytest.approx(0.4)}


def test_reserved_ports_are_not_available(pod, fill):
    pod.sysctl("ipv4.ip_local_reserved_ports", "20000-20009,443")

    brim = fill()

    assert brim.connects == 90
    assert read_tcp(pod).kernel.ports.available == 90
    assert read_tcp(pod).kernel.ports.total == 100


def test_a_range_that_is_reserved_as_a_whole_is_full_from_the_start(pod, dialler):
    pod.sysctl("ipv4.ip_local_reserved_ports", f"{PORTS[0]}-{PORTS[1]}")

    assert dialler.fill(A, PORT).errno == errno.EADDRNOTAVAIL
    assert (read_tcp(pod).tcp.ratio, read_tcp(pod).tcp.free) == (1.0, 0)


@pytest.mark.parametrize("ports", [1, 2, 50])
def test_a_range_of_any_size_is_used_to_its_last_port(pod, fill, ports):
    pod.sysctl("ipv4.ip_local_port_range", f"{FIRST} {FIRST + ports - 1}")

    assert fill().connects == ports


@pytest.mark.parametrize("ports", [3, 51])
def test_of_an_odd_number_of_ports_the_last_may_be_found_or_not(pod, dialler, ports):
    # The kernel tries every second port, ports // 2 of them, from a random one on: it may miss one.
    pod.sysctl("ipv4.ip_local_port_range", f"{FIRST} {FIRST + ports - 1}")

    assert dialler.fill(A, PORT).errno == errno.EADDRNOTAVAIL

    assert read_tcp(pod).tcp.free in (0, 1)


def test_a_listener_and_an_idle_bound_socket_close_their_ports_to_every_destination(pod, fill, keep):
    listener, idle = keep(), keep()
    listener.bind(("0.0.0.0", FIRST + 10))
    listener.listen()
    idle.bind((POD, FIRST + 20))

    brim = fill()

    assert brim.connects == 98
    assert brim.full.pinned == 2


def test_a_listener_beside_the_range_closes_nothing(pod, fill, keep):
    listener = keep()
    listener.bind(("0.0.0.0", FIRST - 1))
    listener.listen()

    assert fill().full.pinned == 0


def test_a_listener_on_one_address_only_closes_its_port_all_the_same(fill, keep):
    listener = keep()
    listener.bind(("127.0.0.1", FIRST + 10))
    listener.listen()

    assert fill().connects == 99


@needs_ipv6
def test_a_listener_of_ipv6_only_closes_its_port_to_ipv4_too(fill, keep):
    listener = keep(socket.AF_INET6)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind(("::", FIRST + 10))
    listener.listen()

    brim = fill()

    assert (brim.connects, brim.full.pinned) == (99, 1)


def test_sockets_that_share_a_port_by_so_reuseaddr_close_one_port(fill, keep):
    for _ in range(3):
        sharing = keep()
        sharing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sharing.bind((POD, FIRST + 10))

    brim = fill()

    assert (brim.connects, brim.full.pinned) == (99, 1)


def test_connections_to_a_listener_inside_the_range_close_no_other_port(pod_and_its_world, pod, fill, keep):
    _, world = pod_and_its_world
    listener = keep()
    listener.bind(("0.0.0.0", FIRST + 10))
    listener.listen(50)
    with world.entered():
        clients = [socket.create_connection((POD, FIRST + 10)) for _ in range(30)]
    try:
        brim = fill()
    finally:
        for client in clients:
            client.close()

    assert (brim.connects, brim.full.pinned) == (99, 1)


@needs_ipv6
def test_an_ipv4_mapped_connection_takes_a_port_from_ipv4(pod, fill, keep):
    keep(socket.AF_INET6).connect((f"::ffff:{A}", PORT))

    assert fill().connects == 99
    assert read_tcp(pod).usage.used == {(f"{A} [443:https]", "ESTABLISHED"): 100}


@needs_ipv6
def test_an_ipv6_destination_is_full_after_a_hundred(fill):
    assert fill(A6).connects == 100


@needs_ipv6
def test_ipv6_and_ipv4_take_no_ports_from_each_other(fill, dialler):
    fill(A6)

    assert dialler.fill(A, PORT, limit=100) is None


def test_unanswered_connection_attempts_take_ports_too(pod, keep):
    def connect():
        attempt = keep()
        attempt.setblocking(False)
        with pytest.raises(BlockingIOError):
            attempt.connect((VOID, PORT))

    for _ in range(100):
        before = read_tcp(pod).tcp
        assert before.ratio < 1
        connect()

    assert (before.ratio, before.free) == (0.99, 1)
    assert (read_tcp(pod).tcp.ratio, read_tcp(pod).tcp.free) == (1.0, 0)
    assert read_tcp(pod).usage.used == {(f"{VOID} [443:https]", "SYN_SENT"): 100}
    with pytest.raises(OSError, match="assign requested address"):
        keep().connect((VOID, PORT))


def test_half_closed_connections_take_ports_until_the_other_half_is_closed(pod_and_its_world, fill, dialler):
    pod, world = pod_and_its_world
    with tcp_socket(world) as listener:
        listener.bind((WORLD, 8080))
        listener.listen()
        for number in range(20):
            connection = dialler.connect(WORLD, 8080)
            server_side, _ = listener.accept()
            if number < 10:
                server_side.close()  # ours is left in CLOSE_WAIT
            else:
                dialler.connections.append(server_side)
                connection.shutdown(socket.SHUT_WR)  # ours is left in FIN_WAIT2
        states = {(f"{WORLD} [8080:http-proxy]", state): 10 for state in ("CLOSE_WAIT", "FIN_WAIT2")}
        eventually("half-closed connections", lambda: read_tcp(pod).usage.used == states)

        assert fill(WORLD, 8080).connects == 80


def test_what_a_connection_held_is_free_when_it_was_reset(pod, fill, dialler):
    fill()
    abort = b"\1\0\0\0\0\0\0\0"  # struct linger: on, 0 seconds
    for connection in dialler.connections:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, abort)
    dialler.close()

    assert read_tcp(pod).tcp.free == 100
    assert fill().connects == 100


def test_a_port_range_that_grows_between_two_readings_counts_at_once(pod, fill, dialler):
    fill()

    pod.sysctl("ipv4.ip_local_port_range", f"{FIRST} {FIRST + 199}")

    assert (read_tcp(pod).tcp.ratio, read_tcp(pod).tcp.free) == (0.5, 100)
    assert fill().connects == 100


def test_connections_outside_a_range_that_has_moved_take_none_of_its_ports(pod, fill):
    fill()

    pod.sysctl("ipv4.ip_local_port_range", "30000 30049")

    assert (read_tcp(pod).tcp.ratio, read_tcp(pod).tcp.free) == (0.0, 50)
    assert fill().connects == 50
    assert read_tcp(pod).usage.used == {(f"{A} [443:https]", "ESTABLISHED"): 150}


@pytest.mark.xfail(reason="a dump does not tell that a connected socket was bound to its port before")
def test_connections_from_bound_ports_take_them_from_every_destination(pod, dialler, fill):
    # What bind(address, 0) without IP_BIND_ADDRESS_NO_PORT does, before connect().
    for number in range(60):
        connection = tcp_socket(pod)
        dialler.connections.append(connection)
        connection.bind((POD, 0))
        connection.connect((A if number % 2 else B, PORT))

    fill(C)


# TIME_WAIT


def time_wait_ratio(pod):
    return read_tcp(pod).tcp.ratio


def can_connect(dialler, address):
    error = dialler.fill(address, PORT, limit=1)
    assert error is None or error.errno == errno.EADDRNOTAVAIL
    return error is None


def set_reuse(pod, reuse, delay_ms=2000):
    pod.sysctl("ipv4.tcp_tw_reuse", reuse)
    with suppress(FileNotFoundError):  # before Linux 6.14 it is one second
        pod.sysctl("ipv4.tcp_tw_reuse_delay", delay_ms)


def hundred_in_time_wait(pod, address):
    return Connections(pod, [Destination(address, PORT, time_wait=100)])


def assert_full_until_reuse(pod, dialler, address):
    """A new connection fails at 1, and succeeds when the ratio has fallen."""
    assert not can_connect(dialler, address)
    assert time_wait_ratio(pod) == 1.0
    eventually("TIME_WAIT sockets old enough to be reused", lambda: time_wait_ratio(pod) < 1.0)
    eventually("a connection that reuses one", lambda: can_connect(dialler, address), deadline=1.5)
    eventually("all of them to be old enough", lambda: time_wait_ratio(pod) == pytest.approx(0.01))
    assert dialler.fill(address, PORT, limit=99) is None
    assert (read_tcp(pod).tcp.ratio, read_tcp(pod).tcp.free) == (1.0, 0)
    assert dialler.fill(address, PORT).errno == errno.EADDRNOTAVAIL


def test_time_wait_takes_ports_where_reuse_is_off(pod, dialler):
    set_reuse(pod, 0)
    with hundred_in_time_wait(pod, A):
        reading = read_tcp(pod)

        assert reading.usage.used == {(f"{A} [443:https]", "TIME_WAIT"): 100}
        assert (reading.tcp.ratio, reading.tcp.free) == (1.0, 0)
        assert not can_connect(dialler, A)
        assert can_connect(dialler, B)


def test_time_wait_that_may_be_reused_gives_its_port_back_after_the_delay(pod, dialler):
    set_reuse(pod, 1)
    with hundred_in_time_wait(pod, A):
        assert_full_until_reuse(pod, dialler, A)


@pytest.mark.parametrize("loopback", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
def test_time_wait_on_loopback_gives_its_port_back_where_only_loopback_may_be_reused(
    pod, dialler, server_in_the_pod, loopback
):
    set_reuse(pod, 2)
    with hundred_in_time_wait(pod, loopback):
        assert_full_until_reuse(pod, dialler, loopback)


def test_time_wait_elsewhere_keeps_its_port_where_only_loopback_may_be_reused(
    pod, dialler, server_in_the_pod
):
    set_reuse(pod, 2, delay_ms=1000)
    with hundred_in_time_wait(pod, A), hundred_in_time_wait(pod, "127.0.0.1"):
        # When those on loopback, which are younger, are old enough, those to A are.
        eventually(
            "TIME_WAIT on loopback to be reused",
            lambda: read_tcp(pod).usage.destinations == {f"{A} [443:https]": 1.0},
        )

        assert not can_connect(dialler, A)
        assert can_connect(dialler, "127.0.0.1")


def test_time_wait_keeps_its_port_where_timestamps_are_off(pod, dialler):
    set_reuse(pod, 1, delay_ms=10)
    pod.sysctl("ipv4.tcp_timestamps", 0)
    with hundred_in_time_wait(pod, A):
        assert not can_connect(dialler, A)
        assert read_tcp(pod).tcp.ratio == 1.0


@pytest.fixture
def server_in_the_pod(pod):
    with Server(pod, [PORT]):
        yield


# UDP


@pytest.fixture
def udp(keep):
    """Open UDP sockets of the pod: `udp(bind=..., connect=...)`."""

    def udp(family=socket.AF_INET, bind=None, connect=None, v6only=None):
        one = keep(family, socket.SOCK_DGRAM)
        if v6only is not None:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
        if bind:
            one.bind(bind)
        if connect:
            one.connect((connect, 53))
        return one

    return udp


@pytest.fixture
def fill_udp(pod, udp):
    """As `fill`, for UDP."""

    def fill_udp(open_one):
        brim = fill_to_the_brim(open_one, lambda: read_udp(pod))
        assert errno.errorcode[brim.error.errno] == "EAGAIN"
        assert (brim.full.ratio, brim.full.free) == (1.0, 0)
        assert brim.one_before.ratio < 1.0
        assert brim.one_before.free == 1
        return brim

    return fill_udp


def test_udp_has_a_hundred_for_all_destinations_together(udp, fill_udp):
    destinations = iter([A, B] * 200)

    assert fill_udp(lambda: udp(connect=next(destinations))).connects == 100


def test_udp_sendto_takes_a_port_as_connect_does(udp, fill_udp):
    assert fill_udp(lambda: udp().sendto(b"", (A, 53))).connects == 100


def test_udp_sockets_on_different_local_addresses_take_ports_from_one_pool(udp, fill_udp):
    # connect() takes a port before it knows its local address, so one that is free on all of them.
    for port in range(50):
        udp(bind=("127.0.0.1", FIRST + port))
    for port in range(50, 80):
        udp(bind=("127.0.0.2", FIRST + port))

    assert fill_udp(lambda: udp(connect=A)).connects == 20


def test_udp_sockets_that_hold_one_port_on_two_addresses_hold_one_port(udp, fill_udp):
    for address in ("127.0.0.1", "127.0.0.2"):
        for port in range(50):
            udp(bind=(address, FIRST + port))

    assert fill_udp(lambda: udp(connect=A)).connects == 50


def test_udp_at_1_leaves_bind_the_ports_of_another_local_address(pod, udp):
    for port in range(50):
        udp(bind=("127.0.0.1", FIRST + port))
    for port in range(50, 100):
        udp(bind=("127.0.0.2", FIRST + port))

    assert read_udp(pod).ratio == 1.0
    with pytest.raises(BlockingIOError):
        udp(connect=A)
    for _ in range(100):
        udp(bind=("127.0.0.3", 0))


def test_udp_has_reserved_ports_too(pod, udp, fill_udp):
    pod.sysctl("ipv4.ip_local_reserved_ports", "20000-20009")

    assert fill_udp(lambda: udp(connect=A)).connects == 90


@needs_ipv6
def test_udp_sockets_of_ipv6_and_ipv4_take_ports_from_one_pool(udp, fill_udp):
    six = socket.AF_INET6
    for _ in range(30):
        udp(six, connect=A6)
    for _ in range(30):
        udp(connect=A)

    assert fill_udp(lambda: udp(six, connect=A6)).connects == 40


@needs_ipv6
def test_udp_ipv4_finds_no_port_where_dual_stack_sockets_have_all(udp, fill_udp):
    for _ in range(30):
        udp(socket.AF_INET6, connect=A6)

    assert fill_udp(lambda: udp(connect=A)).connects == 70


@needs_ipv6
def test_udp_dual_stack_finds_no_port_that_a_socket_of_ipv6_only_has(udp, fill_udp):
    for port in range(30):
        udp(socket.AF_INET6, bind=("::", FIRST + port), v6only=1)

    assert fill_udp(lambda: udp(socket.AF_INET6, connect=A6)).connects == 70


@needs_ipv6
def test_udp_at_1_leaves_ipv4_the_ports_that_sockets_of_ipv6_only_have(pod, udp):
    # The ratio is that of the first kind of connect() to fail.
    for port in range(100):
        udp(socket.AF_INET6, bind=("::", FIRST + port), v6only=1)

    assert read_udp(pod).ratio == 1.0
    with pytest.raises(BlockingIOError):
        udp(socket.AF_INET6, connect=A6)
    udp(connect=A)
