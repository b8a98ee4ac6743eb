"""Give each workload with injected pods its Service, and take the Service away when it has none any more."""

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Final, TypeAlias

from webhook import shape
from webhook.cluster import NAMESPACES, SERVICES, Cluster, ClusterError
from webhook.config import Settings
from webhook.decision import decide
from webhook.identity import Reference
from webhook.names import Action, EventReason, Reason
from webhook.reconciler import existing
from webhook.reconciler.events import Events
from webhook.reconciler.existing import Existing
from webhook.reconciler.inventory import Inventory, OwnerKey, Pod, WorkloadKey
from webhook.reconciler.owners import Owners, Workload
from webhook.reconciler.selection import choose, port_of
from webhook.service import compose, is_offline, is_ours
from webhook.shape import Json
from webhook.workload import get, template_path

logger = logging.getLogger(__name__)

Item: TypeAlias = WorkloadKey | OwnerKey
"""What is looked after: a workload, or what made pods whose workload is not known yet."""

# A Service that is not there may be missing for a reason: then what the workload is has to be known exactly.
_FRESH: Final = 2.0
# How often to see whether somebody else's Service is still in the way, or still does what ours would.
_LOOK_AGAIN: Final = 30.0
_SOON: Final = 1.0
# Somebody who changes a Service back each time gets it mended later and later, so that there is no storm.
_PATIENCE: Final = (0.0, 0.0, 0.0, 0.5, 1.0, 2.0, *(3.0,) * 24)
_NO_PATIENCE: Final = 60.0
_FORGIVEN: Final = 6.0
"""After so many seconds without a write, one is forgotten."""


@dataclasses.dataclass(slots=True)
class _Mended:
    times: int = 0
    last: float = 0.0


