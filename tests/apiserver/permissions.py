"""What the service accounts of our processes may do, as the manifests say, and what they did."""

import contextlib
import http.client
from collections.abc import Iterable
from typing import NamedTuple

import yaml

from tests.apiserver.client import ApiError, Client, Object
from tests.apiserver.injector import ROOT
from webhook import names

BASE = ROOT / "manifests" / "base"
KINDS = ("Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")


class Permission(NamedTuple):
    """One verb on one resource: everywhere, or in one namespace, or on one object only."""

    verb: str
    resource: str
    """With its group, `services` or `deployments.apps`; a subresource follows a slash."""
    namespace: str | None
    name: str | None

    def __str__(self) -> str:
        name = f" {self.name}" if self.name else ""
        return (
            f"{self.verb} {self.resource}{name} {f'in {self.namespace}' if self.namespace else 'everywhere'}"
        )


def manifests() -> list[Object]:
    """Return the namespace, the service accounts and their permissions, in the order to create them."""
    documents = [
        document
        for path in sorted(BASE.glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
        if document and document.get("kind") in KINDS
    ]
    return sorted(documents, key=lambda document: KINDS.index(document["kind"]))


def plant(api: Client) -> None:
    """Create them, unless they are there."""
    for document in manifests():
        with contextlib.suppress(ApiError):
            api.create(document)
            continue
        if not api.find(
            document["apiVersion"], document["kind"], document["metadata"]["name"], _where(document)
        ):
            api.create(document)


def _where(document: Object) -> str | None:
    namespace: str | None = document["metadata"].get("namespace")
    return namespace


def granted(documents: Iterable[Object], account: str) -> set[Permission]:
    """Return what a service account of our namespace may do."""
    documents = list(documents)
    roles = {(item["kind"], _where(item), item["metadata"]["name"]): item for item in documents}
    subject = {"kind": "ServiceAccount", "name": account, "namespace": names.OWN_NAMESPACE}
    found = set()
    for binding in documents:
        if binding["kind"] not in ("ClusterRoleBinding", "RoleBinding") or subject not in binding["subjects"]:
            continue
        namespace = _where(binding)
        ref = binding["roleRef"]
        role = roles[ref["kind"], namespace if ref["kind"] == "Role" else None, ref["name"]]
        found |= {
            Permission(verb, _resource(group, resource), namespace, name)
            for rule in role["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
            for name in rule.get("resourceNames", [None])
        }
    return found


def uses(event: Object, permission: Permission) -> bool:
    """Tell whether a request, of the audit log, needed this permission."""
    # To apply what is not there yet takes both.
    created = event["verb"] == "patch" and event["responseStatus"]["code"] == http.client.CREATED
    verbs = {event["verb"]} | ({"create"} if created else set())
    ref = event.get("objectRef", {})
    resource = "/".join(filter(None, (ref.get("resource", ""), ref.get("subresource"))))
    group = ref.get("apiGroup", "")
    return (
        permission.verb in verbs
        and _resource(group, resource) == permission.resource
        and permission.namespace in (None, ref.get("namespace"))
        and permission.name in (None, ref.get("name"))
    )


def _resource(group: str, resource: str) -> str:
    plural, slash, subresource = resource.partition("/")
    return f"{plural}.{group}{slash}{subresource}" if group else resource


def refused(events: Iterable[Object]) -> list[Object]:
    """Return the requests that were not allowed."""
    # Not all that ends with 403: nothing can be made in a namespace that goes, whoever may do what.
    key = "authorization.k8s.io/decision"
    return [event for event in events if event.get("annotations", {}).get(key) == "forbid"]
