"""Find pods that are to have the exporter and have none: they are older than the webhook, or it was away."""

import logging
from collections.abc import AsyncIterator
from typing import Final

from webhook import names, shape
from webhook.cluster import DAEMONSETS, DEPLOYMENTS, NAMESPACES, PODS, STATEFULSETS, Cluster
from webhook.config import Settings
from webhook.decision import decide, labelled
from webhook.identity import Reference
from webhook.names import Action, EventReason
from webhook.reconciler.events import Events
from webhook.reconciler.inventory import ObjectKey, Pod
from webhook.reconciler.owners import Owners
from webhook.shape import Json
from webhook.stamp import stamp
from webhook.workload import get, template_path

logger = logging.getLogger(__name__)

_LABELLED: Final = f"{names.INJECT_LABEL}={names.TRUE}"
_WITHOUT: Final = f"{names.INJECTED_LABEL}!={names.TRUE}"

# What people label, and what says how many pods it has.
_WORKLOADS: Final = (DEPLOYMENTS, STATEFULSETS, DAEMONSETS)
_COUNTS: Final = ("replicas", "currentNumberScheduled")

_MESSAGE: Final = (
    "its pods are to have the metrics-sidecar exporter and run without it: they are older than the label or"
    " the webhook, or it was away; `kubectl rollout restart` gives it to them"
)
_MESSAGE_UNSTAMPED: Final = (
    "it is labelled for the metrics-sidecar exporter, and its pod template is not: the webhook was away;"
    " take the label away and set it again"
)


class Audit:
    """Looks for opted-in pods without the exporter, and reports them on their workloads."""

    def __init__(self, cluster: Cluster, settings: Settings, owners: Owners) -> None:
        self._cluster = cluster
        self._settings = settings
        self._owners = owners
        self._events = Events(cluster)
        self._told: set[Reference] = set()
        self.uninjected = 0
        """How many there were when last looked."""

    async def look(self) -> None:
        """Count them, and report workloads that were in order before.

        Raises:
            ClusterError: the API server could not be asked.
        """
        found: dict[Reference, str] = {}
        count = 0
        async for pod in self._uninjected():
            count += 1
            found.setdefault(await self._workload_of(pod), _MESSAGE)
        async for workload in self._unstamped():
            count += _pods_of(workload)
            found.setdefault(Reference.of(workload), _MESSAGE_UNSTAMPED)
        for reference, message in found.items():
            if reference not in self._told:
                logger.warning("audit: %s: %s", reference, message)
                await self._events.post(reference, EventReason.NOT_INJECTED, message, warning=True)
        self._told = set(found)
        self.uninjected = count

    async def _uninjected(self) -> AsyncIterator[Json]:
        async for pod in self._cluster.items(PODS, labels=f"{_LABELLED},{_WITHOUT}"):
            namespace = {"metadata": {"name": shape.metadata(pod).get("namespace")}}
            if self._is_missing(pod, namespace):
                yield pod
        async for namespace in self._cluster.items(NAMESPACES, labels=_LABELLED):
            name = shape.name(namespace)
            if name in self._settings.ignored_namespaces:
                continue
            async for pod in self._cluster.items(PODS, name, labels=f"!{names.INJECT_LABEL},{_WITHOUT}"):
                if self._is_missing(pod, labelled(name)):
                    yield pod

    def _is_missing(self, pod: Json, namespace: Json) -> bool:
        return shape.is_alive(pod) and decide(pod, namespace, self._settings).action is Action.INJECT

    async def _unstamped(self) -> AsyncIterator[Json]:
        for resource in _WORKLOADS:
            async for workload in self._cluster.items(resource, labels=_LABELLED):
                if self._is_unstamped(workload):
                    yield workload

    def _is_unstamped(self, workload: Json) -> bool:
        stamped, decision = stamp(workload)
        if decision.action is not Action.STAMP:
            return False
        namespace = {"metadata": {"name": shape.metadata(workload).get("namespace")}}
        template = get(stamped, template_path(stamped) or ())
        return decide(template, namespace, self._settings).action is Action.INJECT

    async def _workload_of(self, pod: Json) -> Reference:
        controller = Reference.of_controller(pod)
        itself = Reference.of(pod)
        if controller is None:
            return itself
        key = ObjectKey(itself.namespace, itself.name)
        record = Pod(key, itself.uid, "", {}, controller, 0, ending=False)
        return (await self._owners.find(record)).reference


def _pods_of(workload: Json) -> int:
    status = shape.mapping(workload.get("status"))
    return next((status[key] for key in _COUNTS if isinstance(status.get(key), int)), 0)
