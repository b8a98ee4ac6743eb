"""Those that are measured: each reads all TCP sockets of a namespace its own way, and says what it cost."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bench import process
from bench.scrape import PROMETHEUS, Scraper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.image import Image
    from lab.namespace import Namespace

NODE_EXPORTER = "prometheus-node-exporter"
"""Debian's name of the program, and of its package."""

_EXPORTER_PORT, _NODE_EXPORTER_PORT = 9999, 9100
_START_TIMEOUT = 20.0
_PIPE_SIZE = 4096  # the smallest, so that also a short output waits in it
_SETTLE = 0.002  # seconds in which a server may finish with a connection that its client has done with


@dataclass(frozen=True)
class Reading:
    """What it cost to read all sockets once, in seconds."""

    cpu: float
    wall: float


class Contender(Protocol):
    """One way to read all sockets, by a process of its own."""

    pid: int

    def read(self, times: int) -> Reading:
        """Read so many times, and return the cost of one."""

    def peak_rss(self) -> int:
        """Return the highest resident memory so far, in bytes."""


class Reader:
    """A process that does nothing but one of the ways of `bench.reader`."""

    def __init__(self, namespace: Namespace, image: Image, way: str) -> None:
        program = [*image.python, str(Path(__file__).with_name("reader.py")), way]
        self._program = _start(
            namespace, program, image.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.pid = self._program.pid

    def read(self, times: int) -> Reading:
        """Read so many times, and return the cost of one."""
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.write(f"{times}\n".encode())
        self._program.stdin.flush()
        answer = json.loads(self._program.stdout.readline())
        return Reading(answer["cpu"] / times, answer["wall"] / times)

    def peak_rss(self) -> int:
        """Return the highest resident memory so far, in bytes."""
        return process.peak_rss(self.pid)


class SsReader(Reader):
    """A `Reader` that runs ``ss -tan``, whose memory is what counts."""

    def __init__(self, namespace: Namespace, image: Image) -> None:
        super().__init__(namespace, image, "ss")
        self._namespace = namespace

    def peak_rss(self) -> int:
        """Run the command once more, and look at its memory whenever it waits for us to read on."""
        highest = 0
        with _start(
            self._namespace, ["ss", "-tan"], {}, stdout=subprocess.PIPE, pipesize=_PIPE_SIZE
        ) as program:
            assert program.stdout is not None
            output = program.stdout.fileno()
            more = b"-"
            while more:
                select.select([output], [], [])
                with suppress(ProcessLookupError):  # it ended; its last words are in the pipe
                    highest = max(highest, process.peak_rss(program.pid))
                more = os.read(output, _PIPE_SIZE)
        return highest


class Scraped:
    """A process that serves ``/metrics``, and what a scrape costs it."""

    def __init__(self, pid: int, scraper: Scraper, headers: Mapping[str, str] = PROMETHEUS) -> None:
        self.pid = pid
        self.scraper = scraper
        self._headers = headers

    def read(self, times: int) -> Reading:
        """Scrape so many times, and return the cost of one."""
        cpu, wall = process.cpu_seconds(self.pid), 0.0
        for _ in range(times):
            start = time.perf_counter()
            self.scraper.scrape(self._headers)
            wall += time.perf_counter() - start
            time.sleep(_SETTLE)
        return Reading((process.cpu_seconds(self.pid) - cpu) / times, wall / times)

    def peak_rss(self) -> int:
        """Return the highest resident memory so far, in bytes."""
        return process.peak_rss(self.pid)


@dataclass(frozen=True)
class Started:
    """Our exporter, just started, and the CPU seconds that it took up to its first good answer."""

    program: subprocess.Popen[Any]
    scraper: Scraper
    cpu: float


def start_exporter(namespace: Namespace, image: Image, port: int = _EXPORTER_PORT) -> Started:
    """Start our exporter, and wait until it has answered once."""
    environment = {**image.environment, "METRICS_SIDECAR_PORT": str(port), "POD_NAME": "bench"}
    program = _start(namespace, image.command, environment, stderr=subprocess.DEVNULL)
    scraper = Scraper(namespace, port)
    answer = scraper.await_first(_START_TIMEOUT)
    cpu = process.cpu_seconds(program.pid)
    if "metrics_sidecar_collect_success 1" not in answer:
        raise RuntimeError("exporter: its first answer has no sockets; expected a good scrape")
    return Started(program, scraper, cpu)


def start_node_exporter(namespace: Namespace) -> Scraped:
    """Start node_exporter with nothing but its tcpstat collector, and wait until it has answered once."""
    command = [
        NODE_EXPORTER,
        "--collector.disable-defaults",
        "--collector.tcpstat",
        "--web.disable-exporter-metrics",
        f"--web.listen-address=127.0.0.1:{_NODE_EXPORTER_PORT}",
    ]
    program = _start(namespace, command, {}, stderr=subprocess.DEVNULL)
    scraper = Scraper(namespace, _NODE_EXPORTER_PORT)
    if "node_tcp_connection_states" not in scraper.await_first(_START_TIMEOUT):
        raise RuntimeError("node_exporter: its first answer has no TCP states; expected a good scrape")
    return Scraped(program.pid, scraper)


def _start(
    namespace: Namespace,
    command: Sequence[str],
    environment: Mapping[str, str],
    **options: Any,  # noqa: ANN401
) -> subprocess.Popen[Any]:
    if setpriv := shutil.which("setpriv"):
        # As in a pod. It also keeps psutil from looking into the processes that hold the other ends.
        limits = ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"]
        command = [setpriv, *limits, *command]
    return namespace.popen(command, env={"PATH": os.environ["PATH"], **environment}, cwd="/", **options)
