"""Find the workload behind a pod: what people wrote, not what a controller made of it."""

import dataclasses
import time
from collections.abc import Set as AbstractSet
from http import HTTPStatus
from typing import Final

from webhook import shape
from webhook.cluster import Cluster, ClusterError, Resource
from webhook.identity import Reference, group_of
from webhook.reconciler.inventory import OwnerKey, Pod, WorkloadKey
from webhook.service import match_labels
from webhook.shape import Json

# What may be read, as the role of the reconciler says. A workload of any other kind is known by the reference
# to it that its pods have, which is enough for a Service.
READABLE: Final = {
    (group, kind): plural
    for group, kinds in {
        "apps": ("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet"),
        "": ("ReplicationController",),
        "batch": ("Job", "CronJob"),
        "argoproj.io": ("Rollout",),
        "apps.kruise.io": ("CloneSet", "StatefulSet", "DaemonSet"),
        "apps.openshift.io": ("DeploymentConfig",),
    }.items()
    for kind, plural in ((kind, f"{kind.lower()}s") for kind in kinds)
}

# Made by others, one for each revision or run.
_MADE: Final = frozenset({("apps", "ReplicaSet"), ("", "ReplicationController"), ("batch", "Job")})

_MAX_AGE: Final = 3600.0
_CLIMB: Final = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """What counts of a workload."""

    reference: Reference
    labels: dict[str, str]
    """Those by which it selects its pods; empty if that is not known."""
    there: bool = True
    """Whether it is there, and not being deleted."""
    read: float = 0.0
    """When that was so, on the monotonic clock."""

    @property
    def key(self) -> WorkloadKey:
        """Its key."""
        return WorkloadKey.of(self.reference)


def resource_of(reference: Reference) -> Resource | None:
    """Return how to read an object, None if it is not of a kind that may be read."""
    plural = READABLE.get((reference.group, reference.kind))
    return Resource(reference.api_version, reference.kind, plural) if plural else None


class Owners:
    """Climbs from pods to workloads, and remembers the way."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._above: dict[OwnerKey, Reference] = {}
        self._workloads: dict[WorkloadKey, Workload] = {}

    def known(self, key: WorkloadKey) -> Workload | None:
        """Return a workload as it was seen last, None if that is too long ago."""
        workload = self._workloads.get(key)
        return workload if workload and time.monotonic() - workload.read < _MAX_AGE else None

    async def find(self, pod: Pod, *, fresh: bool = False) -> Workload:
        """Return the workload behind a pod.

        Args:
            pod: one of its pods.
            fresh: look again, whatever is remembered.

        Raises:
            ClusterError: the API server could not be asked.
        """
        here = pod.owner
        if here.kind == "Pod" and here.uid == pod.uid:
            return self._remember(Workload(here, {}, there=not pod.ending, read=time.monotonic()))
        start = OwnerKey(here.namespace, here.uid)
        if not fresh:
            above = self._above.get(start, None if _is_made(here) else here)
            if above is not None and (workload := self.known(WorkloadKey.of(above))) is not None:
                return workload
        read = time.monotonic()
        for _ in range(_CLIMB):
            obj = await self._read(here)
            if obj is None:  # of a kind that may not be read
                break
            if not obj or shape.metadata(obj).get("uid") != here.uid:
                return Workload(here, {}, there=False, read=read)
            above = Reference.of_controller(obj) if _is_made(here) else None
            if above is None:
                self._above[start] = here
                there = "deletionTimestamp" not in shape.metadata(obj)
                return self._remember(Workload(here, match_labels(obj), there, read))
            here = above
        self._above[start] = here
        return self._remember(Workload(here, {}, read=read))

    async def read(self, key: WorkloadKey, api_version: str) -> Json | None:
        """Return a workload's object as it is now, None if there is none, or none that may be read."""
        if group_of(api_version) != key.group:
            return None
        return await self._read(Reference(key.namespace, api_version, key.kind, key.name)) or None

    def keep(self, owners: AbstractSet[OwnerKey], workloads: AbstractSet[WorkloadKey]) -> None:
        """Forget all others."""
        self._above = {key: above for key, above in self._above.items() if key in owners}
        self._workloads = {key: workload for key, workload in self._workloads.items() if key in workloads}

    def _remember(self, workload: Workload) -> Workload:
        self._workloads[workload.key] = workload
        return workload

    async def _read(self, reference: Reference) -> Json | None:
        """Return an object, empty if it is gone, None if it may not be read."""
        resource = resource_of(reference)
        if resource is None:
            return None
        try:
            obj = await self._cluster.get(resource, reference.name, reference.namespace)
        except ClusterError as error:
            if error.code == HTTPStatus.FORBIDDEN:
                return None
            raise
        return {"apiVersion": reference.api_version, "kind": reference.kind, **obj} if obj else {}


def _is_made(reference: Reference) -> bool:
    return (reference.group, reference.kind) in _MADE
