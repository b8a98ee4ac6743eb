"""The exporter's image, run as a cluster runs it beside an application."""

import contextlib
import re
import select
import signal
import socket
import statistics
import sys
import time
from pathlib import Path

import pytest

import sidecar
from tests.apiserver.waiting import eventually
from tests.image import contents, crowd
from tests.image.pod import MEBIBYTE, Limits, is_running

PORT = 9999
LIMITS = Limits(cpu=0.05, memory=50 * MEBIBYTE)
SEED_FAMILIES = ("port_used", "port_total", "port_usage")


def scrape(pod):
    status, text = pod.get("/metrics", port=PORT)
    assert status == 200, text
    return text


def await_scrape(pod):
    """Return the first scrape that the pod answers."""
    return eventually("a scrape", lambda: scrape(pod), tolerate=(OSError,), deadline=60)


def is_answered(client):
    try:
        return client.recv(1) != b""
    except ConnectionResetError:
        return False


def value(text, sample):
    [found] = re.findall(rf"^{re.escape(sample)} (\S+)$", text, re.MULTILINE)
    return float(found)


@pytest.fixture
def exporter(pod, sidecar_image):
    return pod.start(sidecar_image, limits=LIMITS)


@pytest.fixture
def busy(pod):
    """Make the pod one with 3,000 connections to as many remotes, both ends inside."""
    child = pod.spawn("crowd", [sys.executable, crowd.__file__, "3000"])
    eventually("the crowd", lambda: "ready" in child.log.read_text(), deadline=60)
    yield
    child.kill()


def test_it_serves_within_a_pods_limits_without_any_privilege(pod, exporter):
    """uid 65532, no capability, read-only root, the default seccomp profile, 50m and 50Mi."""
    text = await_scrape(pod)
    for family in SEED_FAMILIES:
        assert f"# TYPE {family} gauge" in text
    assert value(text, f'port_total{{pod_name="{pod.name}"}}') == 28232
    assert value(text, "metrics_sidecar_collect_success") == 1
    for protocol in ("tcp", "udp"):
        active = f'metrics_sidecar_source_active{{protocol="{protocol}",source="sock_diag"}}'
        assert value(text, active) == 1
    status = exporter.status()
    assert status["Uid"].split() == status["Gid"].split() == ["65532"] * 4
    assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    root = next(line.split() for line in proc(exporter, "mountinfo").splitlines() if line.split()[4] == "/")
    assert "ro" in root[5].split(",")
    assert exporter.output().count("\n") == 1, exporter.output()


@pytest.mark.usefixtures("busy")
def test_it_stays_within_its_memory_in_a_busy_pod(pod, exporter):
    """3,000 connections to 3,000 remotes."""
    await_scrape(pod)
    for _ in range(5):
        text = scrape(pod)
    assert value(text, "metrics_sidecar_folded_remotes") >= 2500
    assert not exporter.has_ended
    if not exporter.why_unlimited:
        assert exporter.cgroup.out_of_memory_kills() == 0


class TestTheEnd:
    """As process 1, which the kernel shields from every signal that it does not handle."""

    def test_sigterm_ends_it_before_it_is_ready(self, pod, exporter):
        eventually("a handler of SIGTERM", lambda: exporter.catches(signal.SIGTERM))
        with pytest.raises(ConnectionRefusedError):
            pod.get("/metrics", port=PORT)
        assert exporter.ends_within(1.0, signal.SIGTERM)
        assert exporter.wait() == 0

    def test_sigterm_ends_it_when_idle(self, pod, exporter):
        await_scrape(pod)
        assert exporter.ends_within(1.0, signal.SIGTERM)
        assert exporter.wait() == 0

    @pytest.mark.usefixtures("busy")
    def test_sigterm_ends_it_during_scrapes(self, pod, exporter):
        await_scrape(pod)
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(socket.create_connection((pod.address, PORT))) for _ in range(40)]
            for client in clients:
                client.sendall(b"GET /metrics HTTP/1.1\r\nHost: pod\r\n\r\n")
            assert select.select(clients, [], [], 30)[0]
            assert exporter.ends_within(1.0, signal.SIGTERM)
            # There was still something to do.
            assert not all(map(is_answered, clients))
        assert exporter.wait() == 0

    def test_it_leaves_no_process_behind(self, pod, exporter):
        before = set(pod.processes())
        await_scrape(pod)
        assert exporter.ends_within(1.0, signal.SIGKILL)
        exporter.wait()
        assert set(pod.processes()) <= before

    def test_the_end_of_a_pod_is_the_end_of_everything(self, pod, exporter):
        await_scrape(pod)
        processes = pod.processes()
        assert exporter.process() in processes
        pod._sandbox.kill()
        eventually("them to end", lambda: not any(map(is_running, processes)))


class TestTheCommandLine:
    def test_once_prints_the_metrics_and_exits(self, pod, sidecar_image):
        container = pod.start(sidecar_image, "--once", environment={"POD_NAME": "web-0"})
        assert container.wait() == 0
        assert value(container.output(), 'port_total{pod_name="web-0"}') == 28232

    def test_version(self, pod, sidecar_image):
        container = pod.start(sidecar_image, "--version")
        assert container.wait() == 0
        assert container.output() == f"metrics-sidecar {sidecar.__version__}\n"


