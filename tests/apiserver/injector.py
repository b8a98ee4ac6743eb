"""The injector as operators deploy it: `python -m webhook serve` and our own MutatingWebhookConfiguration."""

import contextlib
import http.client
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.apiserver.admission import Endpoint, installed
from tests.apiserver.client import Client, Object
from tests.apiserver.processes import Child
from tests.apiserver.waiting import eventually

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "manifests" / "base" / "mutatingwebhookconfiguration.yaml"
PREFIX = "METRICS_SIDECAR_INJECTOR_"
SERVE = ("-m", "webhook", "serve")


def configuration() -> Object:
    """Return the webhook configuration that operators apply."""
    written: Object = yaml.safe_load(MANIFEST.read_text())
    return written


class Injector:
    """The admission process; use as a context manager: listening inside, gone afterwards.

    Its environment holds its settings and nothing else: no home, no kubeconfig, no service account. It logs
    every review, each as a line with the namespace of the object.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        port: int | None = None,
        program: Sequence[str] = SERVE,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._port = endpoint.port if port is None else port
        self._program = program
        self._settings = settings or {}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="injector-")))
            settings = {
                "SERVE_ADDRESS": "127.0.0.1",
                "SERVE_PORT": self._port,
                "SERVE_PROBE_PORT": 0,
                "SERVE_CERTIFICATE": self._endpoint.certificate,
                "SERVE_KEY": self._endpoint.key,
                "SERVE_DRAIN_SECONDS": 0,
                "SERVE_LOG_LEVEL": "DEBUG",
                **self._settings,
            }
            environment = {PREFIX + key: str(value) for key, value in settings.items()}
            environment |= {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
            command = [sys.executable, *self._program]
            self.process = Child("injector", command, folder / "log", environment)
            stack.callback(self.process.stop)
            listening = eventually("the injector to listen", self._listening)
            assert listening is not None
            self.port, self.probe_port = listening["port"], listening["probe_port"]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _listening(self) -> dict[str, Any] | None:
        if self.process.exit_code is not None:
            raise RuntimeError(f"the injector ended: {self.process.exit_code}\n{self.process.log_tail()}")
        return next((line for line in self.lines() if line["message"] == "server: listening"), None)

    # --- what it says of itself --------------------------------------------------------------------------

    def lines(self) -> list[dict[str, Any]]:
        """Return its log; all of it is JSON."""
        text = self.process.log.read_text().splitlines(keepends=True)
        # A line without its end is still being written.
        return [json.loads(line) for line in text if line.endswith("\n")]

    def complaints(self) -> list[dict[str, Any]]:
        """Return the lines about something that went wrong."""
        return [line for line in self.lines() if line["level"] not in ("debug", "info")]

    def reviews(self, namespace: str, kind: str | None = None) -> list[str]:
        """Return the reason of each review of an object in a namespace, in order."""
        return [
            line["reason"]
            for line in self.lines()
            if line.get("namespace") == namespace and kind in (None, line["kind"])
        ]

    @contextlib.contextmanager
    def unasked(self, namespace: str) -> Iterator[None]:
        """Check that the API server sends nothing of this namespace here meanwhile."""
        before = self.reviews(namespace)
        yield
        assert self.reviews(namespace) == before

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of a probe or of the metrics."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.probe_port, timeout=5)) as probe:
            probe.request("GET", path)
            response = probe.getresponse()
            return response.status, response.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of /metrics that have this name and these labels."""
        return total(self.get("/metrics")[1], name, **labels)

    def reviewed(self) -> float:
        """Return how many reviews it was sent, of all namespaces."""
        return self.metric("metrics_sidecar_webhook_review_seconds_count")

    def failed(self) -> float:
        """Return how many of them it failed at, and let through."""
        return self.metric("metrics_sidecar_webhook_failed_open_total")


def total(exposition: str, name: str, **labels: str) -> float:
    """Return the sum of the samples with a name and, among others, these labels."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


@contextlib.contextmanager
def in_effect(api: Client, endpoint: Endpoint, **options: Any) -> Iterator[Injector]:
    """Run the injector, with the configuration of the manifests pointing at it."""
    with Injector(endpoint, **options) as injector, installed(api, configuration(), endpoint):
        yield injector
