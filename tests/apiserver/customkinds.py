"""Workloads of other projects' kinds: what their controllers would do, as far as owners and selectors go."""

import contextlib
from collections.abc import Iterator

from tests.apiserver.client import ApiError, Client, Object
from tests.apiserver.objects import container, metadata
from tests.apiserver.waiting import eventually

CRD = "apiextensions.k8s.io/v1", "CustomResourceDefinition"
# One that the reconciler may not read, and finds out by asking.
UNREADABLE = "gangs"
KINDS = {
    ("argoproj.io/v1alpha1", "Rollout"): "rollouts",
    ("apps.kruise.io/v1alpha1", "CloneSet"): "clonesets",
    ("apps.kruise.io/v1alpha1", "DaemonSet"): "daemonsets",
    ("apps.kruise.io/v1beta1", "StatefulSet"): "statefulsets",
    ("apps.openshift.io/v1", "DeploymentConfig"): "deploymentconfigs",
    ("gangs.test.invalid/v1", "Gang"): UNREADABLE,
}


@contextlib.contextmanager
def served(api: Client) -> Iterator[None]:
    """Have the API server know these kinds."""
    for (api_version, kind), plural in KINDS.items():
        api.create(_definition(api_version, kind, plural))
    try:
        for api_version, kind in KINDS:
            eventually(f"{kind} to be served", lambda wanted=(api_version, kind): _is_served(api, *wanted))
        yield
    finally:
        for (api_version, _), plural in KINDS.items():
            api.delete(*CRD, f"{plural}.{api_version.partition('/')[0]}")


def _is_served(api: Client, api_version: str, kind: str) -> bool:
    try:
        api.items(api_version, kind, "default")
    except (ApiError, LookupError):
        return False
    return True


def _definition(api_version: str, kind: str, plural: str) -> Object:
    group, version = api_version.split("/")
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    names = {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"}
    served_version = {"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    head = {"apiVersion": CRD[0], "kind": CRD[1], "metadata": {"name": f"{plural}.{group}"}}
    # The real ones are of `k8s.io` groups no more than these.
    return {
        **head,
        "spec": {"group": group, "names": names, "scope": "Namespaced", "versions": [served_version]},
    }


def custom(
    api_version: str, kind: str, namespace: str, name: str = "web", inject: str | None = "true"
) -> Object:
    """Return a workload of such a kind, with a selector and a template as all of them have it."""
    app = {"app": name}
    template = {"metadata": {"labels": dict(app)}, "spec": {"containers": [container()]}}
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": metadata(namespace, name, inject),
        "spec": {"replicas": 1, "selector": {"matchLabels": app}, "template": template},
    }


def owned(owner: Object) -> list[Object]:
    """Return the ownerReferences of what a controller made for one of its objects."""
    return [
        {
            "apiVersion": owner["apiVersion"],
            "kind": owner["kind"],
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
            "controller": True,
        }
    ]


def replica_set(rollout: Object, digest: str = "6b7f9c", replicas: int = 1) -> Object:
    """Return the ReplicaSet that Argo Rollouts would make."""
    marks = {"rollouts-pod-template-hash": digest}
    template = rollout["spec"]["template"]
    labels = {**template["metadata"]["labels"], **marks}
    name, namespace = f"{rollout['metadata']['name']}-{digest}", rollout["metadata"]["namespace"]
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": labels,
            "ownerReferences": owned(rollout),
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {**rollout["spec"]["selector"]["matchLabels"], **marks}},
            "template": {**template, "metadata": {**template["metadata"], "labels": labels}},
        },
    }


def pod_of(owner: Object, suffix: str = "x7x2p") -> Object:
    """Return the pod that the controller of a workload makes from its template, itself."""
    template = owner["spec"]["template"]
    name, namespace = owner["metadata"]["name"], owner["metadata"]["namespace"]
    made = {**template["metadata"], "name": f"{name}-{suffix}", "namespace": namespace}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**made, "ownerReferences": owned(owner)},
        "spec": template["spec"],
    }
