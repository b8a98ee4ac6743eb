"""A fleet of workloads with injected pods, created directly: neither controllers nor kubelets run.

Objects are what a cluster would hold: pods of some kilobytes with defaults, a status and two field managers,
owned by ReplicaSets, StatefulSets, DaemonSets and Jobs, those by Deployments and CronJobs.
"""

from __future__ import annotations

import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.apiserver import objects
from tests.apiserver.namespaces import create_namespace
from webhook import names
from webhook.config import Settings
from webhook.injection import inject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.apiserver.client import Client

Object = dict[str, Any]

# Of twenty workloads: what clusters mostly run, and something of everything else.
_KINDS = ("Deployment",) * 15 + ("StatefulSet",) * 2 + ("DaemonSet",) * 2 + ("CronJob",)
_CLIENTS = 16
_SETTINGS = Settings()
_ENVIRONMENT = [
    {"name": f"SETTING_{number}", "value": f"https://backend-{number}.example.test:8443/api"}
    for number in range(5)
]


_KEPT = ("namespace", "name", "uid", "labels", "ownerReferences")


class Size(NamedTuple):
    """How many of what."""

    workloads: int = 1000
    pods: int = 10
    """Injected pods of each workload."""
    bare: int = 10
    """Injected pods that nobody owns."""
    plain: int = 2000
    """Pods that did not ask for the exporter, of Deployments too."""
    namespaces: int = 50


class Workload(NamedTuple):
    """What was created for one workload."""

    obj: Object
    """What a user would have applied: the Deployment, the CronJob."""
    owner: Object
    """What its pods name as their controller: the ReplicaSet, the Job."""


class Fleet:
    """What is in the cluster, as the API server answered; methods may be called from many threads."""

    def __init__(self, api: Client, size: Size) -> None:
        self.size = size
        self.workloads: list[Workload] = []
        self.pods: dict[str, Object] = {}
        """Of the injected pods that are there, what counts of their metadata, by uid."""
        self._api = api
        self._lock = threading.Lock()
        self._serial = itertools.count()

    # --- creating ----------------------------------------------------------------------------------------

    def populate(self) -> None:
        """Create everything."""
        size = self.size
        with ThreadPoolExecutor(_CLIENTS) as pool:
            _each(pool, self._create_namespace, range(size.namespaces))
            self.workloads = _each(pool, self._create_workload, range(size.workloads))
            _each(pool, self.create_pod, (one for one in self.workloads for _ in range(size.pods)))
            _each(pool, self._create_bare, range(size.bare))
            _each(pool, self._create_plain, range(size.plain))

    def create_pod(self, workload: Workload) -> None:
        """Create one more pod of a workload, injected, and report it running."""
        self._create_injected(_pod(workload, next(self._serial)))

    def delete_pod(self, uid: str) -> None:
        """Delete a pod as it happens: asked to end, and then, by its kubelet, gone."""
        with self._lock:
            metadata = self.pods[uid]
        path = self._api.path("v1", "Pod", metadata["name"], metadata["namespace"])
        self._api.request("DELETE", path)
        self._api.request("DELETE", path, query={"gracePeriodSeconds": "0"})
        with self._lock:
            del self.pods[uid]

    def roll_out(self, workload: Workload) -> Workload:
        """Give a Deployment a new ReplicaSet beside the old one, and return it as its new pods know it."""
        replica_set = self._api.create(_replica_set(workload.obj, f"{next(self._serial):010x}"))
        return Workload(workload.obj, replica_set)

    def kilobytes(self) -> tuple[float, float]:
        """Return the mean size of a pod as the API server sends it, and without its managed fields."""
        sample = self._api.items(
            "v1", "Pod", self._namespace(0), labels=f"{names.INJECTED_LABEL}={names.TRUE}"
        )
        whole = sum(map(_size, sample))
        managed = sum(_size(pod["metadata"]["managedFields"]) for pod in sample)
        return whole / len(sample) / 1000, (whole - managed) / len(sample) / 1000

    def pods_of(self, workload: Workload) -> list[str]:
        """Return the uids of the injected pods that have this very owner."""
        owner = workload.owner["metadata"]["uid"]
        with self._lock:
            return [
                uid
                for uid, metadata in self.pods.items()
                if any(reference["uid"] == owner for reference in metadata["ownerReferences"] or ())
            ]

    def living(self) -> list[Object]:
        """Return the metadata of the injected pods that are there now."""
        with self._lock:
            return list(self.pods.values())

    # --- inside ------------------------------------------------------------------------------------------

    def _create_namespace(self, number: int) -> None:
        create_namespace(self._api, f"team-{number}")

    def _create_workload(self, number: int) -> Workload:
        kind, namespace = _KINDS[number % len(_KINDS)], self._namespace(number)
        template = _template({"app": f"app-{number}", names.INJECT_LABEL: names.TRUE}, number)
        wanted = objects.workload(kind, namespace, f"app-{number}")
        objects.template(wanted).update(template)
        if kind == "CronJob":
            objects.template(wanted)["spec"]["restartPolicy"] = "Never"
        obj = owner = _typed(wanted, self._api.create(wanted))
        if kind == "Deployment":
            wanted = _replica_set(obj, f"{number:010x}")
            owner = _typed(wanted, self._api.create(wanted))
        if kind == "CronJob":
            wanted = _job(obj)
            owner = _typed(wanted, self._api.create(wanted))
        return Workload(obj, owner)

    def _create_bare(self, number: int) -> None:
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            **_template({"app": f"bare-{number}", names.INJECT_LABEL: names.TRUE}, number),
        }
        pod["metadata"] |= {"name": f"bare-{number}", "namespace": self._namespace(number)}
        self._create_injected(pod)

    def _create_injected(self, pod: Object) -> None:
        running = self._create_running(inject(pod, _SETTINGS))
        kept = {key: running["metadata"].get(key) for key in _KEPT}
        with self._lock:
            self.pods[kept["uid"]] = kept

    def _create_plain(self, number: int) -> None:
        pod = {"apiVersion": "v1", "kind": "Pod", **_template({"app": f"plain-{number}"}, number)}
        pod["metadata"] |= {"name": f"plain-{number}", "namespace": self._namespace(number)}
        self._create_running(pod)

    def _create_running(self, pod: Object) -> Object:
        created = self._api.create(pod, manager="kube-controller-manager")
        metadata = created["metadata"]
        path = self._api.path("v1", "Pod", metadata["name"], metadata["namespace"], "status")
        query = {"fieldManager": "kubelet"}
        merge = "application/merge-patch+json"
        running: Object = self._api.request(
            "PATCH", path, {"status": _status(created)}, query=query, content_type=merge
        )
        return running

    def _namespace(self, number: int) -> str:
        return f"team-{number % self.size.namespaces}"


