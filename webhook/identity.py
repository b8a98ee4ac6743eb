"""Name the workload that a pod belongs to, and fit such names into what Kubernetes allows."""

import dataclasses
import hashlib
import re
from typing import Final, Self

from webhook import names, shape

# Groups whose kinds need no qualification: nobody calls a kind of his own Deployment in one of them.
BUILT_IN_GROUPS: Final = frozenset({"", "apps", "batch"})

_LABEL_VALUE = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_CRONJOB_RUN = re.compile(r"(.+)-\d{8,}")
_LIMIT: Final = 63
_DIGEST: Final = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Reference:
    """Which object is meant."""

    namespace: str
    api_version: str
    kind: str
    name: str
    uid: str = ""

    @classmethod
    def of(cls, obj: object) -> Self:
        """Return the reference to an object."""
        content, metadata = shape.mapping(obj), shape.metadata(obj)
        return cls(
            shape.text(metadata.get("namespace")),
            shape.text(content.get("apiVersion")),
            shape.text(content.get("kind")),
            shape.text(metadata.get("name")),
            shape.text(metadata.get("uid")),
        )

    @classmethod
    def of_controller(cls, obj: object) -> Self | None:
        """Return the reference to the controller that made an object, None without one."""
        owner = shape.controller(obj)
        api_version, kind, name, uid = (
            shape.text(owner.get(key)) for key in ("apiVersion", "kind", "name", "uid")
        )
        namespace = shape.text(shape.metadata(obj).get("namespace"))
        return cls(namespace, api_version, kind, name, uid) if kind and name else None

    @property
    def group(self) -> str:
        """The API group, empty for the core group."""
        return group_of(self.api_version)

    @property
    def service_name(self) -> str:
        """The name of the workload's Service."""
        return service_name(self.api_version, self.kind, self.name)

    def __str__(self) -> str:
        kind = self.kind if self.group in BUILT_IN_GROUPS else f"{self.kind}.{self.group}"
        return f"{kind.lower()} {self.namespace}/{self.name}"


def digest(value: str, length: int = _DIGEST) -> str:
    """Return a few hexadecimal digits that tell names apart which look the same once cut."""
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:length]


def fit(value: str, limit: int = _LIMIT) -> str:
    """Return the name, cut and marked with its digest if it is longer than the limit."""
    if len(value) <= limit:
        return value
    return f"{value[: limit - _DIGEST - 1].rstrip('-._')}-{digest(value)}"


def group_of(api_version: str) -> str:
    """Return the API group of an apiVersion, empty for the core group."""
    return api_version.partition("/")[0] if "/" in api_version else ""


def identity(api_version: str, kind: str, name: str) -> str | None:
    """Return the value of the label metrics-sidecar.io/workload, None if the name allows for none.

    `deployment.web`, and `rollout.argoproj.io.web` for kinds that are not Kubernetes' own.
    """
    group = group_of(api_version)
    kind = kind.lower() if group in BUILT_IN_GROUPS else f"{kind.lower()}.{group}"
    if not kind or not name:
        return None
    value = fit(f"{kind}.{name}")
    return value if _LABEL_VALUE.fullmatch(value) else None


def of_workload(workload: object) -> str | None:
    """Return the identity of a workload, as the pods that belong to it carry it."""
    obj = shape.mapping(workload)
    kind, name = shape.text(obj.get("kind")) or "Pod", shape.name(obj)
    return identity(shape.text(obj.get("apiVersion")), kind, name)


def of_pod(pod: object) -> str | None:
    """Return the identity of the workload that made a pod, as far as the pod tells.

    A pod knows the ReplicaSet or the Job that made it. That a Deployment, a Rollout or a CronJob stands
    behind it shows in their names, which end in the hash that the pod has as a label, or in the run's minute.
    """
    owner = shape.controller(pod)
    api_version, kind, name = (shape.text(owner.get(key)) for key in ("apiVersion", "kind", "name"))
    if not owner:
        return of_workload(pod) if shape.name(pod) else None
    if kind == "ReplicaSet":
        for label, made_by in (
            ("pod-template-hash", (api_version, "Deployment")),
            ("rollouts-pod-template-hash", ("argoproj.io/v1alpha1", "Rollout")),
        ):
            suffix = f"-{shape.label(pod, label)}"
            if name.endswith(suffix):
                return identity(*made_by, name.removesuffix(suffix))
    if kind == "Job" and (run := _CRONJOB_RUN.fullmatch(name)):
        return identity(api_version, "CronJob", run[1])
    return identity(api_version, kind, name)


def of_unnamed_pod(pod: object, token: str) -> str | None:
    """Return an identity for a pod that nobody owns and the API server has yet to name, from generateName.

    Several of them may have the same labels, and nothing else would tell their Services apart.

    Args:
        pod: the object.
        token: what no other pod has, such as the uid of the request that creates it.
    """
    prefix = shape.text(shape.metadata(pod).get("generateName"))
    if shape.controller(pod) or not prefix or not token:
        return None
    return identity("v1", "Pod", f"{prefix}{digest(token)}")


def service_name(api_version: str, kind: str, name: str) -> str:
    """Return the name of a workload's Service: a DNS label, and no other workload's in the namespace.

    A Deployment's is `<name>-metrics-sidecar`. A StatefulSet may have the same name, so for other kinds the
    kind follows; kinds hold no dash, so no two of these names are equal.
    """
    group = group_of(api_version)
    suffix = names.SERVICE_SUFFIX
    if (group, kind) != ("apps", "Deployment"):
        suffix += f"-{re.sub('[^a-z0-9]', '', kind.lower())[:20]}"
    if group not in BUILT_IN_GROUPS:
        suffix += digest(group, 4)
    # A Service's name starts with a letter and has no dots, other names may not and have: then the digest of
    # what it was keeps them apart.
    clean = re.sub("[^a-z0-9-]", "-", name).strip("-")
    if not clean[:1].isalpha():
        clean = f"w-{clean}"
    if clean == name:
        return fit(name, _LIMIT - len(suffix)) + suffix
    return f"{clean[: _LIMIT - len(suffix) - _DIGEST - 1].rstrip('-')}-{digest(name)}{suffix}"
