"""One collection becomes this text; and what could not be read is absent from it, never zero.

`UPDATE_GOLDEN=1 pytest tests/sidecar/test_collector.py` rewrites the texts; the diff is reviewed like code.
"""

import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

import sidecar
from sidecar.collector import PortCollector
from sidecar.fallback import PROBE_INTERVAL
from sidecar.logs import REPEAT_INTERVAL
from sidecar.model import Churn, KernelSettings, LocalPorts, SourceError
from sidecar.portnames import PORT_NAMES
from tests.sidecar.dumps import DATA
from tests.sidecar.sockets import connections, counted, sock

KERNEL = KernelSettings(LocalPorts(32768, 60999, frozenset({40000, 40001})), time_wait_reuse=2)

SEED_FAMILIES = {"port_used", "port_total", "port_usage"}
PORT_FAMILIES = SEED_FAMILIES | {
    "port_available",
    "port_destination_ratio",
    "port_pinned",
    "port_exhaustion_ratio",
    "port_exhaustion_free",
}
CHURN_FAMILIES = {
    "port_connections_opened",
    "port_connection_attempts_failed",
    "port_time_wait_overflow",
}

ERRORS = [
    SourceError("sock_diag: the kernel answered EPERM; expected sockets"),
    PermissionError(13, "Permission denied"),
    TimeoutError(),
    RuntimeError("dictionary changed size during iteration"),
    KeyError(15),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    MemoryError(),
    RecursionError(),
    AssertionError(),
    ZeroDivisionError(),
    StopIteration(),
]
BY_TYPE = {"ids": lambda error: type(error).__name__}


def some_sockets():
    return [
        sock("0.0.0.0:8080", state="LISTEN"),
        sock("[::]:50000", state="LISTEN"),
        sock("192.0.2.1:50001", state="CLOSE"),
        *connections(8, "198.51.100.10:443", first=33000),
        *connections(5, "198.51.100.10:443", "TIME_WAIT", first=33100),
        *connections(3, "[::ffff:198.51.100.20]:5432", local="[::ffff:192.0.2.1]", first=33000),
        *connections(2, "[2001:db8::10]:50051", local="[2001:db8::1]", first=33000),
        *connections(1, "198.51.100.30:9042", first=33000),
        *(sock("192.0.2.1:8080", f"203.0.113.9:{port}") for port in (50000, 50001, 80)),
    ]


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class FakeSource:
    """Tells of the same sockets whenever it is asked, a quarter of a second later, or raises."""

    def __init__(self, name, clock):
        self.name = name
        self.clock = clock
        self.tcp_error = None
        self.udp_error = None
        self.udp_held = {53, 33000, 33001}

    def tcp(self, kernel):
        self.clock.now += 0.25
        if self.tcp_error:
            raise self.tcp_error
        return counted(*some_sockets(), kernel=kernel)

    def udp_ports(self):
        if self.udp_error:
            raise self.udp_error
        return self.udp_held


class Exporter:
    """A collector on two fake sources, in a registry of its own."""

    def __init__(self, **changes):
        self.clock = Clock()
        self.best, self.second = FakeSource("best", self.clock), FakeSource("second", self.clock)
        self.settings_error = None
        self.churn_error = None
        self.collector = PortCollector(
            **{
                "pod_name": "web-1",
                "sources": [self.best, self.second],
                "port_names": PORT_NAMES,
                "max_remotes": 3,
                "config_errors": 2,
                "settings": self.settings,
                "churn": self.churn,
                "clock": self.clock,
                **changes,
            }
        )
        self.registry = CollectorRegistry()
        self.registry.register(self.collector)

    def settings(self):
        if self.settings_error:
            raise self.settings_error
        return KERNEL

    def churn(self):
        if self.churn_error:
            raise self.churn_error
        return Churn(opened=24, failed=3, time_wait_overflow=1)

    def breaks(self, *sources, tcp=None, udp=None):
        for source in sources or (self.best, self.second):
            source.tcp_error, source.udp_error = tcp, udp

    def scrape(self):
        """Return the samples of a scrape by family, without those that tell of the exporter itself."""
        return {
            family.name: {tuple(sample.labels.values()): sample.value for sample in family.samples}
            for family in parse_text(generate_latest(self.registry).decode())
        }


@pytest.fixture
def exporter(caplog):
    caplog.set_level(logging.INFO)
    return Exporter()


def own(samples, name, labels=()):
    return samples[f"metrics_sidecar_{name}"][labels]


# The whole text.


def golden(name, text):
    text = text.replace(f'version="{sidecar.__version__}"', 'version="VERSION"')
    path = DATA / "exposition" / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    return text, path.read_text(encoding="utf-8")


