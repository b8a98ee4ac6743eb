"""The exporter as a process in a pod, and what it answers."""

import http.client
import os
import socket
import sys
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from lab.namespace import POD, end_all
from tests.kernel.waiting import eventually

ROOT = Path(__file__).parents[2]
PORT = 9999
COMMAND = (sys.executable, "-m", "sidecar")


class Exporter:
    """`python -m sidecar` in a pod, its log in a file, asked from the pod's world as Prometheus does.

    `prefix` is a program that becomes the exporter, for example one that first takes away its rights.
    """

    def __init__(self, pod, world, log, flags=(), prefix=(), environment=None):
        self._pod, self._world = pod, world
        self._log = log
        with log.open("wb") as output:
            self.process = pod.popen(
                [*prefix, *COMMAND, *flags],
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], "POD_NAME": "pod", **(environment or {})},
                stdout=output,
                stderr=output,
            )

    def end(self):
        end_all([self.process])

    def log(self):
        return self._log.read_text()

    def alive(self):
        return self.process.poll() is None

    @contextmanager
    def connection(self, port=PORT, address=POD, timeout=10.0):
        """Yield a connected socket."""
        with (self._pod if ip_address(address).is_loopback else self._world).entered():
            client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        with client:
            client.settimeout(timeout)
            client.connect((address, port))
            yield client

    def get(self, path="/metrics", method="GET", headers=None, **where):
        """Return the response, read; its text in `.text`."""
        with self.connection(**where) as client:
            conversation = http.client.HTTPConnection("exporter")
            conversation.sock = client
            conversation.request(method, path, headers=headers or {})
            response = conversation.getresponse()
            response.text = response.read().decode()
            conversation.close()
            return response

    def scrape(self, **where):
        """Return the samples: value by (name, label, label...), labels as (name, value) without pod_name."""
        response = self.get(**where)
        assert response.status == 200
        return samples(response.text)

    def ready(self, deadline=20.0, **where):
        """Wait until it answers, and return its first samples."""
        try:
            return eventually(
                "an answer", lambda: self.scrape(**where), deadline=deadline, tolerate=(OSError,)
            )
        except AssertionError as error:
            raise AssertionError(f"{error}; log: {self.log()}") from error

    def memory_kib(self, field="VmHWM"):
        """Return a field of its `/proc/<pid>/status`; VmHWM is the most that was ever resident."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line.split()[1] for line in text.splitlines() if line.startswith(f"{field}:")))


def samples(text):
    """Return value by (name, *labels) of an exposition; a label is (name, value), pod_name left out."""
    return {
        (sample.name, *sorted(item for item in sample.labels.items() if item[0] != "pod_name")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples, name, **labels):
    """Return one value, or None if there is no such sample."""
    return samples.get((name, *sorted(labels.items())))


def total(samples, name):
    """Return the sum of a family."""
    return sum(number for (sample, *_), number in samples.items() if sample == name)


def children(pid):
    """Return the process ids of a process's children."""
    with suppress(FileNotFoundError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []
