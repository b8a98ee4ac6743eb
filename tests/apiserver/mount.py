"""The webhook as the API server finds it in a cluster: by its Service, and serving from a mounted Secret."""

import base64
import contextlib
import shutil
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import psutil
import pytest

from tests.apiserver.admission import CONFIGURATION, admission_barrier
from tests.apiserver.client import ApiError, Client, Object
from tests.apiserver.controlplane import free_port
from tests.apiserver.injector import configuration
from webhook import names

SECRET = "v1", "Secret", names.CERTIFICATE_SECRET
FILES = (names.SERVING_CERTIFICATE, names.SERVING_KEY)


class Mount:
    """The kubelet's part: two files with what the Secret holds, changed together, and some time later.

    Use as a context manager. `certificate`, `key` and `port` are those of an Endpoint.
    """

    def __init__(self, api: Client, namespace: str, *, late: float = 0.0) -> None:
        self._api, self._namespace, self._late = api, namespace, late
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="mount-"))
        self.certificate, self.key = (self.folder / "now" / name for name in FILES)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self) -> None:
        seen: deque[tuple[float, dict[str, str]]] = deque()
        shown: dict[str, str] | None = None
        while not self._end.wait(0.1):
            with contextlib.suppress(ApiError, OSError):
                secret = self._api.find(*SECRET, self._namespace) or {}
                seen.append((time.monotonic(), secret.get("data") or {}))
            content = shown
            while seen and time.monotonic() - seen[0][0] >= self._late:
                content = seen.popleft()[1]
            if content is not None and content != shown:
                self._show(content)
                shown = content

    def _show(self, content: dict[str, str]) -> None:
        """Exchange all files at once by a symbolic link, as the kubelet does; those of a lost Secret go."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        for name in FILES:
            if name in content:
                (folder / name).write_bytes(base64.b64decode(content[name]))
        link = self.folder / "next"
        link.symlink_to(folder)
        link.replace(self.folder / "now")


def address() -> str:
    """Return an address of this machine that may be an endpoint; those of loopback may not."""
    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    for name in sorted(up):
        for each in psutil.net_if_addrs().get(name, []):
            if each.family == socket.AF_INET and not each.address.startswith(("127.", "169.254.")):
                return each.address
    pytest.skip("this machine has no IPv4 address but those of loopback")


def in_cluster(namespace: str) -> Object:
    """Return the webhook configuration of the manifests, for a Service in a namespace."""
    written = configuration()
    for webhook in written["webhooks"]:
        webhook["clientConfig"]["service"]["namespace"] = namespace
    return written


@contextlib.contextmanager
def routed(api: Client, namespace: str, port: int) -> Iterator[None]:
    """Have the API server find the webhook on this machine, at a port of every address of it."""
    head = {"apiVersion": "v1", "kind": "Service"}
    metadata = {"name": names.WEBHOOK, "namespace": namespace}
    ports = [{"name": "https", "port": 443, "targetPort": port}]
    api.create({**head, "metadata": metadata, "spec": {"ports": ports}})
    slices = "discovery.k8s.io/v1", "EndpointSlice"
    api.create(
        {
            "apiVersion": slices[0],
            "kind": slices[1],
            "metadata": {**metadata, "labels": {"kubernetes.io/service-name": names.WEBHOOK}},
            "addressType": "IPv4",
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [address()], "conditions": {"ready": True}}],
        }
    )
    try:
        yield
    finally:
        api.delete(*slices, names.WEBHOOK, namespace)
        api.delete("v1", "Service", names.WEBHOOK, namespace)


@contextlib.contextmanager
def configured(api: Client, namespace: str) -> Iterator[None]:
    """Install the webhook configuration, without a CA bundle, as operators do."""
    api.create(in_cluster(namespace))
    try:
        admission_barrier(api)
        yield
    finally:
        if api.find(*CONFIGURATION, names.WEBHOOK):
            api.delete(*CONFIGURATION, names.WEBHOOK)
        admission_barrier(api)
