"""Take in what the watches bring, compare it now and then with all there is, and keep the queue going."""

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from webhook import shape
from webhook.cluster import PODS, SERVICES, Cluster, ClusterError
from webhook.config import Reconciling, Settings
from webhook.reconciler import existing
from webhook.reconciler.audit import Audit
from webhook.reconciler.inventory import Inventory, ObjectKey, Pod, WorkloadKey
from webhook.reconciler.queue import WorkQueue
from webhook.reconciler.services import Item, Services
from webhook.reconciler.telemetry import Telemetry
from webhook.reconciler.watch import INJECTED, OURS, Watch
from webhook.shape import Json

logger = logging.getLogger(__name__)

_WORKERS: Final = 8
_RETRY: Final = 5.0
# How long a watch may take to bring what a list has shown already, before it counts as dead.
_GRACE: Final = 20.0
_DRAINED: Final = 60.0
# For how long a list has brought nothing more, when it counts as complete; when to compare after that.
_SETTLED: Final = 1.0
_CATCH_UP: Final = (0.5, 2.0, 4.0)
_AHEAD: Final = 3600.0
# How long what is gone is remembered, so that a list from before does not bring it back.
_REMEMBER: Final = 120.0


@dataclasses.dataclass(slots=True)
class _Seen:
    """When an object was last heard of, and whether by a watch."""

    when: float
    """On the monotonic clock."""
    watched: str = ""
    """The version in which a watch brought it, empty if a list has shown a newer one since."""


class _Change(NamedTuple):
    """What a watch brought."""

    kind: str
    key: ObjectKey
    pod: Pod | None = None
    service: Json | None = None
    """Neither, if it is gone."""