class TestTheContents:
    def test_the_lock_file_is_what_is_installed(self, sidecar_image):
        assert contents.installed(sidecar_image) == contents.locked("sidecar.txt")

    def test_nothing_else_is_in_it(self, sidecar_image):
        """No kopf, no kubernetes, no pip, no setuptools, no webhook, no tests."""
        present = {path.name for path in (sidecar_image.root / "app/lib").iterdir()}
        present = {name for name in present if not name.endswith(".dist-info")}
        assert present == {"sidecar", "prometheus_client", "psutil", "waitress"}
        assert {path.name for path in (sidecar_image.root / "app").iterdir()} == {
            "LICENSE",
            "bytecode",
            "lib",
        }

    def test_its_user_can_read_everything_and_change_nothing(self, sidecar_image):
        assert contents.of_others(sidecar_image, sidecar_image.config["User"]) == []

    def test_the_build_leaves_no_trace_of_the_machine_that_made_it(self, sidecar_image):
        assert contents.traces_of_the_builder(sidecar_image) == []

    def test_the_configuration(self, sidecar_image):
        config = sidecar_image.config
        assert config["User"] == "65532:65532"
        assert list(config["ExposedPorts"]) == [f"{PORT}/tcp"]
        assert "Cmd" not in config
        labels = contents.labels(sidecar_image)
        assert labels["title"] == "metrics-sidecar"
        assert labels["description"]
        assert labels["licenses"] == "MIT"
        assert labels["version"] == sidecar.__version__
        assert "source" in labels

    def test_nothing_is_compiled_at_start(self, pod, sidecar_image):
        """Whatever the base image has or has not compiled: at 50m that would take ten seconds."""
        entrypoint = sidecar_image.config["Entrypoint"]
        container = pod.start(sidecar_image, command=[entrypoint[0], "-v", *entrypoint[1:]])
        await_scrape(pod)
        assert contents.compiled_at_start(container.output()) == []


def test_the_figures(pod, sidecar_image, report):
    """Start-up, scrapes and memory under 50m and 50Mi: reported, not held against a bar."""
    starts = [start_up(pod, sidecar_image) for _ in range(3)]
    exporter = starts[-1][0]
    for started, *_ in starts[:-1]:
        assert started.has_ended
    limits = exporter.why_unlimited or "under 50m CPU and 50Mi memory"
    report("exporter, first good scrape", f"{median(starts, 1):.2f} s after exec, {limits}")
    report("exporter, CPU until then", f"{median(starts, 2) * 1000:.0f} ms")
    report("exporter, handles SIGTERM", f"{median(starts, 3):.2f} s after exec")
    report("exporter, a scrape, few sockets", cost(pod, exporter))
    report("exporter, memory, few sockets", exporter.memory())
    child = pod.spawn("crowd", [sys.executable, crowd.__file__, "3000"])
    eventually("the crowd", lambda: "ready" in child.log.read_text(), deadline=60)
    report("exporter, a scrape, 6,000 sockets, 500 series", cost(pod, exporter))
    report("exporter, memory, 6,000 sockets, 500 series", exporter.memory())
    size = sidecar_image.size() / 1e6
    report("exporter, image", f"{size:.0f} MB, of these {sidecar_image.size('app') / 1e6:.1f} MB on its base")
    report("exporter, build", f"{sidecar_image.build_seconds:.1f} s, with base images at hand")


def start_up(pod, image):
    """Start the exporter; return it, and the seconds of wall and CPU time until its first good scrape."""
    for container in pod.containers:
        container.close()
    exporter = pod.start(image, limits=LIMITS)
    exporter.process()
    began, used = time.monotonic(), exporter.cpu_seconds()
    eventually("a handler of SIGTERM", lambda: exporter.catches(signal.SIGTERM))
    handles = time.monotonic() - began
    text = await_scrape(pod)
    assert value(text, "metrics_sidecar_collect_success") == 1
    return exporter, time.monotonic() - began, exporter.cpu_seconds() - used, handles


def cost(pod, exporter):
    """Say what a scrape costs when none was made shortly before, as is usual."""
    costs = []
    for _ in range(10):
        # The next period of the CPU limit, in which nothing has been used yet.
        time.sleep(0.2)
        began, used = time.monotonic(), exporter.cpu_seconds()
        scrape(pod)
        costs.append((exporter.cpu_seconds() - used, time.monotonic() - began))
    cpu, wall = (statistics.median(column) * 1000 for column in zip(*costs, strict=True))
    # The kernel keeps the TCP sockets of all pods of a node in one table, and walks all of it for each.
    return f"{cpu:.1f} ms CPU, {wall:.0f} ms; {tcp_sockets()} TCP sockets on this machine"


def tcp_sockets():
    lines = Path("/proc/net/sockstat").read_text().splitlines()
    fields = next(line.split() for line in lines if line.startswith("TCP:"))
    return int(fields[fields.index("alloc") + 1])


def median(starts, index):
    return statistics.median(start[index] for start in starts)


def proc(container, file):
    return Path(f"/proc/{container.process()}/{file}").read_text()
