"""Find the pod template in any object that has one: Kubernetes' own kinds, and custom ones by their shape."""

from typing import TypeAlias

from webhook import shape
from webhook.shape import Json

Path: TypeAlias = tuple[str, ...]

_TEMPLATE: Path = ("spec", "template")
_CRON_TEMPLATE: Path = ("spec", "jobTemplate", "spec", "template")
_POD_TEMPLATE: Path = ("template",)


def get(obj: object, path: Path) -> Json:
    """Return the JSON object at a path, empty if there is none."""
    here = shape.mapping(obj)
    for key in path:
        here = shape.mapping(here.get(key))
    return here


def put(obj: Json, path: Path, value: Json) -> Json:
    """Return a copy of the object with another value at a path; what is beside the path is shared."""
    if not path:
        return value
    key, *rest = path
    return {**obj, key: put(shape.mapping(obj.get(key)), tuple(rest), value)}


def template_path(obj: object) -> Path | None:
    """Return where an object's pod template is, `()` if it is a pod itself, None if there is none.

    A template is an object whose `spec` has containers. `spec.template` is where Deployment, StatefulSet,
    DaemonSet, ReplicaSet, ReplicationController and Job have it, and Rollout, CloneSet and many more.
    """
    kind = shape.mapping(obj).get("kind")
    if kind == "Pod" or (kind is None and _has_containers(obj)):
        return () if _has_containers(obj) else None
    for path in (_POD_TEMPLATE,) if kind == "PodTemplate" else (_TEMPLATE, _CRON_TEMPLATE):
        if _has_containers(get(obj, path)):
            return path
    return None


def is_owned_replicaset(obj: object) -> bool:
    """Return whether a controller made this ReplicaSet from its own template.

    Were its template changed, that controller would find it unlike its own, and make another one for ever.
    """
    return shape.mapping(obj).get("kind") == "ReplicaSet" and bool(shape.controller(obj))


def _has_containers(template: object) -> bool:
    containers = shape.mapping(shape.mapping(template).get("spec")).get("containers")
    return bool(shape.mappings(containers))
