"""Numbers become families, and only those that are there."""

import string

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from sidecar.families import churn_families, exhaustion_families, usage_families
from sidecar.model import Churn, LocalPorts
from sidecar.portnames import PORT_NAMES
from sidecar.usage import Exhaustion, tcp_usage
from tests.sidecar.sockets import DEFAULT, HUNDRED, connections, counted


def samples(families):
    return {
        (family.name, *tuple(sample.labels.values())[1:]): sample.value
        for family in families
        for sample in family.samples
    }


def used(*sockets, kernel=DEFAULT):
    return usage_families(
        "web-1", tcp_usage(counted(*sockets, kernel=kernel), kernel, PORT_NAMES, 500), kernel.ports
    )


def test_a_pod_without_sockets_uses_nothing():
    assert samples(used()) == {("port_total",): 28232, ("port_usage",): 0, ("port_available",): 28232}


def test_a_usage_may_pass_100_percent_because_ports_serve_several_destinations():
    sockets = connections(100, "198.51.100.10:443") + connections(50, "198.51.100.20:443")
    assert samples(used(*sockets, kernel=HUNDRED))["port_usage",] == 150


def test_reserved_ports_are_in_the_total_and_not_available():
    ports = LocalPorts(100, 109, frozenset({105}))
    usage = tcp_usage(counted(), DEFAULT, PORT_NAMES, 500)
    values = samples(usage_families("web-1", usage, ports))
    assert (values["port_total",], values["port_available",]) == (10, 9)


@pytest.mark.parametrize("protocols", [[], ["tcp"], ["udp"], ["tcp", "udp"]])
def test_only_protocols_that_were_read_have_samples(protocols):
    exhaustion = Exhaustion(pinned=3, ratio=0.5, free=7)
    assert samples(exhaustion_families("web-1", dict.fromkeys(protocols, exhaustion))) == {
        (name, protocol): value
        for protocol in protocols
        for name, value in (("port_pinned", 3), ("port_exhaustion_ratio", 0.5), ("port_exhaustion_free", 7))
    }


def test_counters_are_counters():
    families = list(churn_families("web-1", Churn(opened=3, failed=2, time_wait_overflow=1)))
    assert {family.type for family in families} == {"counter"}
    assert [sample.name for family in families for sample in family.samples] == [
        "port_connections_opened_total",
        "port_connection_attempts_failed_total",
        "port_time_wait_overflow_total",
    ]
    assert list(samples(families).values()) == [3, 2, 1]


class Once(Collector):
    def __init__(self, families):
        self.families = families

    def collect(self):
        return self.families


@pytest.mark.parametrize("text", ['"', "\\", "\n", "é", "{", "web 1", string.punctuation])
def test_labels_are_escaped(text):
    registry = CollectorRegistry()
    registry.register(Once(list(churn_families(text, Churn(1, 2, 3)))))
    escaped = text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    lines = generate_latest(registry).decode().split("\n")
    assert f'port_connections_opened_total{{pod_name="{escaped}"}} 1.0' in lines
