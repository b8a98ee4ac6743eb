"""A dump is counted exactly or it is an error: captured ones, cut ones, generated ones, and noise."""

import contextlib
import errno
import ipaddress
import itertools
import struct
import sys
import types
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar import sockdiag
from sidecar.model import (
    AF_INET,
    AF_INET6,
    AGED_TIME_WAIT,
    LocalPorts,
    Socket,
    SourceError,
    TcpSockets,
    TcpState,
    count_sockets,
    make_flow,
)
from sidecar.sockdiag import DumpInterruptedError, TcpDump, UdpDump
from tests.sidecar import dumps
from tests.sidecar.properties import examples

PORTS = LocalPorts(32768, 60999, frozenset([*range(40100, 40110), 41000]))
AGED_BELOW = 59_000  # milliseconds: what tcp_tw_reuse_delay=1000 leaves of the 60,000
BUFFER_SIZE = 1 << 16


def packed(address):
    return ipaddress.ip_address(address).packed


def flow(local, remote, port):
    return make_flow(packed(local), packed(remote), port)


HTTPS = flow("192.0.2.1", "198.51.100.10", 443)
POSTGRES = flow("2001:db8::1", "2001:db8::10", 5432)

# What tests/sidecar/capture.py had opened.
CAPTURED = TcpSockets(
    listening={443, 5432, 8080, 50000},
    bound={40091, 40092},
    served=Counter(
        {
            TcpState.LISTEN: 4,
            TcpState.ESTABLISHED: 10,
            TcpState.SYN_RECV: 1,
            TcpState.CLOSE_WAIT: 1,
        }
    ),
    flows={
        (True, AF_INET, TcpState.ESTABLISHED): {
            HTTPS: 4,  # one of them through an IPv4-mapped IPv6 socket
            flow("192.0.2.2", "198.51.100.10", 443): 1,
            flow("192.0.2.1", "198.51.100.20", 8080): 1,
            flow("192.0.2.1", "198.51.100.30", 50000): 1,
        },
        (False, AF_INET, TcpState.ESTABLISHED): {HTTPS: 1},
        (True, AF_INET, TcpState.SYN_SENT): {flow("203.0.113.1", "203.0.113.99", 443): 1},
        (True, AF_INET, TcpState.FIN_WAIT2): {HTTPS: 1},
        (True, AF_INET, TcpState.TIME_WAIT): {HTTPS: 10},
        (True, AF_INET, AGED_TIME_WAIT): {HTTPS: 1},
        (True, AF_INET6, TcpState.ESTABLISHED): {POSTGRES: 2},
        (True, AF_INET6, TcpState.TIME_WAIT): {POSTGRES: 1},
    },
)


