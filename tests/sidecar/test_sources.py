"""Each source tells of the same sockets alike, and an answer that is torn or missing is an error."""

import collections
import contextlib
import dataclasses
import shutil
import socket
import struct
import sys
import types

import psutil
import pytest

from sidecar import sockdiag, sources
from sidecar.kernel import read_settings
from sidecar.model import (
    AF_INET,
    AF_INET6,
    AGED_TIME_WAIT,
    KernelSettings,
    SourceError,
    TcpState,
    count_sockets,
)
from sidecar.sources import ProcSource, PsutilSource, SockDiagSource
from tests.sidecar import dumps
from tests.sidecar.dumps import DATA
from tests.sidecar.test_procnet import little_endian
from tests.sidecar.test_sockdiag import CAPTURED, HTTPS, flow

KERNEL = read_settings(DATA / "proc-kernel")
LISTENERS, OTHERS = dumps.load("tcp-listeners"), dumps.load("tcp-others")
UDP, UDP_6 = dumps.load("udp-ipv4"), dumps.load("udp-ipv6")
INTERRUPTED = [dumps.done(flags=dumps.MULTI | dumps.DUMP_INTR)]


class FakeKernel:
    """Opens sockets that answer one request each, in the order given, and notes what happens to them.

    An answer is a list of datagrams and exceptions; when it ends, the kernel is silent.
    """

    def __init__(self, *answers):
        self.answers = iter(answers)
        self.requests = []
        self.open = 0

    def connect(self):
        self.open += 1
        return FakeSocket(self, iter(next(self.answers)))


class FakeSocket:
    def __init__(self, kernel, answer):
        self.kernel = kernel
        self.answer = answer

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kernel.open -= 1

    def send(self, request):
        self.kernel.requests.append(bytes(request))

    def recv_into(self, buffer, size, flags):
        assert (size, flags) == (0, socket.MSG_TRUNC)
        datagram = next(self.answer, BlockingIOError(11, "Resource temporarily unavailable"))
        if isinstance(datagram, Exception):
            raise datagram
        # As with MSG_TRUNC: what does not fit is cut off, and counted.
        fitting = datagram[: len(buffer)]
        buffer[: len(fitting)] = fitting
        return len(datagram)


def read(kernel, settings=KERNEL):
    return SockDiagSource(kernel.connect).tcp(settings)


# sock_diag.


def test_listeners_are_asked_for_first_and_then_the_others():
    kernel = FakeKernel(LISTENERS, OTHERS)
    assert read(kernel) == CAPTURED
    assert kernel.requests == [
        sockdiag.tcp_request(sockdiag.LISTENERS),
        sockdiag.tcp_request(sockdiag.NOT_LISTENERS),
    ]
    assert kernel.open == 0


def test_udp_is_asked_for_family_by_family():
    kernel = FakeKernel(UDP, UDP_6)
    assert SockDiagSource(kernel.connect).udp_ports() == {53, 8125, 40201, 40202, 40203}
    assert kernel.requests == [sockdiag.udp_request(AF_INET), sockdiag.udp_request(AF_INET6)]
    assert kernel.open == 0


def test_a_source_is_read_again_and_again_with_one_buffer():
    kernel = FakeKernel(LISTENERS, OTHERS, UDP, UDP_6, LISTENERS, OTHERS)
    source = SockDiagSource(kernel.connect)
    assert source.tcp(KERNEL) == CAPTURED
    assert len(source.udp_ports()) == 5
    assert source.tcp(KERNEL) == CAPTURED


@pytest.mark.parametrize("interrupted", [1, 2, 3])
@pytest.mark.parametrize("which", ["listeners", "others", "others after a whole datagram"])
def test_an_interrupted_dump_is_begun_anew(interrupted, which):
    tries = {
        "listeners": [INTERRUPTED],
        "others": [LISTENERS, INTERRUPTED],
        "others after a whole datagram": [LISTENERS, OTHERS[:1] + INTERRUPTED],
    }[which]
    kernel = FakeKernel(*tries * interrupted, LISTENERS, OTHERS)
    assert read(kernel) == CAPTURED  # nothing is counted twice
    assert kernel.open == 0


