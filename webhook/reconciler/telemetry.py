"""Metrics of the reconciler."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Info, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from webhook import names

_PREFIX = "metrics_sidecar_reconciler"
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class Telemetry:
    """What the process counts, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.writes = 0
        self._leader = self._gauge("leader", "Whether this replica is the one that acts")
        self._services = self._gauge("services", "Services of ours that are there; 0 while standing by")
        self._pods = self._gauge("injected_pods", "Pods with the exporter; 0 while standing by")
        self._foreign = self._gauge(
            "foreign_services", "Workloads without a Service of ours, for somebody else's has its name"
        )
        self._uninjected = self._gauge(
            "uninjected_pods", "Pods that are to have the exporter, and run without it"
        )
        self._depth = self._gauge("queue_depth", "Workloads that wait to be looked at")
        self._resync = self._gauge(
            "last_resync_timestamp_seconds", "When everything was compared last, with success; 0 for never"
        )
        self._expiry = Gauge(
            f"{_PREFIX}_certificate_expiry_timestamp_seconds",
            "When the certificates that the reconciler keeps expire",
            ["certificate"],
            registry=self.registry,
        )
        self._written = Counter(
            f"{_PREFIX}_writes",
            "Requests that changed something",
            ["resource", "verb"],
            registry=self.registry,
        )
        self._errors = Counter(f"{_PREFIX}_errors", "What failed and was tried again", registry=self.registry)
        Info(f"{_PREFIX}_build", "Version of the reconciler", registry=self.registry).info(
            {"version": names.VERSION}
        )
        ProcessCollector(registry=self.registry)

    def leading(
        self,
        services: Callable[[], int],
        pods: Callable[[], int],
        foreign: Callable[[], int],
        uninjected: Callable[[], int],
        depth: Callable[[], int],
    ) -> None:
        """Note that this replica acts, and what to ask when somebody looks."""
        self._leader.set(1)
        for gauge, ask in (
            (self._services, services),
            (self._pods, pods),
            (self._foreign, foreign),
            (self._uninjected, uninjected),
            (self._depth, depth),
        ):
            gauge.set_function(ask)

    def standing_by(self) -> None:
        """Note that another replica acts."""
        self._leader.set(0)
        for gauge in (self._services, self._pods, self._foreign, self._uninjected, self._depth):
            gauge.set_function(lambda: 0)

    def resynced(self) -> None:
        """Note that everything has been compared."""
        self._resync.set(time.time())

    def failed(self) -> None:
        """Count an error."""
        self._errors.inc()

    def wrote(self, resource: str, method: str) -> None:
        """Count a write, by the resource's plural and the HTTP method."""
        self.writes += 1
        self._written.labels(resource, _VERBS.get(method, method.lower())).inc()

    def expiry(self, ca: float, serving: float) -> None:
        """Note when the certificates expire, as Unix times."""
        self._expiry.labels("ca").set(ca)
        self._expiry.labels("serving").set(serving)

    def exposition(self) -> tuple[bytes, str]:
        """Return the metrics in Prometheus' text format, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"{_PREFIX}_{name}", text, registry=self.registry)