def text_of(exporter):
    return generate_latest(exporter.registry).decode()


def openmetrics_of(exporter):
    return openmetrics.generate_latest(exporter.registry).decode()


def test_this_is_the_text_of_a_good_collection(exporter):
    text, expected = golden("good.txt", text_of(exporter))
    assert text == expected
    assert exporter.collector.succeeded


def test_this_is_the_openmetrics_text_of_a_good_collection(exporter):
    text, expected = golden("good.openmetrics.txt", openmetrics_of(exporter))
    assert text == expected
    assert {family.name for family in parse_openmetrics(text)} >= PORT_FAMILIES | CHURN_FAMILIES


def test_this_is_the_text_when_sockets_cannot_be_counted(exporter):
    exporter.breaks(tcp=SourceError("broken"), udp=SourceError("broken"))
    text, expected = golden("bad.txt", text_of(exporter))
    assert text == expected
    assert not exporter.collector.succeeded


def test_a_pod_name_is_escaped():
    exporter = Exporter(pod_name='we"b\\\n1')
    assert 'port_total{pod_name="we\\"b\\\\\\n1"} 28232.0' in text_of(exporter).splitlines()


def test_the_seed_families_are_these(exporter):
    # Names, labels and HELP are a contract.
    families = {family.name: family for family in exporter.collector.collect()}
    assert [(name, families[name].type, families[name].documentation) for name in sorted(SEED_FAMILIES)] == [
        ("port_total", "gauge", "Total Local Port Count"),
        ("port_usage", "gauge", "Local Port Usage Percentage"),
        ("port_used", "gauge", "Used Local Port Count"),
    ]
    assert {name: {tuple(sample.labels) for sample in families[name].samples} for name in SEED_FAMILIES} == {
        "port_used": {("pod_name", "remote_addr", "state")},
        "port_total": {("pod_name",)},
        "port_usage": {("pod_name",)},
    }


def test_usage_is_the_sum_of_used_in_percent_of_total(exporter):
    samples = exporter.scrape()
    assert sum(samples["port_used"].values()) == 24
    assert samples["port_total"] == {("web-1",): 28232}
    assert samples["port_usage"] == {("web-1",): pytest.approx(100 * 24 / 28232)}


def test_every_family_and_every_port_sample_says_whose_it_is(exporter):
    for family in exporter.collector.collect():
        assert family.documentation
        if not family.name.startswith("metrics_sidecar_"):
            assert all(sample.labels["pod_name"] == "web-1" for sample in family.samples)


def test_registering_reads_nothing():
    def fail():
        pytest.fail("read before it is scraped")

    Exporter(settings=fail, churn=fail)


# What fails is absent.


def assert_good(samples):
    assert set(samples) >= PORT_FAMILIES
    assert samples["port_used"]["web-1", "198.51.100.10 [443:https]", "ESTABLISHED"] == 8
    assert own(samples, "collect_success") == 1


@pytest.mark.parametrize("error", ERRORS, **BY_TYPE)
def test_where_no_source_works_the_port_families_are_absent_and_the_next_good_scrape_is_right(
    exporter, caplog, error
):
    exporter.breaks(tcp=error)
    samples = exporter.scrape()
    assert not PORT_FAMILIES & set(samples)
    assert set(samples) >= CHURN_FAMILIES
    assert own(samples, "collect_success") == 0
    assert own(samples, "folded_remotes") == 0
    assert samples["metrics_sidecar_source_errors"] == {("best",): 1, ("second",): 1}
    assert set(samples["metrics_sidecar_source_active"].values()) == {0}
    assert not exporter.collector.succeeded
    (line,) = caplog.messages
    assert line.startswith("sockets could not be counted: tcp sockets: no source works: best: ")
    assert line.count(str(error) or type(error).__name__) == 2

    exporter.breaks()
    assert_good(exporter.scrape())
    assert exporter.collector.succeeded
    assert caplog.messages[1:] == ["sockets are counted again"]


@pytest.mark.parametrize("error", ERRORS, **BY_TYPE)
def test_where_the_best_source_fails_the_second_is_read(exporter, error):
    expected = exporter.scrape()
    exporter.breaks(exporter.best, tcp=error, udp=error)
    samples = exporter.scrape()
    assert {name: samples[name] for name in PORT_FAMILIES} == {name: expected[name] for name in PORT_FAMILIES}
    assert samples["metrics_sidecar_source_active"] == {
        ("tcp", "best"): 0,
        ("tcp", "second"): 1,
        ("udp", "best"): 0,
        ("udp", "second"): 1,
    }
    assert own(samples, "source_errors", ("best",)) == 2
    assert own(samples, "collect_success") == 1


