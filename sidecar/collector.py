"""One collection: ask the sources, compute, hand out metric families. Where a failure stops being one."""

from __future__ import annotations

import itertools
import logging
import time
from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from sidecar import __version__
from sidecar.fallback import Fallback
from sidecar.families import churn_families, exhaustion_families, usage_families
from sidecar.kernel import read_churn, read_settings
from sidecar.logs import RateLimit
from sidecar.model import SourceError
from sidecar.singleflight import SingleFlight
from sidecar.usage import tcp_usage, udp_exhaustion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from prometheus_client import Metric

    from sidecar.model import Churn, KernelSettings
    from sidecar.sources import Source
    from sidecar.usage import Exhaustion

log = logging.getLogger(__name__)


class PortCollector(Collector):
    """Collects the metrics of one pod, for a prometheus_client registry.

    Args:
        pod_name: the label ``pod_name``.
        sources: the best first.
        port_names: names of remote ports.
        max_remotes: how many remotes get a series.
        config_errors: how many settings were replaced by their defaults, to be told.
        settings: reads the namespace's settings.
        churn: reads its counters.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        pod_name: str,
        sources: Sequence[Source],
        port_names: Mapping[int, str],
        max_remotes: int,
        config_errors: int = 0,
        settings: Callable[[], KernelSettings] = read_settings,
        churn: Callable[[], Churn] = read_churn,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pod_name = pod_name
        self._port_names = port_names
        self._max_remotes = max_remotes
        self._config_errors = config_errors
        self._settings = settings
        self._churn = churn
        self._clock = clock
        self._errors: Counter[str] = Counter({source.name: 0 for source in sources})
        self._collections = 0
        self.succeeded = False
        """Whether the last collection could count the sockets."""
        self._tcp = Fallback(
            "tcp sockets", {source.name: source.tcp for source in sources}, self._errors, clock
        )
        self._udp = Fallback(
            "udp sockets", {source.name: source.udp_ports for source in sources}, self._errors, clock
        )
        self._log = RateLimit(log, clock)
        self._shared = SingleFlight(self._collect)

    def collect(self) -> Iterable[Metric]:
        """Return all families, of a collection that other scrapes may share. Raises nothing."""
        return self._shared()

    def _collect(self) -> list[Metric]:
        started = self._clock()
        self._collections += 1
        families: list[Metric] = []
        folded, counted = 0, False
        # The exporter never exits because something failed: what cannot be read is absent, never zero, and
        # says so in metrics_sidecar_collect_success.
        try:
            kernel = self._settings()
            usage = tcp_usage(self._tcp.read(kernel), kernel, self._port_names, self._max_remotes)
            families += usage_families(self._pod_name, usage, kernel.ports)
            exhaustion = {"tcp": usage.exhaustion, **self._udp_exhaustion(kernel)}
            families += exhaustion_families(self._pod_name, exhaustion)
            folded, counted = usage.folded, True
            self._log.over("collect", "sockets are counted again")
        except Exception as error:  # noqa: BLE001 - see above
            families.clear()
            self._log.error("collect", "sockets could not be counted: %s", str(error) or type(error).__name__)
        try:
            families += churn_families(self._pod_name, self._churn())
        except Exception as error:  # noqa: BLE001 - see above
            self._log.error("churn", "counters could not be read: %s", str(error) or type(error).__name__)
        self.succeeded = counted
        families += self._self_families(counted, folded, self._clock() - started)
        return families

    def _udp_exhaustion(self, kernel: KernelSettings) -> dict[str, Exhaustion]:
        try:
            return {"udp": udp_exhaustion(self._udp.read(), kernel.ports)}
        except SourceError as error:  # the TCP families do not depend on it
            self._log.error("udp", "%s", error)
            return {}

    def _self_families(self, counted: bool, folded: int, seconds: float) -> Iterator[Metric]:
        def gauge(name: str, documentation: str, value: float) -> Metric:
            return GaugeMetricFamily(f"metrics_sidecar_{name}", documentation, value)

        yield gauge("collect_success", "1 if the sockets could be counted, else 0.", counted)
        yield gauge("collect_duration_seconds", "How long the collection took.", seconds)
        yield gauge("folded_remotes", "Remotes beyond METRICS_SIDECAR_MAX_REMOTES, counted as OTHER.", folded)
        yield gauge("config_errors", "Settings that were replaced by their defaults.", self._config_errors)
        yield CounterMetricFamily(
            "metrics_sidecar_collections",
            "Collections made, each for one or more scrapes.",
            self._collections,
        )
        errors = CounterMetricFamily(
            "metrics_sidecar_source_errors", "Failed readings of each source of sockets.", labels=["source"]
        )
        for source, count in self._errors.items():
            errors.add_metric([source], count)
        yield errors
        active = GaugeMetricFamily(
            "metrics_sidecar_source_active",
            "1 for the source that the sockets were read from, else 0.",
            labels=["protocol", "source"],
        )
        for protocol, source in itertools.product(("tcp", "udp"), self._errors):
            active.add_metric([protocol, source], source == getattr(self, f"_{protocol}").active)
        yield active
        info = GaugeMetricFamily("metrics_sidecar_build_info", "Always 1.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
