"""What was seen of a cluster, in plain dicts, and what could not be looked at. Pure."""

import dataclasses
import datetime as dt
import enum
from typing import Final

from webhook import config, names, shape
from webhook.config import Reconciling, Settings
from webhook.service import our_marks
from webhook.shape import Json
from webhook.workload import get


class Area(enum.StrEnum):
    """A part of the cluster that is looked at, or not, as a whole."""

    WEBHOOK = "the webhook configuration"
    WEBHOOK_SERVICE = "the webhook's Service"
    ENDPOINTS = "the endpoints of the webhook's Service"
    DEPLOYMENTS = "the Deployments of the injector"
    OWN_PODS = "the pods of the injector"
    SECRET = "the Secret with the certificate"  # noqa: S105 (its description)
    LEASE = "the Lease of the reconciler"
    SETTINGS = "the ConfigMap with the settings"
    NAMESPACES = "namespaces"
    WORKLOADS = "workloads"
    PODS = "pods"
    SERVICES = "Services"
    LIMIT_RANGES = "LimitRanges"
    EVENTS = "Events"
    PERMISSIONS = "the permissions of the reconciler"
    PROBE = "whether the webhook is called"


@dataclasses.dataclass(frozen=True, slots=True)
class Probe:
    """What became of a labelled pod that was created without being stored (dry run)."""

    pod: Json
    """As it came back."""
    warnings: tuple[str, ...] = ()
    """Of the API server, which hands on those of the webhook."""
    route: str = ""
    """What the API server says when it is asked to connect to the webhook, empty if it was not asked."""


@dataclasses.dataclass(slots=True)
class Snapshot:
    """One look at a cluster. What is absent is None or missing from its list."""

    now: dt.datetime
    """By the API server's clock."""
    own_namespace: str = names.OWN_NAMESPACE
    webhook: Json | None = None
    webhook_service: Json | None = None
    endpoint_slices: list[Json] = dataclasses.field(default_factory=list)
    """Those of the webhook's Service."""
    deployments: list[Json] = dataclasses.field(default_factory=list)
    """Those of our own namespace."""
    own_pods: list[Json] = dataclasses.field(default_factory=list)
    secret: Json | None = None
    lease: Json | None = None
    settings: Json | None = None
    namespaces: list[Json] = dataclasses.field(default_factory=list)
    workloads: list[Json] = dataclasses.field(default_factory=list)
    """With ReplicaSets only where they are labelled."""
    pods: list[Json] = dataclasses.field(default_factory=list)
    """Those that are injected, or opted in by themselves or by their namespace; `reduced`."""
    services: list[Json] = dataclasses.field(default_factory=list)
    """Those that `concerns_us` is true of."""
    limit_ranges: list[Json] = dataclasses.field(default_factory=list)
    events: list[Json] = dataclasses.field(default_factory=list)
    """Those of reason FailedCreate."""
    refused: list[str] = dataclasses.field(default_factory=list)
    """What the reconciler may not do and should, such as `patch services`."""
    probe: Probe | None = None
    unchecked: dict[Area, str] = dataclasses.field(default_factory=dict)
    """What could not be looked at, and why."""

    def saw(self, *areas: Area) -> bool:
        """Return whether all of these could be looked at."""
        return not any(area in self.unchecked for area in areas)

    def cluster_settings(self) -> tuple[Settings, list[str]]:
        """Return the settings of the injector, and a sentence for each value that is wrong."""
        return config.settings(self.variables(names.WEBHOOK))

    def reconciling(self) -> tuple[Reconciling, list[str]]:
        """Return the settings of the reconciler, likewise."""
        return config.reconciling(self.variables(names.RECONCILER))

    def variables(self, name: str) -> dict[str, str]:
        """Return the environment of a process of ours: the ConfigMap, and what its Deployment sets."""
        return shape.texts(shape.mapping(self.settings).get("data")) | self.own_variables(name)

    def own_variables(self, name: str) -> dict[str, str]:
        """Return what the Deployment of a process of ours sets itself."""
        deployment = self.deployment(name)
        containers = shape.mappings(get(deployment, ("spec", "template", "spec")).get("containers"))
        return {
            entry["name"]: entry["value"]
            for container in containers
            for entry in shape.mappings(container.get("env"))
            if isinstance(entry.get("name"), str) and isinstance(entry.get("value"), str)
        }

    def deployment(self, name: str) -> Json | None:
        """Return a Deployment of ours."""
        return next((item for item in self.deployments if shape.name(item) == name), None)


# What deciding reads of a container. The rest is most of what a pod weighs, and ten thousand are kept.
_OF_CONTAINER: Final = ("name", "image", "ports", "resources", "restartPolicy")
_OF_SPEC: Final = ("hostNetwork", "nodeSelector", "os", "affinity", "resources", "restartPolicy")
_OF_METADATA: Final = (
    "name",
    "namespace",
    "uid",
    "labels",
    "annotations",
    "ownerReferences",
    "creationTimestamp",
    "deletionTimestamp",
)


def reduced(pod: Json) -> Json:
    """Return what is looked at of a pod; deciding comes to the same result with it."""
    spec, status = shape.mapping(pod.get("spec")), shape.mapping(pod.get("status"))
    kept: Json = {key: spec[key] for key in _OF_SPEC if key in spec}
    if "windowsOptions" in shape.mapping(spec.get("securityContext")):
        kept["securityContext"] = spec["securityContext"]
    for key in ("containers", "initContainers"):
        if key in spec:
            kept[key] = [_reduced_container(item) for item in shape.mappings(spec[key])]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _reduced_metadata(pod),
        "spec": kept,
        "status": {
            key: status[key]
            for key in ("phase", "containerStatuses", "initContainerStatuses")
            if key in status
        },
    }


def without_history(obj: Json) -> Json:
    """Return an object without the record of who wrote which field, a third of what it weighs."""
    metadata = {key: value for key, value in shape.metadata(obj).items() if key != "managedFields"}
    return {**obj, "metadata": metadata}


def with_our_mark(service: Json) -> Json:
    """Return a Service with so much of its history as tells whether the reconciler has applied it."""
    return {**service, "metadata": {**shape.metadata(service), "managedFields": our_marks(service)}}


def concerns_us(service: Json) -> bool:
    """Return whether a Service may matter: it is ours, has a name of ours, is scraped or wrongly labelled."""
    return (
        shape.label(service, names.MANAGED_BY_LABEL) == names.MANAGED_BY
        or names.SERVICE_SUFFIX in shape.name(service)
        or shape.annotation(service, names.SCRAPE_ANNOTATION) == names.TRUE
        or shape.label(service, names.INJECT_LABEL) is not None
    )


def _reduced_metadata(obj: Json) -> Json:
    metadata = shape.metadata(obj)
    return {key: metadata[key] for key in _OF_METADATA if key in metadata}


def _reduced_container(container: Json) -> Json:
    kept: Json = {key: container[key] for key in _OF_CONTAINER if key in container}
    kept["env"] = [
        {"name": entry["name"]}
        for entry in shape.mappings(container.get("env"))
        if entry.get("name") == names.PORT_ENV
    ]
    return kept
