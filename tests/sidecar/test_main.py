"""The command, as it is run: in a process of its own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import sidecar
from sidecar.config import _OPTIONS
from tests.sidecar.test_collector import PORT_FAMILIES

ROOT = Path(__file__).parents[2]
DEADLINE = 30  # seconds; reached only when a test fails

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs a kernel that tells of its sockets: Linux")
posix = pytest.mark.skipif(os.name != "posix", reason="needs signals")


def environment(**variables):
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("METRICS_SIDECAR_", "POD_"))
    }
    return {**kept, "PYTHONUTF8": "1", "PYTHONWARNINGS": "error", **variables}


def run(*arguments, **variables):
    return subprocess.run(
        [sys.executable, "-m", "sidecar", *arguments],
        capture_output=True,
        check=False,
        cwd=ROOT,
        encoding="utf-8",
        env=environment(**variables),
        timeout=DEADLINE,
    )


def families_in(text):
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_version_is_printed():
    process = run("--version")
    assert (process.returncode, process.stdout, process.stderr) == (
        0,
        f"metrics-sidecar {sidecar.__version__}\n",
        "",
    )


def test_help_is_printed():
    process = run("--help")
    assert (process.returncode, process.stderr) == (0, "")
    for option in _OPTIONS:
        assert option.flag in process.stdout
        assert option.variable in process.stdout


@linux
@pytest.mark.parametrize("source", ["auto", "proc"])
def test_once_prints_the_metrics_of_this_namespace(source):
    with socket.create_server(("127.0.0.1", 0)):
        process = run("--once", METRICS_SIDECAR_SOURCE=source, POD_NAME="web-1")
    assert process.returncode == 0
    families = families_in(process.stdout)
    assert set(families) >= PORT_FAMILIES
    assert families["port_total"].samples[0].labels == {"pod_name": "web-1"}
    listening = [s.value for s in families["port_used"].samples if s.labels["state"] == "LISTEN"]
    assert sum(listening) >= 1
    assert process.stderr == ""


def test_once_without_a_pod_name_is_named_after_the_host():
    families = families_in(run("--once").stdout)
    names = {
        sample.labels["pod_name"]
        for family in families.values()
        for sample in family.samples
        if "pod_name" in sample.labels
    }
    assert names <= {socket.gethostname()}
    assert families["metrics_sidecar_build_info"].samples[0].labels == {"version": sidecar.__version__}


@linux
def test_bad_settings_are_logged_and_counted_and_stop_nothing():
    process = run(
        "--once",
        "--bogus",
        METRICS_SIDECAR_PORT="99999",
        METRICS_SIDECAR_LOG_FORMAT="yaml",
        METRICS_SIDECAR_SOURCE="x",
    )
    assert process.returncode == 0
    lines = process.stderr.splitlines()
    assert [line.partition(" ERROR sidecar: ")[2] for line in lines] == [
        "config: '--bogus'; expected a flag that --help lists",
        "config: METRICS_SIDECAR_PORT='99999'; expected 1..65535",
        "config: METRICS_SIDECAR_SOURCE='x'; expected auto, sock_diag, proc or psutil",
        "config: METRICS_SIDECAR_LOG_FORMAT='yaml'; expected text or json",
    ]
    assert families_in(process.stdout)["metrics_sidecar_config_errors"].samples[0].value == 4


def test_once_ends_with_1_where_the_sockets_cannot_be_counted():
    program = (
        "import psutil, sys; from sidecar.__main__ import run; from sidecar.config import Settings\n"
        "def fail(kind): raise psutil.AccessDenied(1)\n"
        "psutil.net_connections = fail\n"
        "sys.exit(run(Settings(once=True, source='psutil')))"
    )
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, cwd=ROOT, encoding="utf-8", timeout=DEADLINE
    )
    assert process.returncode == 1
    families = families_in(process.stdout)
    assert not set(families) & PORT_FAMILIES
    assert families["metrics_sidecar_collect_success"].samples[0].value == 0


# Serving.


class Exporter:
    def __init__(self, port, *arguments, **variables):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sidecar", f"--port={port}", "--address=127.0.0.1", *arguments],
            cwd=ROOT,
            encoding="utf-8",
            env=environment(**variables),
            stderr=subprocess.PIPE,
        )
        self.url = f"http://127.0.0.1:{port}"
        self.log = []
        self._said = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stderr.close()

    def _read(self):
        for line in self.process.stderr:
            with self._said:
                self.log.append(line)
                self._said.notify_all()

    def wait_for_log(self, text):
        with self._said:
            assert self._said.wait_for(lambda: any(text in line for line in self.log), DEADLINE), self.log

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=DEADLINE) as answer:
            return answer.read().decode()


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@posix
def test_a_taken_port_is_awaited_served_and_left_at_once_on_sigterm(taken):
    with Exporter(taken.getsockname()[1], POD_NAME="web-1") as exporter:
        exporter.wait_for_log("cannot listen on port")
        taken.close()
        exporter.wait_for_log("serving on 127.0.0.1")
        families = families_in(exporter.get("/metrics"))
        assert families["metrics_sidecar_collections"].samples[0].value == 1
        assert "web-1" in exporter.get("/")
        with pytest.raises(urllib.error.HTTPError, match="404") as caught:
            exporter.get("/nothing")
        caught.value.close()
        exporter.process.send_signal(signal.SIGTERM)
        assert exporter.process.wait(timeout=5) == 0


@posix
@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_waiting_for_the_port_ends_at_once_too(taken, number):
    with Exporter(taken.getsockname()[1]) as exporter:
        exporter.wait_for_log("cannot listen on port")
        exporter.process.send_signal(getattr(signal, number))
        assert exporter.process.wait(timeout=5) == 0


@posix
def test_garbage_ends_nothing(taken):
    port = taken.getsockname()[1]
    with Exporter(port) as exporter:
        exporter.wait_for_log("cannot listen on port")
        taken.close()
        exporter.wait_for_log("serving on")
        for request in (
            b"\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) + b"\r\n\r\n",
            b"GET /metrics\r\n\r\n",
            b"GET /metrics HTTP/9.9\r\n\r\n",
            b"GET " + b"/" * 70_000 + b" HTTP/1.1\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text;version=x\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            b"POST /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
            b"GET /metrics HTTP/1.1\r\nHo",
        ):
            with (
                socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as client,
                contextlib.suppress(OSError),  # it may hang up before it has heard all of it
            ):
                client.sendall(request)
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):
                    pass
        assert "metrics_sidecar_collect_success" in exporter.get("/metrics")
        assert exporter.process.poll() is None
