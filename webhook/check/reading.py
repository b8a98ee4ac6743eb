"""Look at a cluster: the only part of `check` that talks to it. Nothing is changed there."""

import asyncio
import contextlib
import datetime as dt
import email.utils
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from http import HTTPStatus
from typing import Any, Final

from webhook import names, shape, status
from webhook.check.permissions import needed
from webhook.check.snapshot import Area, Probe, Snapshot, concerns_us, reduced, with_our_mark, without_history
from webhook.check.workloads import label_of
from webhook.cluster import (
    DAEMONSETS,
    DEPLOYMENTS,
    EVENTS,
    LEASES,
    NAMESPACES,
    PODS,
    SECRETS,
    SERVICES,
    STATEFULSETS,
    WEBHOOKS,
    Cluster,
    ClusterError,
    Resource,
)
from webhook.shape import Json

REPLICASETS: Final = Resource("apps/v1", "ReplicaSet", "replicasets")
WORKLOADS: Final = (
    DEPLOYMENTS,
    STATEFULSETS,
    DAEMONSETS,
    Resource("v1", "ReplicationController", "replicationcontrollers"),
    Resource("batch/v1", "Job", "jobs"),
    Resource("batch/v1", "CronJob", "cronjobs"),
)
# Of others; most clusters have none of these.
CUSTOM: Final = (
    Resource("argoproj.io/v1alpha1", "Rollout", "rollouts"),
    Resource("apps.kruise.io/v1alpha1", "CloneSet", "clonesets"),
    Resource("apps.kruise.io/v1beta1", "StatefulSet", "statefulsets"),
    Resource("apps.kruise.io/v1alpha1", "DaemonSet", "daemonsets"),
    Resource("apps.openshift.io/v1", "DeploymentConfig", "deploymentconfigs"),
)
ENDPOINT_SLICES: Final = Resource("discovery.k8s.io/v1", "EndpointSlice", "endpointslices")
CONFIG_MAPS: Final = Resource("v1", "ConfigMap", "configmaps")
LIMIT_RANGES: Final = Resource("v1", "LimitRange", "limitranges")
REVIEWS: Final = Resource(
    "authorization.k8s.io/v1", "SubjectAccessReview", "subjectaccessreviews", namespaced=False
)

# At once: an API server has other work.
_PARALLEL: Final = 6
# All webhooks that concern pods together, at their worst.
_PROBE_TIMEOUT: Final = 30.0
_PROBE_NAMESPACES: Final = 3
_UNREACHED: Final = (0, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)
_OPTED_IN: Final = f"{names.INJECT_LABEL},{names.INJECTED_LABEL}!={names.TRUE}"
_SILENT: Final = f"!{names.INJECT_LABEL},{names.INJECTED_LABEL}!={names.TRUE}"
# RFC 7234 section 5.5, as the API server writes it: 299 - "text".
_WARNING: Final = re.compile(r'\d{3} \S+ "((?:[^"\\]|\\.)*)"')


async def look(cluster: Cluster, own_namespace: str, namespaces: Sequence[str] = ()) -> Snapshot:
    """Look at a cluster once.

    Args:
        cluster: the connection.
        own_namespace: where the injector is installed.
        namespaces: where workloads are looked at, everywhere if empty.

    Raises:
        ClusterError: it cannot be reached, or knows nobody by these credentials.
    """
    headers: list[tuple[str, str]] = []
    try:
        await cluster.request("GET", "/version", seen=headers)
    except ClusterError as error:
        # Who may not even ask this is known at least, and may be allowed other things.
        if error.code != HTTPStatus.FORBIDDEN:
            raise
    looking = _Looking(cluster, Snapshot(now=_clock(headers), own_namespace=own_namespace), namespaces)
    await looking.run()
    return looking.seen