class Services:
    """Brings the Services in step with the inventory.

    Args:
        cluster: where to read and write.
        inventory: what is known; what is written is noted there too.
        settings: the cluster's.
        add: has an item looked after, before all others.
        wanted: False where something else finds the pods, and no Service of ours is to be there.
    """

    def __init__(
        self,
        cluster: Cluster,
        inventory: Inventory,
        settings: Settings,
        add: Callable[[Item], None],
        *,
        wanted: bool = True,
    ) -> None:
        self._cluster = cluster
        self._inventory = inventory
        self._settings = settings
        self._add = add
        self._wanted = wanted
        self._events = Events(cluster)
        self._existing = Existing(cluster)
        self._mended: dict[WorkloadKey, _Mended] = {}
        self.owners = Owners(cluster)
        self.foreign: set[WorkloadKey] = set()
        """Workloads whose Service's name somebody else's has."""
        self._scraped: set[WorkloadKey] = set()
        self._inexact: set[WorkloadKey] = set()

    async def look_after(self, item: Item) -> float | None:
        """Bring one item in step; return after how many seconds to look at it again, None for not at all.

        Raises:
            ClusterError: it could not be done, and is to be tried again.
        """
        try:
            if isinstance(item, OwnerKey):
                await self._find_workload(item)
                return None
            return await self._sync(item)
        except ClusterError as error:
            if "NamespaceTerminating" in error.causes:
                logger.debug("services: %s", error)
                return None
            raise

    async def _find_workload(self, owner: OwnerKey) -> None:
        pod = self._inventory.pod_made_by(owner)
        if pod is None:
            self._inventory.forget_owner(owner)
            return
        workload = await self.owners.find(pod)
        before = self._inventory.assign(owner, workload.key)
        for key in (before, workload.key):
            if key is not None:
                self._add(key)

    async def _sync(self, key: WorkloadKey) -> float | None:
        actual = self._inventory.services.get(key.service)
        pods = self._inventory.pods_of(key)
        if actual is not None and is_offline(actual):
            self._leave_offline(key, actual, pods)
            return None
        if not self._wanted:
            return await self._remove(key, actual, "another way to find the pods is set")
        if not pods:
            return await self._without_pods(key, actual)
        workload = await self._workload(key, pods, missing=actual is None)
        if workload is None:
            return None
        desired = self._desired(workload, pods)
        if actual is None:
            return await self._create(workload.reference, key, desired, pods)
        self._no_longer_in_the_way(key)
        if existing.is_in_step(actual, desired):
            return None
        return await self._mend(key, desired, actual)

    async def _workload(self, key: WorkloadKey, pods: Sequence[Pod], *, missing: bool) -> Workload | None:
        """Return the workload, None if no Service is to be made for it now."""
        known = self.owners.known(key)
        if known is not None and not (missing and time.monotonic() - known.read > _FRESH):
            return known if known.there else None
        found = None
        for owner in {pod.owner_key: pod for pod in pods}.values():
            workload = await self.owners.find(owner, fresh=True)
            if (before := self._inventory.assign(owner.owner_key, workload.key)) is not None:
                self._add(before)
            if workload.key == key:
                found = workload
            else:
                self._add(workload.key)
        return found if found is not None and found.there else None

    def _desired(self, workload: Workload, pods: Sequence[Pod]) -> Json:
        selector, exact = choose(workload.key, workload.labels, pods, self._inventory)
        if exact:
            self._inexact.discard(workload.key)
        elif workload.key not in self._inexact:
            self._inexact.add(workload.key)
            logger.warning("services: %s: its labels select pods of others too", workload.reference)
        self._inventory.expect(workload.key, workload.key.service, selector)
        return compose(workload.reference, selector, port_of(pods))

    # --- what to do --------------------------------------------------------------------------------------

    async def _create(
        self, workload: Reference, key: WorkloadKey, desired: Json, pods: Sequence[Pod]
    ) -> float | None:
        others = await self._existing.of_namespace(key.namespace)
        same = next((service for service in others if shape.name(service) == key.service.name), None)
        if same is not None:
            # The list may be some seconds old.
            same = await self._cluster.get(SERVICES, key.service.name, key.namespace)
            if same is not None and not is_ours(same):
                await self._report_foreign(workload, key)
                return _LOOK_AGAIN
        if by := next((service for service in others if existing.scrapes(service, pods)), None):
            if key not in self._scraped:
                self._scraped.add(key)
                logger.info(
                    "services: %s: Service %s has it scraped already",
                    workload,
                    shape.name(by),
                    extra=_of(key),
                )
            return _LOOK_AGAIN
        self._no_longer_in_the_way(key)
        if wait := self._patience(key):
            return wait
        try:
            stored = await self._cluster.apply(SERVICES, desired, force=same is not None)
        except ClusterError as error:
            if error.code != HTTPStatus.CONFLICT:
                raise
            # A Service of this name that the list did not show yet: look whose it is.
            self._existing.forget(key.namespace)
            return 0.0
        self._note(key, stored)
        logger.info("services: %s: applied", workload, extra=_of(key))
        message = f"Service {key.service.name} makes its pods' port metrics known to Prometheus"
        await self._events.post(workload, EventReason.SERVICE_CREATED, message)
        return None

    async def _mend(self, key: WorkloadKey, desired: Json, actual: Json) -> float | None:
        if wait := self._patience(key):
            return wait
        uid = shape.metadata(actual).get("uid")
        guarded = {**desired, "metadata": {**desired["metadata"], "uid": uid}}
        try:
            stored = await self._cluster.apply(SERVICES, guarded, force=True)
        except ClusterError as error:
            if error.code == HTTPStatus.UNPROCESSABLE_ENTITY:
                # What cannot be changed, as its address, can be made anew.
                logger.warning("services: %s; making it anew", error, extra=_of(key))
                return await self._remove(key, actual, "it cannot be mended") or 0.0
            if error.code in (HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND):
                # It is another one by now, or gone. The watch will say so; in case that it is late, look.
                self._inventory.services.pop(key.service, None)
                return 0.0
            raise
        self._note(key, stored)
        logger.info("services: %s: brought back in step", key, extra=_of(key))
        return None

    async def _without_pods(self, key: WorkloadKey, actual: Json | None) -> float | None:
        self._no_longer_in_the_way(key)
        self._inexact.discard(key)
        if actual is None:
            self._inventory.forget(key)
            self._mended.pop(key, None)
            return None
        selector = shape.texts(shape.mapping(actual.get("spec")).get("selector"))
        if any(
            self._inventory.workload_of(pod) is None
            for pod in self._inventory.selected(key.namespace, selector)
        ):
            # Whose these are is not known yet: in a rollout, most likely its own.
            return _SOON
        if await self._is_opted_in(key, actual):
            # Scaled to nothing for now. No pod, no target; and when they come back, nothing has to be made.
            return None
        return await self._remove(key, actual, "no pod of the workload has the exporter")

    async def _is_opted_in(self, key: WorkloadKey, actual: Json) -> bool:
        owner = next(iter(shape.mappings(shape.metadata(actual).get("ownerReferences"))), {})
        obj = await self.owners.read(key, shape.text(owner.get("apiVersion")))
        path = template_path(obj)
        if not path or "deletionTimestamp" in shape.metadata(obj):
            return False
        namespace = await self._cluster.get(NAMESPACES, key.namespace)
        decision = decide(get(obj, path), namespace or {}, self._settings)
        return decision.action is Action.INJECT or decision.reason is Reason.ALREADY_INJECTED

    async def _remove(self, key: WorkloadKey, actual: Json | None, why: str) -> float | None:
        self._inventory.forget(key)
        if actual is None or not is_ours(actual):
            return None
        metadata = shape.metadata(actual)
        try:
            await self._cluster.delete(SERVICES, key.service.name, key.namespace, uid=metadata["uid"])
        except ClusterError as error:
            if error.code not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                raise
        self._inventory.services.pop(key.service, None)
        logger.info("services: %s: deleted: %s", key, why, extra=_of(key))
        return None

    # --- what others made --------------------------------------------------------------------------------

    def _leave_offline(self, key: WorkloadKey, actual: Json, pods: Sequence[Pod]) -> None:
        """Leave a Service alone that `inject --with-service` wrote: whoever applied it takes it away too."""
        if pods and not existing.selects(actual, pods) and key not in self._scraped:
            self._scraped.add(key)
            logger.warning("services: %s: the Service of inject --with-service selects other pods", key)

    async def _report_foreign(self, workload: Reference, key: WorkloadKey) -> None:
        if key in self.foreign:
            return
        self.foreign.add(key)
        message = (
            f"Service {key.service.name} is not of metrics-sidecar and is left alone; while it has that name,"
            " Prometheus does not find the port metrics of these pods"
        )
        logger.warning("services: %s: %s", workload, message, extra=_of(key))
        await self._events.post(workload, EventReason.SERVICE_FOREIGN, message, warning=True)

    def _no_longer_in_the_way(self, key: WorkloadKey) -> None:
        self.foreign.discard(key)
        self._scraped.discard(key)

    # --- keeping count -----------------------------------------------------------------------------------

    def _note(self, key: WorkloadKey, stored: Json) -> None:
        self._inventory.services[key.service] = existing.project(stored)
        mended = self._mended.setdefault(key, _Mended())
        mended.times += 1
        mended.last = time.monotonic()

    def _patience(self, key: WorkloadKey) -> float:
        """Return how long to wait before this Service is written again, 0 for not at all."""
        mended = self._mended.get(key)
        if mended is None:
            return 0.0
        since = time.monotonic() - mended.last
        forgiven = int(since / _FORGIVEN)
        if forgiven:
            mended.times = max(0, mended.times - forgiven)
            mended.last += forgiven * _FORGIVEN
        wait = _PATIENCE[mended.times] if mended.times < len(_PATIENCE) else _NO_PATIENCE
        return max(0.0, wait - (time.monotonic() - mended.last))


def _of(key: WorkloadKey) -> Mapping[str, str]:
    return {"namespace": key.namespace, "workload": key.name, "kind": key.kind, "service": key.service.name}
