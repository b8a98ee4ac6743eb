"""The exporter as it runs in a pod: it never exits because something failed, and is right the next time."""

import errno
import gzip
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from lab.connections import Connections, Destination
from lab.namespace import POD, POD6, has_ipv6
from tests.kernel.exporter import COMMAND, PORT, ROOT, children, total, value
from tests.kernel.waiting import eventually

A = "10.77.0.1"
SEED_FAMILIES = ("port_used", "port_total", "port_usage")
NETLINK_DENIED = (sys.executable, str(Path(__file__).with_name("confine.py")))


def test_it_says_what_the_pod_has_open(pod, world, run_exporter):
    exporter = run_exporter()
    exporter.ready()
    with Connections(pod, [Destination(A, 443, 20, 10), Destination("10.77.0.2", 5432, 30)]):
        scraped = exporter.scrape()

    assert value(scraped, "port_used", remote_addr=f"{A} [443:https]", state="ESTABLISHED") == 20
    assert value(scraped, "port_used", remote_addr=f"{A} [443:https]", state="TIME_WAIT") == 10
    assert value(scraped, "port_used", remote_addr="10.77.0.2 [5432:postgres]", state="ESTABLISHED") == 30
    assert value(scraped, "port_used", remote_addr="OTHER", state="LISTEN") == 1
    assert value(scraped, "port_total") == 100
    assert value(scraped, "port_usage") == pytest.approx(100 * total(scraped, "port_used") / 100)
    assert value(scraped, "port_exhaustion_ratio", protocol="tcp") == 0.3
    assert value(scraped, "port_connections_opened_total") == 60
    assert value(scraped, "metrics_sidecar_collect_success") == 1


def test_it_pages_at_the_moment_when_connect_fails(run_exporter, dialler):
    exporter = run_exporter()
    exporter.ready()
    ratios = []
    for _ in range(3):
        assert dialler.fill(A, 443, limit=33) is None
        ratios.append(value(exporter.scrape(), "port_exhaustion_ratio", protocol="tcp"))
    assert dialler.fill(A, 443) is not None
    ratios.append(value(exporter.scrape(), "port_exhaustion_ratio", protocol="tcp"))

    assert ratios == [0.33, 0.66, 0.99, 1.0]


def test_it_serves_when_its_port_becomes_free(pod, run_exporter):
    with pod.entered(), socket.create_server(("", PORT)) as taken:
        exporter = run_exporter()
        eventually("a line about the port", lambda: "cannot listen on port 9999" in exporter.log())
        assert exporter.alive()
        taken.close()

        scraped = exporter.ready()

    assert value(scraped, "metrics_sidecar_collect_success") == 1


@pytest.mark.parametrize("address", [POD, POD6, "127.0.0.1", "::1"])
def test_it_serves_ipv4_and_ipv6(run_exporter, address):
    if not has_ipv6():
        pytest.skip("the kernel has no IPv6")

    assert value(run_exporter().ready(address=address), "metrics_sidecar_collect_success") == 1


def test_it_serves_where_ipv6_is_switched_off(pod, run_exporter):
    pod.sysctl("ipv6.conf.all.disable_ipv6", 1)

    assert value(run_exporter().ready(), "metrics_sidecar_collect_success") == 1


def test_it_answers_beside_200_requests_that_are_never_finished(run_exporter):
    exporter = run_exporter()
    exporter.ready()
    with ExitStack() as stack:
        for _ in range(200):
            client = stack.enter_context(exporter.connection())
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: half")

        scraped = exporter.scrape(timeout=2.0)

    # And it knows them as what they are: clients of a port that the pod listens on.
    assert value(scraped, "port_used", remote_addr="OTHER", state="ESTABLISHED") >= 200


def test_it_answers_again_when_more_idle_connections_than_it_takes_have_timed_out(run_exporter):
    exporter = run_exporter()
    exporter.ready()
    with ExitStack() as stack:
        for _ in range(600):
            stack.enter_context(exporter.connection())

        scraped = exporter.ready(deadline=30)

        assert value(scraped, "metrics_sidecar_collect_success") == 1
        assert exporter.alive()