def test_a_dump_that_is_always_interrupted_is_an_error_after_four_tries():
    kernel = FakeKernel(*[INTERRUPTED] * 4)
    with pytest.raises(SourceError, match="the table changed during the dump"):
        read(kernel)
    assert len(kernel.requests) == 4
    assert kernel.open == 0


def as_udp(datagram):
    """Make messages of TCP sockets such of UDP ones, which differ in their type only."""
    udp, tcp = (struct.pack("=HH", kind, dumps.MULTI) for kind in (dumps.BY_FAMILY, dumps.GETSOCK))
    return datagram.replace(tcp, udp)


TORN = {
    "silence": ([], "no answer for 2 s"),
    "silence after a datagram": (OTHERS[:1], "no answer for 2 s"),
    "no last datagram": (OTHERS[:-1], "no answer for 2 s"),
    "an empty datagram": ([b""], "datagram of 0 bytes"),
    "a datagram bigger than the buffer": ([OTHERS[0] + bytes(1 << 16)], "expected 1..65536"),
    "a datagram cut in a message": ([OTHERS[0][:-1], *OTHERS[1:]], "where a socket ends"),
    "a datagram cut in a header": ([OTHERS[0] + OTHERS[0][:7], *OTHERS[1:]], "^sock_diag: "),
    "a refusal": (dumps.load("short-request"), "EINVAL"),
    "an end that is an error": ([OTHERS[0], dumps.done(-12)], "ENOMEM"),
}


@pytest.mark.parametrize("what", TORN)
@pytest.mark.parametrize("dump", ["listeners", "others", "udp"])
def test_a_torn_answer_is_an_error_and_its_socket_is_closed(what, dump):
    answer, reason = TORN[what]
    if dump == "udp":
        answer = [as_udp(part) for part in answer]
    kernel = FakeKernel(*[LISTENERS] * (dump == "others"), answer)
    source = SockDiagSource(kernel.connect)
    with pytest.raises(SourceError, match=reason):
        source.udp_ports() if dump == "udp" else source.tcp(KERNEL)
    assert kernel.open == 0


def test_after_an_error_the_next_reading_is_right():
    kernel = FakeKernel(LISTENERS, OTHERS[:2], LISTENERS, OTHERS)
    source = SockDiagSource(kernel.connect)
    with pytest.raises(SourceError):
        source.tcp(KERNEL)
    assert source.tcp(KERNEL) == CAPTURED


@pytest.mark.parametrize("error", [OSError(105, "No buffer space available"), PermissionError(1, "no")])
def test_an_error_of_the_socket_is_handed_on_and_the_socket_is_closed(error):
    kernel = FakeKernel([error])
    with pytest.raises(type(error)):
        read(kernel)
    assert kernel.open == 0


def test_a_socket_that_cannot_be_opened_is_an_error_of_the_source():
    def refuse():
        raise PermissionError(1, "Operation not permitted")

    with pytest.raises(PermissionError):
        SockDiagSource(refuse).tcp(KERNEL)


def test_time_wait_is_aged_as_the_kernel_is_set_up():
    never = KernelSettings(KERNEL.ports, time_wait_reuse=0)
    sockets = read(FakeKernel(LISTENERS, OTHERS), never)
    assert sockets.flows[True, AF_INET, TcpState.TIME_WAIT] == {HTTPS: 11}
    at_once = KernelSettings(KERNEL.ports, time_wait_reuse=1, time_wait_reuse_delay=0)
    sockets = read(FakeKernel(LISTENERS, OTHERS), at_once)
    assert sockets.flows[True, AF_INET, AGED_TIME_WAIT] == {HTTPS: 11}


def test_without_netlink_the_source_says_so(monkeypatch):
    monkeypatch.delattr(socket, "AF_NETLINK", raising=False)
    with pytest.raises(SourceError, match="expected Linux"):
        SockDiagSource().tcp(KERNEL)


