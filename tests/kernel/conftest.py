"""What tests of this tier ask for: a pod and a world of their own, joined by a cable."""

import os
import sys
from pathlib import Path

import pytest

from lab.connections import Dialler, Server
from lab.namespace import pod_and_world, why_not
from tests.kernel.exporter import Exporter

PORTS = (20000, 20099)
SERVER_PORTS = (53, 80, 443, 5432)


def pytest_collection_modifyitems(items):
    """Mark the whole folder, so that `-m 'not kernel'` leaves it out."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("kernel")


@pytest.fixture(scope="session", autouse=True)
def _network_namespaces():
    if sys.platform.startswith("linux") and os.geteuid():
        pytest.skip(f"kernel tier: run as uid {os.geteuid()}; expected root")
    if reason := why_not():
        pytest.skip(f"kernel tier: {reason}")


@pytest.fixture
def pod_and_its_world():
    """A pod with 100 local ports, and its world."""
    with pod_and_world() as (pod, world):
        pod.sysctl("ipv4.ip_local_port_range", "{} {}".format(*PORTS))
        yield pod, world


@pytest.fixture
def pod(pod_and_its_world):
    return pod_and_its_world[0]


@pytest.fixture
def world(pod_and_its_world):
    """The world, where every address accepts connections to `SERVER_PORTS`."""
    _, world = pod_and_its_world
    with Server(world, SERVER_PORTS):
        yield world


@pytest.fixture
def dialler(pod, world):
    """Opens connections from the pod; depends on the world's server, so that they are closed before it."""
    with Dialler(pod) as dialler:
        yield dialler


@pytest.fixture
def run_exporter(pod_and_its_world, tmp_path):
    """Start exporters in the pod, `run_exporter(flags, **environment)`; they end with the test."""
    running = []

    def run(*flags, prefix=(), **environment):
        log = tmp_path / f"exporter-{len(running)}.log"
        running.append(Exporter(*pod_and_its_world, log, flags, prefix, environment))
        return running[-1]

    yield run
    for exporter in running:
        exporter.end()
