"""Metrics of the admission process."""

import contextlib
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from webhook import names
from webhook.decision import Decision

# From the fastest answer to the time limit of the webhook configuration.
_BUCKETS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.25, 0.5, 1.0, 2.5, 5.0)


class Telemetry:
    """What the process counts, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        prefix = "metrics_sidecar_webhook"
        self._decisions = Counter(
            f"{prefix}_decisions",
            "Objects reviewed, by what was done and why",
            ["action", "reason"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            f"{prefix}_review_seconds",
            "Time from the last byte of a review to its answer",
            ["webhook"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._failed_open = Counter(
            f"{prefix}_failed_open",
            "Reviews in which the injector failed, answered by letting the object through unchanged",
            ["webhook"],
            registry=self.registry,
        )
        self._refused = Counter(
            f"{prefix}_refused", "Requests that held no review", ["code"], registry=self.registry
        )
        self._expiry = Gauge(
            f"{prefix}_certificate_expiry_timestamp_seconds",
            "When the certificate that is served expires; 0 without one",
            registry=self.registry,
        )
        self._fresh = Gauge(
            f"{prefix}_certificate_reload_success",
            "Whether the certificate that is served is the one in the files",
            registry=self.registry,
        )
        self._reloads = Counter(
            f"{prefix}_certificate_reloads",
            "Readings of a changed certificate, by whether it could be used",
            ["outcome"],
            registry=self.registry,
        )
        Info(f"{prefix}_build", "Version of the injector", registry=self.registry).info(
            {"version": names.VERSION}
        )
        ProcessCollector(registry=self.registry)
        for webhook in names.HANDLERS:
            self._seconds.labels(webhook)
            self._failed_open.labels(webhook)
        for outcome in ("success", "failure"):
            self._reloads.labels(outcome)

    def decided(self, decision: Decision) -> None:
        """Count what was done with one object."""
        self._decisions.labels(decision.action.value, decision.reason.value).inc()

    @contextlib.contextmanager
    def timed(self, webhook: str) -> Iterator[None]:
        """Measure one review."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds.labels(webhook).observe(time.perf_counter() - start)

    def failed_open(self, webhook: str) -> None:
        """Count a review in which the injector failed."""
        self._failed_open.labels(webhook).inc()

    def refused(self, code: int) -> None:
        """Count a request that held no review."""
        self._refused.labels(str(code)).inc()

    def certificate(self, expiry: float | None) -> None:
        """Note that the files hold another certificate: its time of expiry, None if it cannot be used."""
        self._reloads.labels("failure" if expiry is None else "success").inc()
        self._fresh.set(expiry is not None)
        if expiry is not None:
            self._expiry.set(expiry)

    def exposition(self) -> tuple[bytes, str]:
        """Return the metrics in Prometheus' text format, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
