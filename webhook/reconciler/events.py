"""Tell people on the workload itself: `kubectl describe` and `kubectl events` show it."""

import datetime as dt
import logging

from webhook import identity, names
from webhook.cluster import EVENTS, Cluster, ClusterError
from webhook.identity import Reference
from webhook.names import EventReason
from webhook.shape import Json

logger = logging.getLogger(__name__)


class Events:
    """Posts Events, each at most once while the API server keeps it (an hour, by default)."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def post(
        self, workload: Reference, reason: EventReason, message: str, *, warning: bool = False
    ) -> None:
        """Post an Event. It is a courtesy: where that fails, the log has it all the same."""
        event = build_event(workload, reason, message, warning=warning, now=dt.datetime.now(dt.UTC))
        try:
            await self._cluster.create(EVENTS, event)
        except ClusterError as error:
            # A conflict is the same Event, posted by whoever was the leader before.
            level = logging.DEBUG if error.reason == "AlreadyExists" else logging.INFO
            logger.log(level, "events: %s", error)


def build_event(
    workload: Reference, reason: EventReason, message: str, *, warning: bool, now: dt.datetime
) -> Json:
    """Return an Event about a workload. Its name follows from what it says: the same is not said twice."""
    said = identity.digest("\0".join((workload.kind, workload.uid, reason, message)), 16)
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{workload.name[:230]}.{said}", "namespace": workload.namespace},
        "involvedObject": {
            "apiVersion": workload.api_version,
            "kind": workload.kind,
            "name": workload.name,
            "namespace": workload.namespace,
            "uid": workload.uid,
        },
        "type": "Warning" if warning else "Normal",
        "reason": reason.value,
        "message": message,
        "source": {"component": names.RECONCILER},
        "reportingComponent": names.RECONCILER,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }
