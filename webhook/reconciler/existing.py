"""Services that are there: which are ours, whether one is as it should be, whether another does its work."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from webhook import names, shape
from webhook.cluster import SERVICES, Cluster
from webhook.reconciler.inventory import Pod, matches
from webhook.service import is_ours, our_marks
from webhook.shape import Json

_ANNOTATIONS: Final = frozenset(
    {
        names.SCRAPE_ANNOTATION,
        names.SCRAPE_PATH_ANNOTATION,
        names.SCRAPE_PORT_ANNOTATION,
        names.OFFLINE_ANNOTATION,
    }
)
_SPEC: Final = ("type", "clusterIP", "publishNotReadyAddresses", "selector", "ports")
_SECONDS: Final = 5.0


def project(service: Mapping[str, Any]) -> Json:
    """Return what counts of a Service. There is one for each workload, so the rest is not kept."""
    metadata = shape.metadata(service)
    annotations = shape.texts(metadata.get("annotations"))
    spec = shape.mapping(service.get("spec"))
    return {
        "metadata": {
            **{key: metadata.get(key) for key in ("name", "namespace", "uid", "resourceVersion")},
            "labels": {
                key: value
                for key, value in shape.texts(metadata.get("labels")).items()
                if key == names.MANAGED_BY_LABEL
            },
            "annotations": {key: annotations[key] for key in annotations.keys() & _ANNOTATIONS},
            "ownerReferences": [
                {key: owner.get(key) for key in ("apiVersion", "kind", "name", "uid")}
                for owner in shape.mappings(metadata.get("ownerReferences"))
            ],
            "managedFields": our_marks(service),
        },
        "spec": {key: spec[key] for key in _SPEC if key in spec},
    }


def is_in_step(actual: Json, desired: Json) -> bool:
    """Return whether a Service is as it should be; labels, annotations and ports of others are theirs."""
    has, wants = shape.metadata(actual), desired["metadata"]
    if not all(
        shape.texts(wants[key]).items() <= shape.texts(has.get(key)).items()
        for key in ("labels", "annotations")
    ):
        return False
    if not all(owner in shape.mappings(has.get("ownerReferences")) for owner in wants["ownerReferences"]):
        return False
    has, wants = shape.mapping(actual.get("spec")), desired["spec"]
    ports = shape.mappings(has.get("ports"))
    return all(port in ports for port in wants["ports"]) and all(
        has.get(key) == wants[key] for key in wants if key != "ports"
    )


def selects(service: Json, pods: Sequence[Pod]) -> bool:
    """Return whether a Service finds all of these pods."""
    selector = shape.texts(shape.mapping(service.get("spec")).get("selector"))
    return all(matches(selector, pod.labels) for pod in pods)


def scrapes(service: Json, pods: Sequence[Pod]) -> bool:
    """Return whether Prometheus scrapes the exporter of all of these pods by a Service that is not ours."""
    if is_ours(service) or shape.annotation(service, names.SCRAPE_ANNOTATION) != names.TRUE:
        return False
    port = shape.annotation(service, names.SCRAPE_PORT_ANNOTATION)
    ports = shape.mappings(shape.mapping(service.get("spec")).get("ports"))
    # Without the annotation, each of the Service's ports is a target.
    scraped = {port} if port else {str(item.get("targetPort", item.get("port"))) for item in ports}
    return all(str(pod.port) in scraped for pod in pods) and selects(service, pods)


class Existing:
    """All Services of a namespace, read at most once in a few seconds."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._read: dict[str, tuple[float, list[Json]]] = {}

    async def of_namespace(self, namespace: str) -> list[Json]:
        """Return what counts of the Services of a namespace, as they were a few seconds ago at most."""
        async with self._locks[namespace]:
            when, services = self._read.get(namespace, (0.0, []))
            now = time.monotonic()
            if not when or now - when > _SECONDS:
                services = [project(service) async for service in self._cluster.items(SERVICES, namespace)]
                self._read[namespace] = now, services
                for other in [key for key, (then, _) in self._read.items() if now - then > _SECONDS]:
                    del self._read[other]
                    self._locks.pop(other, None)
            return services

    def forget(self, namespace: str) -> None:
        """Have the Services of a namespace read again when they are asked for next."""
        self._read.pop(namespace, None)
