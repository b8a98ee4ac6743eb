"""Pods and workloads that users would write, the least that the API server accepts and what a test adds."""

from typing import Any

from tests.apiserver.client import Object
from webhook import names, status

API_VERSIONS = {
    "Pod": "v1",
    "PodTemplate": "v1",
    "ReplicationController": "v1",
    "Deployment": "apps/v1",
    "ReplicaSet": "apps/v1",
    "StatefulSet": "apps/v1",
    "DaemonSet": "apps/v1",
    "Job": "batch/v1",
    "CronJob": "batch/v1",
}


def metadata(
    namespace: str | None,
    name: str | None,
    inject: str | None = None,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
) -> Object:
    """Return metadata; `inject` is the value of the label that asks for the exporter."""
    labels = {**(labels or {}), **({} if inject is None else {names.INJECT_LABEL: inject})}
    given = {"namespace": namespace, "name": name, "labels": labels, "annotations": annotations}
    return {key: value for key, value in given.items() if value}


def container(name: str = "app", **more: Any) -> Object:
    return {"name": name, "image": "example.test/app:1", **more}


def pod(
    namespace: str,
    name: str | None = "web",
    *,
    inject: str | None = None,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    **spec: Any,
) -> Object:
    """Return a pod with one container `app`; further arguments are fields of its spec."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata(namespace, name, inject, labels, annotations),
        "spec": {"containers": [container()], **spec},
    }


def workload(
    kind: str,
    namespace: str,
    name: str = "web",
    *,
    inject: str | None = None,
    annotations: dict[str, str] | None = None,
    template_inject: str | None = None,
    template_annotations: dict[str, str] | None = None,
    pod_spec: Object | None = None,
    **spec: Any,
) -> Object:
    """Return a workload of any kind with one container `app`; further arguments are fields of its spec."""
    app = {"app": name}
    template: Object = {
        "metadata": metadata(None, None, template_inject, app, template_annotations),
        "spec": {"containers": [container()], **(pod_spec or {})},
    }
    if kind in ("Job", "CronJob"):
        template["spec"].setdefault("restartPolicy", "Never")
    head = {
        "apiVersion": API_VERSIONS[kind],
        "kind": kind,
        "metadata": metadata(namespace, name, inject, None, annotations),
    }
    if kind == "PodTemplate":
        return {**head, "template": template}
    if kind == "CronJob":
        # Never by itself while a test runs: at midnight of the 29th of February.
        job = {"spec": {"template": template}}
        return {**head, "spec": {"schedule": "0 0 29 2 *", "jobTemplate": job, **spec}}
    if kind != "Job":
        spec.setdefault("selector", app if kind == "ReplicationController" else {"matchLabels": app})
    if kind == "StatefulSet":
        spec.setdefault("serviceName", name)
    return {**head, "spec": {"template": template, **spec}}


def template(obj: Object) -> Object:
    """Return the pod template of a workload."""
    holder = obj if obj["kind"] == "PodTemplate" else obj["spec"]
    if obj["kind"] == "CronJob":
        holder = holder["jobTemplate"]["spec"]
    found: Object = holder["template"]
    return found


def stamp(obj: Object) -> tuple[str | None, str | None]:
    """Return what a pod template says of injection: the label, and the record that the label is ours."""
    meta = template(obj)["metadata"]
    return (
        meta.get("labels", {}).get(names.INJECT_LABEL),
        meta.get("annotations", {}).get(names.STAMPED_ANNOTATION),
    )


def exporters(obj: Object) -> list[Object]:
    """Return the containers of a pod that run the exporter, init containers first."""
    every = [*obj["spec"].get("initContainers", []), *obj["spec"]["containers"]]
    return [item for item in every if status.sets_port(item)]


def containers(obj: Object) -> list[str]:
    return [item["name"] for item in obj["spec"]["containers"]]


def is_injected(obj: Object) -> bool:
    """Tell whether the pod has the exporter, once, and says so."""
    marked: bool = obj["metadata"].get("labels", {}).get(names.INJECTED_LABEL) == "true"
    found = len(exporters(obj)), marked, status.read(obj) is not None
    assert found in ((0, False, False), (1, True, True)), f"half injected: {found}"
    return marked
