"""Webhook configurations put to work against a server on this machine, and known to be in effect.

The API server learns of a new or changed configuration by a watch, after it has already answered the write.
`admission_barrier` tells when it has.
"""

import base64
import contextlib
import copy
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.apiserver.certificates import Authority, Identity
from tests.apiserver.client import ApiError, Client, Object
from tests.apiserver.controlplane import free_port
from tests.apiserver.waiting import eventually

CONFIGURATION = "admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"
BARRIER_LABEL = "admission-barrier"
CONFIG_MAPS = {
    "apiGroups": [""],
    "apiVersions": ["v1"],
    "operations": ["CREATE"],
    "resources": ["configmaps"],
}


class Endpoint:
    """Where a webhook server under test listens, and the certificate that it serves.

    `certificate` and `key` are files; `renew` replaces them in place, as a mounted Secret is, and by default
    keeps the authority, which is what `authority` and the configurations' caBundle hold.
    """

    def __init__(self, service: str = "metrics-sidecar-webhook.metrics-sidecar.svc") -> None:
        self.port = free_port()
        self.hosts = ("127.0.0.1", "localhost", service)
        self.authority = Authority("webhook")
        self.folder = Path(tempfile.mkdtemp(prefix="webhook-"))
        self.certificate, self.key = self.renew()

    @property
    def ca_bundle(self) -> str:
        """Return the authority's certificate as a webhook configuration holds it."""
        return base64.b64encode(self.authority.certificate).decode()

    def url(self, path: str = "/") -> str:
        return f"https://127.0.0.1:{self.port}{path}"

    def renew(self, identity: Identity | None = None) -> tuple[Path, Path]:
        """Replace both files, by a fresh certificate unless one is given; each file is always whole."""
        identity = identity or self.authority.server(*self.hosts)
        new = identity.write(self.folder, "new")
        return new[0].replace(self.folder / "tls.crt"), new[1].replace(self.folder / "tls.key")

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def redirected(configuration: Object, endpoint: Endpoint) -> Object:
    """Return the configuration with each `service` replaced by the endpoint's URL and its caBundle.

    All else stays as the manifest has it: selectors, policies and time limits are under test too.
    """
    configuration = copy.deepcopy(configuration)
    for webhook in configuration["webhooks"]:
        service = webhook["clientConfig"].get("service")
        if service is not None:
            path = service.get("path", "/")
            webhook["clientConfig"] = {"url": endpoint.url(path), "caBundle": endpoint.ca_bundle}
    return configuration


@contextlib.contextmanager
def installed(api: Client, configuration: Object, endpoint: Endpoint) -> Iterator[Object]:
    """Install a MutatingWebhookConfiguration for a server at `endpoint`: in effect inside, gone after."""
    created = api.create(redirected(configuration, endpoint))
    try:
        admission_barrier(api)
        yield created
    finally:
        # Unless the test took it away itself.
        if api.find(*CONFIGURATION, created["metadata"]["name"]):
            api.delete(*CONFIGURATION, created["metadata"]["name"])
        admission_barrier(api)


def admission_barrier(api: Client, deadline: float = 30.0) -> None:
    """Return once every change made before to mutating webhook configurations is in effect.

    A canary configuration is written last, and configurations are seen in the order in which they were
    written. It matches one label that nothing else has and leads nowhere, so that a dry-run create with this
    label is refused as soon as the API server has seen it.
    """
    token = secrets.token_hex(8)
    name = f"barrier-{token}.test.invalid"
    selector = {"matchLabels": {BARRIER_LABEL: token}}
    canary = {
        "apiVersion": CONFIGURATION[0],
        "kind": CONFIGURATION[1],
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": name,
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Fail",
                "timeoutSeconds": 1,
                "objectSelector": selector,
                "rules": [CONFIG_MAPS],
                # tcpmux, which nobody serves: refused at once.
                "clientConfig": {"url": "https://127.0.0.1:1/"},
            }
        ],
    }
    probe = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "admission-barrier", "namespace": "default", "labels": {BARRIER_LABEL: token}},
    }

    def refused() -> bool:
        try:
            api.create(probe, dry_run=True)
        except ApiError as error:
            if name in error.message:
                return True
            raise
        return False

    api.create(canary)
    try:
        eventually("the API server to see a new webhook configuration", refused, deadline=deadline)
    finally:
        api.delete(*CONFIGURATION, name)
