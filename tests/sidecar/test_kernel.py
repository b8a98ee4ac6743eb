"""A network namespace's settings and counters, read from fixture trees."""

import shutil

import pytest

from sidecar.kernel import IANA_DYNAMIC_PORTS, read_churn, read_settings
from sidecar.model import Churn, KernelSettings, LocalPorts, SourceError
from tests.sidecar.dumps import DATA

RESERVED = frozenset([*range(40100, 40110), 41000])


@pytest.fixture
def proc(tmp_path):
    """A copy of a real kernel's ``/proc``, to be broken."""
    shutil.copytree(DATA / "proc-kernel", tmp_path, dirs_exist_ok=True)
    return tmp_path


def sysctl(proc, name):
    return proc / "sys/net/ipv4" / name


def test_the_settings_of_a_kernel_are_read():
    assert read_settings(DATA / "proc-kernel") == KernelSettings(
        LocalPorts(32768, 60999, RESERVED), time_wait_reuse=2, time_wait_reuse_delay=1000
    )


def test_settings_that_gvisor_does_not_have_are_the_kernels_defaults():
    assert read_settings(DATA / "proc-gvisor") == KernelSettings(LocalPorts(16000, 65535), time_wait_reuse=0)


def test_without_proc_the_range_is_that_of_other_systems(tmp_path):
    assert read_settings(tmp_path, platform="darwin") == KernelSettings(IANA_DYNAMIC_PORTS)
    assert IANA_DYNAMIC_PORTS.total == 16384


def test_linux_without_proc_is_an_error_and_not_another_system(tmp_path):
    with pytest.raises(SourceError, match="ip_local_port_range"):
        read_settings(tmp_path, platform="linux")


def test_a_kernel_before_6_14_has_no_delay_and_waits_a_second(proc):
    sysctl(proc, "tcp_tw_reuse_delay").unlink()
    assert read_settings(proc).aged_below == 59_000


@pytest.mark.parametrize(
    ("reuse", "timestamps", "delay", "aged_below"),
    [
        ("2", "1", "1000", 59_000),
        ("1", "1", "1000", 59_000),
        ("1", "2", "500", 59_500),
        ("1", "1", "0", 60_000),
        ("0", "1", "1000", -1),
        ("2", "0", "1000", -1),  # the kernel needs timestamps to tell old segments from new ones
    ],
)
def test_time_wait_ages_by_three_settings(proc, reuse, timestamps, delay, aged_below):
    sysctl(proc, "tcp_tw_reuse").write_text(f"{reuse}\n")
    sysctl(proc, "tcp_timestamps").write_text(f"{timestamps}\n")
    sysctl(proc, "tcp_tw_reuse_delay").write_text(f"{delay}\n")
    assert read_settings(proc).aged_below == aged_below


def test_a_setting_that_is_no_number_is_told_and_taken_as_the_default(proc, caplog):
    sysctl(proc, "tcp_tw_reuse_delay").write_text("soon\n")
    assert read_settings(proc).time_wait_reuse_delay == 1000
    assert caplog.messages == ["tcp_tw_reuse_delay: 'soon\\n'; expected a number, taken as 1000"]


def test_the_range_changes_from_one_reading_to_the_next(proc):
    assert read_settings(proc).ports.total == 28232
    sysctl(proc, "ip_local_port_range").write_text("10000\t10099\n")
    assert read_settings(proc).ports == LocalPorts(10000, 10099, RESERVED)
    sysctl(proc, "ip_local_reserved_ports").write_text("\n")
    assert read_settings(proc).ports == LocalPorts(10000, 10099)


def test_without_its_range_a_kernel_cannot_be_judged(proc):
    sysctl(proc, "ip_local_port_range").unlink()
    with pytest.raises(SourceError, match=r"^ip_local_port_range: .*expected two ports"):
        read_settings(proc)


@pytest.mark.parametrize("name", ["ip_local_port_range", "ip_local_reserved_ports"])
def test_torn_settings_are_an_error(proc, name):
    sysctl(proc, name).write_text("32768-")
    with pytest.raises(SourceError, match=f"^{name}: '32768-'"):
        read_settings(proc)


def numbers(name, prefix):
    names, values = (
        line.split()
        for line in (DATA / "proc-kernel/net" / name).read_text().splitlines()
        if line.startswith(prefix)
    )
    return dict(zip(names, values, strict=True))


def test_the_counters_of_a_kernel_are_read():
    tcp, extended = numbers("snmp", "Tcp: "), numbers("netstat", "TcpExt: ")
    churn = read_churn(DATA / "proc-kernel")
    assert churn == Churn(
        int(tcp["ActiveOpens"]), int(tcp["AttemptFails"]), int(extended["TCPTimeWaitOverflow"])
    )
    assert churn.opened == 24  # so many connections has tests/sidecar/capture.py opened


def test_of_gvisor_the_overflow_is_unknown_because_netstat_has_no_values():
    churn = read_churn(DATA / "proc-gvisor")
    assert churn.opened > 0
    assert churn.time_wait_overflow is None


def test_without_netstat_the_overflow_is_unknown(proc):
    known = read_churn(proc)
    (proc / "net/netstat").unlink()
    assert read_churn(proc) == Churn(known.opened, known.failed, None)


def test_without_snmp_there_are_no_counters(proc):
    (proc / "net/snmp").unlink()
    with pytest.raises(FileNotFoundError):
        read_churn(proc)


@pytest.mark.parametrize("counter", ["ActiveOpens", "AttemptFails"])
def test_a_counter_that_is_not_among_the_others_is_an_error_that_names_it(proc, counter):
    for name in ("snmp", "netstat"):
        path = proc / "net" / name
        path.write_text(path.read_text().replace(f" {counter} ", " Renamed "))
    with pytest.raises(SourceError, match=f"no '{counter}' among the counters"):
        read_churn(proc)
