"""Keep the webhook's certificates: its Secret, and what the API servers trust it by."""

import dataclasses
import datetime as dt
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from webhook import certificates, names, shape
from webhook.cluster import SECRETS, WEBHOOKS, Cluster, ClusterError
from webhook.config import Reconciling
from webhook.rotation import Desired, Lifetimes, desired
from webhook.shape import Json

logger = logging.getLogger(__name__)

_JSON_PATCH: Final = "application/json-patch+json"


@dataclasses.dataclass(frozen=True, slots=True)
class Expiry:
    """When certificates expire, as Unix times.

    Args:
        ca: the authority that signed the serving certificate.
        serving: what the webhook serves.
    """

    ca: float
    serving: float


class Authority:
    """Looks at the certificates, and makes, renews or mends what is due.

    Args:
        cluster: how to reach the API server.
        reconciling: the namespace of the Secret, and the lifetimes.
        clock: returns the time, aware.
    """

    def __init__(
        self,
        cluster: Cluster,
        reconciling: Reconciling,
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._cluster = cluster
        self._namespace = reconciling.namespace
        self._hosts = certificates.hosts(reconciling.namespace)
        self._lifetimes = Lifetimes(
            ca=dt.timedelta(days=reconciling.ca_days),
            certificate=dt.timedelta(days=reconciling.certificate_days),
            settle=dt.timedelta(seconds=reconciling.settle_seconds),
        )
        self._clock = clock
        self._unknown = False
        self._unsaved: tuple[str, Json] = "", {}

    async def ensure(self) -> Expiry:
        """Look once, write what differs, return when what is there now expires.

        Raises:
            ClusterError: something could not be read or written, or the Secret is somebody else's. What has
                been written until then is sound; the next look goes on from there.
        """
        try:
            return await self._look()
        except ClusterError as error:
            # Someone else wrote meanwhile: perhaps another leader, for a moment. What they wrote counts.
            if error.code != HTTPStatus.CONFLICT:
                raise
            return await self._look()

    async def _look(self) -> Expiry:
        secret = await self._cluster.get(SECRETS, names.CERTIFICATE_SECRET, self._namespace) or {}
        configuration = await self._cluster.get(WEBHOOKS, names.WEBHOOK)
        if secret and shape.label(secret, names.MANAGED_BY_LABEL) != names.MANAGED_BY:
            raise ClusterError(
                f"secret {self._namespace}/{names.CERTIFICATE_SECRET}: it is somebody else's, and left alone;"
                f" expected the label {names.MANAGED_BY_LABEL}={names.MANAGED_BY}, or"
                " METRICS_SIDECAR_INJECTOR_RECONCILE_CERTIFICATES=false"
            )
        self._notice(configuration)
        webhooks = _webhooks(configuration)
        wanted = desired(
            self._data(secret),
            [_bundle(webhook) for webhook in webhooks],
            self._hosts,
            self._lifetimes,
            self._clock(),
        )
        # In this order: nothing may serve before it is trusted.
        if any(_bundle(webhook) != wanted.bundle for webhook in webhooks):
            await self._trust(configuration or {}, wanted.bundle)
        for change in wanted.changes:
            logger.info("certificates: %s", change)
        if wanted.data != shape.mapping(secret.get("data")):
            await self._store(secret, wanted)
        return Expiry(wanted.ca_expiry.timestamp(), wanted.serving_expiry.timestamp())

    def _data(self, secret: Json) -> Json:
        """Return the Secret's data, with the authority that could not be written into it, if there is one.

        Otherwise there would be another new one at each look until it can, and all of them be trusted. Not
        so the serving certificate: from its date on it counts as served.
        """
        if self._unsaved[0] != _version(secret):
            self._unsaved = _version(secret), {}
        return {**shape.mapping(secret.get("data")), **self._unsaved[1]}

    async def _trust(self, configuration: Json, bundle: str) -> None:
        """Write the CA bundle of every webhook.

        Not by server-side apply: a webhook whose CA bundle we had applied would stay behind, without the rest
        of it, when an operator applies manifests that no longer have it; and that is refused as invalid.
        """
        # Of another version the indices may be of other webhooks: then it is a conflict.
        version = {"op": "add", "path": "/metadata/resourceVersion", "value": _version(configuration)}
        patch = [version] + [
            {"op": "add", "path": f"/webhooks/{index}/clientConfig/caBundle", "value": bundle}
            for index, _ in enumerate(_webhooks(configuration))
        ]
        query = {"fieldManager": names.FIELD_MANAGER}
        path = WEBHOOKS.path(name=names.WEBHOOK)
        await self._cluster.request("PATCH", path, query, patch, content_type=_JSON_PATCH)
        logger.info("certificates: CA bundle written")

    async def _store(self, secret: Json, wanted: Desired) -> None:
        self._unsaved = (
            _version(secret),
            {key: wanted.data[key] for key in (names.CA_CERTIFICATES, names.CA_KEY)},
        )
        if secret:
            await self._cluster.replace(SECRETS, {**secret, "data": wanted.data})
        else:
            await self._cluster.create(SECRETS, self._new_secret(wanted.data))
        self._unsaved = "", {}
        logger.info("certificates: Secret written")

    def _new_secret(self, data: Json) -> Json:
        return {
            "apiVersion": SECRETS.api_version,
            "kind": SECRETS.kind,
            "type": "kubernetes.io/tls",
            "metadata": {
                "name": names.CERTIFICATE_SECRET,
                "namespace": self._namespace,
                "labels": {names.MANAGED_BY_LABEL: names.MANAGED_BY},
            },
            "data": data,
        }

    def _notice(self, configuration: Json | None) -> None:
        """Say once that there is no webhook configuration."""
        if configuration is None and not self._unknown:
            logger.warning(
                "certificates: no MutatingWebhookConfiguration %s; expected that of the manifests",
                names.WEBHOOK,
            )
        self._unknown = configuration is None


def _webhooks(configuration: Json | None) -> list[Json]:
    return shape.mappings(shape.mapping(configuration).get("webhooks"))


def _bundle(webhook: Json) -> str:
    return shape.text(shape.mapping(webhook.get("clientConfig")).get("caBundle"))


def _version(obj: Json) -> str:
    """Return the object's resourceVersion, empty without an object."""
    return shape.text(shape.metadata(obj).get("resourceVersion"))
