"""`make demo` as people run it: what it shows, how it ends, and that it leaves nothing behind."""

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from lab.namespace import why_not
from tests.demo.running import Demo, as_nobody, python_for_nobody, without_namespaces

ENDED_BY_INTERRUPT, ENDED_BY_TERMINATION = 128 + signal.SIGINT, 128 + signal.SIGTERM


@pytest.fixture
def root():
    if os.geteuid():
        pytest.skip("not root; expected root, for network namespaces")
    if reason := why_not():
        pytest.skip(f"no network namespaces: {reason}")


def assert_tells_the_story(output):
    assert "\x1b" not in output
    assert re.search(
        r"✗ 10\.20\.0\.5:5432 +EADDRNOTAVAIL: \[Errno 99\] Cannot assign requested address", output
    )
    assert "✓ 10.20.0.6:6379   works at this same moment" in output
    assert "✓ 10.20.0.7:443    works at this same moment" in output
    assert 'port_exhaustion_ratio{pod_name="shop-x2x9p",protocol="tcp"} 1.0\n' in output
    assert 'port_exhaustion_free{pod_name="shop-x2x9p",protocol="tcp"} 0.0\n' in output
    ratios = re.findall(r"  port_exhaustion_ratio (\S+)", output)
    assert ratios == ["0.000", "0.400", "0.995", "1.000"]
    # The second act.
    assert '      metrics-sidecar.io/inject: "true"' in output
    assert "\n+         - name: metrics\n" in output
    assert "\n- " not in output
    assert "\nkind: Service\n" in output
    assert "byte for byte" in output


def assert_tells_it_on_loopback(output):
    assert "\x1b" not in output
    assert "On the loopback of this machine" in output
    assert re.search(r"✗ 127\.20\.0\.5:5432 +EADDRNOTAVAIL: \[Errno 99\]", output)
    assert re.search(r'port_used\{.*"127\.20\.0\.5 \[5432:postgres\]",state="ESTABLISHED"\} 200\.0\n', output)
    assert "counted all 200 ports" in " ".join(output.split())


@pytest.mark.kernel
def test_as_root(root, tmp_path):
    with Demo(tmp_path) as demo:
        assert demo.finish() == 0, demo.output
        assert_tells_the_story(demo.output)
        assert "as root" in demo.output
        demo.assert_nothing_left()


@pytest.mark.kernel
def test_without_root(root, tmp_path):
    found = python_for_nobody()
    if not found:
        pytest.skip("no interpreter that another user may run; expected one outside of root's home")
    python, environment = found
    refused = subprocess.run(
        [*as_nobody(), python, "-c", "from demo.setting import *; print(namespaces_refused() or '')"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    with Demo(tmp_path, "--hold", prefix=as_nobody(), python=python, environment=environment) as demo:
        url = demo.wait_for(r"All of it stays open: (\S+)")[1]
        with urllib.request.urlopen(url, timeout=5) as answer:
            assert b'pod_name="shop-x2x9p"' in answer.read()
        demo.process.send_signal(signal.SIGINT)
        assert demo.finish() == 0, demo.output
        if refused:
            assert_tells_it_on_loopback(demo.output)
        else:
            assert_tells_the_story(demo.output)
            assert "without root" in demo.output
        demo.assert_nothing_left()


@pytest.mark.kernel
@pytest.mark.skipif(not shutil.which("unshare"), reason="no unshare; expected util-linux")
def test_where_namespaces_are_forbidden(root, tmp_path):
    with Demo(tmp_path, prefix=without_namespaces()) as demo:
        assert demo.finish() == 0, demo.output
        assert_tells_it_on_loopback(demo.output)
        assert "it allows no network namespaces (" in " ".join(demo.output.split())
        demo.assert_nothing_left()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason=f"{sys.platform}; expected linux")
def test_on_loopback_as_anybody(tmp_path):
    with Demo(tmp_path, "--loopback") as demo:
        assert demo.finish() in (0, 3), demo.output
        if demo.finish() == 0:
            assert_tells_it_on_loopback(demo.output)
        demo.assert_nothing_left()


@pytest.mark.kernel
def test_two_at_once_find_a_port_each(root, tmp_path):
    with Demo(tmp_path, "--hold") as one, Demo(tmp_path, "--hold") as other:
        urls = {demo.wait_for(r"All of it stays open: (\S+)")[1] for demo in (one, other)}
        assert len(urls) == 2
        for url in urls:
            with urllib.request.urlopen(url, timeout=5) as answer:
                assert b'protocol="tcp"} 1.0\n' in answer.read()


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, ENDED_BY_INTERRUPT), (signal.SIGTERM, ENDED_BY_TERMINATION)]
)
def test_a_signal_ends_it_amid_the_story(root, tmp_path, number, status):
    leader, follower = pty.openpty()
    try:
        with Demo(tmp_path, stdout=follower, stderr=follower, stdin=follower) as demo:
            shown = read_until(leader, b"An ordinary hour")
            assert len(demo.pids()) >= 4
            demo.process.send_signal(number)
            shown += read_until(leader, b"\x1b[?25h")
            assert demo.finish() == status
            demo.assert_nothing_left()
            assert b"Traceback" not in shown
    finally:
        os.close(leader)
        os.close(follower)