@pytest.mark.skipif(sys.platform != "linux", reason="MSG_TRUNC and SO_RCVTIMEO are Linux's here")
@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([LISTENERS, OTHERS], None),
        ([LISTENERS, OTHERS[:2]], "no answer"),
        ([LISTENERS, [bytes(sources._DATAGRAM_SIZE + 1)]], "datagram of 65537 bytes"),
    ],
    ids=["whole", "silent", "too big"],
)
def test_a_real_socket_behaves_as_the_fake_ones_do(answers, reason):
    answers = iter(answers)
    with contextlib.ExitStack() as stack:

        def connect():
            ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.enter_context(peer)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 50_000))
            for datagram in next(answers):
                peer.send(datagram)
            return ours

        if reason is None:
            assert SockDiagSource(connect).tcp(KERNEL) == CAPTURED
        else:
            with pytest.raises(SourceError, match=reason):
                SockDiagSource(connect).tcp(KERNEL)


# /proc.


@little_endian
def test_proc_tells_what_sock_diag_tells_but_for_bound_sockets():
    assert ProcSource(DATA / "proc-kernel").tcp(KERNEL) == dataclasses.replace(CAPTURED, bound=set())


def test_proc_tells_what_sock_diag_tells_of_udp():
    kernel = FakeKernel(UDP, UDP_6)
    assert ProcSource(DATA / "proc-kernel").udp_ports() == SockDiagSource(kernel.connect).udp_ports()


@little_endian
def test_a_node_without_ipv6_is_read():
    source = ProcSource(DATA / "proc-no-ipv6")
    sockets = source.tcp(read_settings(DATA / "proc-no-ipv6"))
    assert sockets.listening == {6379}
    assert sockets.served == {TcpState.LISTEN: 1, TcpState.ESTABLISHED: 1}
    redis = flow("192.0.2.1", "198.51.100.10", 6379)
    assert sockets.flows == {
        (True, AF_INET, TcpState.ESTABLISHED): {redis: 1},
        (True, AF_INET, TcpState.TIME_WAIT): {redis: 1},
    }
    assert source.udp_ports() == {40003}


@little_endian
def test_gvisor_is_read():
    source = ProcSource(DATA / "proc-gvisor")
    kernel = read_settings(DATA / "proc-gvisor")
    sockets = source.tcp(kernel)
    assert sockets.listening == {8080}
    assert sockets.served == {TcpState.LISTEN: 1, TcpState.ESTABLISHED: 1}
    assert sockets.flows == {
        (True, AF_INET, TcpState.ESTABLISHED): {HTTPS: 2},
        (True, AF_INET, TcpState.CLOSE_WAIT): {flow("192.0.2.1", "198.51.100.20", 5432): 1},
    }
    # gVisor lists sockets that have no port yet: they hold none.
    held = sockets.bound | source.udp_ports()
    assert {port for port in held if kernel.ports.usable[port]} == {40017}


@pytest.mark.parametrize("name", ["tcp", "tcp6", "udp", "udp6"])
def test_a_torn_table_is_an_error_whichever_it_is(name, tmp_path):
    shutil.copytree(DATA / "proc-kernel", tmp_path, dirs_exist_ok=True)
    table = tmp_path / "net" / name
    table.write_bytes(table.read_bytes()[:-30])
    source = ProcSource(tmp_path)
    with pytest.raises(SourceError, match=f"^{name}: "):
        source.udp_ports() if name.startswith("udp") else source.tcp(KERNEL)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_without_its_ipv4_table_the_source_fails_although_there_is_one_of_ipv6(protocol, tmp_path):
    shutil.copytree(DATA / "proc-kernel", tmp_path, dirs_exist_ok=True)
    (tmp_path / "net" / protocol).unlink()
    source = ProcSource(tmp_path)
    with pytest.raises(FileNotFoundError):
        source.udp_ports() if protocol == "udp" else source.tcp(KERNEL)


# psutil.