def test_clients_that_do_not_read_cannot_fill_the_memory_of_the_pod(pod, world, run_exporter):
    destinations = [Destination(f"10.77.{net}.{host}", 443, 1, 1) for net in (1, 2) for host in range(1, 251)]
    with Connections(pod, destinations), ExitStack() as silent:
        exporter = run_exporter()
        exporter.ready()
        for _ in range(300):
            client = silent.enter_context(exporter.connection())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: silent\r\n\r\n")

        # They are let go when nothing moves, and with them what they did not read.
        scraped = exporter.ready(deadline=60)

        assert value(scraped, "metrics_sidecar_collect_success") == 1
        assert exporter.memory_kib() < 45 << 10


def end_within_a_second(process, stop):
    started = time.monotonic()
    stop()
    status = process.wait(5)
    assert time.monotonic() - started < 1.0
    return status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_within_a_second(run_exporter, number):
    exporter = run_exporter()
    exporter.ready()

    assert end_within_a_second(exporter.process, lambda: exporter.process.send_signal(number)) == 0


def test_a_signal_ends_it_within_a_second_while_it_waits_for_its_port(pod, run_exporter):
    with pod.entered(), socket.create_server(("", PORT)):
        exporter = run_exporter()
        eventually("a line about the port", lambda: "next try in" in exporter.log())

        assert end_within_a_second(exporter.process, exporter.process.terminate) == 0


def test_a_signal_ends_it_within_a_second_while_scrapes_run(run_exporter):
    exporter = run_exporter()
    exporter.ready()
    scrapes, over = [], threading.Event()

    def scrape_on():
        while not over.is_set():
            try:
                scrapes.append(exporter.scrape())
            except (OSError, AssertionError):
                return

    with ThreadPoolExecutor(4) as clients:
        try:
            for _ in range(4):
                clients.submit(scrape_on)
            eventually("scrapes under way", lambda: len(scrapes) > 20)

            assert end_within_a_second(exporter.process, exporter.process.terminate) == 0
        finally:
            over.set()


@pytest.mark.skipif(not shutil.which("unshare"), reason="no program unshare, of util-linux")
def test_a_signal_ends_it_within_a_second_as_process_1(run_exporter):
    # The kernel ignores signals to process 1 for which it has no handler.
    exporter = run_exporter(prefix=["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"])
    exporter.ready()
    (process_1,) = children(exporter.process.pid)

    assert end_within_a_second(exporter.process, lambda: os.kill(process_1, signal.SIGTERM)) == 0


def garbage():
    noise = random.Random(1)
    yield b""
    yield b"\r\n\r\n\r\n"
    for size in (1, 10, 1000, 100_000):
        yield noise.randbytes(size)
    yield b"GET /metrics\r\n\r\n"  # HTTP/0.9
    yield b"GET /metrics HTTP/9.9\r\n\r\n"
    yield b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n"
    yield b"GET /metrics HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"
    yield b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n"
    yield b"GET /metrics HTTP/1.1\r\nHost\x00: \xff\xfe\r\n\r\n"
    yield b"GET /\xff\xfe%00%ff HTTP/1.1\r\nHost: a\r\n\r\n"
    yield b"GET http://[::1 HTTP/1.1\r\nHost: a\r\n\r\n"
    yield b"GET /metrics?name[]=%ff&name[]= HTTP/1.1\r\nAccept: \xff;q=x\r\nAccept-Encoding: gzip;q=x\r\n\r\n"
    yield b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n"
    yield b"POST /metrics HTTP/1.1\r\nContent-Length: -1\r\n\r\n"
    yield b"POST /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + b"z" * 100_000
    yield b"POST /metrics HTTP/1.1\r\nContent-Length: 200000\r\n\r\n" + b"z" * 200_000
    yield b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise.randbytes(500)  # TLS
    yield b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.mark.parametrize("hang_up", [True, False], ids=["and-hang-up", "and-wait"])
def test_garbage_leaves_it_alive_and_right(run_exporter, hang_up):
    exporter = run_exporter()
    before = exporter.ready()
    for request in garbage():
        with exporter.connection() as client:
            try:
                client.sendall(request)
                if not hang_up:
                    client.shutdown(socket.SHUT_WR)
                    while client.recv(65536):
                        pass
            except OSError as error:
                # It need not listen to the end.
                if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                    raise

    scraped = exporter.scrape()

    assert exporter.alive()
    assert value(scraped, "metrics_sidecar_collect_success") == 1
    assert value(scraped, "port_total") == value(before, "port_total") == 100
    assert "Traceback" not in exporter.log()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"])
