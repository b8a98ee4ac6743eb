"""As many sockets as a pod can have: each is counted, on the memory and CPU of the container."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from lab.connections import Connections, Destination, Server
from lab.namespace import pod_and_world
from sidecar.sources import ProcSource
from tests.kernel import cgroups
from tests.kernel.exporter import Exporter, total, value
from tests.kernel.reading import read_tcp

MIB = 1 << 20
PROMETHEUS_SCRAPE_TIMEOUT = 10.0
LIMIT = 50 * MIB


@contextmanager
def a_pod_with(destinations, capacity):
    with pod_and_world() as (pod, world), Server(world, [443, 5432], capacity=capacity):
        # Otherwise the kernel keeps, on a small machine, fewer of them.
        pod.sysctl("ipv4.tcp_max_tw_buckets", 100_000)
        yield pod, world, Connections(pod, destinations)


def few_remotes():
    """28,000 sockets, half of them in TIME_WAIT, to four remotes."""
    return [Destination(f"10.77.0.{host}", 443, established=3500, time_wait=3500) for host in range(1, 5)]


def many_remotes():
    """65,000 sockets, half of them in TIME_WAIT, to 28,000 remotes."""
    return [
        Destination(
            f"10.77.{number // 250}.{number % 250 + 1}",
            443,
            established=1 + (number < 4500),
            time_wait=1 + (number < 4500),
        )
        for number in range(28_000)
    ]


@pytest.fixture
def log(tmp_path):
    return tmp_path / "exporter.log"


@contextmanager
def running(pod, world, log, deadline=20.0, **options):
    exporter = Exporter(pod, world, log, **options)
    try:
        exporter.ready(deadline)
        yield exporter
    finally:
        exporter.end()


def ours(scraped):
    """Return how many sockets a scrape tells of, without the exporter's own: its listener, its clients."""
    return total(scraped, "port_used") - sum(
        number
        for (name, *labels), number in scraped.items()
        if name == "port_used" and ("remote_addr", "OTHER") in labels
    )


def test_28_000_sockets_are_counted_exactly_and_scrapes_share_their_collections(log):
    with (
        a_pod_with(few_remotes(), 15_000) as (pod, world, connections),
        running(pod, world, log) as exporter,
        connections,
    ):
        scraped = exporter.scrape()
        before = value(exporter.scrape(), "metrics_sidecar_collections_total")
        with ThreadPoolExecutor(8) as clients:
            shared = list(clients.map(lambda _: exporter.scrape(), range(8)))
        after = value(exporter.scrape(), "metrics_sidecar_collections_total")
        by_proc = read_tcp(pod, ProcSource())
        peak = exporter.memory_kib() / 1024

    for each in (scraped, *shared):
        for host in range(1, 5):
            for state in ("ESTABLISHED", "TIME_WAIT"):
                remote = f"10.77.0.{host} [443:https]"
                assert value(each, "port_used", remote_addr=remote, state=state) == 3500
        assert ours(each) == 28_000
        assert value(each, "port_total") == 28_232
        assert value(each, "port_exhaustion_ratio", protocol="tcp") == pytest.approx(7000 / 28_232)
    assert after - before - 1 < 8
    assert sum(by_proc.usage.used.values()) >= 28_000
    print(f"28,000 sockets: peak RSS {peak:.1f} MiB, {after - before - 1:.0f} collections for 8 scrapes")
    assert peak < 50


def test_65_000_sockets_to_28_000_remotes_are_counted_exactly_within_the_memory_of_the_container(log):
    with (
        a_pod_with(many_remotes(), 35_000) as (pod, world, connections),
        running(pod, world, log) as exporter,
        connections,
    ):
        scraped = [exporter.scrape() for _ in range(3)]
        peak = exporter.memory_kib() / 1024

    for each in scraped:
        series = [labels for name, *labels in each if name == "port_used"]
        remotes = {dict(labels)["remote_addr"] for labels in series}
        assert len(remotes - {"OTHER"}) == 500
        assert value(each, "metrics_sidecar_folded_remotes") == 27_500
        assert value(each, "port_used", remote_addr="OTHER", state="TIME_WAIT") >= 32_500 - 1000
        # The sums are exact; beside ours there are the exporter's listener and the scrape's connections.
        assert total(each, "port_used") - 65_000 in range(2, 6)
        assert ours(each) == 500 * 4
    print(f"65,000 sockets: peak RSS {peak:.1f} MiB")
    assert peak < 50


def test_it_lives_with_65_000_sockets_on_the_50m_and_50mi_of_the_container(log):
    try:
        with (
            cgroups.limited(LIMIT, 0.05) as limits,
            a_pod_with(many_remotes(), 35_000) as (pod, world, connections),
            running(pod, world, log, deadline=30, prefix=limits.prefix) as exporter,
            connections,
        ):
            seconds = []
            for _ in range(2):
                started = time.monotonic()
                scraped = exporter.scrape(timeout=PROMETHEUS_SCRAPE_TIMEOUT)
                seconds.append(time.monotonic() - started)
            resident, peak = exporter.memory_kib() / 1024, limits.memory_peak() / MIB
            killed, throttled = limits.out_of_memory_kills(), limits.cpu_throttled()
    except cgroups.UnavailableError as reason:
        pytest.skip(str(reason))

    assert total(scraped, "port_used") - 65_000 in range(2, 6)
    assert killed == 0
    assert throttled > 0  # the limit was in force
    print(
        f"50m and 50Mi: scrapes {', '.join(f'{one:.1f}' for one in seconds)} s,"
        f" peak RSS {resident:.1f} MiB, peak of the group {peak:.1f} MiB"
    )
