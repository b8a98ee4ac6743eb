"""Talk to the API server, in plain dicts.

`kubernetes.aio` connects, authenticates and encodes; its typed models are left out, for they lose the fields
that they do not know.
"""

import dataclasses
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote, urlencode
from urllib.request import getproxies_environment

import aiohttp
from kubernetes.aio.client import ApiClient, ApiException, Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from webhook import names, shape
from webhook.shape import Json

# Pages of 500 pods of ordinary size take 50 MiB more than these, and as much time.
PAGE: Final = 100
TIMEOUT: Final = 10.0

_JSON: Final = "application/json"
_APPLY: Final = "application/apply-patch+yaml"


class ClusterError(Exception):
    """The API server did not do what it was asked for; `str()` is a sentence for people.

    Args:
        code: the HTTP status, 0 if there was no answer.
        reason: the machine-readable reason of the API server's Status, such as `AlreadyExists`.
        causes: the machine-readable causes of it, such as `NamespaceTerminating`.
    """

    def __init__(
        self, message: str, code: int = 0, reason: str = "", causes: frozenset[str] = frozenset()
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.causes = causes


class NoClusterError(Exception):
    """There is no cluster to talk to: neither a kubeconfig nor a service account."""


@dataclasses.dataclass(frozen=True, slots=True)
class Resource:
    """A kind, and where the API server has its objects."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool = True

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        """Return the path of one object, or of all: of a namespace, or everywhere."""
        root = "/apis/" if "/" in self.api_version else "/api/"
        parts = [self.api_version]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name is not None:
            parts.append(quote(name, safe=""))
        return root + "/".join(parts)


PODS: Final = Resource("v1", "Pod", "pods")
SERVICES: Final = Resource("v1", "Service", "services")
SECRETS: Final = Resource("v1", "Secret", "secrets")
EVENTS: Final = Resource("v1", "Event", "events")
DEPLOYMENTS: Final = Resource("apps/v1", "Deployment", "deployments")
STATEFULSETS: Final = Resource("apps/v1", "StatefulSet", "statefulsets")
DAEMONSETS: Final = Resource("apps/v1", "DaemonSet", "daemonsets")
LEASES: Final = Resource("coordination.k8s.io/v1", "Lease", "leases")
NAMESPACES: Final = Resource("v1", "Namespace", "namespaces", namespaced=False)
WEBHOOKS: Final = Resource(
    "admissionregistration.k8s.io/v1",
    "MutatingWebhookConfiguration",
    "mutatingwebhookconfigurations",
    namespaced=False,
)


class Cluster:
    """A connection to one API server. Use it as an async context manager, or `close` it.

    Every method raises ClusterError, also for a server that cannot be reached or does not answer in time.
    """

    def __init__(self, configuration: Configuration) -> None:
        # Not 0: to the library that is no limit, and a GET answered by 500 would be repeated for ever.
        configuration.retries = None
        # Else aiohttp looks into ~/.netrc before each request, in a thread: a tenth of the reconciler's time,
        # and what it finds there it refuses to send beside a token. Only proxies are wanted of it.
        configuration.client_session_kwargs = {"trust_env": bool(getproxies_environment())}
        self.configuration = configuration
        self._api = ApiClient(configuration)
        self._api.user_agent = f"metrics-sidecar-webhook/{names.VERSION}"

    @classmethod
    async def connect(cls, context: str | None = None) -> Self:
        """Connect as kubectl would, or as the pod's service account where there is no kubeconfig.

        Raises:
            NoClusterError: there is neither.
        """
        configuration = Configuration()
        try:
            try:
                await load_kube_config(
                    context=context, client_configuration=configuration, persist_config=False
                )
            except ConfigException as missing:
                if context is not None:
                    raise
                try:
                    load_incluster_config(configuration)
                except ConfigException:
                    # Outside of a cluster it is the kubeconfig that is wanted.
                    raise missing from None
        # The library raises what the reading of a broken file happens to raise.
        except Exception as error:
            why = str(error).rstrip(".")
            raise NoClusterError(
                f"kubeconfig: {why}; expected KUBECONFIG, ~/.kube/config or a pod's service account"
            ) from error
        return cls(configuration)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Json | None:
        """Return an object, None if there is none of that name, or no such kind."""
        try:
            return await self.request("GET", resource.path(namespace, name))
        except ClusterError as error:
            if error.code == HTTPStatus.NOT_FOUND:
                return None
            raise

    async def items(
        self, resource: Resource, namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Json]:
        """Yield the objects of a kind, page by page, each with its apiVersion and kind."""
        query = {"limit": str(PAGE)}
        if labels:
            query["labelSelector"] = labels
        if fields:
            query["fieldSelector"] = fields
        while True:
            page = await self.request("GET", resource.path(namespace), query)
            for item in shape.mappings(page.get("items")):
                # Lists leave out what is the same for all.
                yield {"apiVersion": resource.api_version, "kind": resource.kind, **item}
            token = shape.text(shape.metadata(page).get("continue"))
            if not token:
                return
            query["continue"] = token

    async def create(self, resource: Resource, obj: Json, *, dry_run: bool = False) -> Json:
        """Create an object and return what was stored; with `dry_run`, what would have been."""
        namespace = shape.text(shape.metadata(obj).get("namespace")) or None
        query = {"fieldManager": names.FIELD_MANAGER} | ({"dryRun": "All"} if dry_run else {})
        return await self.request("POST", resource.path(namespace), query, obj)

    async def replace(self, resource: Resource, obj: Json) -> Json:
        """Replace an object; a conflict (409) if it has changed since its resourceVersion."""
        path = resource.path(shape.text(shape.metadata(obj).get("namespace")) or None, shape.name(obj))
        return await self.request("PUT", path, {"fieldManager": names.FIELD_MANAGER}, obj)

    async def apply(self, resource: Resource, obj: Json, *, force: bool = False) -> Json:
        """Apply an object on the server's side, under our own field manager; return what was stored.

        Args:
            resource: its kind.
            obj: the fields that are ours; those that we had applied before and are not in it are taken away.
            force: take fields over that others own; without, they are a conflict (409).
        """
        path = resource.path(shape.text(shape.metadata(obj).get("namespace")) or None, shape.name(obj))
        query = {"fieldManager": names.FIELD_MANAGER, "force": "true" if force else "false"}
        return await self.request("PATCH", path, query, obj, content_type=_APPLY)

    async def delete(
        self, resource: Resource, name: str, namespace: str | None = None, *, uid: str | None = None
    ) -> None:
        """Delete an object: that very one if `uid` is given, a conflict (409) if another has its name now."""
        body = {"preconditions": {"uid": uid}} if uid else None
        await self.request("DELETE", resource.path(namespace, name), body=body)

    async def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,  # noqa: ANN401 (any JSON)
        *,
        content_type: str = _JSON,
        timeout: float = TIMEOUT,  # noqa: ASYNC109 (the library's own, which closes the connection)
        seen: list[tuple[str, str]] | None = None,
    ) -> Json:
        """Send a request and return the JSON object that is the answer; its headers are added to `seen`."""
        headers = {"Accept": _JSON, "Content-Type": content_type, **self._api.default_headers}
        url = self.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        try:
            await self._api.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
            answer = await self._api.call_api(
                method,
                url,
                header_params=headers,
                body=body,
                _request_timeout=aiohttp.ClientTimeout(total=timeout),
            )
            content = await answer.read()
            if seen is not None:
                seen.extend(answer.headers.items())
        except ApiException as error:
            raise _refused(method, path, error.status or 0, error.body) from error
        except (aiohttp.ClientError, TimeoutError, OSError, ssl.SSLError) as error:
            why = str(error) or type(error).__name__
            raise ClusterError(f"{method} {path}: {why}; expected an answer of the API server") from error
        if not HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
            raise _refused(method, path, answer.status, content)
        try:
            return shape.mapping(json.loads(content))
        except ValueError as error:
            raise ClusterError(f"{method} {path}: not JSON; expected an answer of the API server") from error


def namespace_of_pod() -> str | None:
    """Return the namespace of the pod that this process runs in, None outside of a cluster."""
    try:
        return Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace").read_text().strip() or None
    except OSError:
        return None


def _refused(method: str, path: str, code: int, body: object) -> ClusterError:
    try:
        status = shape.mapping(json.loads(body)) if isinstance(body, str | bytes) else {}
    except ValueError:
        status = {}
    message = shape.text(status.get("message")) or "no reason given"
    details = shape.mapping(status.get("details"))
    causes = frozenset(shape.text(cause.get("reason")) for cause in shape.mappings(details.get("causes")))
    reason = shape.text(status.get("reason"))
    return ClusterError(f"{method} {path}: {code}: {message}", code, reason, causes)
