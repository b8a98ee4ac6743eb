"""What the reconciler knows: the injected pods, whose they are, and the Services that find them. Pure.

Filled by the watches and by the resync, which both may be late: every answer is about what was seen so far.
"""

import dataclasses
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from webhook import identity, names, shape, status
from webhook.identity import Reference
from webhook.shape import Json


class WorkloadKey(NamedTuple):
    """A workload by its name. It stays the same when the workload is deleted and made again."""

    namespace: str
    group: str
    kind: str
    name: str

    @classmethod
    def of(cls, workload: Reference) -> "WorkloadKey":
        """Return the key of the workload that is referred to."""
        return cls(workload.namespace, workload.group, workload.kind, workload.name)

    @property
    def service(self) -> "ObjectKey":
        """The Service that it is to have."""
        api_version = f"{self.group}/v1" if self.group else "v1"
        return ObjectKey(self.namespace, identity.service_name(api_version, self.kind, self.name))

    def __str__(self) -> str:
        return f"{'.'.join(filter(None, (self.kind.lower(), self.group)))} {self.namespace}/{self.name}"


class OwnerKey(NamedTuple):
    """What made a pod: a controller, or nobody, and then it is the pod itself."""

    namespace: str
    uid: str


class ObjectKey(NamedTuple):
    """A pod or a Service by its name."""

    namespace: str
    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Pod:
    """Of an injected pod, what tells which Service is to select it."""

    key: ObjectKey
    uid: str
    version: str
    """Its resourceVersion."""
    labels: Mapping[str, str]
    owner: Reference
    """Its controller, or itself."""
    port: int
    ending: bool
    """Whether it is being deleted."""

    @classmethod
    def of(cls, pod: Json, port: int) -> "Pod | None":
        """Return what counts of a pod, None if it is not an injected one.

        Args:
            pod: the object.
            port: where the exporter listens if the pod does not say.
        """
        itself = Reference.of({"apiVersion": "v1", "kind": "Pod", **pod})
        labels = {
            # There are few different ones, and each is in thousands of pods.
            sys.intern(key): sys.intern(value)
            for key, value in shape.texts(shape.metadata(pod).get("labels")).items()
        }
        if labels.get(names.INJECTED_LABEL) != names.TRUE or not itself.name:
            return None
        done = status.read(pod)
        return cls(
            ObjectKey(sys.intern(itself.namespace), itself.name),
            itself.uid,
            shape.text(shape.metadata(pod).get("resourceVersion")),
            labels,
            Reference.of_controller(pod) or itself,
            done.port if done else port,
            "deletionTimestamp" in shape.metadata(pod),
        )

    @property
    def owner_key(self) -> OwnerKey:
        """What made it."""
        return OwnerKey(self.key.namespace, self.owner.uid)


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Return whether a Service with this selector finds a pod with these labels; an empty one finds none."""
    return bool(selector) and selector.items() <= labels.items()


class Inventory:
    """All injected pods and all Services of ours, with indexes for what is asked about them."""

    def __init__(self) -> None:
        self.pods: dict[ObjectKey, Pod] = {}
        self.services: dict[ObjectKey, Json] = {}
        self._by_owner: dict[OwnerKey, set[ObjectKey]] = defaultdict(set)
        self._by_label: dict[tuple[str, str, str], set[ObjectKey]] = defaultdict(set)
        self._workload_of: dict[OwnerKey, WorkloadKey] = {}
        self._owners_of: dict[WorkloadKey, set[OwnerKey]] = defaultdict(set)
        self._selectors: dict[WorkloadKey, Mapping[str, str]] = {}
        self._selecting: dict[tuple[str, str, str], set[WorkloadKey]] = defaultdict(set)
        self._names: dict[ObjectKey, WorkloadKey] = {}

    # --- pods --------------------------------------------------------------------------------------------

    def put_pod(self, pod: Pod) -> None:
        """Note a pod that was added or has changed."""
        if (before := self.pods.get(pod.key)) is not None:
            self._unlink(before)
        self.pods[pod.key] = pod
        self._by_owner[pod.owner_key].add(pod.key)
        for pair in pod.labels.items():
            self._by_label[(pod.key.namespace, *pair)].add(pod.key)

    def drop_pod(self, key: ObjectKey) -> Pod | None:
        """Note that a pod is gone, or no longer injected; return what it was."""
        pod = self.pods.pop(key, None)
        if pod is not None:
            self._unlink(pod)
        return pod

    def _unlink(self, pod: Pod) -> None:
        _discard(self._by_owner, pod.owner_key, pod.key)
        for pair in pod.labels.items():
            _discard(self._by_label, (pod.key.namespace, *pair), pod.key)

    def selected(self, namespace: str, selector: Mapping[str, str]) -> list[Pod]:
        """Return the injected pods that a selector finds in a namespace."""
        if not selector:
            return []
        sets = [self._by_label.get((namespace, *pair), set()) for pair in selector.items()]
        found = (self.pods[key] for key in min(sets, key=len))
        return [pod for pod in found if matches(selector, pod.labels)]

    # --- whose they are ----------------------------------------------------------------------------------

    def assign(self, owner: OwnerKey, workload: WorkloadKey) -> WorkloadKey | None:
        """Note which workload stands behind an owner of pods; return which it was before, if another."""
        before = self._workload_of.get(owner)
        if before == workload:
            return None
        if before is not None:
            _discard(self._owners_of, before, owner)
        self._workload_of[owner] = workload
        self._owners_of[workload].add(owner)
        return before

    def forget_owner(self, owner: OwnerKey) -> None:
        """Forget an owner that has no pods left."""
        if owner not in self._by_owner and (workload := self._workload_of.pop(owner, None)) is not None:
            _discard(self._owners_of, workload, owner)

    def workload_of(self, pod: Pod) -> WorkloadKey | None:
        """Return the workload that a pod belongs to, None if that is not known yet."""
        return self._workload_of.get(pod.owner_key)

    def pods_of(self, workload: WorkloadKey) -> list[Pod]:
        """Return the injected pods of a workload, without those being deleted if there are others."""
        owners = self._owners_of.get(workload, ())
        pods = [self.pods[key] for owner in owners for key in self._by_owner.get(owner, ())]
        return [pod for pod in pods if not pod.ending] or pods

    def owners_of(self, workload: WorkloadKey) -> set[OwnerKey]:
        """Return the owners of pods behind which a workload stands."""
        return set(self._owners_of.get(workload, ()))

    def pod_made_by(self, owner: OwnerKey) -> Pod | None:
        """Return one of the pods that an owner has made, None without any."""
        return next((self.pods[key] for key in self._by_owner.get(owner, ())), None)

    # --- Services ----------------------------------------------------------------------------------------

    def expect(self, workload: WorkloadKey, service: ObjectKey, selector: Mapping[str, str]) -> None:
        """Note which Service a workload is to have, and which pods that selects."""
        self._names[service] = workload
        if (before := self._selectors.get(workload)) != selector:
            if before is not None:
                _discard(self._selecting, _handle(workload.namespace, before), workload)
            self._selectors[workload] = selector
            self._selecting[_handle(workload.namespace, selector)].add(workload)

    def forget(self, workload: WorkloadKey) -> None:
        """Forget which Service a workload was to have."""
        if (before := self._selectors.pop(workload, None)) is not None:
            _discard(self._selecting, _handle(workload.namespace, before), workload)
        for service in [service for service, whose in self._names.items() if whose == workload]:
            del self._names[service]

    def expected_for(self, service: ObjectKey) -> WorkloadKey | None:
        """Return whose Service this is, None if nobody is to have one of that name."""
        return self._names.get(service)

    def selecting(self, pod: Pod) -> Iterable[WorkloadKey]:
        """Return the workloads whose Service selects a pod."""
        found = set()
        for pair in pod.labels.items():
            for workload in self._selecting.get((pod.key.namespace, *pair), ()):
                if matches(self._selectors[workload], pod.labels):
                    found.add(workload)
        return found

    @property
    def workloads(self) -> set[WorkloadKey]:
        """All workloads that have injected pods, or are to have a Service."""
        return {*self._owners_of, *self._selectors}

    @property
    def owners(self) -> set[OwnerKey]:
        """All that has made injected pods."""
        return set(self._by_owner)


def _handle(namespace: str, selector: Mapping[str, str]) -> tuple[str, str, str]:
    """Return the label of a selector to find it by: the one that the fewest pods are likely to have."""
    for key in (names.WORKLOAD_LABEL, *sorted(selector)):
        if key in selector and (key != names.INJECTED_LABEL or len(selector) == 1):
            return namespace, key, selector[key]
    return namespace, "", ""


def _discard(index: dict, key: object, value: object) -> None:  # type: ignore[type-arg]
    found = index.get(key)
    if found is not None:
        found.discard(value)
        if not found:
            del index[key]