def _size(obj: object) -> int:
    return len(json.dumps(obj, separators=(",", ":")))


def _each(pool: ThreadPoolExecutor, function: Callable[..., Any], arguments: Iterable[Any]) -> list[Any]:
    return list(pool.map(function, arguments))


def _typed(wanted: Object, created: Object) -> Object:
    return {"apiVersion": wanted["apiVersion"], "kind": wanted["kind"], **created}


def _template(labels: dict[str, str], number: int) -> Object:
    """Return metadata and spec of a pod as people write it: two containers, probes, volumes, variables."""
    containers = [
        objects.container(
            name,
            ports=[{"name": "http", "containerPort": port}],
            env=_ENVIRONMENT,
            resources={"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}},
            readinessProbe={"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 10},
            volumeMounts=[{"name": "config", "mountPath": "/etc/app", "readOnly": True}],
            securityContext={"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        )
        for name, port in (("app", 8080), ("proxy", 15000))
    ]
    return {
        "metadata": {
            "labels": {"app.kubernetes.io/part-of": f"shop-{number % 7}", "version": "v1", **labels},
            "annotations": {"checksum/config": f"{number:064x}", "example.test/owner": "team-a"},
        },
        "spec": {
            "containers": containers,
            "nodeName": f"node-{number % 100}",
            "volumes": [{"name": "config", "configMap": {"name": "config"}}, {"name": "tmp", "emptyDir": {}}],
        },
    }


def _replica_set(deployment: Object, revision: str) -> Object:
    metadata = deployment["metadata"]
    template = json.loads(json.dumps(objects.template(deployment)))
    template["metadata"]["labels"]["pod-template-hash"] = revision
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{metadata['name']}-{revision}",
            "namespace": metadata["namespace"],
            "labels": template["metadata"]["labels"],
            "ownerReferences": [_owner(deployment)],
        },
        "spec": {
            "selector": {"matchLabels": {"app": metadata["name"], "pod-template-hash": revision}},
            "template": template,
        },
    }


def _job(cron_job: Object) -> Object:
    metadata = cron_job["metadata"]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"{metadata['name']}-29000000",
            "namespace": metadata["namespace"],
            "ownerReferences": [_owner(cron_job)],
        },
        "spec": {"template": objects.template(cron_job)},
    }


def _pod(workload: Workload, serial: int) -> Object:
    owner = workload.owner
    template = json.loads(json.dumps(objects.template(owner)))
    # What the API server adds to the template of a Job of its own accord comes with it.
    template["metadata"].pop("creationTimestamp", None)
    template["metadata"] |= {
        "name": f"{owner['metadata']['name']}-{serial:05x}",
        "namespace": owner["metadata"]["namespace"],
        "ownerReferences": [_owner(owner)],
    }
    return {"apiVersion": "v1", "kind": "Pod", **template}


def _owner(obj: Object) -> Object:
    return {
        "apiVersion": obj["apiVersion"],
        "kind": obj["kind"],
        "name": obj["metadata"]["name"],
        "uid": obj["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _status(pod: Object) -> Object:
    """Return what a kubelet reports of a pod that runs."""
    now = pod["metadata"]["creationTimestamp"]
    address = f"10.4.{len(pod['metadata']['name']) % 250}.{hash(pod['metadata']['uid']) % 250}"
    kinds = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    spec = pod["spec"]
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": now,
        "conditions": [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in kinds],
        **{
            key: [_container_status(item, now) for item in items]
            for key, items in (
                ("containerStatuses", spec["containers"]),
                ("initContainerStatuses", spec.get("initContainers", [])),
            )
        },
    }


def _container_status(container: Object, now: str) -> Object:
    digest = "3f2a9c" + "0123456789" * 5 + "01234567"
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": f"example.test/app@sha256:{digest}",
        "containerID": f"containerd://{digest}",
        "ready": True,
        "started": True,
        "restartCount": 0,
        "state": {"running": {"startedAt": now}},
    }
