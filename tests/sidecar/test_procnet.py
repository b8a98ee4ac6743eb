"""The kernel's text files say exactly what sock_diag says, and what is cut or none of them is an error."""

import contextlib
import ipaddress
import itertools
import string
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar import procnet
from sidecar.model import AF_INET, AF_INET6, LocalPorts, Socket, SourceError, TcpState, make_flow
from tests.sidecar.dumps import DATA
from tests.sidecar.properties import examples

NET = DATA / "proc-kernel" / "net"

little_endian = pytest.mark.skipif(
    sys.byteorder == "big", reason="the captured files are a little-endian machine's"
)
quick = examples(200)


def lines_of(name):
    return (NET / name).read_bytes().splitlines(keepends=True)


def tcp(name, lines, aged_below=-1):
    return list(procnet.parse_tcp(name, lines, aged_below))


def udp(name, lines):
    return list(procnet.parse_udp_ports(name, lines))


def a_socket(local, local_port, remote, remote_port, state, *, aged=False):
    local, remote = (ipaddress.ip_address(address).packed for address in (local, remote))
    family = {4: AF_INET, 16: AF_INET6}[len(local)]
    return Socket(family, state, local_port, make_flow(local, remote, remote_port), aged)


@little_endian
def test_each_row_of_tcp_is_a_socket():
    sockets = tcp("tcp", lines_of("tcp"), aged_below=59_000)
    assert len(sockets) == len(lines_of("tcp")) - 1
    assert sockets[0] == a_socket("198.51.100.10", 443, "0.0.0.0", 0, TcpState.LISTEN)
    assert sockets[3] == a_socket("198.51.100.10", 443, "203.0.113.98", 50001, TcpState.SYN_RECV)
    assert sockets[12] == a_socket("203.0.113.1", 40081, "203.0.113.99", 443, TcpState.SYN_SENT)
    assert sockets[15] == a_socket("192.0.2.1", 40001, "198.51.100.10", 443, TcpState.TIME_WAIT, aged=True)
    assert sockets[20] == a_socket("192.0.2.1", 40051, "198.51.100.10", 443, TcpState.TIME_WAIT)


@little_endian
def test_each_row_of_tcp6_is_a_socket_with_mapped_addresses_as_they_stand():
    sockets = tcp("tcp6", lines_of("tcp6"))
    assert len(sockets) == len(lines_of("tcp6")) - 1
    assert sockets[0] == a_socket("::", 8080, "::", 0, TcpState.LISTEN)
    assert sockets[4] == a_socket("2001:db8::1", 40021, "2001:db8::10", 5432, TcpState.ESTABLISHED)
    assert sockets[8] == a_socket(
        "::ffff:192.0.2.1", 40031, "::ffff:198.51.100.10", 443, TcpState.ESTABLISHED
    )


def test_each_row_of_udp_is_a_local_port():
    assert udp("udp", lines_of("udp")) == [40201, 40203, 53]
    assert udp("udp6", lines_of("udp6")) == [40202, 8125]


# 0x1635 hundredths of a second are 56,850 ms.
@pytest.mark.parametrize(
    ("aged_below", "aged"), [(-1, False), (0, False), (56_849, False), (56_850, True), (59_000, True)]
)
def test_time_wait_is_aged_from_the_very_millisecond_on(aged_below, aged):
    sockets = tcp("tcp", lines_of("tcp"), aged_below)
    assert [socket.aged for socket in sockets if socket.local_port == 40001] == [aged]


def test_only_time_wait_ages():
    assert {socket.state for socket in tcp("tcp", lines_of("tcp"), 60_000) if socket.aged} == {6}


PARSERS = {"tcp": tcp, "tcp6": tcp, "udp": udp, "udp6": udp}


@pytest.mark.parametrize("name", PARSERS)
def test_a_table_without_sockets_is_no_error(name):
    assert PARSERS[name](name, lines_of(name)[:1]) == []