def test_other_methods_are_refused(run_exporter, method):
    exporter = run_exporter()
    exporter.ready()

    response = exporter.get(method=method)

    assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")


def test_what_is_there_is_served_and_nothing_else(run_exporter):
    exporter = run_exporter()
    exporter.ready()

    assert exporter.get("/").headers["Content-Type"].startswith("text/html")
    assert exporter.get("/metrics", headers={"Accept": "text/plain"}).text.startswith("# HELP port_used")
    head = exporter.get("/metrics", "HEAD")
    assert (head.status, head.text) == (200, "")
    assert int(head.headers["Content-Length"]) > 1000
    for path in ("/metric", "/metrics/", "/favicon.ico", "/../metrics", "/healthz"):
        assert exporter.get(path).status == 404


def test_gzip_and_openmetrics_are_what_the_client_library_reads(pod, world, run_exporter):
    exporter = run_exporter()
    exporter.ready()
    with Connections(pod, [Destination(A, 443, 5)]), exporter.connection() as client:
        client.sendall(
            b"GET /metrics HTTP/1.0\r\nAccept: application/openmetrics-text;version=1.0.0\r\n"
            b"Accept-Encoding: gzip\r\n\r\n"
        )
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")

    assert b"application/openmetrics-text" in head
    families = {family.name: family for family in parse_openmetrics(gzip.decompress(body).decode())}

    assert {(sample.labels["remote_addr"], sample.value) for sample in families["port_used"].samples} >= {
        (f"{A} [443:https]", 5)
    }
    assert families["port_connections_opened"].type == "counter"
    assert families["port_total"].type == "gauge"


@pytest.mark.tool
@pytest.mark.skipif(not shutil.which("promtool"), reason="no program promtool, of Prometheus")
def test_promtool_complains_about_the_name_port_total_only(run_exporter):
    exporter = run_exporter()
    exporter.ready()

    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=exporter.get().text,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    complaints = checked.stderr.splitlines() + checked.stdout.splitlines()
    assert [line for line in complaints if line] == [
        'port_total non-counter metrics should not have "_total" suffix'
    ]


WRONG = {
    "METRICS_SIDECAR_PORT": ("99999", "0", "-1", "http", "9999.5", "٣"),
    "METRICS_SIDECAR_ADDRESS": ("nowhere", "127.0.0.1:80", "1.2.3"),
    "METRICS_SIDECAR_PORT_NAMES": ("=", "x=y", "70000=high", "80"),
    "METRICS_SIDECAR_MAX_REMOTES": ("-1", "many", "99999999999"),
    "METRICS_SIDECAR_SOURCE": ("lsof", "\x01"),
    "METRICS_SIDECAR_LOG_LEVEL": ("LOUD", "10"),
    "METRICS_SIDECAR_LOG_FORMAT": ("xml", "-"),
}
FLAG = {
    variable: "--" + variable.removeprefix("METRICS_SIDECAR_").lower().replace("_", "-") for variable in WRONG
}


@pytest.mark.parametrize("turn", range(6))
def test_every_setting_wrong_at_once_gives_the_defaults_and_a_line_for_each(run_exporter, turn):
    wrong = {variable: values[turn % len(values)] for variable, values in WRONG.items()}
    exporter = run_exporter(**wrong)

    scraped = exporter.ready()

    assert value(scraped, "metrics_sidecar_config_errors") == len(wrong)
    assert value(scraped, "metrics_sidecar_collect_success") == 1
    for variable in wrong:
        assert f"config: {variable}=" in exporter.log()


def test_every_flag_wrong_at_once_gives_the_defaults_and_a_line_for_each(run_exporter):
    flags = [part for variable, values in WRONG.items() for part in (f"{FLAG[variable]}={values[0]}",)]
    exporter = run_exporter(*flags, "--no-such-flag", "stray")

    scraped = exporter.ready()

    assert value(scraped, "metrics_sidecar_config_errors") == len(flags) + 2
    for variable in WRONG:
        assert f"config: {FLAG[variable]}=" in exporter.log()


