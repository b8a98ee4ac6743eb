"""What the reconciler must be allowed to do; the roles in `manifests/` grant it. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from webhook import names
from webhook.config import Reconciling
from webhook.shape import Json


@dataclass(frozen=True, slots=True)
class Permission:
    """One verb on one kind of objects: everywhere, or in our own namespace, or on one object."""

    verb: str
    group: str
    resource: str
    own_namespace: bool = False
    name: str = ""

    def __str__(self) -> str:
        kind = ".".join(filter(None, (self.resource, self.group)))
        return f"{self.verb} {kind}" + (f" {self.name}" if self.name else "")

    def review(self, own_namespace: str) -> Json:
        """Return the SubjectAccessReview that asks whether the reconciler has it."""
        attributes = {
            "verb": self.verb,
            "group": self.group,
            "resource": self.resource,
            "namespace": own_namespace if self.own_namespace else "",
            "name": self.name,
        }
        account = f"system:serviceaccount:{own_namespace}:{names.RECONCILER}"
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{own_namespace}", "system:authenticated"]
        return {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": account,
                "groups": groups,
                "resourceAttributes": {key: value for key, value in attributes.items() if value},
            },
        }


def needed(settings: Reconciling) -> Iterator[Permission]:
    """Yield what the reconciler needs for what it is set to do; what it can do without is left out."""
    yield Permission("create", "coordination.k8s.io", "leases", own_namespace=True)
    for verb in ("get", "update"):
        yield Permission(verb, "coordination.k8s.io", "leases", own_namespace=True, name=names.RECONCILER)
    for verb in ("list", "watch"):
        yield Permission(verb, "", "pods")
    yield Permission("create", "", "events")
    for verb in ("list", "watch", "patch", "delete") if settings.services else ("list", "watch", "delete"):
        yield Permission(verb, "", "services")
    if settings.services:
        for group, resources in (
            ("apps", ("deployments", "replicasets", "statefulsets", "daemonsets")),
            ("batch", ("jobs", "cronjobs")),
        ):
            for resource in resources:
                yield Permission("get", group, resource)
    if settings.certificates:
        for verb in ("get", "update"):
            secret = names.CERTIFICATE_SECRET
            yield Permission(verb, "", "secrets", own_namespace=True, name=secret)
        for verb in ("get", "patch"):
            group, resource = "admissionregistration.k8s.io", "mutatingwebhookconfigurations"
            yield Permission(verb, group, resource, name=names.WEBHOOK)