@pytest.mark.parametrize("name", PARSERS)
def test_a_table_cut_anywhere_is_an_error_unless_whole_lines_are_left(name):
    # Nothing in these files tells where they end: whole lines cannot be known to be too few.
    text = (NET / name).read_bytes()
    whole = PARSERS[name](name, lines_of(name))
    ends = {0, *itertools.accumulate(map(len, lines_of(name)))}
    for cut in range(len(text) + 1):
        lines = text[:cut].splitlines(keepends=True)
        if cut in ends and cut:
            assert PARSERS[name](name, lines) == whole[: len(lines) - 1]
        else:
            with pytest.raises(SourceError, match=f"^{name}: "):
                PARSERS[name](name, lines)


@pytest.mark.parametrize("name", ["tcp", "udp"])
@pytest.mark.parametrize("begin", range(1, 60))
def test_a_row_without_its_beginning_is_an_error_or_the_same_socket(name, begin):
    # The number of a row says nothing, so that its blanks and digits may be missing.
    heading, row = lines_of(name)[:2]
    whole = PARSERS[name](name, [heading, row])
    with contextlib.suppress(SourceError):
        assert PARSERS[name](name, [heading, row[begin:]]) == whole


ROW = (
    b"   0: 0A6433C6:01BB 010200C0:9C5F 01 00000000:00000000 00:00000000 00000000     0        0 47 1 0 20\n"
)
ROW_6 = ROW.replace(b"0A6433C6", b"0A6433C6" * 4).replace(b"010200C0", b"010200C0" * 4)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"0A6433C6:01BB", b"0A6433C6"),
        (b"0A6433C6:01BB", b"0A6433C6:"),
        (b"0A6433C6:01BB", b"0A6433C:01BB"),
        (b"0A6433C6:01BB", b"0A6433C6:1BB"),
        (b"0A6433C6:01BB", b"0A6433C6:001BB"),
        (b"0A6433C6:01BB", b"0A6433C6:01BG"),
        (b"0A6433C6:01BB", b"0G6433C6:01BB"),
        (b"0A6433C6:01BB", b"0A6433C6:-1BB"),
        (b"0A6433C6:01BB", b"0A6433C6:+1BB"),
        (b"0A6433C6:01BB", b"0A6433C6:1_BB"),
        (b"0A6433C6:01BB", b"-A6433C6:01BB"),
        (b"0A6433C6:01BB", b"0A6433C6:01BB:0"),
        (b"010200C0:9C5F", b"010200C0:-001"),
        (b"010200C0:9C5F", b"010200C0010200C0:9C5F"),
        (b"010200C0:9C5F", b"010200C0" * 4 + b":9C5F"),  # of another family than the local one
        (b" 01 ", b" 00 "),
        (b" 01 ", b" 0E "),  # no state of the kernel's, but a number that this program uses
        (b" 01 ", b" FF "),
        (b" 01 ", b" -1 "),
        (b" 01 ", b" XX "),
        (b" 01 ", b" "),
        (b" 01 00000000:00000000 00:00000000", b" 06 00000000:00000000 03"),
        (b" 01 00000000:00000000 00:00000000", b" 06 00000000:00000000 03:"),
        (b" 01 00000000:00000000 00:00000000", b" 06 00000000:00000000 03:0000X"),
    ],
)
def test_a_malformed_row_is_an_error_that_quotes_it(old, new):
    heading = lines_of("tcp")[0]
    assert ROW.count(old) == 1
    assert len(tcp("tcp", [heading, ROW])) == 1
    with pytest.raises(SourceError, match=r"^tcp: b'.*'; expected the row of a (TCP )?socket$"):
        tcp("tcp", [heading, ROW.replace(old, new)])


@pytest.mark.parametrize("port", [b"", b"1BB", b"-1BB", b"01BG", b"001BB"])
def test_a_malformed_row_of_udp_is_an_error_that_quotes_it(port):
    with pytest.raises(SourceError, match=r"^udp: b'.*'; expected the row of a UDP socket$"):
        udp("udp", [lines_of("udp")[0], ROW.replace(b":01BB", b":" + port)])


@pytest.mark.parametrize("columns", range(10))
def test_a_row_that_ends_before_its_inode_is_an_error(columns):
    row = b" ".join(ROW.split()[:columns]) + b"\n"
    with pytest.raises(SourceError, match="expected the row of a socket"):
        tcp("tcp", [lines_of("tcp")[0], row])


