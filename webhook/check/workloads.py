"""Workloads with the pods that belong to them, and what the injector thinks of both. Pure."""

import dataclasses
from collections import defaultdict

from webhook import identity, names, shape, status
from webhook.check.snapshot import Snapshot
from webhook.decision import Decision, decide
from webhook.identity import Reference
from webhook.names import Action
from webhook.shape import Json
from webhook.stamp import stamp
from webhook.workload import get, template_path


@dataclasses.dataclass(slots=True)
class Workload:
    """A workload, and its pods that live; those that are neither injected nor opted in are not known."""

    ref: Reference
    obj: Json | None
    """None if only its pods tell of it."""
    injected: list[Json] = dataclasses.field(default_factory=list)
    bare: list[Json] = dataclasses.field(default_factory=list)
    """Pods that would be injected if they were made now."""

    @property
    def pods(self) -> int:
        """How many of its pods are known."""
        return len(self.injected) + len(self.bare)


class Fleet:
    """All workloads of a snapshot, and the namespaces that they are in."""

    def __init__(self, seen: Snapshot) -> None:
        self.settings = seen.cluster_settings()[0]
        self._namespaces = {shape.name(item): item for item in seen.namespaces}
        self._index: dict[tuple[str, str], Workload] = {}
        self.workloads: list[Workload] = []
        made = []
        for obj in seen.workloads:
            if stands_for_itself(obj):
                self._add(obj)
            else:
                made.append(obj)
        for obj in made:
            if (owner := Reference.of_controller(obj)) and (whose := identity.of_workload(obj)):
                self._index[owner.namespace, whose] = self._workload_of(owner)
        for pod in seen.pods:
            if shape.is_alive(pod):
                self._place(pod)

    def namespace(self, name: str) -> Json:
        """Return a Namespace, as far as it is known."""
        return self._namespaces.get(name) or {"metadata": {"name": name}}

    def decide(self, pod: Json, namespace: str) -> Decision:
        """Return what the injector would do with a pod, or with the pods of a template."""
        return decide(pod, self.namespace(namespace), self.settings)

    def forecast(self, workload: Json) -> Decision:
        """Return what becomes of a workload's new pods, once its template says what its label says."""
        stamped, _ = stamp(workload)
        template = get(stamped, template_path(stamped) or ())
        return self.decide(template, shape.text(shape.metadata(workload).get("namespace")))

    def opted_in(self) -> list[Workload]:
        """Return the workloads that have pods with the exporter, or are to have."""
        return [
            item
            for item in self.workloads
            if item.pods or (item.obj is not None and self.forecast(item.obj).action is Action.INJECT)
        ]

    def _add(self, obj: Json) -> Workload:
        workload = Workload(Reference.of(obj), obj)
        self.workloads.append(workload)
        if whose := identity.of_workload(obj):
            self._index[workload.ref.namespace, whose] = workload
        return workload

    def _place(self, pod: Json) -> None:
        namespace = shape.text(shape.metadata(pod).get("namespace"))
        if status.read(pod):
            self._behind(pod).injected.append(pod)
        elif self.decide(pod, namespace).action is Action.INJECT:
            self._behind(pod).bare.append(pod)

    def _behind(self, pod: Json) -> Workload:
        """Return the workload of a pod, which is the pod itself where nobody controls it."""
        owner = Reference.of_controller(pod)
        if owner is None:
            return self._add(pod)
        whose = identity.of_pod(pod)
        found = self._index.get((owner.namespace, whose)) if whose else None
        return found or self._workload_of(owner)

    def _workload_of(self, owner: Reference) -> Workload:
        """Return the workload that is referred to; one that could not be read is only that."""
        whose = identity.identity(owner.api_version, owner.kind, owner.name) or f"{owner.kind}/{owner.name}"
        if (found := self._index.get((owner.namespace, whose))) is not None:
            return found
        workload = Workload(owner, None)
        self.workloads.append(workload)
        self._index[owner.namespace, whose] = workload
        return workload


def rolls_out(workload: Json | None) -> bool:
    """Return whether a workload is replacing its pods right now."""
    spec, state = (shape.mapping(shape.mapping(workload).get(key)) for key in ("spec", "status"))
    generation = shape.metadata(workload).get("generation")
    seen, updated = state.get("observedGeneration"), state.get("updatedReplicas")
    behind = isinstance(seen, int) and isinstance(generation, int) and seen < generation
    replicas = spec.get("replicas")
    return behind or (isinstance(updated, int) and isinstance(replicas, int) and 0 < updated < replicas)


def by_namespace(services: list[Json]) -> dict[str, list[Json]]:
    """Return objects by the namespace that they are in."""
    found: dict[str, list[Json]] = defaultdict(list)
    for service in services:
        found[shape.text(shape.metadata(service).get("namespace"))].append(service)
    return found


def stands_for_itself(obj: Json) -> bool:
    """Return whether labels on it count: the ReplicaSets of Deployments and Jobs of CronJobs have copies."""
    return not (obj.get("kind") in ("ReplicaSet", "Job") and shape.controller(obj))


def label_of(obj: object) -> str | None:
    """Return the value of the label that asks for the exporter."""
    return shape.label(obj, names.INJECT_LABEL)
