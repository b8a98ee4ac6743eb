"""The shapes between sources and metrics: ports, flows, and the counting of rows."""

import ipaddress
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from sidecar.model import (
    AF_INET,
    AF_INET6,
    AGED_TIME_WAIT,
    FLOW_SIZE,
    STATE_NAMES,
    STATE_SLOTS,
    KernelSettings,
    LocalPorts,
    TcpState,
    flow_remote,
    is_mapped,
    make_flow,
    unmap,
)
from tests.sidecar.properties import examples
from tests.sidecar.sockets import connections, counted, endpoint, sock

quick = examples(100)


def flow(local, remote):
    (local, _), (remote, port) = endpoint(f"{local}:0"), endpoint(remote)
    return make_flow(local, remote, port)


def test_the_default_range_of_a_kernel_has_28232_ports():
    assert LocalPorts(32768, 60999).total == 28232


def test_reserved_ports_are_spanned_and_not_available():
    ports = LocalPorts(100, 109, frozenset({99, 100, 105, 110}))
    assert (ports.total, ports.available) == (10, 8)
    assert [port for port in range(1 << 16) if ports.usable[port]] == [101, 102, 103, 104, 106, 107, 108, 109]
    assert [port for port in range(1 << 16) if ports.spans(port)] == list(range(100, 110))


def test_a_range_may_have_no_port_that_is_available():
    assert LocalPorts(5, 6, frozenset({5, 6})).available == 0


def test_the_first_and_the_last_port_are_ports():
    assert LocalPorts(1, 65535).available == 65535
    assert len(LocalPorts(1, 65535).usable) == 65536


def test_states_have_the_kernels_numbers_and_each_slot_has_a_name_or_no_use():
    assert [state.name for state in TcpState][:11] == [
        "ESTABLISHED",
        "SYN_SENT",
        "SYN_RECV",
        "FIN_WAIT1",
        "FIN_WAIT2",
        "TIME_WAIT",
        "CLOSE",
        "CLOSE_WAIT",
        "LAST_ACK",
        "LISTEN",
        "CLOSING",
    ]
    assert STATE_NAMES[TcpState.NEW_SYN_RECV] == "SYN_RECV"
    assert STATE_NAMES[AGED_TIME_WAIT] == "TIME_WAIT"
    assert AGED_TIME_WAIT not in set(TcpState)
    assert max(STATE_NAMES) < STATE_SLOTS


def test_nothing_ages_unless_it_is_reused():
    ports = LocalPorts(1, 2)
    assert KernelSettings(ports).aged_below == -1
    assert KernelSettings(ports, time_wait_reuse=1, time_wait_reuse_delay=0).aged_below == 60_000


packed = st.binary(min_size=4, max_size=4)


@quick
@given(packed, packed, st.integers(0, 65535))
def test_an_ipv4_flow_is_that_of_its_mapped_form(local, remote, port):
    plain = make_flow(local, remote, port)
    mapped = make_flow(
        *(ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + part).packed for part in (local, remote)), port
    )
    assert len(plain) == len(mapped) == FLOW_SIZE
    assert is_mapped(mapped)
    assert unmap(mapped) == plain
    assert flow_remote(plain) == port.to_bytes(2, "big") + remote + bytes(12)


def test_other_ipv6_flows_are_not_mapped():
    for address in ("2001:db8::1", "::", "::1", "::192.0.2.1", "64:ff9b::192.0.2.1", "::ffff:0:192.0.2.1"):
        assert not is_mapped(flow("[::ffff:192.0.2.1]", f"[{address}]:443"))


def test_a_connection_is_served_whether_its_listener_comes_first_or_last():
    listener, client = sock("0.0.0.0:8080", state="LISTEN"), sock("192.0.2.1:8080", "203.0.113.9:50000")
    for sockets in ([listener, client], [client, listener]):
        result = counted(*sockets)
        assert result.listening == {8080}
        assert result.served == Counter({TcpState.LISTEN: 1, TcpState.ESTABLISHED: 1})
        assert result.flows == {}


def test_a_listener_of_one_family_serves_the_other_too():
    result = counted(sock("[::]:8080", state="LISTEN"), sock("192.0.2.1:8080", "203.0.113.9:50000"))
    assert result.served[TcpState.ESTABLISHED] == 1


def test_two_listeners_on_one_port_are_two_sockets_and_one_port():
    result = counted(sock("192.0.2.1:80", state="LISTEN"), sock("192.0.2.2:80", state="LISTEN"))
    assert result.listening == {80}
    assert result.served[TcpState.LISTEN] == 2


def test_bound_sockets_are_ports_and_no_connections():
    result = counted(sock("192.0.2.1:40000", state="CLOSE"), sock("192.0.2.1:40001", state="BOUND_INACTIVE"))
    assert result.bound == {40000, 40001}
    assert (result.flows, result.served) == ({}, {})


def test_mapped_and_plain_connections_to_one_remote_are_counted_together():
    plain = connections(2, "198.51.100.10:443", first=40000)
    mapped = connections(3, "[::ffff:198.51.100.10]:443", local="[::ffff:192.0.2.1]", first=40100)
    for sockets in (plain + mapped, mapped + plain):
        assert counted(*sockets).flows == {
            (True, AF_INET, TcpState.ESTABLISHED): {flow("192.0.2.1", "198.51.100.10:443"): 5}
        }


def test_mapped_connections_leave_the_other_ipv6_ones_where_they_are():
    result = counted(
        sock("[::ffff:192.0.2.1]:40000", "[::ffff:198.51.100.10]:443"),
        sock("[2001:db8::1]:40000", "[2001:db8::10]:443"),
    )
    assert set(result.flows) == {(True, AF_INET, 1), (True, AF_INET6, 1)}


def test_connections_from_fixed_ports_are_kept_apart():
    remote = "198.51.100.10:443"
    result = counted(sock("192.0.2.1:900", remote), sock("192.0.2.1:40000", remote))
    assert {key: sum(counts.values()) for key, counts in result.flows.items()} == {
        (False, AF_INET, 1): 1,
        (True, AF_INET, 1): 1,
    }


def test_aged_time_wait_is_a_state_of_its_own():
    result = counted(
        *connections(2, "198.51.100.10:443", "TIME_WAIT", first=40000, aged=True),
        *connections(1, "198.51.100.10:443", "TIME_WAIT", first=40010),
    )
    assert {state: sum(counts.values()) for (_, _, state), counts in result.flows.items()} == {
        TcpState.TIME_WAIT: 1,
        AGED_TIME_WAIT: 2,
    }