class _Looking:
    def __init__(self, cluster: Cluster, seen: Snapshot, namespaces: Sequence[str]) -> None:
        self.cluster = cluster
        self.seen = seen
        self._scope: tuple[str | None, ...] = tuple(dict.fromkeys(namespaces)) or (None,)
        self._slots = asyncio.Semaphore(_PARALLEL)
        self._custom: list[Resource] = []

    async def run(self) -> None:
        """Fill the snapshot."""
        seen, own = self.seen, self.seen.own_namespace
        service = f"kubernetes.io/service-name={names.WEBHOOK}"
        objects = asyncio.gather(
            self._one(Area.WEBHOOK, WEBHOOKS, names.WEBHOOK),
            self._one(Area.WEBHOOK_SERVICE, SERVICES, names.WEBHOOK),
            self._one(Area.SECRET, SECRETS, names.CERTIFICATE_SECRET),
            self._one(Area.LEASE, LEASES, names.RECONCILER),
            self._one(Area.SETTINGS, CONFIG_MAPS, names.SETTINGS),
        )
        await asyncio.gather(
            self._all(Area.ENDPOINTS, ENDPOINT_SLICES, seen.endpoint_slices, own, labels=service),
            self._all(Area.DEPLOYMENTS, DEPLOYMENTS, seen.deployments, own),
            self._all(Area.OWN_PODS, PODS, seen.own_pods, own),
            self._namespaces(),
            self._discover(),
        )
        seen.webhook, seen.webhook_service, seen.secret, seen.lease, seen.settings = await objects
        await asyncio.gather(
            *(reading for namespace in self._scope for reading in self._users(namespace)),
            *(
                self._all(Area.PODS, PODS, seen.pods, shape.name(namespace), labels=_SILENT, cut=reduced)
                for namespace in seen.namespaces
                if label_of(namespace) == names.TRUE
            ),
            self._permissions(),
        )
        await self._probe()

    def _users(self, namespace: str | None) -> Iterator[Coroutine[Any, Any, None]]:
        """Yield what is to be read of the users' objects in a namespace, or everywhere."""
        seen, injected = self.seen, f"{names.INJECTED_LABEL}={names.TRUE}"
        for resource in (*WORKLOADS, *self._custom):
            yield self._all(Area.WORKLOADS, resource, seen.workloads, namespace)
        # Deployments have ten of these each. Those that count are labelled, rightly or wrongly.
        yield self._all(Area.WORKLOADS, REPLICASETS, seen.workloads, namespace, labels=names.INJECT_LABEL)
        yield self._all(Area.PODS, PODS, seen.pods, namespace, labels=injected, cut=reduced)
        yield self._all(Area.PODS, PODS, seen.pods, namespace, labels=_OPTED_IN, cut=reduced)
        yield self._all(
            Area.SERVICES, SERVICES, seen.services, namespace, keep=concerns_us, cut=with_our_mark
        )
        yield self._all(Area.LIMIT_RANGES, LIMIT_RANGES, seen.limit_ranges, namespace)
        yield self._all(Area.EVENTS, EVENTS, seen.events, namespace, fields="reason=FailedCreate")

    # --- objects -----------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _noting(self, area: Area) -> AsyncIterator[None]:
        """Take a turn at reading, and note what could not be read."""
        try:
            async with self._slots:
                yield
        except ClusterError as error:
            self._note(area, error)

    def _note(self, area: Area, error: ClusterError) -> None:
        self.seen.unchecked.setdefault(area, _why(error))

    async def _one(self, area: Area, resource: Resource, name: str) -> Json | None:
        """Return one of our own objects, None if there is none or it could not be read."""
        own = self.seen.own_namespace if resource.namespaced else None
        try:
            async with self._slots:
                return await self.cluster.get(resource, name, own)
        except ClusterError as error:
            self._note(area, error)
            return None

    async def _all(
        self,
        area: Area,
        resource: Resource,
        into: list[Json],
        namespace: str | None,
        *,
        labels: str = "",
        fields: str = "",
        keep: Callable[[Json], bool] = lambda _: True,
        cut: Callable[[Json], Json] = without_history,
    ) -> None:
        """Add to `into` what is kept of all objects of a kind; nothing if the cluster has no such kind."""
        async with self._noting(area):
            try:
                items = self.cluster.items(resource, namespace, labels=labels, fields=fields)
                into += [cut(item) async for item in items if keep(item)]
            except ClusterError as error:
                if error.code != HTTPStatus.NOT_FOUND:
                    raise

    async def _namespaces(self) -> None:
        if self._scope == (None,):
            await self._all(Area.NAMESPACES, NAMESPACES, self.seen.namespaces, None)
            return

        async with self._noting(Area.NAMESPACES):
            for name in self._scope:
                found = await self.cluster.get(NAMESPACES, name or "")
                self.seen.namespaces += [without_history(found)] if found else []

    async def _discover(self) -> None:
        """Find out which kinds of others there are: who may not list one is told so even if there is none."""
        async with self._noting(Area.WORKLOADS):
            groups = shape.mappings((await self.cluster.request("GET", "/apis")).get("groups"))
            versions = [entry for group in groups for entry in shape.mappings(group.get("versions"))]
            served = {entry.get("groupVersion") for entry in versions}
            self._custom = [resource for resource in CUSTOM if resource.api_version in served]

    # --- permissions -------------------------------------------------------------------------------------

    async def _permissions(self) -> None:
        async with self._noting(Area.PERMISSIONS):
            for permission in needed(self.seen.reconciling()[0]):
                review = permission.review(self.seen.own_namespace)
                answer = await self.cluster.request("POST", REVIEWS.path(), body=review)
                if shape.mapping(answer.get("status")).get("allowed") is not True:
                    self.seen.refused.append(str(permission))

    # --- end to end --------------------------------------------------------------------------------------

    async def _probe(self) -> None:
        """Create a labelled pod as a dry run: nothing is stored, and the webhook is called for it."""
        if self.seen.webhook is None:
            return
        refusal = "there is no namespace for it"
        for namespace in self._probe_namespaces()[:_PROBE_NAMESPACES]:
            headers: list[tuple[str, str]] = []
            try:
                pod = await self.cluster.request(
                    "POST",
                    PODS.path(namespace),
                    {"dryRun": "All", "fieldManager": names.FIELD_MANAGER},
                    _pod(namespace),
                    timeout=_PROBE_TIMEOUT,
                    seen=headers,
                )
            except ClusterError as error:
                refusal = _why(error)
                continue
            route = "" if status.read(pod) else await self._route()
            self.seen.probe = Probe(pod, _warnings(headers), route)
            return
        self.seen.unchecked.setdefault(Area.PROBE, refusal)

    def _probe_namespaces(self) -> list[str]:
        """Return where a pod can be created, most likely: first where people have injected ones."""
        ignored = self.seen.cluster_settings()[0].ignored_namespaces
        used = [shape.text(shape.metadata(pod).get("namespace")) for pod in self.seen.pods]
        given = [name for name in self._scope if name]
        limited = {shape.text(shape.metadata(item).get("namespace")) for item in self.seen.limit_ranges}
        candidates = dict.fromkeys([*given, *used, "default"])
        return sorted((name for name in candidates if name not in ignored), key=lambda name: name in limited)

    async def _route(self) -> str:
        """Have the API server connect to the webhook, as for reviews, but whatever its certificate."""
        service = SERVICES.path(self.seen.own_namespace, f"https:{names.WEBHOOK}:443")
        try:
            await self.cluster.request("GET", f"{service}/proxy/")
        except ClusterError as error:
            # The webhook itself knows no such path, and does not answer as an API server would.
            if error.code == HTTPStatus.NOT_FOUND and not error.reason:
                return "the API server reaches the webhook; does it distrust the certificate that is served?"
            if error.code in _UNREACHED:
                return f"the API server cannot connect to the webhook: {_why(error)}"
        return ""


