"""What the metrics say of sockets: who is OTHER, exact sums, and how near connect() is to failing."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.families import usage_families
from sidecar.model import KernelSettings, LocalPorts, TcpState
from sidecar.portnames import PORT_NAMES
from sidecar.usage import MAX_DESTINATIONS, Exhaustion, format_remote, tcp_usage, udp_exhaustion
from tests.sidecar.properties import examples
from tests.sidecar.sockets import DEFAULT, HUNDRED, connections, counted, endpoint, sock

A, B = "198.51.100.10:443", "198.51.100.20:443"
A_LABEL, B_LABEL = "198.51.100.10 [443:https]", "198.51.100.20 [443:https]"


def usage(*sockets, kernel=DEFAULT, names=PORT_NAMES, max_remotes=500):
    return tcp_usage(counted(*sockets, kernel=kernel), kernel, names, max_remotes)


def exhaustion(*sockets, kernel=HUNDRED):
    return usage(*sockets, kernel=kernel).exhaustion


# Labels.

LISTENER = sock("0.0.0.0:8080", state="LISTEN")


@pytest.mark.parametrize(
    ("connection", "label"),
    [
        # A server's port is named, whether this program knows it or not.
        (sock("192.0.2.1:40000", "198.51.100.10:443"), "198.51.100.10 [443:https]"),
        (sock("192.0.2.1:40000", "198.51.100.10:12345"), "198.51.100.10 [12345:unknown]"),
        (sock("192.0.2.1:900", "198.51.100.10:443"), "198.51.100.10 [443:https]"),
        # A port of the range is temporary, also where it is reserved ...
        (sock("192.0.2.1:40000", "198.51.100.10:32767"), "198.51.100.10 [32767:unknown]"),
        (sock("192.0.2.1:40000", "198.51.100.10:32768"), "OTHER"),
        (sock("192.0.2.1:40000", "198.51.100.10:45000"), "OTHER"),
        (sock("192.0.2.1:40000", "198.51.100.10:50500"), "OTHER"),
        (sock("192.0.2.1:40000", "198.51.100.10:60999"), "OTHER"),
        (sock("192.0.2.1:40000", "198.51.100.10:61000"), "198.51.100.10 [61000:unknown]"),
        # ... unless it is known to be a server's.
        (sock("192.0.2.1:40000", "198.51.100.10:50051"), "198.51.100.10 [50051:grpc]"),
        (sock("192.0.2.1:40000", "198.51.100.10:40123"), "198.51.100.10 [40123:ours]"),
        # Whoever connects to a port that this pod listens on is a client, whatever its port.
        (sock("192.0.2.1:8080", "198.51.100.10:443"), "OTHER"),
        (sock("192.0.2.1:8080", "198.51.100.10:50051"), "OTHER"),
        (sock("192.0.2.1:8080", "198.51.100.10:1024"), "OTHER"),
        (sock("192.0.2.1:8081", "198.51.100.10:1024"), "198.51.100.10 [1024:unknown]"),
        # IPv6, and IPv4 in its clothes.
        (sock("[2001:db8::1]:40000", "[2001:db8::10]:443"), "2001:db8::10 [443:https]"),
        (sock("[2001:db8::1]:40000", "[2001:db8::10]:45000"), "OTHER"),
        (sock("[::ffff:192.0.2.1]:40000", "[::ffff:198.51.100.10]:443"), "198.51.100.10 [443:https]"),
        (sock("[::ffff:192.0.2.1]:8080", "[::ffff:198.51.100.10]:443"), "OTHER"),
    ],
)
def test_a_remote_is_named_unless_its_port_is_temporary(connection, label):
    kernel = KernelSettings(LocalPorts(32768, 60999, frozenset({50500})))
    used = usage(LISTENER, connection, kernel=kernel, names={**PORT_NAMES, 40123: "ours"}).used
    assert used == {("OTHER", "LISTEN"): 1, (label, "ESTABLISHED"): 1}


@pytest.mark.parametrize(
    "state", [state for state in TcpState if state.name not in ("CLOSE", "LISTEN", "BOUND_INACTIVE")]
)
def test_each_state_is_named_as_the_kernel_names_it(state):
    name = "SYN_RECV" if state is TcpState.NEW_SYN_RECV else state.name
    assert usage(sock("192.0.2.1:40000", A, state.name)).used == {(A_LABEL, name): 1}


def test_both_states_of_a_half_open_connection_are_one():
    used = usage(sock("192.0.2.1:40000", A, "SYN_RECV"), sock("192.0.2.1:40001", A, "NEW_SYN_RECV")).used
    assert used == {(A_LABEL, "SYN_RECV"): 2}


def test_bound_sockets_are_no_connections():
    assert usage(sock("192.0.2.1:40000", state="CLOSE")).used == {}


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("2001:0db8:0000:0000:0000:0000:0002:0001", "2001:db8::2:1"),  # RFC 5952 4.1, 4.2.1
        ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),  # 4.2.2: no :: for a single field
        ("2001:0:0:1:0:0:0:1", "2001:0:0:1::1"),  # 4.2.3: the longest run
        ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),  # 4.2.3: of equal ones the first
        ("2001:DB8::ABCD", "2001:db8::abcd"),  # 4.3
        ("::1", "::1"),
        ("fe80:0:0:0:0:0:0:1", "fe80::1"),
        ("ff02::", "ff02::"),
    ],
)
def test_an_ipv6_remote_is_written_as_rfc_5952_wants_it(address, text):
    assert usage(sock("[2001:db8::1]:40000", f"[{address}]:443")).used == {
        (f"{text} [443:https]", "ESTABLISHED"): 1
    }


def test_the_names_given_are_the_names_used():
    remote = (2, (443).to_bytes(2, "big") + endpoint(A)[0] + bytes(12))
    assert format_remote(remote, {}) == "198.51.100.10 [443:unknown]"
    assert format_remote(remote, {443: 'a "quoted" name'}) == '198.51.100.10 [443:a "quoted" name]'


# Sums.


def test_the_example_of_the_seed_is_5_667_percent():
    sockets = [
        sock("0.0.0.0:8080", state="LISTEN"),
        *connections(800, "198.51.100.10:443", first=33000),
        *connections(500, "198.51.100.20:5432", "TIME_WAIT", first=34000),
        *(sock("192.0.2.1:8080", f"203.0.113.9:{port}") for port in range(50000, 50299)),
    ]
    result = usage(*sockets)
    assert result.used == {
        ("198.51.100.10 [443:https]", "ESTABLISHED"): 800,
        ("198.51.100.20 [5432:postgres]", "TIME_WAIT"): 500,
        ("OTHER", "ESTABLISHED"): 299,
        ("OTHER", "LISTEN"): 1,
    }
    samples = {
        family.name: family.samples[0].value
        for family in usage_families("web-1", result, DEFAULT.ports)
        if family.name in ("port_total", "port_usage")
    }
    assert samples["port_total"] == 28232
    assert round(samples["port_usage"], 3) == 5.667


def test_ipv4_and_mapped_connections_are_one_remote():
    assert usage(
        *connections(2, A, first=40000),
        *connections(3, "[::ffff:198.51.100.10]:443", local="[::ffff:192.0.2.1]", first=40100),
    ).used == {(A_LABEL, "ESTABLISHED"): 5}


def test_the_largest_remotes_get_a_series_and_the_others_are_folded():
    sockets = [
        *connections(3, A, first=40000),
        *connections(2, A, "TIME_WAIT", first=40010),
        *connections(4, B, first=40000),
        *connections(1, "198.51.100.30:443", first=40000),
        *connections(2, "198.51.100.40:443", "SYN_SENT", first=40000),
    ]
    result = usage(*sockets, max_remotes=2)
    assert result.used == {
        (A_LABEL, "ESTABLISHED"): 3,  # the largest by all of its states
        (A_LABEL, "TIME_WAIT"): 2,
        (B_LABEL, "ESTABLISHED"): 4,
        ("OTHER", "ESTABLISHED"): 1,
        ("OTHER", "SYN_SENT"): 2,
    }
    assert result.folded == 2


def test_temporary_remotes_are_not_among_those_folded():
    result = usage(sock("192.0.2.1:40000", "203.0.113.9:45000"), sock("192.0.2.1:40001", A), max_remotes=0)
    assert result.used == {("OTHER", "ESTABLISHED"): 2}
    assert result.folded == 1


def test_a_remote_with_several_local_addresses_takes_one_place():
    sockets = [sock(f"192.0.2.{host}:40000", A) for host in range(1, 9)]
    result = usage(*sockets, sock("192.0.2.1:40000", B), max_remotes=2)
    assert set(result.used) == {(A_LABEL, "ESTABLISHED"), (B_LABEL, "ESTABLISHED")}
    assert result.folded == 0


def test_which_of_equal_remotes_are_named_does_not_depend_on_their_order():
    sockets = [
        sock("192.0.2.1:40000", f"198.51.100.{host}:{port}") for host in range(20) for port in (80, 443)
    ]
    sockets += [sock("[2001:db8::1]:40000", f"[2001:db8::{host:x}]:443") for host in range(1, 20)]
    expected = usage(*sockets, max_remotes=15)
    assert sum(1 for label, _ in expected.used if label != "OTHER") == 15
    for seed in range(5):
        random.Random(seed).shuffle(sockets)
        again = usage(*sockets, max_remotes=15)
        assert again == expected
        assert list(again.destinations) == list(expected.destinations)


# Exhaustion: the rows of FACTS 2, in a range of 100 ports.


def test_no_sockets_no_exhaustion():
    assert exhaustion() == Exhaustion(pinned=0, ratio=0.0, free=100)


@pytest.mark.parametrize("count", [1, 50, 99, 100])
def test_a_destination_is_as_full_as_it_has_connections(count):
    assert exhaustion(*connections(count, A)) == Exhaustion(pinned=0, ratio=count / 100, free=100 - count)


def test_the_fullest_destination_counts_and_not_their_sum():
    result = usage(*connections(60, A), *connections(80, B), kernel=HUNDRED)
    assert result.exhaustion == Exhaustion(pinned=0, ratio=0.8, free=20)
    assert result.destinations == {B_LABEL: 0.8, A_LABEL: 0.6}


def test_another_port_of_the_same_host_is_another_destination():
    assert exhaustion(*connections(60, A), *connections(50, "198.51.100.10:80")).ratio == 0.6


def test_all_states_of_a_destination_count_together():
    sockets = [
        *connections(10, A),
        *connections(20, A, "TIME_WAIT", first=10010),
        *connections(30, A, "CLOSE_WAIT", first=10030),
        *connections(5, A, "SYN_SENT", first=10060),
    ]
    assert exhaustion(*sockets).ratio == 0.65


def test_another_local_address_has_all_ports_again():
    result = usage(*connections(60, A), *connections(70, A, local="192.0.2.2"), kernel=HUNDRED)
    assert result.exhaustion == Exhaustion(pinned=0, ratio=0.7, free=30)
    assert result.destinations == {A_LABEL: 0.7}  # the fullest of its two


def test_a_listener_and_a_bound_socket_close_their_ports_to_every_destination():
    held = [sock("0.0.0.0:10098", state="LISTEN"), sock("192.0.2.1:10099", state="CLOSE")]
    assert exhaustion(*held) == Exhaustion(pinned=2, ratio=0.02, free=98)
    full = exhaustion(*held, *connections(98, A))
    assert full == Exhaustion(pinned=2, ratio=1.0, free=0)


def test_ports_held_outside_the_range_are_none_of_it():
    held = [
        sock(f"0.0.0.0:{port}", state=state)
        for port, state in ((80, "LISTEN"), (9999, "CLOSE"), (10100, "LISTEN"))
    ]
    assert exhaustion(*held) == Exhaustion(pinned=0, ratio=0.0, free=100)


def test_a_port_with_a_listener_and_a_bound_socket_is_one():
    held = [sock("192.0.2.1:10000", state="LISTEN"), sock("192.0.2.2:10000", state="CLOSE")]
    assert exhaustion(*held).pinned == 1


def test_connections_that_this_pod_accepted_take_no_port():
    sockets = [sock("0.0.0.0:10000", state="LISTEN")]
    sockets += [sock("192.0.2.1:10000", f"203.0.113.9:{port}") for port in range(1, 80)]
    assert exhaustion(*sockets) == Exhaustion(pinned=1, ratio=0.01, free=99)


def test_connections_from_ports_outside_the_range_take_none_of_it():
    assert exhaustion(*connections(50, A, first=900)) == Exhaustion(pinned=0, ratio=0.0, free=100)


RESERVED = KernelSettings(LocalPorts(10000, 10099, frozenset(range(10090, 10100))), time_wait_reuse=2)


def test_reserved_ports_are_not_there_to_be_had():
    assert exhaustion(*connections(89, A), kernel=RESERVED) == Exhaustion(pinned=0, ratio=89 / 90, free=1)
    assert exhaustion(*connections(90, A), kernel=RESERVED) == Exhaustion(pinned=0, ratio=1.0, free=0)


def test_who_holds_a_reserved_port_takes_nothing_from_others():
    sockets = [sock("0.0.0.0:10095", state="LISTEN"), *connections(5, A, first=10091)]
    assert exhaustion(*sockets, kernel=RESERVED) == Exhaustion(pinned=0, ratio=0.0, free=90)


def test_a_range_that_is_all_reserved_is_full():
    kernel = KernelSettings(LocalPorts(10000, 10001, frozenset({10000, 10001})))
    assert exhaustion(kernel=kernel) == Exhaustion(pinned=0, ratio=1.0, free=0)


def test_mapped_connections_take_ports_of_their_ipv4_destination():
    mapped = connections(1, "[::ffff:198.51.100.10]:443", local="[::ffff:192.0.2.1]", first=10099)
    assert exhaustion(*connections(99, A), *mapped) == Exhaustion(pinned=0, ratio=1.0, free=0)


def test_an_ipv6_destination_may_be_the_fullest():
    remote = "[2001:db8::10]:443"
    result = usage(*connections(40, A), *connections(41, remote, local="[2001:db8::1]"), kernel=HUNDRED)
    assert result.exhaustion.ratio == 0.41
    assert list(result.destinations) == ["2001:db8::10 [443:https]", A_LABEL]


def test_a_ratio_never_passes_1():
    # A bound socket that connected is in the dump as a connection; its neighbours may share its port.
    held = [sock(f"192.0.2.1:{port}", state="CLOSE") for port in range(10000, 10100)]
    result = usage(*held, *connections(100, A), kernel=HUNDRED)
    assert result.exhaustion == Exhaustion(pinned=100, ratio=1.0, free=0)
    assert result.destinations == {A_LABEL: 1.0}


LOOPBACK, LOOPBACK_6 = ("127.0.0.1", "127.0.0.2:443"), ("[::1]", "[::1]:443")
OWN_ADDRESS, OWN_ADDRESS_6 = ("192.0.2.1", A), ("[2001:db8::1]", "[2001:db8::10]:443")


@pytest.mark.parametrize(
    ("reuse", "ends", "left"),
    [
        (0, OWN_ADDRESS, 40),
        (0, LOOPBACK, 40),
        (0, LOOPBACK_6, 40),
        (1, OWN_ADDRESS, 70),
        (1, OWN_ADDRESS_6, 70),
        (1, LOOPBACK, 70),
        (2, OWN_ADDRESS, 40),
        (2, OWN_ADDRESS_6, 40),
        (2, LOOPBACK, 70),
        (2, LOOPBACK_6, 70),
        (2, ("127.9.9.9", A), 70),  # either end suffices
        (2, ("192.0.2.1", "127.0.0.1:443"), 70),
        (2, ("[2001:db8::1]", "[::1]:443"), 70),
        (2, ("[::1]", "[2001:db8::10]:443"), 70),
        (2, ("[::ffff:127.0.0.1]", "[::ffff:127.0.0.1]:443"), 70),
        (2, ("126.255.255.255", "128.0.0.1:443"), 40),
        (2, ("[::2]", "[::3]:443"), 40),
    ],
)
def test_aged_time_wait_takes_a_port_unless_the_kernel_reuses_it(reuse, ends, left):
    local, remote = ends
    sockets = [
        *connections(10, remote, local=local),
        *connections(20, remote, "TIME_WAIT", local=local, first=10010),
        *connections(30, remote, "TIME_WAIT", local=local, first=10030, aged=True),
    ]
    kernel = KernelSettings(HUNDRED.ports, time_wait_reuse=reuse)
    result = usage(*sockets, kernel=kernel)
    assert result.exhaustion.free == left
    assert list(result.destinations.values()) == [(100 - left) / 100]
    assert sum(result.used.values()) == 60  # they are there all the same


def test_a_destination_of_nothing_but_reusable_ports_is_not_named():
    kernel = KernelSettings(HUNDRED.ports, time_wait_reuse=1)
    result = usage(*connections(100, A, "TIME_WAIT", aged=True), kernel=kernel)
    assert result.exhaustion == Exhaustion(pinned=0, ratio=0.0, free=100)
    assert result.destinations == {}


def test_only_the_fullest_destinations_are_named_at_most_ten():
    sockets = [
        connection for host in range(1, 16) for connection in connections(host, f"198.51.100.{host}:443")
    ]
    destinations = usage(*sockets, kernel=HUNDRED).destinations
    assert MAX_DESTINATIONS == 10
    assert list(destinations.items()) == [
        (f"198.51.100.{host} [443:https]", host / 100) for host in range(15, 5, -1)
    ]


def test_ten_destinations_are_named_also_where_each_has_many_local_addresses():
    sockets = [
        sock(f"192.0.2.{local}:{10000 + port}", f"198.51.100.{host}:443")
        for host in range(1, 16)
        for local in range(1, 6)
        for port in range(host)
    ]
    destinations = usage(*sockets, kernel=HUNDRED).destinations
    assert list(destinations.items()) == [
        (f"198.51.100.{host} [443:https]", host / 100) for host in range(15, 5, -1)
    ]


def test_of_equally_full_destinations_the_lowest_address_comes_first():
    sockets = [sock("192.0.2.1:10000", f"198.51.100.{host}:443") for host in (30, 2, 100, 10)]
    assert list(usage(*sockets, kernel=HUNDRED).destinations) == [
        f"198.51.100.{host} [443:https]" for host in (2, 10, 30, 100)
    ]


def test_a_destination_in_many_states_takes_one_place_among_the_ten():
    sockets = connections(1, A, "LAST_ACK", first=10090)
    for index, state in enumerate(["ESTABLISHED", "TIME_WAIT", "CLOSE_WAIT", "FIN_WAIT2"]):
        sockets += connections(20, A, state, first=10000 + 20 * index)
    for host in range(20, 29):
        sockets += connections(5, f"198.51.100.{host}:443")
    destinations = usage(*sockets, kernel=HUNDRED).destinations
    assert len(destinations) == 10
    assert destinations.pop(A_LABEL) == 0.81
    assert set(destinations.values()) == {0.05}


def test_pinned_ports_are_part_of_each_destinations_ratio():
    held = [sock(f"0.0.0.0:{port}", state="LISTEN") for port in (10090, 10091)]
    assert usage(*held, *connections(10, A), kernel=HUNDRED).destinations == {A_LABEL: 0.12}


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        (set(), Exhaustion(pinned=0, ratio=0.0, free=100)),
        ({53, 9999, 10100}, Exhaustion(pinned=0, ratio=0.0, free=100)),
        ({10000, 10099, 53}, Exhaustion(pinned=2, ratio=0.02, free=98)),
        (set(range(10000, 10100)), Exhaustion(pinned=100, ratio=1.0, free=0)),
    ],
)
def test_a_udp_port_is_gone_for_every_destination(held, expected):
    assert udp_exhaustion(held, HUNDRED.ports) == expected


def test_reserved_udp_ports_are_not_there_to_be_had():
    assert udp_exhaustion({10095, 10000}, RESERVED.ports) == Exhaustion(pinned=1, ratio=1 / 90, free=89)


# Properties.

quick = examples(150)

hosts = st.sampled_from(["192.0.2.1", "192.0.2.2", "127.0.0.1", "198.51.100.10", "198.51.100.20"])
ends = st.tuples(hosts, hosts) | st.tuples(hosts, hosts).map(
    lambda pair: tuple(f"[::ffff:{host}]" for host in pair)
) | st.tuples(*[st.sampled_from(["[::1]", "[2001:db8::1]", "[2001:db8::10]"])] * 2)  # fmt: skip
some_ports = st.sampled_from([22, 80, 443, 8080, 9998, 10000, 10001, 10050, 10099, 10100, 50051])


@st.composite
def some_sockets(draw):
    local, remote = draw(ends)
    state = draw(st.sampled_from([state.name for state in TcpState]))
    aged = state == "TIME_WAIT" and draw(st.booleans())
    return sock(f"{local}:{draw(some_ports)}", f"{remote}:{draw(some_ports)}", state, aged=aged)


kernels = st.builds(
    KernelSettings,
    st.builds(LocalPorts, st.just(10000), st.just(10099), st.frozensets(st.integers(9990, 10110))),
    st.integers(0, 2),
)


@quick
@given(st.lists(some_sockets(), max_size=60), kernels, st.integers(0, 12))
def test_sums_are_the_sockets_whatever_the_cap_and_ratios_are_ratios(sockets, kernel, max_remotes):
    result = usage(*sockets, kernel=kernel, max_remotes=max_remotes)
    connected = [s for s in sockets if s.state not in (TcpState.CLOSE, TcpState.BOUND_INACTIVE)]
    uncapped = usage(*sockets, kernel=kernel, max_remotes=1000)

    assert sum(result.used.values()) == len(connected)
    assert by_state(result.used) == by_state(uncapped.used)
    named = {label for label, _ in result.used} - {"OTHER"}
    all_named = {label for label, _ in uncapped.used} - {"OTHER"}
    assert len(named) == min(max_remotes, len(all_named))
    assert named <= all_named
    assert result.folded == len(all_named) - len(named)
    for key, count in result.used.items():
        if key[0] != "OTHER":
            assert uncapped.used[key] == count

    assert uncapped.exhaustion == result.exhaustion
    assert uncapped.destinations == result.destinations
    assert 0 <= result.exhaustion.ratio <= 1
    assert 0 <= result.exhaustion.free <= kernel.ports.available
    assert 0 <= result.exhaustion.pinned <= kernel.ports.available
    assert len(result.destinations) <= MAX_DESTINATIONS
    ratios = list(result.destinations.values())
    assert ratios == sorted(ratios, reverse=True)
    assert all(0 < ratio <= 1 for ratio in ratios)
    if ratios:
        assert ratios[0] == result.exhaustion.ratio


def by_state(used):
    states = Counter()
    for (_, state), count in used.items():
        states[state] += count
    return states


@quick
@given(st.lists(some_sockets(), max_size=40), kernels, st.integers(0, 12), st.randoms())
def test_the_order_of_sockets_changes_nothing(sockets, kernel, max_remotes, rng):
    expected = usage(*sockets, kernel=kernel, max_remotes=max_remotes)
    rng.shuffle(sockets)
    assert usage(*sockets, kernel=kernel, max_remotes=max_remotes) == expected


@quick
@given(st.sets(st.integers(1, 65535) | st.integers(9990, 10110)), kernels)
def test_udp_ratios_are_ratios(held, kernel):
    result = udp_exhaustion(held, kernel.ports)
    assert 0 <= result.ratio <= 1
    assert result.pinned + result.free == kernel.ports.available