@pytest.mark.kernel
def test_ctrl_c_on_a_terminal_goes_to_all_of_its_processes_and_still_ends_quietly(root, tmp_path):
    leader, follower = pty.openpty()
    try:
        with Demo(
            tmp_path, prefix=["setsid", "--ctty", "--wait"], stdout=follower, stderr=follower, stdin=follower
        ) as demo:
            shown = read_until(leader, b"An ordinary hour")
            assert len(demo.pids()) >= 4
            os.write(leader, b"\x03\x03\x03")
            shown += read_until(leader, b"\x1b[?25h")
            demo.assert_nothing_left()
            assert b"Traceback" not in shown
    finally:
        os.close(leader)
        os.close(follower)


@pytest.mark.kernel
def test_a_terminal_that_takes_no_more_text_does_not_keep_the_namespaces(root, tmp_path):
    leader, follower = pty.openpty()
    try:
        with Demo(tmp_path, stdout=follower, stderr=follower, stdin=follower) as demo:
            read_until(leader, b"An ordinary hour")
            beside = len(demo.pids()) - 1
            assert beside >= 3
            wait_until_blocked_in_write(demo.process.pid)
            demo.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + 10
            while demo.pids() not in ([], [demo.process.pid]):
                assert time.monotonic() < deadline, demo.pids()
                time.sleep(0.05)
    finally:
        os.close(leader)
        os.close(follower)


@pytest.mark.kernel
@pytest.mark.parametrize("module", ["sidecar", "demo.application"])
def test_it_ends_when_one_of_its_processes_dies(root, tmp_path, module):
    with Demo(tmp_path, "--hold") as demo:
        demo.wait_for("All of it stays open")
        os.kill(demo.pid_of(module), signal.SIGKILL)
        assert demo.finish() == 1
        assert re.search(r"✗ (exporter|application): it ended, with status -9", demo.output)
        demo.assert_nothing_left()


@pytest.mark.kernel
@pytest.mark.skipif(not shutil.which("setpriv"), reason="no setpriv; expected util-linux")
def test_nothing_survives_even_when_it_is_killed(root, tmp_path):
    with Demo(tmp_path, "--hold") as demo:
        demo.wait_for("All of it stays open")
        demo.process.kill()
        demo.assert_nothing_left()


@pytest.mark.kernel
def test_a_reader_that_has_seen_enough_is_no_traceback(root, tmp_path):
    reading, writing = os.pipe()
    with Demo(tmp_path, stdout=writing) as demo:
        os.close(writing)
        os.read(reading, 10)
        os.close(reading)
        assert demo.finish() == 1
        assert demo.output == ""
        demo.assert_nothing_left()


def read_until(terminal, text):
    shown = b""
    deadline = time.monotonic() + 30
    while text not in shown:
        ready, _, _ = select.select([terminal], [], [], max(0, deadline - time.monotonic()))
        assert ready, shown
        shown += os.read(terminal, 65536)
    return shown


def wait_until_blocked_in_write(pid):
    deadline = time.monotonic() + 30
    # "1 0x1 ..." is write(1, ...) on x86-64, where its number is 1; it is 64 on arm64.
    while not re.match(r"(1|64) 0x1 ", Path(f"/proc/{pid}/syscall").read_text()):
        assert time.monotonic() < deadline, Path(f"/proc/{pid}/syscall").read_text()
        time.sleep(0.02)