def connection(local, remote, status, family=socket.AF_INET):
    """A row as psutil gives it: addresses are named tuples, or empty."""
    address = collections.namedtuple("addr", ["ip", "port"])  # noqa: PYI024 - as psutil has it
    return types.SimpleNamespace(
        family=family,
        laddr=address(*local) if local else (),
        raddr=address(*remote) if remote else (),
        status=status,
    )


@pytest.fixture
def connections(monkeypatch):
    """What psutil answers, by kind."""
    answers = {"tcp": [], "udp": []}
    monkeypatch.setattr(psutil, "net_connections", lambda kind: answers[kind])
    return answers


def test_psutils_rows_are_counted_as_the_kernels_are(connections):
    connections["tcp"] = [
        connection(("192.0.2.1", 40011), ("198.51.100.10", 443), psutil.CONN_ESTABLISHED),
        connection(("192.0.2.1", 40051), ("198.51.100.10", 443), psutil.CONN_TIME_WAIT),
        connection(("192.0.2.1", 8080), ("203.0.113.9", 50000), psutil.CONN_ESTABLISHED),
        connection(("0.0.0.0", 8080), None, psutil.CONN_LISTEN),
        connection(("192.0.2.1", 40091), None, psutil.CONN_CLOSE),
        connection(("2001:db8::1", 40021), ("2001:db8::10", 5432), psutil.CONN_FIN_WAIT1, socket.AF_INET6),
        connection(
            ("::ffff:192.0.2.1", 40031),
            ("::ffff:198.51.100.10", 443),
            psutil.CONN_ESTABLISHED,
            socket.AF_INET6,
        ),
        connection(("fe80::1%en0", 40022), ("fe80::2%en0", 22), psutil.CONN_SYN_SENT, socket.AF_INET6),
    ]
    sockets = PsutilSource().tcp(KERNEL)
    assert sockets.listening == {8080}
    assert sockets.bound == {40091}
    assert sockets.served == {TcpState.LISTEN: 1, TcpState.ESTABLISHED: 1}
    assert sockets.flows == {
        (True, AF_INET, TcpState.ESTABLISHED): {HTTPS: 2},
        (True, AF_INET, TcpState.TIME_WAIT): {HTTPS: 1},
        (True, AF_INET6, TcpState.FIN_WAIT1): {flow("2001:db8::1", "2001:db8::10", 5432): 1},
        (True, AF_INET6, TcpState.SYN_SENT): {flow("fe80::1", "fe80::2", 22): 1},
    }


def test_every_state_that_psutil_names_after_the_kernel_is_known():
    names = {value for name, value in vars(psutil).items() if name.startswith("CONN_")}
    assert names - set(TcpState.__members__) <= {"NONE", "DELETE_TCB", "IDLE", "BOUND"}


@pytest.mark.parametrize("status", [psutil.CONN_NONE, "DELETE_TCB", "IDLE"])
def test_rows_of_psutil_that_are_no_tcp_socket_are_left_out(connections, status):
    connections["tcp"] = [connection(("192.0.2.1", 40011), None, status)]
    assert PsutilSource().tcp(KERNEL) == count_sockets([], KERNEL.ports)


def test_udp_sockets_of_psutil_hold_their_local_ports(connections):
    connections["udp"] = [
        connection(("0.0.0.0", 53), None, psutil.CONN_NONE),
        connection(("::", 8125), None, psutil.CONN_NONE, socket.AF_INET6),
        connection(None, None, psutil.CONN_NONE),
    ]
    assert PsutilSource().udp_ports() == {53, 8125}


@pytest.mark.parametrize("method", ["tcp", "udp"])
@pytest.mark.parametrize("error", [psutil.AccessDenied(1), psutil.NoSuchProcess(1), psutil.Error("x")])
def test_an_error_of_psutil_is_an_error_of_the_source(monkeypatch, method, error):
    def fail(_):
        raise error

    monkeypatch.setattr(psutil, "net_connections", fail)
    with pytest.raises(SourceError, match=r"^psutil: .*expected the list of connections"):
        PsutilSource().tcp(KERNEL) if method == "tcp" else PsutilSource().udp_ports()