def test_a_flag_without_its_value_gives_the_defaults(run_exporter):
    scraped = run_exporter("--port").ready()

    assert value(scraped, "metrics_sidecar_config_errors") == 1


def test_settings_that_are_no_utf_8_give_the_defaults(run_exporter):
    exporter = run_exporter(
        POD_NAME=b"pod-\xff", METRICS_SIDECAR_PORT_NAMES=b"80=\xff", METRICS_SIDECAR_MAX_REMOTES=b"\xfe"
    )

    scraped = exporter.ready()

    assert value(scraped, "metrics_sidecar_config_errors") == 3
    assert value(scraped, "metrics_sidecar_collect_success") == 1


@pytest.mark.parametrize("streams", ["2>&-", "2>/dev/full", "<&- >&- 2>&-"])
def test_it_serves_without_a_place_for_its_log(run_exporter, streams):
    exporter = run_exporter(
        prefix=["sh", "-c", f'exec "$@" {streams}', "sh"], METRICS_SIDECAR_PORT="to be logged"
    )

    assert value(exporter.ready(), "metrics_sidecar_collect_success") == 1


def test_with_few_files_it_takes_fewer_connections_and_keeps_its_log_short(run_exporter):
    exporter = run_exporter(prefix=["sh", "-c", 'ulimit -n 64; exec "$@"', "sh"])
    exporter.ready()
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(exporter.connection())

        scraped = exporter.ready(deadline=60)

    assert value(scraped, "metrics_sidecar_collect_success") == 1
    assert len(exporter.log()) < 10_000


def test_an_address_that_the_pod_does_not_have_is_awaited(pod_and_its_world, run_exporter):
    pod, world = pod_and_its_world
    world.add_route("10.99.0.1/32", POD)
    exporter = run_exporter(METRICS_SIDECAR_ADDRESS="10.99.0.1")
    eventually("a line about the address", lambda: "cannot listen" in exporter.log())
    assert exporter.alive()

    pod.add_address("10.99.0.1/32")

    assert exporter.ready(address="10.99.0.1")


def test_logs_are_json_where_json_is_wanted(run_exporter):
    exporter = run_exporter(METRICS_SIDECAR_LOG_FORMAT="json", METRICS_SIDECAR_PORT="wrong")
    exporter.ready()

    lines = [json.loads(line) for line in exporter.log().splitlines()]

    assert {"level": "error"}.items() <= lines[0].items()
    assert "METRICS_SIDECAR_PORT='wrong'" in lines[0]["message"]


# Sources that do not work


def active(scraped, protocol="tcp"):
    return [
        dict(labels)["source"]
        for (name, *labels), number in scraped.items()
        if name == "metrics_sidecar_source_active" and dict(labels)["protocol"] == protocol and number
    ]


def test_where_netlink_is_denied_it_reads_proc_and_says_so(pod, world, run_exporter):
    exporter = run_exporter(prefix=NETLINK_DENIED)
    exporter.ready()
    with Connections(pod, [Destination(A, 443, 7, 3)]):
        scraped = exporter.scrape()

    assert value(scraped, "port_used", remote_addr=f"{A} [443:https]", state="ESTABLISHED") == 7
    assert value(scraped, "port_used", remote_addr=f"{A} [443:https]", state="TIME_WAIT") == 3
    assert value(scraped, "port_exhaustion_ratio", protocol="tcp") == 0.1
    assert active(scraped, "tcp") == active(scraped, "udp") == ["proc"]
    assert value(scraped, "metrics_sidecar_source_errors_total", source="sock_diag") == 2
    assert exporter.log().count("tcp sockets: read from proc; sock_diag: ") == 1


def hiding_proc_net(*after):
    """Become a program for which /proc/net is empty, in a mount namespace of its own."""
    hide = 'mount -t tmpfs -o size=4k hidden /proc/$$/net && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", hide, "sh", *after]


needs_mounts = pytest.mark.skipif(
    not (shutil.which("unshare") and shutil.which("nsenter") and shutil.which("mount")),
    reason="no programs unshare, nsenter and mount, of util-linux",
)