STALE = (dumps.socket_message(TcpState.ESTABLISHED, 55555, 5555) * (BUFFER_SIZE // 96 + 1))[:BUFFER_SIZE]


def exactly(datagram):
    """A buffer of just the datagram."""
    return datagram


def in_a_used_buffer(datagram):
    """The buffer of `SockDiagSource`: bigger, with what an earlier datagram left in it."""
    return datagram + STALE[len(datagram) :]


BUFFERS = pytest.mark.parametrize("place", [exactly, in_a_used_buffer])


def feed(add, datagrams, place=exactly):
    """Return what each datagram was answered with."""
    return [add(place(datagram), len(datagram)) for datagram in datagrams]


def count(others, listeners=(), *, place=exactly, ports=PORTS, aged_below=AGED_BELOW):
    dump = TcpDump(ports, aged_below)
    feed(dump.add_listeners, listeners, place)
    feed(dump.add_others, others, place)
    return dump.result()


# Captured dumps, whole.


@BUFFERS
@pytest.mark.parametrize("privileges", ["", "-net-admin"])
def test_a_captured_dump_is_counted_exactly(privileges, place):
    listeners, others = dumps.load(f"tcp-listeners{privileges}"), dumps.load(f"tcp-others{privileges}")
    assert count(others, listeners, place=place) == CAPTURED


@BUFFERS
@pytest.mark.parametrize("name", ["tcp-listeners", "tcp-others", "tcp-listeners-net-admin"])
def test_a_dump_is_complete_with_its_last_datagram_and_not_before(name, place):
    dump = TcpDump(PORTS)
    add = dump.add_listeners if "listeners" in name else dump.add_others
    assert feed(add, dumps.load(name), place) == [False] * (len(dumps.load(name)) - 1) + [True]


def test_time_wait_is_never_aged_where_its_ports_are_not_reused():
    sockets = count(dumps.load("tcp-others"), dumps.load("tcp-listeners"), aged_below=-1)
    assert sockets.flows[True, AF_INET, TcpState.TIME_WAIT] == {HTTPS: 11}
    assert (True, AF_INET, AGED_TIME_WAIT) not in sockets.flows


def test_without_their_listeners_connections_are_counted_by_remote():
    sockets = count(dumps.load("tcp-others"))
    assert sockets.served == {}
    assert sum(sum(counts.values()) for counts in sockets.flows.values()) == 36
    # The server's side of an IPv4 client of a dual-stack listener is IPv4-mapped.
    mapped = flow("198.51.100.20", "192.0.2.1", 40032)
    assert sockets.flows[False, AF_INET, TcpState.ESTABLISHED][mapped] == 1


@BUFFERS
@pytest.mark.parametrize("privileges", ["", "-net-admin"])
@pytest.mark.parametrize(
    ("family", "held"), [("ipv4", {53, 40201, 40203}), ("ipv6", {8125, 40202})], ids=["ipv4", "ipv6"]
)
def test_a_captured_dump_of_udp_gives_its_local_ports(family, held, privileges, place):
    dump = UdpDump()
    assert feed(dump.add, dumps.load(f"udp-{family}{privileges}"), place) == [False, True]
    assert dump.ports == held


def test_the_captures_have_every_size_of_message_that_the_kernel_makes():
    sizes = {
        name: {len(message) for datagram in dumps.load(name, "little") for message in dumps.split(datagram)}
        for name in ("tcp-listeners", "tcp-others", "tcp-listeners-net-admin", "tcp-others-net-admin")
    }
    assert sizes == {
        "tcp-listeners": {116, 124, 20},
        "tcp-others": {88, 116, 124, 20},
        "tcp-listeners-net-admin": {124, 132, 20},
        "tcp-others-net-admin": {96, 124, 132, 20},
    }


# Captured dumps, cut.


@BUFFERS
@pytest.mark.parametrize(
    "name", ["tcp-listeners", "tcp-listeners-net-admin", "tcp-others", "tcp-others-net-admin"]
)
def test_a_dump_cut_anywhere_is_an_error_or_waits_for_the_rest(name, place):
    dump = TcpDump(PORTS, AGED_BELOW)
    add = dump.add_listeners if "listeners" in name else dump.add_others
    for datagram in dumps.load(name):
        ends = dumps.boundaries(datagram)
        for cut in range(len(datagram)):
            if cut in ends:
                assert feed(add, [datagram[:cut]], place) == [False]  # which is no answer yet
            else:
                with pytest.raises(SourceError, match=r"^sock_diag: "):
                    feed(add, [datagram[:cut]], place)


@pytest.mark.parametrize("name", ["tcp-others", "tcp-others-net-admin"])
def test_what_follows_a_cut_in_the_buffer_is_not_counted(name):
    # The worst case: behind the cut lies the very rest of the datagram, left by an earlier scrape.
    for datagram in dumps.load(name):
        ends = dumps.boundaries(datagram)
        broken = TcpDump(PORTS)
        for cut in range(len(datagram)):
            if cut in ends:
                dump = TcpDump(PORTS)
                assert dump.add_others(datagram, cut) is False
                assert dump.result() == count([datagram[:cut]], aged_below=-1)
            else:
                with pytest.raises(SourceError, match=r"^sock_diag: "):
                    broken.add_others(datagram, cut)


@BUFFERS
@pytest.mark.parametrize("name", ["udp-ipv4", "udp-ipv6", "udp-ipv6-net-admin"])
def test_a_dump_of_udp_cut_anywhere_is_an_error_or_waits_for_the_rest(name, place):
    for datagram in dumps.load(name):
        ends = set(dumps.boundaries(datagram))
        for cut in range(len(datagram)):
            if cut in ends:
                assert UdpDump().add(place(datagram[:cut]), cut) is False
            else:
                with pytest.raises(SourceError, match=r"^sock_diag: "):
                    UdpDump().add(place(datagram[:cut]), cut)


# What the kernel says besides sockets. All of it holds for the three ways to read a datagram.

READERS = {
    "listeners": lambda: TcpDump(PORTS).add_listeners,
    "others": lambda: TcpDump(PORTS).add_others,
    "udp": lambda: UdpDump().add,
}
KINDS = {"listeners": dumps.GETSOCK, "others": dumps.GETSOCK, "udp": dumps.BY_FAMILY}


@pytest.fixture(params=READERS)
def reader(request):
    return request.param


def read(reader, datagram, place):
    return READERS[reader]()(place(datagram), len(datagram))


def a_socket(reader, **changes):
    state = TcpState.LISTEN if reader == "listeners" else TcpState.ESTABLISHED
    return dumps.socket_message(state, 40000, 443, kind=KINDS[reader], **changes)


@BUFFERS
def test_done_ends_a_dump(reader, place):
    assert read(reader, a_socket(reader) + dumps.done(), place) is True


@BUFFERS
@pytest.mark.parametrize("code", [errno.ENOENT, errno.ENOMEM, errno.EPERM])
def test_done_with_an_error_is_that_error(reader, code, place):
    with pytest.raises(SourceError, match=errno.errorcode[code]):
        read(reader, a_socket(reader) + dumps.done(-code), place)


@BUFFERS
def test_an_error_message_is_that_error(reader, place):
    with pytest.raises(SourceError, match=r"EOPNOTSUPP|ENOTSUP"):
        read(reader, dumps.error(-errno.EOPNOTSUPP), place)


def test_an_errno_without_a_name_is_told_as_a_number(reader):
    with pytest.raises(SourceError, match="32000"):
        read(reader, dumps.done(-32000), exactly)


def test_an_acknowledgement_is_no_end_of_a_dump(reader):
    with pytest.raises(SourceError, match="type 2"):
        read(reader, dumps.error(0), exactly)


@pytest.mark.parametrize(("name", "code"), [("unknown-protocol", "ENOENT"), ("short-request", "EINVAL")])
def test_a_captured_refusal_is_an_error_that_names_it(reader, name, code):
    (datagram,) = dumps.load(name)
    with pytest.raises(SourceError, match=code):
        read(reader, datagram, exactly)


@BUFFERS
@pytest.mark.parametrize("where", ["socket", "done", "failed done"])
def test_an_interrupted_dump_is_told_apart_wherever_the_flag_stands(reader, where, place):
    flags = dumps.MULTI | dumps.DUMP_INTR
    datagram = {
        "socket": a_socket(reader) + a_socket(reader, flags=flags) + dumps.done(),
        "done": a_socket(reader) + dumps.done(flags=flags),
        "failed done": a_socket(reader) + dumps.done(-errno.ENOMEM, flags=flags),
    }[where]
    with pytest.raises(DumpInterruptedError):
        read(reader, datagram, place)


@BUFFERS
@pytest.mark.parametrize("length", [0, 1, 15, 16, 71, 87, 1 << 16, (1 << 32) - 1])
def test_a_socket_of_an_impossible_length_is_an_error(reader, length, place):
    datagram = struct.pack("=I", length) + a_socket(reader)[4:]
    with pytest.raises(SourceError):
        read(reader, datagram + dumps.done(), place)


@BUFFERS
@pytest.mark.parametrize("size", range(16, 88, 4))
def test_a_socket_shorter_than_its_struct_is_an_error_and_not_read_from_the_next_one(reader, size, place):
    short = dumps.message(KINDS[reader], bytes(size - 16))
    assert len(short) == size
    with pytest.raises(SourceError, match=f"and {size} bytes"):
        read(reader, short + a_socket(reader) + dumps.done(), place)


@BUFFERS
@pytest.mark.parametrize("length", [0, 4, 16, 19, 21, 4096, (1 << 32) - 1])
def test_done_of_an_impossible_length_is_an_error(reader, length, place):
    with pytest.raises(SourceError, match="control message of"):
        read(reader, struct.pack("=I", length) + dumps.done()[4:], place)


@BUFFERS
@pytest.mark.parametrize("kind", [0, dumps.NOOP, 4, 16, 19, 21, 0xFFFF])
def test_a_message_of_another_type_is_an_error_that_names_it(reader, kind, place):
    with pytest.raises(SourceError, match=f"type {kind} "):
        read(reader, a_socket(reader) + dumps.message(kind, bytes(100)) + dumps.done(), place)


def test_an_answer_to_the_other_request_is_an_error(reader):
    other = dumps.BY_FAMILY + dumps.GETSOCK - KINDS[reader]
    with pytest.raises(SourceError, match=f"type {other} "):
        read(reader, dumps.socket_message(TcpState.LISTEN, 80, kind=other), exactly)


@BUFFERS
@pytest.mark.parametrize("family", [0, 1, 3, 9, 11, 255])
def test_a_tcp_socket_of_an_unknown_family_is_an_error(family, place):
    datagram = dumps.socket_message(TcpState.ESTABLISHED, 40000, 443, family=family)
    with pytest.raises(SourceError, match=f"family {family}"):
        read("others", datagram, place)


@pytest.mark.parametrize("state", [0, 14, 15, 16, 99, 255])
def test_a_tcp_socket_of_an_unknown_state_is_an_error(state):
    with pytest.raises(SourceError, match=f"state {state}"):
        read("others", dumps.socket_message(state, 40000, 443), exactly)


@pytest.mark.parametrize("state", [0, 14, 15, 16, 99, 255])
def test_a_served_tcp_socket_of_an_unknown_state_is_an_error_too(state):
    dump = TcpDump(PORTS)
    feed(dump.add_listeners, [dumps.socket_message(TcpState.LISTEN, 8080) + dumps.done()])
    with pytest.raises(SourceError, match=f"state {state}"):
        feed(dump.add_others, [dumps.socket_message(state, 8080, 443)])


@pytest.mark.parametrize("expires", [AGED_BELOW - 1, AGED_BELOW, AGED_BELOW + 1])
def test_time_wait_is_aged_from_the_very_millisecond_on(expires):
    sockets = count([dumps.socket_message(TcpState.TIME_WAIT, 40000, 443, expires=expires)])
    state = AGED_TIME_WAIT if expires <= AGED_BELOW else TcpState.TIME_WAIT
    assert list(sockets.flows) == [(True, AF_INET, state)]


@pytest.mark.parametrize("state", set(TcpState) - {TcpState.CLOSE, TcpState.TIME_WAIT})
def test_only_time_wait_ages(state):
    sockets = count([dumps.socket_message(state, 40000, 443, expires=0)])
    assert sockets.flows == {(True, AF_INET, state): {HTTPS: 1}}


@pytest.mark.parametrize(
    ("port", "ephemeral"),
    [
        (32767, False),
        (32768, True),
        (60999, True),
        (61000, False),
        (40100, False),
        (41000, False),
        (1, False),
    ],
)
def test_a_local_port_is_told_to_be_one_that_the_kernel_hands_out(port, ephemeral):
    sockets = count([dumps.socket_message(TcpState.ESTABLISHED, port, 443)])
    assert sockets.flows == {(ephemeral, AF_INET, TcpState.ESTABLISHED): {HTTPS: 1}}


# Layouts and requests.


def test_the_sizes_of_the_kernels_structs_are_pinned():
    assert sockdiag._HEADER.size == 16  # struct nlmsghdr
    assert sockdiag._REQUEST.size == 60  # struct inet_diag_req
    assert sockdiag._REQUEST_V2.size == 56  # struct inet_diag_req_v2
    assert sockdiag._RECORD.size == 16 + 72  # struct nlmsghdr, struct inet_diag_msg


def test_the_state_masks_cover_all_states_once():
    assert sockdiag.LISTENERS == 0x400
    assert sockdiag.NOT_LISTENERS == 0x3BFE
    states = sockdiag.LISTENERS | sockdiag.NOT_LISTENERS
    assert [state for state in range(32) if states >> state & 1] == [int(state) for state in TcpState]


NO_ADDRESSES = bytes(48)  # struct inet_diag_sockid
REQUESTS = {
    "tcp listeners": (
        lambda module: module.tcp_request(module.LISTENERS),
        #        length    type  flags  seq       pid       family..   sockid        states    dbs
        {
            "little": ("4c000000 1200 0103 00000000 00000000 00000000", NO_ADDRESSES, "00040000 00000000"),
            "big": ("0000004c 0012 0301 00000000 00000000 00000000", NO_ADDRESSES, "00000400 00000000"),
        },
    ),
    "tcp others": (
        lambda module: module.tcp_request(module.NOT_LISTENERS),
        {
            "little": ("4c000000 1200 0103 00000000 00000000 00000000", NO_ADDRESSES, "fe3b0000 00000000"),
            "big": ("0000004c 0012 0301 00000000 00000000 00000000", NO_ADDRESSES, "00003bfe 00000000"),
        },
    ),
    "udp ipv4": (
        lambda module: module.udp_request(AF_INET),
        #                                                     family, protocol, ext, pad, states
        {
            "little": ("48000000 1400 0103 00000000 00000000 02110000 ffffffff", NO_ADDRESSES, ""),
            "big": ("00000048 0014 0301 00000000 00000000 02110000 ffffffff", NO_ADDRESSES, ""),
        },
    ),
    "udp ipv6": (
        lambda module: module.udp_request(AF_INET6),
        {
            "little": ("48000000 1400 0103 00000000 00000000 0a110000 ffffffff", NO_ADDRESSES, ""),
            "big": ("00000048 0014 0301 00000000 00000000 0a110000 ffffffff", NO_ADDRESSES, ""),
        },
    ),
}


def in_byte_order(order):
    """Return the module as it is on a machine of this byte order, of which ``sys`` and ``struct`` tell it."""
    source = Path(sockdiag.__file__).read_text(encoding="utf-8")
    assert source.count('struct.Struct("=') == source.count("struct.Struct(") > 0
    source = source.replace("import sys\n", "")
    source = source.replace('struct.Struct("=', f'struct.Struct("{dumps._PREFIX[order]}')
    module = types.ModuleType(f"sockdiag_{order}")
    module.sys = types.SimpleNamespace(byteorder=order)
    exec(compile(source, sockdiag.__file__, "exec"), module.__dict__)
    return module


@pytest.fixture(params=["little", "big"])
def order(request):
    return request.param


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_is_these_bytes(name, order):
    request, expected = REQUESTS[name]
    head, addresses, tail = expected[order]
    assert request(in_byte_order(order)) == bytes.fromhex(head) + addresses + bytes.fromhex(tail)


@pytest.mark.parametrize("name", REQUESTS)
def test_this_machine_sends_the_request_of_its_byte_order(name):
    request, _ = REQUESTS[name]
    assert request(sockdiag) == request(in_byte_order(sys.byteorder))


def test_dumps_are_read_in_either_byte_order(order):
    dump = in_byte_order(order).TcpDump(PORTS, AGED_BELOW)
    assert feed(dump.add_listeners, dumps.load("tcp-listeners", order)) == [False, True]
    assert feed(dump.add_others, dumps.load("tcp-others", order)) == [False, False, True]
    assert dump.result() == CAPTURED


def test_udp_dumps_are_read_in_either_byte_order(order):
    dump = in_byte_order(order).UdpDump()
    feed(dump.add, dumps.load("udp-ipv4", order))
    assert dump.ports == {53, 40201, 40203}


def test_an_error_is_read_in_either_byte_order(order):
    (datagram,) = dumps.load("short-request", order)
    with pytest.raises(SourceError, match="EINVAL"):
        in_byte_order(order).TcpDump(PORTS).add_others(datagram, len(datagram))


# Properties.

quick = examples(200)

addresses = st.sampled_from(["192.0.2.1", "192.0.2.2", "127.0.0.1", "198.51.100.10", "255.255.255.255"])
addresses_6 = st.sampled_from(["::", "::1", "2001:db8::1", "2001:db8::ffff:c000:201"]) | addresses.map(
    "::ffff:{}".format
)
pairs = st.tuples(addresses, addresses) | st.tuples(addresses_6, addresses_6)
local_ports = st.sampled_from([80, 443, 8080, 32767, 32768, 40000, 40100, 60999, 61000]) | st.integers(
    1, 65535
)
connections = st.tuples(
    st.sampled_from([state for state in TcpState if state not in (TcpState.LISTEN, TcpState.BOUND_INACTIVE)]),
    local_ports,
    st.integers(0, 65535),
    pairs,
    st.sampled_from([0, AGED_BELOW, AGED_BELOW + 1, 60_000]),
    st.integers(0, 11).map(lambda words: bytes(4 * words)),
)
noise = st.binary(max_size=400)
bytes_like_messages = st.lists(
    st.tuples(
        st.sampled_from([0, 2, 3, 18, 20, 16]),
        st.sampled_from([0, 2, 0x10, 0x12]),
        st.integers(-4, 200),
        st.binary(max_size=120),
    ).map(lambda parts: dumps.message(parts[0], parts[3], parts[1], max(0, 16 + parts[2]))),
    max_size=5,
).map(b"".join)


def messages(sockets):
    return [
        dumps.socket_message(
            state,
            local_port,
            remote_port,
            packed(local),
            packed(remote),
            expires=expires,
            attributes=attributes,
        )
        for state, local_port, remote_port, (local, remote), expires, attributes in sockets
    ]


def naively(listeners, sockets):
    """Count as a reader of DESIGN would, one socket after the other, addresses as text."""
    expected = TcpSockets(listening=set(listeners))
    if listeners:
        expected.served[TcpState.LISTEN] = len(listeners)
    for state, local_port, remote_port, (local, remote), expires, _ in sockets:
        slot = AGED_TIME_WAIT if state == TcpState.TIME_WAIT and expires <= AGED_BELOW else state
        if state == TcpState.CLOSE:
            expected.bound.add(local_port)
        elif local_port in expected.listening:
            expected.served[slot] += 1
        else:
            local, remote = (
                address.removeprefix("::ffff:") if remote.startswith("::ffff:") and "." in remote else address
                for address in (local, remote)
            )
            if ":" in local and "." in remote:  # the other end of a mapped socket, cut to four bytes
                local = str(ipaddress.IPv4Address(packed(local)[-4:]))
            ephemeral = 32768 <= local_port <= 60999 and local_port not in PORTS.reserved
            key = (ephemeral, AF_INET6 if ":" in remote else AF_INET, slot)
            counts = expected.flows.setdefault(key, {})
            name = flow(local, remote, remote_port)
            counts[name] = counts.get(name, 0) + 1
    return expected


def in_datagrams(parts, cuts):
    """Split messages into datagrams at some of their ends."""
    edges = sorted({0, len(parts), *(cut % (len(parts) + 1) for cut in cuts)})
    return [b"".join(parts[start:end]) for start, end in itertools.pairwise(edges)]


@quick
@given(st.lists(local_ports, max_size=4), st.lists(connections, max_size=12), st.lists(st.integers(0, 99)))
def test_a_generated_dump_is_counted_like_a_naive_count(listeners, sockets, cuts):
    heard = [dumps.socket_message(TcpState.LISTEN, port, remote=bytes(4)) for port in listeners]
    result = count(
        in_datagrams([*messages(sockets), dumps.done()], cuts),
        in_datagrams([*heard, dumps.done()], cuts),
        place=in_a_used_buffer,
    )
    assert result == naively(listeners, sockets)


@quick
@given(st.lists(local_ports, max_size=4), st.lists(connections, max_size=12))
def test_a_dump_and_rows_of_the_same_sockets_are_counted_alike(listeners, sockets):
    heard = [dumps.socket_message(TcpState.LISTEN, port, remote=bytes(4)) for port in listeners]
    rows = [
        Socket(
            AF_INET6 if ":" in local else AF_INET,
            state,
            local_port,
            flow(local, remote, remote_port),
            aged=state == TcpState.TIME_WAIT and expires <= AGED_BELOW,
        )
        for state, local_port, remote_port, (local, remote), expires, _ in sockets
    ]
    rows += [Socket(AF_INET, TcpState.LISTEN, port, make_flow(bytes(4), bytes(4), 0)) for port in listeners]
    assert count(messages(sockets), heard) == count_sockets(rows, PORTS)


@quick
@given(
    noise | bytes_like_messages,
    st.sampled_from(sorted(READERS)),
    st.sampled_from([exactly, in_a_used_buffer]),
)
@example(b"", "others", exactly)
def test_noise_is_a_source_error_or_an_answer_and_never_hangs(noise, reader, place):
    with contextlib.suppress(SourceError):
        assert read(reader, noise, place) in (True, False)


@quick
@given(st.data())
def test_a_flipped_byte_is_a_source_error_or_an_answer_and_never_hangs(data):
    datagram = bytearray(dumps.load("tcp-others")[0])
    for _ in range(data.draw(st.integers(1, 3))):
        datagram[data.draw(st.integers(0, len(datagram) - 1))] = data.draw(st.integers(0, 255))
    dump = TcpDump(PORTS, AGED_BELOW)
    with contextlib.suppress(SourceError):
        assert dump.add_others(datagram, len(datagram)) in (True, False)
        assert isinstance(dump.result(), TcpSockets)
