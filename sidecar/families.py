"""The metric families, and what each of them means. Pure: numbers in, families out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client import Metric

    from sidecar.model import Churn, LocalPorts
    from sidecar.usage import Exhaustion, Usage


def usage_families(pod_name: str, usage: Usage, ports: LocalPorts) -> Iterator[Metric]:
    """Yield the families of TCP usage. Names, labels and HELP of the first three are a contract."""
    used = GaugeMetricFamily(
        "port_used", "Used Local Port Count", labels=["pod_name", "remote_addr", "state"]
    )
    for (remote_addr, state), count in sorted(usage.used.items()):
        used.add_metric([pod_name, remote_addr, state], count)
    yield used
    yield _of_pod("port_total", "Total Local Port Count", pod_name, ports.total)
    yield _of_pod(
        "port_usage",
        "Local Port Usage Percentage",
        pod_name,
        100 * usage.used.total() / ports.total,
    )
    yield _of_pod(
        "port_available",
        "Local ports that the kernel may hand out: those of net.ipv4.ip_local_port_range"
        " without net.ipv4.ip_local_reserved_ports.",
        pod_name,
        ports.available,
    )
    destinations = GaugeMetricFamily(
        "port_destination_ratio",
        "Share of the available local ports (0..1) that connections to this destination cannot have:"
        " its own connections' and the pinned ones. Only the fullest destinations, at most 10.",
        labels=["pod_name", "remote_addr"],
    )
    for remote_addr, ratio in usage.destinations.items():
        destinations.add_metric([pod_name, remote_addr], ratio)
    yield destinations


def exhaustion_families(pod_name: str, by_protocol: Mapping[str, Exhaustion]) -> Iterator[Metric]:
    """Yield the families of exhaustion, for the protocols that could be read."""
    labels = ["pod_name", "protocol"]
    pinned = GaugeMetricFamily(
        "port_pinned",
        "Available local ports that no new connection can have, whatever its destination:"
        " held by a listening or bound socket (tcp), or by any socket (udp).",
        labels=labels,
    )
    ratio = GaugeMetricFamily(
        "port_exhaustion_ratio",
        "Share of the available local ports (0..1) that a connection to the fullest destination cannot have."
        " At 1, connect() to it fails with EADDRNOTAVAIL (tcp) or EAGAIN (udp)."
        " A tcp destination is a local address, a remote address and a remote port; udp has only one.",
        labels=labels,
    )
    free = GaugeMetricFamily(
        "port_exhaustion_free",
        "How many more connections the fullest destination can take before connect() fails.",
        labels=labels,
    )
    for protocol, exhaustion in by_protocol.items():
        pinned.add_metric([pod_name, protocol], exhaustion.pinned)
        ratio.add_metric([pod_name, protocol], exhaustion.ratio)
        free.add_metric([pod_name, protocol], exhaustion.free)
    yield from (pinned, ratio, free)


def churn_families(pod_name: str, churn: Churn) -> Iterator[Metric]:
    """Yield the counters of connections come and gone."""
    for name, documentation, value in (
        (
            "port_connections_opened",
            "TCP connections that were begun from this network namespace (ActiveOpens).",
            churn.opened,
        ),
        (
            "port_connection_attempts_failed",
            "TCP connections that failed while being set up, in either direction (AttemptFails)."
            " A connect() that finds no local port is not counted by the kernel.",
            churn.failed,
        ),
        (
            "port_time_wait_overflow",
            "TCP connections closed without TIME_WAIT because net.ipv4.tcp_max_tw_buckets were in use"
            " (TCPTimeWaitOverflow).",
            churn.time_wait_overflow,
        ),
    ):
        family = CounterMetricFamily(name, documentation, labels=["pod_name"])
        family.add_metric([pod_name], value)
        yield family


def _of_pod(name: str, documentation: str, pod_name: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=["pod_name"])
    family.add_metric([pod_name], value)
    return family