@needs_mounts
def test_where_proc_net_is_hidden_netlink_goes_on_and_the_counters_are_absent(run_exporter):
    scraped = run_exporter(prefix=hiding_proc_net()).ready()

    assert active(scraped) == ["sock_diag"]
    assert value(scraped, "metrics_sidecar_collect_success") == 1
    assert value(scraped, "port_used", remote_addr="OTHER", state="LISTEN") == 1
    assert value(scraped, "port_connections_opened_total") is None


@needs_mounts
def test_where_the_range_of_ports_cannot_be_read_the_families_are_absent(run_exporter):
    hide = 'mount -t tmpfs -o size=4k hidden /proc/sys/net && exec "$@"'
    exporter = run_exporter(prefix=["unshare", "--mount", "sh", "-c", hide, "sh"])

    scraped = exporter.ready()

    assert value(scraped, "metrics_sidecar_collect_success") == 0
    assert not {name for name, *_ in scraped} & {*SEED_FAMILIES, "port_exhaustion_ratio"}
    assert "ip_local_port_range" in exporter.log()


@needs_mounts
def test_where_nothing_can_be_read_the_families_are_absent_until_something_can(run_exporter):
    exporter = run_exporter(prefix=hiding_proc_net(*NETLINK_DENIED))
    scraped = exporter.ready()

    for _ in range(5):
        scraped = exporter.scrape()
        assert not {name for name, *_ in scraped} & {*SEED_FAMILIES, "port_exhaustion_ratio"}
        assert value(scraped, "metrics_sidecar_collect_success") == 0
        assert active(scraped) == []
    assert exporter.log().count("sockets could not be counted") == 1

    pid = str(exporter.process.pid)
    subprocess.run(["nsenter", "--target", pid, "--mount", "umount", f"/proc/{pid}/net"], check=True)
    scraped = exporter.scrape()

    assert value(scraped, "metrics_sidecar_collect_success") == 1
    assert value(scraped, "port_used", remote_addr="OTHER", state="LISTEN") == 1
    assert active(scraped) == ["proc"]
    assert "sockets are counted again" in exporter.log()


@pytest.mark.parametrize("source", ["sock_diag", "proc", "psutil"])
def test_each_source_can_be_had_alone(run_exporter, source):
    scraped = run_exporter(METRICS_SIDECAR_SOURCE=source).ready()

    assert active(scraped) == [source]
    assert value(scraped, "port_used", remote_addr="OTHER", state="LISTEN") == 1


@needs_mounts
@pytest.mark.skipif(not shutil.which("setpriv"), reason="no program setpriv, of util-linux")
def test_a_user_without_rights_reads_the_same(pod, world, run_exporter):
    # As in a pod: a user of no name, no capabilities, and none to be had. Its home is this checkout's root.
    if not os.access(ROOT, os.X_OK) or not can_run_as_nobody():
        pytest.skip(f"uid 65532 cannot run {sys.executable}: its folder is closed to others")
    exporter = run_exporter(prefix=[*WITHOUT_RIGHTS, "--"])
    exporter.ready()
    with Connections(pod, [Destination(A, 443, 7)]):
        scraped = exporter.scrape()

    assert active(scraped) == ["sock_diag"]
    assert value(scraped, "port_used", remote_addr=f"{A} [443:https]", state="ESTABLISHED") == 7


WITHOUT_RIGHTS = (
    "setpriv",
    "--reuid=65532",
    "--regid=65532",
    "--clear-groups",
    "--inh-caps=-all",
    "--bounding-set=-all",
    "--no-new-privs",
)


def can_run_as_nobody():
    return not subprocess.run(
        [*WITHOUT_RIGHTS, *COMMAND, "--version"], cwd=ROOT, capture_output=True, check=False, timeout=30
    ).returncode


def test_once_prints_the_metrics_and_exits(pod, world, run_exporter):
    with Connections(pod, [Destination(A, 443, 7)]):
        exporter = run_exporter("--once")

        assert exporter.process.wait(20) == 0

    assert (
        f'port_used{{pod_name="pod",remote_addr="{A} [443:https]",state="ESTABLISHED"}} 7.0' in exporter.log()
    )


@needs_mounts
def test_once_exits_with_1_where_nothing_can_be_read(run_exporter):
    exporter = run_exporter("--once", prefix=hiding_proc_net(*NETLINK_DENIED))

    assert exporter.process.wait(20) == 1
    assert "metrics_sidecar_collect_success 0.0" in exporter.log()