def test_the_best_source_is_read_again_when_it_works_again(exporter):
    exporter.breaks(exporter.best, tcp=SourceError("broken"))
    exporter.scrape()
    exporter.breaks()
    assert own(exporter.scrape(), "source_active", ("tcp", "second")) == 1
    exporter.clock.now += PROBE_INTERVAL
    assert own(exporter.scrape(), "source_active", ("tcp", "best")) == 1


@pytest.mark.parametrize("error", ERRORS, **BY_TYPE)
def test_where_only_udp_fails_only_its_samples_are_absent(exporter, caplog, error):
    exporter.breaks(udp=error)
    samples = exporter.scrape()
    assert_good(samples)
    for name in ("port_pinned", "port_exhaustion_ratio", "port_exhaustion_free"):
        assert set(samples[name]) == {("web-1", "tcp")}
    assert samples["metrics_sidecar_source_active"]["udp", "best"] == 0
    assert samples["metrics_sidecar_source_active"]["tcp", "best"] == 1
    (line,) = caplog.messages
    assert line.startswith("udp sockets: no source works: best: ")


@pytest.mark.parametrize("error", ERRORS, **BY_TYPE)
def test_where_only_the_counters_fail_only_they_are_absent(exporter, caplog, error):
    exporter.churn_error = error
    samples = exporter.scrape()
    assert_good(samples)
    assert not CHURN_FAMILIES & set(samples)
    assert caplog.messages == [f"counters could not be read: {str(error) or type(error).__name__}"]


@pytest.mark.parametrize("error", ERRORS, **BY_TYPE)
def test_where_the_settings_fail_the_port_families_are_absent(exporter, caplog, error):
    exporter.settings_error = error
    samples = exporter.scrape()
    assert not PORT_FAMILIES & set(samples)
    assert set(samples) >= CHURN_FAMILIES
    assert own(samples, "collect_success") == 0
    assert caplog.messages == [f"sockets could not be counted: {str(error) or type(error).__name__}"]
    exporter.settings_error = None
    assert_good(exporter.scrape())


def test_an_error_of_our_own_leaves_no_family_behind_that_was_made_before_it(exporter, caplog):
    exporter.best.udp_held = {70000}  # which is no port
    samples = exporter.scrape()
    assert not PORT_FAMILIES & set(samples)
    assert own(samples, "collect_success") == 0
    assert caplog.messages == ["sockets could not be counted: index out of range"]


def test_where_everything_fails_the_exporter_still_tells_of_itself(exporter):
    exporter.settings_error = exporter.churn_error = OSError("broken")
    samples = exporter.scrape()
    assert all(name.startswith("metrics_sidecar_") for name in samples)
    assert own(samples, "collect_success") == 0
    assert own(samples, "collections") == 1
    assert own(samples, "build_info", (sidecar.__version__,)) == 1


def test_an_error_that_stays_is_one_line_a_minute(exporter, caplog):
    exporter.breaks(tcp=SourceError("broken"))
    exporter.clock.now = begun = 1000.0
    for _ in range(20):
        exporter.scrape()
    assert len(caplog.messages) == 1
    exporter.clock.now = begun + REPEAT_INTERVAL + 1
    exporter.scrape()
    assert len(caplog.messages) == 2
    assert caplog.messages[1].endswith("second: broken (and 19 times since the last line)")
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


def test_errors_are_counted_scrape_after_scrape(exporter):
    exporter.breaks(tcp=SourceError("broken"))
    for _ in range(3):
        samples = exporter.scrape()
    assert samples["metrics_sidecar_source_errors"] == {("best",): 3, ("second",): 3}
    assert own(samples, "collections") == 3


# Of itself.


def test_it_tells_how_long_it_took_and_what_it_folded(exporter):
    samples = exporter.scrape()
    assert own(samples, "collect_duration_seconds") == 0.25
    assert own(samples, "folded_remotes") == 1
    assert own(samples, "config_errors") == 2


def test_scrapes_that_come_together_share_one_collection():
    begun, go_on = threading.Event(), threading.Event()

    def settings():
        begun.set()
        assert go_on.wait(10)
        return KERNEL

    exporter = Exporter(settings=settings)
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(exporter.collector.collect)
        assert begun.wait(10)
        others = [threads.submit(exporter.collector.collect) for _ in range(2)]
        while len(exporter.collector._shared._flight._condition._waiters) < 2:
            assert not first.done()
        go_on.set()
        families = first.result()
        assert all(other.result() is families for other in others)
    assert own(exporter.scrape(), "collections") == 2
