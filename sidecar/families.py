"""The metric families, and what each of them means. Pure: numbers in, families out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client import Metric

    from sidecar.model import Churn, LocalPorts
    from sidecar.usage import Exhaustion, Usage

    Samples = Mapping[tuple[str, ...], float]


def usage_families(pod_name: str, usage: Usage, ports: LocalPorts) -> Iterator[Metric]:
    """Yield the families of TCP usage. Names, labels and HELP of the first three are a contract."""
    yield _gauges(
        "port_used",
        "Used Local Port Count",
        ["pod_name", "remote_addr", "state"],
        {(pod_name, *labels): count for labels, count in sorted(usage.used.items())},
    )
    yield _gauge("port_total", "Total Local Port Count", pod_name, ports.total)
    yield _gauge(
        "port_usage", "Local Port Usage Percentage", pod_name, 100 * usage.used.total() / ports.total
    )
    yield _gauge(
        "port_available",
        "Local ports that the kernel may hand out: those of net.ipv4.ip_local_port_range"
        " without net.ipv4.ip_local_reserved_ports.",
        pod_name,
        ports.available,
    )
    yield _gauges(
        "port_destination_ratio",
        "Share of the available local ports (0..1) that a new TCP connection to this destination cannot have:"
        " those of its connections and the pinned ones. Only the fullest destinations, at most 10.",
        ["pod_name", "remote_addr"],
        {(pod_name, remote_addr): ratio for remote_addr, ratio in usage.destinations.items()},
    )


def exhaustion_families(pod_name: str, by_protocol: Mapping[str, Exhaustion]) -> Iterator[Metric]:
    """Yield the families of exhaustion, for the protocols that could be read."""
    labels = ["pod_name", "protocol"]
    exhaustions = {(pod_name, protocol): exhaustion for protocol, exhaustion in by_protocol.items()}
    yield _gauges(
        "port_pinned",
        "Available local ports that no new connection can have, whatever its destination:"
        " held by a listening or bound socket (tcp), or by any socket (udp).",
        labels,
        {labels: exhaustion.pinned for labels, exhaustion in exhaustions.items()},
    )
    yield _gauges(
        "port_exhaustion_ratio",
        "Share of the available local ports (0..1) that a new connection to the fullest destination cannot"
        " have. At 1, connect() to it fails, with EADDRNOTAVAIL (tcp) or EAGAIN (udp). A destination is a"
        " local address, a remote address and a remote port (tcp), or anything at all (udp).",
        labels,
        {labels: exhaustion.ratio for labels, exhaustion in exhaustions.items()},
    )
    yield _gauges(
        "port_exhaustion_free",
        "How many more connections the fullest destination takes before connect() fails.",
        labels,
        {labels: exhaustion.free for labels, exhaustion in exhaustions.items()},
    )


def churn_families(pod_name: str, churn: Churn) -> Iterator[Metric]:
    """Yield the counters of connections come and gone."""
    yield _counter(
        "port_connections_opened",
        "TCP connections begun from this network namespace (ActiveOpens).",
        pod_name,
        churn.opened,
    )
    yield _counter(
        "port_connection_attempts_failed",
        "TCP connections that failed while being set up, in either direction (AttemptFails);"
        " the kernel does not count a connect() that finds no local port.",
        pod_name,
        churn.failed,
    )
    if churn.time_wait_overflow is not None:
        yield _counter(
            "port_time_wait_overflow",
            "TCP connections closed without TIME_WAIT because net.ipv4.tcp_max_tw_buckets were in use"
            " (TCPTimeWaitOverflow).",
            pod_name,
            churn.time_wait_overflow,
        )


def _gauges(name: str, documentation: str, labels: list[str], samples: Samples) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=labels)
    for values, value in samples.items():
        family.add_metric(values, value)
    return family


def _gauge(name: str, documentation: str, pod_name: str, value: float) -> Metric:
    return _gauges(name, documentation, ["pod_name"], {(pod_name,): value})


def _counter(name: str, documentation: str, pod_name: str, value: float) -> Metric:
    family = CounterMetricFamily(name, documentation, labels=["pod_name"])
    family.add_metric([pod_name], value)
    return family