class Reconciler:
    """One time of leading, from the first list to the loss of the Lease."""

    def __init__(
        self, cluster: Cluster, settings: Settings, reconciling: Reconciling, telemetry: Telemetry
    ) -> None:
        self._cluster = cluster
        self._settings = settings
        self._reconciling = reconciling
        self._telemetry = telemetry
        self._seen: dict[tuple[str, ObjectKey], _Seen] = {}
        self._gone: dict[tuple[str, ObjectKey], float] = {}
        self.inventory = Inventory()
        self.queue: WorkQueue[Item] = WorkQueue(self._look_after, telemetry.failed)
        self.services = Services(
            cluster, self.inventory, settings, self._add_next, wanted=reconciling.services
        )
        self.audit = Audit(cluster, settings, self.services.owners)
        self.watch = Watch(cluster, self._project, self._take_change)
        self.watch_is_dead = False

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.watch.run())
            # What is there has to be known before anything is taken away.
            await self._first_resync()
            tasks.create_task(self.queue.run(_WORKERS))
            tasks.create_task(self._keep_resyncing())
            tasks.create_task(self._keep_catching_up())

    # --- what the watches bring --------------------------------------------------------------------------

    def _project(self, kind: str, gone: bool, obj: Json) -> _Change:
        """Return what counts of a change, in whatever thread it is heard of."""
        if gone:
            return _Change(kind, _key(obj))
        if kind == "Service":
            return _Change(kind, _key(obj), service=existing.project(obj))
        return _Change(kind, _key(obj), pod=Pod.of(obj, self._settings.port))

    def _take_change(self, change: _Change) -> None:
        if change.kind == "Service":
            self._take_service(change.key, change.service, watched=True)
        elif change.key.namespace not in self._settings.ignored_namespaces:
            self._take_pod(change.key, change.pod, watched=True)

    def _take_pod(self, key: ObjectKey, pod: Pod | None, *, watched: bool) -> None:
        before = self.inventory.pods.get(key)
        self._heard("Pod", key, pod.version if pod else None, watched=watched)
        if pod is None:
            self.inventory.drop_pod(key)
        elif before is None or not _counts_the_same(before, pod):
            self.inventory.put_pod(pod)
        else:
            return
        for some in filter(None, (before, pod)):
            workload = self.inventory.workload_of(some)
            self.queue.add(some.owner_key if workload is None else workload)
            for other in self.inventory.selecting(some):
                if other != workload:
                    self.queue.add(other)

    def _take_service(self, key: ObjectKey, service: Json | None, *, watched: bool) -> None:
        before = self.inventory.services.get(key)
        if service is not None and before is not None and _is_older(service, before):
            return
        self._heard("Service", key, _version(service) if service else None, watched=watched)
        if service is None:
            self.inventory.services.pop(key, None)
        else:
            self.inventory.services[key] = service
        for whose in {self.inventory.expected_for(key), _owner_of(key, service or before)}:
            if whose is not None and whose.service == key:
                self.queue.add(whose)

    def _heard(self, kind: str, key: ObjectKey, version: str | None, *, watched: bool) -> None:
        now = time.monotonic()
        if version is None:
            self._seen.pop((kind, key), None)
            self._gone[kind, key] = now
            return
        seen = self._seen.setdefault((kind, key), _Seen(now))
        seen.when = now
        if watched:
            seen.watched = version
        elif seen.watched != version:
            seen.watched = ""

    # --- comparing with all there is ---------------------------------------------------------------------

    async def _first_resync(self) -> None:
        while True:
            try:
                await self._resync()
            except ClusterError as error:
                self._telemetry.failed()
                logger.warning("resync: %s; trying again", error)
                await asyncio.sleep(_RETRY)
            else:
                return

    async def _keep_resyncing(self) -> None:
        first = True
        while True:
            before = self._telemetry.writes
            try:
                if not first:
                    await self._resync()
                first = False
                await self._drained()
                await self.audit.look()
                self._telemetry.resynced()
                logger.info(
                    "resync: done",
                    extra={
                        "pods": len(self.inventory.pods),
                        "services": len(self.inventory.services),
                        "uninjected_pods": self.audit.uninjected,
                        "writes": self._telemetry.writes - before,
                    },
                )
            except ClusterError as error:
                self._telemetry.failed()
                logger.warning("resync: %s; trying again", error)
                await asyncio.sleep(_RETRY)
                continue
            await self._check_watches()
            await asyncio.sleep(self._reconciling.resync_seconds)

    async def _keep_catching_up(self) -> None:
        """Compare again after each list of a watch that begins: it does not tell what has gone before."""
        caught_up = await self._catch_up(self._is_anything_unheard)
        while True:
            await asyncio.sleep(_SETTLED)
            if self.watch.listed > caught_up:
                # What it should have brought is not known; and the other watch may soon begin anew, too.
                caught_up = await self._catch_up(lambda: True)

    async def _catch_up(self, is_needed: Callable[[], bool]) -> float:
        """Compare a few times, if needed; return when a list had brought something before the first time."""
        first = None
        for pause in _CATCH_UP:
            await asyncio.sleep(pause)
            while time.monotonic() - self.watch.listed < _SETTLED:  # noqa: ASYNC110 (another thread sets it)
                await asyncio.sleep(_SETTLED)
            first = self.watch.listed if first is None else first
            if is_needed():
                try:
                    await self._resync()
                except ClusterError as error:
                    logger.debug("catching up: %s; trying again", error)
        return first or 0.0

    def _is_anything_unheard(self) -> bool:
        """Return whether there is something that no watch has brought yet, as we know it from elsewhere."""
        made = (("Service", key) for key in self.inventory.services)
        return any(not seen.watched for seen in self._seen.values()) or any(
            key not in self._seen for key in made
        )

    async def _resync(self) -> None:
        """List everything, take in what the watches have missed, and look at all of it again."""
        start = time.monotonic()
        self._gone = {key: when for key, when in self._gone.items() if start - when < _REMEMBER}
        pods: set[ObjectKey] = set()
        async for obj in self._cluster.items(PODS, labels=INJECTED):
            if (key := _key(obj)).namespace in self._settings.ignored_namespaces:
                continue
            pods.add(key)
            if not self._is_news("Pod", key, start):
                self._take_pod(key, Pod.of(obj, self._settings.port), watched=False)
        services: set[ObjectKey] = set()
        async for obj in self._cluster.items(SERVICES, labels=OURS):
            services.add(key := _key(obj))
            if not self._is_news("Service", key, start):
                self._take_service(key, existing.project(obj), watched=False)
        for key in self.inventory.pods.keys() - pods:
            if not self._is_news("Pod", key, start):
                self._take_pod(key, None, watched=False)
        for key in self.inventory.services.keys() - services:
            if not self._is_news("Service", key, start):
                self._take_service(key, None, watched=False)
        self._look_at_everything()

    def _look_at_everything(self) -> None:
        owners, workloads = self.inventory.owners, self.inventory.workloads
        self.services.owners.keep(owners, workloads)
        for owner in owners:
            pod = self.inventory.pod_made_by(owner)
            if pod is not None and self.inventory.workload_of(pod) is None:
                self.queue.add(owner, 0)
        for workload in workloads:
            self.queue.add(workload, 0)
        for key, service in self.inventory.services.items():
            whose = self.inventory.expected_for(key) or _owner_of(key, service)
            if whose is not None and whose.service == key:
                self.queue.add(whose, 0)

    def _is_news(self, kind: str, key: ObjectKey, start: float) -> bool:
        """Return whether something was heard of an object after the list began, which then is older."""
        seen = self._seen.get((kind, key))
        return (seen is not None and seen.when >= start) or self._gone.get((kind, key), 0.0) >= start

    async def _drained(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAINED):
                while len(self.queue):  # noqa: ASYNC110 (no event tells that nothing is due soon)
                    await asyncio.sleep(0.1)

    async def _check_watches(self) -> None:
        """See whether the watches have brought what the list has shown."""
        missing = [key for key, seen in self._seen.items() if not seen.watched]
        if not missing:
            self.watch_is_dead = False
            return
        grace = min(_GRACE, self._reconciling.resync_seconds)
        await asyncio.sleep(grace)
        late = [key for key in missing if (seen := self._seen.get(key)) is not None and not seen.watched]
        silent = {kind for kind, _ in late if self.watch.silent_seconds(kind) > _GRACE}
        if silent and not self.watch_is_dead:
            logger.error("watch: %s has brought nothing of %s objects", ", ".join(silent), len(late))
            self.watch.restart()
        self.watch_is_dead = bool(silent)

    # --- work --------------------------------------------------------------------------------------------

    async def _look_after(self, item: Item) -> float | None:
        return await self.services.look_after(item)

    def _add_next(self, item: Item) -> None:
        # Before those that wait already: what was read about it just now need not be read again then.
        self.queue.add(item, -_AHEAD)


def _key(obj: Json) -> ObjectKey:
    metadata = shape.metadata(obj)
    return ObjectKey(shape.text(metadata.get("namespace")), shape.text(metadata.get("name")))


def _counts_the_same(one: Pod, other: Pod) -> bool:
    return one == dataclasses.replace(other, version=one.version)


def _version(obj: Json) -> str:
    return shape.text(shape.metadata(obj).get("resourceVersion"))


def _is_older(service: Json, known: Json) -> bool:
    """Return whether a watch is behind: it brings what was there before we wrote."""
    same = shape.metadata(service).get("uid") == shape.metadata(known).get("uid")
    one, other = _version(service), _version(known)
    return same and one.isdigit() and other.isdigit() and int(one) < int(other)


def _owner_of(key: ObjectKey, service: Json | None) -> WorkloadKey | None:
    """Return the workload that owns a Service, None if it does not say."""
    owner = next(iter(shape.mappings(shape.metadata(service).get("ownerReferences"))), {})
    kind, name = shape.text(owner.get("kind")), shape.text(owner.get("name"))
    group = shape.text(owner.get("apiVersion")).rpartition("/")[0]
    return WorkloadKey(key.namespace, group, kind, name) if kind and name else None
