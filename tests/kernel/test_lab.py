"""The lab leaves nothing behind, and says what it could not do."""

import errno
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from lab.connections import MOST, Connections, Destination, Dialler
from lab.namespace import VOID, Namespace
from tests.kernel.waiting import eventually

A = "10.77.0.1"


def where_we_are():
    return Path("/proc/thread-self/ns/net").readlink()


def open_files():
    return sorted(file.name for file in Path("/proc/self/fd").iterdir())


def test_entering_a_namespace_ends_where_it_began_also_after_an_error():
    home, files = where_we_are(), open_files()
    with Namespace() as namespace:
        with namespace.entered():
            away = where_we_are()
        with suppress(ZeroDivisionError), namespace.entered():
            raise ZeroDivisionError
        assert where_we_are() == home != away

    assert (where_we_are(), open_files()) == (home, files)


def test_programs_in_a_namespace_end_with_it():
    with Namespace() as namespace:
        program = namespace.popen(["sleep", "1000"])
        assert Path(f"/proc/{program.pid}/ns/net").readlink() != where_we_are()

    assert program.returncode is not None


def test_programs_in_a_namespace_end_when_we_are_killed(tmp_path):
    code = (
        "import sys, time; from lab.namespace import Namespace\n"
        "with Namespace() as namespace:\n"
        "    print(namespace.popen(['sleep', '1000']).pid, flush=True); time.sleep(1000)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as killed:
        program = int(killed.stdout.readline())
        eventually("the program", lambda: b"sleep" in Path(f"/proc/{program}/comm").read_bytes())
        killed.kill()

    def gone():
        try:
            return ") Z " in Path(f"/proc/{program}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True

    eventually("its end", gone)


def test_a_namespace_has_settings_of_its_own():
    with Namespace() as one, Namespace() as other:
        one.sysctl("ipv4.ip_local_port_range", "20000 20099")

        assert one.read_sysctl("ipv4.ip_local_port_range").split() == ["20000", "20099"]
        assert other.read_sysctl("ipv4.ip_local_port_range").split() != ["20000", "20099"]


def test_connections_are_there_when_the_block_begins_and_say_what_was_wrong(pod, world):
    destinations = [Destination(A, 443, 30, 20), Destination("fd77::1", 80, 3, 2)]
    with Connections(pod, destinations) as connections:
        assert (connections.established, connections.time_wait) == (33, 22)
    with pytest.raises(RuntimeError, match="Connection refused"), Connections(pod, [Destination(A, 1, 1)]):
        pass
    with pytest.raises(RuntimeError, match="assign requested"), Connections(pod, [Destination(A, 443, 200)]):
        pass
    with pytest.raises(ValueError, match="expected at most"):
        Connections(pod, [Destination(A, 443, MOST + 1)])


def test_a_dialler_tells_the_error_and_closes_what_it_opened(pod, world):
    with Dialler(pod) as dialler:
        assert dialler.fill(A, 443).errno == errno.EADDRNOTAVAIL
        opened = list(dialler.connections)
    assert len(opened) == 100
    assert {connection.fileno() for connection in opened} == {-1}


def test_what_is_sent_into_the_void_is_not_answered(pod, world):
    with pod.entered():
        attempt = socket.socket()
    with attempt:
        attempt.settimeout(0.3)
        with pytest.raises(TimeoutError):
            attempt.connect((VOID, 443))