@pytest.mark.parametrize(
    "text",
    [b"", b"\n", b"sl\n", b"Permission denied\n", ROW, b"Inter-|   Receive\n", b"\x7fELF\n", b"sl  local\n"],
)
def test_what_does_not_begin_with_the_heading_is_an_error(text):
    with pytest.raises(SourceError, match=r"^tcp: .*expected (the heading of a socket table|a whole line)$"):
        tcp("tcp", text.splitlines(keepends=True))


def test_rows_are_yielded_while_they_are_read():
    # 65,000 sockets are never a list.
    rows = itertools.chain(lines_of("tcp")[:1], itertools.repeat(ROW))
    assert len(list(itertools.islice(procnet.parse_tcp("tcp", rows), 5))) == 5


lines = st.binary(max_size=60).map(lambda text: text + b"\n")
row_like = st.lists(
    st.sampled_from([*ROW.split(), *ROW_6.split(), b"06", b"0A", b"03:00001635", b"-1", b":", b"::", b""])
    | st.text("0123456789ABCDEFabcdef:+-_ x", max_size=14).map(str.encode),
    min_size=8,
    max_size=14,
).map(lambda columns: b" ".join(columns) + b"\n")


@quick
@given(st.sampled_from(sorted(PARSERS)), st.lists(lines | row_like, max_size=4), st.booleans())
def test_noise_is_a_source_error_or_sockets(name, noise, with_heading):
    noise = [lines_of(name)[0], *noise] if with_heading else noise
    with contextlib.suppress(SourceError):
        for found in PARSERS[name](name, noise):
            port = found if name.startswith("udp") else found.local_port
            assert 0 <= port < 1 << 16


endpoints = st.tuples(st.integers(0, (1 << 32) - 1), st.integers(0, 65535))


@quick
@given(endpoints, endpoints, st.sampled_from(TcpState), st.integers(0, 6000), st.integers(-1, 60_000))
def test_a_row_as_the_kernel_writes_it_is_read_back(local, remote, state, when, aged_below):
    def packed(number):
        return number.to_bytes(4, sys.byteorder)

    row = (
        f"{7:4d}: {local[0]:08X}:{local[1]:04X} {remote[0]:08X}:{remote[1]:04X} {state:02X}"
        f" 00000000:00000000 03:{when:08X} 00000000     0        0 0 3 0000000053a669ba\n"
    ).encode()
    (found,) = tcp("tcp", [lines_of("tcp")[0], row], aged_below)
    flow = make_flow(packed(local[0]), packed(remote[0]), remote[1])
    aged = state == TcpState.TIME_WAIT and 10 * when <= aged_below
    assert found == Socket(AF_INET, state, local[1], flow, aged)


# Settings.


@pytest.mark.parametrize(
    ("port_range", "reserved", "expected"),
    [
        ("32768\t60999\n", "\n", LocalPorts(32768, 60999)),
        ("32768\t60999\n", "", LocalPorts(32768, 60999)),
        ("1 65535", "", LocalPorts(1, 65535)),
        ("10000 10000", "", LocalPorts(10000, 10000)),
        ("10000 10099", "10005\n", LocalPorts(10000, 10099, frozenset({10005}))),
        ("10000 10099", "80,91-93,443\n", LocalPorts(10000, 10099, frozenset({80, 91, 92, 93, 443}))),
        ("10000 10099", "0-2,65535", LocalPorts(10000, 10099, frozenset({0, 1, 2, 65535}))),
        ("10000 10099", "7-7", LocalPorts(10000, 10099, frozenset({7}))),
    ],
)
def test_the_range_and_the_reserved_ports_are_read(port_range, reserved, expected):
    assert procnet.parse_local_ports(port_range, reserved) == expected


@pytest.mark.parametrize(
    "port_range",
    [
        "",
        "\n",
        "32768",
        "32768\t",
        "a b",
        "60999 32768",
        "0 60999",
        "1 65536",
        "-1 5",
        "1 2 3",
        "1-2",
        "1.5 7",
    ],
)
def test_a_range_that_is_none_is_an_error_that_quotes_it(port_range):
    with pytest.raises(SourceError, match=r"^ip_local_port_range: '.*'; expected two ports, low and high$"):
        procnet.parse_local_ports(port_range, "")