def _pod(namespace: str) -> Json:
    """Return a labelled pod that meets Pod Security "restricted" and asks for next to nothing."""
    amounts = {"cpu": "1m", "memory": "4Mi"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "metrics-sidecar-check-",
            "namespace": namespace,
            "labels": {names.INJECT_LABEL: names.TRUE},
        },
        "spec": {
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "check",
                    "image": "metrics-sidecar.invalid/check",
                    "resources": {"requests": amounts, "limits": amounts},
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                        "readOnlyRootFilesystem": True,
                    },
                }
            ],
        },
    }


def _clock(headers: list[tuple[str, str]]) -> dt.datetime:
    """Return the API server's time, for the clock of this machine may be wrong; and if it has none, ours."""
    for key, value in headers:
        if key.lower() == "date":
            try:
                return email.utils.parsedate_to_datetime(value)
            except ValueError:
                break
    return dt.datetime.now(dt.UTC)


def _warnings(headers: list[tuple[str, str]]) -> tuple[str, ...]:
    values = [value for key, value in headers if key.lower() == "warning"]
    return tuple(re.sub(r"\\(.)", r"\1", text) for value in values for text in _WARNING.findall(value))


def _why(error: ClusterError) -> str:
    """Return the last part of an error, which says why, without the request and the status."""
    return str(error).split(": ", 1)[-1].removeprefix(f"{error.code}: ")