@pytest.mark.parametrize(
    "reserved", ["x", "80,x", "80 90", "90-80", "80-", "-5", "1-2-3", "65536", "1-65536", "80;90", "1.5"]
)
def test_reserved_ports_that_are_none_are_an_error_that_quotes_them(reserved):
    with pytest.raises(SourceError, match=r"^ip_local_reserved_ports: '.*'; expected ports and ranges$"):
        procnet.parse_local_ports("32768 60999", reserved)


def as_ranges(ports):
    """Write ports as the kernel does."""
    parts = []
    for port in sorted(ports):
        if parts and parts[-1][1] == port - 1:
            parts[-1][1] = port
        else:
            parts.append([port, port])
    return ",".join(f"{low}-{high}" if low < high else f"{low}" for low, high in parts) + "\n"


@quick
@given(
    st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(sorted),
    st.frozensets(st.integers(0, 65535) | st.integers(10000, 10040), max_size=30),
)
def test_what_the_kernel_writes_of_its_ports_is_read_back(ends, reserved):
    low, high = ends
    ports = procnet.parse_local_ports(f"{low}\t{high}\n", as_ranges(reserved))
    assert ports == LocalPorts(low, high, reserved)
    assert ports.available == sum(1 for port in range(low, high + 1) if port not in reserved)


texts = st.text(string.digits + " \t\n-,_+x.٣", max_size=12) | st.text(max_size=12)


@quick
@given(texts, texts)
@example("1 9" + "9" * 5000, "")
@example("1 9", "9" * 5000)
def test_noise_is_a_source_error_or_local_ports(port_range, reserved):
    with contextlib.suppress(SourceError):
        ports = procnet.parse_local_ports(port_range, reserved)
        assert 0 < ports.low <= ports.high < 1 << 16
        assert 0 <= ports.available <= ports.total == sum(map(ports.spans, range(1 << 16)))


# Counters.


def test_the_counters_of_a_group_are_read_by_name():
    with (NET / "snmp").open() as lines:
        counters = procnet.parse_counters("snmp", lines, "Tcp")
    assert counters["RtoMax"] == 120_000
    assert counters["MaxConn"] == -1
    assert {"ActiveOpens", "AttemptFails"} < set(counters)


def test_a_group_is_not_taken_for_one_whose_name_begins_alike():
    lines = ["Tcp: A\n", "Tcp: 1\n", "TcpExt: A\n", "TcpExt: 2\n"]
    assert procnet.parse_counters("x", lines, "Tcp") == {"A": 1}
    assert procnet.parse_counters("x", lines, "TcpExt") == {"A": 2}


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["Tcp: A B\n"],
        ["Tcp: A B\n", "Tcp: 1\n"],
        ["Tcp: A\n", "Tcp: 1 2\n"],
        ["Tcp: A\n", "Tcp: x\n"],
        ["Tcp: A\n", "Tcp: 1\n", "Tcp: 2\n"],
        ["Udp: A\n", "Udp: 1\n"],
    ],
)
def test_a_group_that_is_missing_or_torn_is_an_error(lines):
    with pytest.raises(SourceError, match=r"^snmp: \d lines of 'Tcp'; expected names and values$"):
        procnet.parse_counters("snmp", lines, "Tcp")


@pytest.mark.parametrize("name", ["snmp", "netstat"])
def test_counters_cut_anywhere_are_an_error_or_the_same_but_for_a_cut_number(name):
    prefix = {"snmp": "Tcp", "netstat": "TcpExt"}[name]
    text = (NET / name).read_text()
    whole = procnet.parse_counters(name, text.splitlines(keepends=True), prefix)
    wanted = {"snmp": ["ActiveOpens", "AttemptFails"], "netstat": ["TCPTimeWaitOverflow"]}[name]
    for cut in range(len(text)):
        with contextlib.suppress(SourceError):
            counters = procnet.parse_counters(name, text[:cut].splitlines(keepends=True), prefix)
            assert counters.keys() == whole.keys()
            assert [counters[key] for key in wanted] == [whole[key] for key in wanted]


@quick
@given(st.lists(st.sampled_from(["Tcp: A B", "Tcp: 1 2", "Tcp: ", "TcpExt: A"]) | st.text(max_size=20)))
def test_noise_is_a_source_error_or_counters(lines):
    with contextlib.suppress(SourceError):
        assert all(isinstance(value, int) for value in procnet.parse_counters("x", lines, "Tcp").values())
