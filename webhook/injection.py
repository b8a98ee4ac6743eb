"""Put the exporter into a pod, and take it out again. Pods are plain dicts: no field is lost."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from webhook import identity, names, shape, status
from webhook.config import Mode, Settings, overrides
from webhook.shape import Json
from webhook.status import Status


class NotAPodError(ValueError):
    """What was given has not the shape of a pod; nothing was done."""


def shape_error(pod: object) -> str | None:
    """Return what keeps an object from being a pod that can be changed, None if nothing does."""
    if not isinstance(pod, dict):
        return f"{type(pod).__name__}; expected an object"
    spec = pod.get("spec")
    if not isinstance(spec, dict):
        return "spec; expected an object"
    containers = spec.get("containers")
    if not isinstance(containers, list) or not shape.mappings(containers):
        return "spec.containers; expected a list of containers"
    if not isinstance(spec.get("initContainers", []), list | None):
        return "spec.initContainers; expected a list"
    meta = pod.get("metadata", {})
    if not isinstance(meta, dict | None):
        return "metadata; expected an object"
    for key in ("labels", "annotations"):
        pairs = meta.get(key) if meta else None
        if not isinstance(pairs, dict | None):
            return f"metadata.{key}; expected an object"
        if pairs and not all(isinstance(value, str | None) for value in pairs.values()):
            return f"metadata.{key}; expected strings in it"
    return None


def ends(pod: object) -> bool:
    """Return whether a pod is one that finishes, as those of Jobs do."""
    policy = shape.mapping(shape.mapping(pod).get("spec")).get("restartPolicy")
    return policy not in (None, "", "Always") or shape.controller(pod).get("kind") == "Job"


def mode_of(pod: object, settings: Settings) -> Mode:
    """Return the mode for a pod, never `auto`, under settings that hold the pod's overrides already."""
    if settings.mode is not Mode.AUTO:
        return settings.mode
    # Beside an ordinary container that runs for ever, a Job never completes.
    return Mode.NATIVE if ends(pod) else Mode.CONTAINER


def inject(pod: Json, settings: Settings, workload: str | None = None) -> Json:
    """Return the pod with the exporter in it; a pod that has it comes back as it is.

    The result shares with its input what did not change; the input stays as it was.

    Args:
        pod: a Pod, or a pod template: `{"metadata": …, "spec": …}`.
        settings: the cluster's; the pod's own annotations override them here.
        workload: what the pod belongs to (`identity.of_workload`), if the caller knows better than the pod.

    Raises:
        NotAPodError: it is no pod.
    """
    if error := shape_error(pod):
        raise NotAPodError(f"inject: {error}")
    if status.read(pod):
        return dict(pod)
    effective, _ = overrides(pod, settings)
    mode = mode_of(pod, effective)
    edit = _Edit(pod)
    spec = pod["spec"]
    done = Status(mode, effective.port, _free_name(spec))
    edit.append(status.list_name(mode), _container(done.container, mode, effective))
    edit.set(status.LABELS, names.INJECTED_LABEL, names.TRUE)
    if workload := workload or identity.of_pod(pod):
        edit.set(status.LABELS, names.WORKLOAD_LABEL, workload)
    if default := _default_container(pod):
        edit.set(status.ANNOTATIONS, names.DEFAULT_CONTAINER_ANNOTATION, default)
    edit.record(status.ANNOTATIONS, names.STATUS_ANNOTATION)
    done = dataclasses.replace(done, added=tuple(edit.added), replaced=edit.replaced)
    edit.set(status.ANNOTATIONS, names.STATUS_ANNOTATION, done.to_json())
    return edit.pod


def mended(pod: Json) -> Json:
    """Return an injected pod with our native sidecar still one; any other pod comes back itself.

    Webhooks that pass pods through typed models from before 1.29 drop the `restartPolicy` of init containers.
    Without it the application would wait for ours to end, for ever.
    """
    done = status.read(pod)
    if done is None or done.mode is not Mode.NATIVE:
        return pod
    spec = pod["spec"]
    ours = [item for item in shape.mappings(spec["initContainers"]) if item.get("name") == done.container]
    if all(item.get("restartPolicy") == "Always" for item in ours):
        return pod
    mend = [{**item, "restartPolicy": "Always"} if item in ours else item for item in spec["initContainers"]]
    return {**pod, "spec": {**spec, "initContainers": mend}}


def uninject(pod: Json) -> Json:
    """Return the pod as it was before `inject`; a pod without an injected exporter comes back as it is.

    Raises:
        NotAPodError: it is no pod.
    """
    if error := shape_error(pod):
        raise NotAPodError(f"uninject: {error}")
    done = status.read(pod)
    if done is None:
        return dict(pod)
    edit = _Edit(pod)
    edit.take_out(done.list_name, done.container)
    undo = [*(status.pointer(*path) for path in status.ALWAYS), *reversed(done.added)]
    for where in undo:
        if where in status.UNDOABLE and where not in done.replaced:
            edit.remove(status.UNDOABLE[where])
    for where, value in done.replaced.items():
        if where in status.UNDOABLE:
            edit.restore(status.UNDOABLE[where], value)
    return edit.pod


class _Edit:
    """A copy of a pod in which only what changes is copied, with a record of what was there before."""

    def __init__(self, pod: Json) -> None:
        self.pod: Json = dict(pod)
        self.added: list[str] = []
        self.replaced: dict[str, Any] = {}
        self._own: set[tuple[str, ...]] = set()

    def _open(self, path: tuple[str, ...]) -> Json:
        """Return the object at a path, our own copy, made if there is none."""
        here = self.pod
        for depth, key in enumerate(path, 1):
            if path[:depth] not in self._own:
                self._own.add(path[:depth])
                was = here.get(key)
                if not isinstance(was, dict):
                    self._record(here, key, path[:depth])
                here[key] = dict(was) if isinstance(was, dict) else {}
            here = here[key]
        return here

    def _record(self, parent: Json, key: str, path: tuple[str, ...]) -> None:
        where = status.pointer(*path)
        if key in parent:
            self.replaced.setdefault(where, parent[key])
        elif path not in status.ALWAYS:
            self.added.append(where)

    def record(self, path: tuple[str, ...], key: str) -> Json:
        parent = self._open(path)
        self._record(parent, key, (*path, key))
        return parent

    def set(self, path: tuple[str, ...], key: str, value: str) -> None:
        self.record(path, key)[key] = value

    def append(self, list_name: str, container: Json) -> None:
        spec = self._open(("spec",))
        was = spec.get(list_name)
        if not isinstance(was, list):
            self._record(spec, list_name, ("spec", list_name))
        spec[list_name] = [*(was or ()), container]

    def take_out(self, list_name: str, name: str) -> None:
        spec = self._open(("spec",))
        spec[list_name] = [
            item
            for item in spec[list_name]
            if not (isinstance(item, dict) and item.get("name") == name and status.sets_port(item))
        ]

    def remove(self, path: tuple[str, ...]) -> None:
        *above, key = path
        parent = self._open(tuple(above))
        # What we made may hold what others have put there since.
        if parent.get(key) and not isinstance(parent[key], str):
            return
        parent.pop(key, None)

    def restore(self, path: tuple[str, ...], value: Any) -> None:  # noqa: ANN401 (any JSON)
        *above, key = path
        parent = self._open(tuple(above))
        if isinstance(parent.get(key), dict | list) and parent[key]:
            return
        parent[key] = value


def containers(spec: Json) -> Iterator[Json]:
    """Yield every container of a pod's spec whose name is taken, of whatever sort."""
    for key in ("containers", "initContainers", "ephemeralContainers"):
        yield from shape.mappings(spec.get(key))


def _free_name(spec: Json) -> str:
    taken = {shape.text(container.get("name")) for container in containers(spec)}
    if names.CONTAINER not in taken:
        return names.CONTAINER
    name, number = names.CONTAINER_IF_TAKEN, 1
    while name in taken:
        number += 1
        name = f"{names.CONTAINER_IF_TAKEN}-{number}"
    return name


def _default_container(pod: Json) -> str | None:
    """Return which container `kubectl logs` is to take, None where we do not make the question arise."""
    annotations = shape.mapping(shape.metadata(pod).get("annotations"))
    if not annotations.keys().isdisjoint(names.DEFAULT_CONTAINER_ANNOTATIONS):
        return None
    # Of several containers people have had to choose before us too.
    [first, *others] = shape.mappings(pod["spec"]["containers"])
    return None if others else shape.text(first.get("name")) or None


def _container(name: str, mode: Mode, settings: Settings) -> Json:
    resources = {"cpu": settings.cpu, "memory": settings.memory}
    return {
        "name": name,
        "image": settings.image,
        "imagePullPolicy": "IfNotPresent",
        **({"restartPolicy": "Always"} if mode is Mode.NATIVE else {}),
        "env": [
            {"name": names.PORT_ENV, "value": str(settings.port)},
            {"name": names.POD_NAME_ENV, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
        # Not "metrics": every monitor of a port of that name would scrape ours too.
        "ports": [{"name": names.PORT_NAME, "containerPort": settings.port, "protocol": "TCP"}],
        # Equal, so that a Guaranteed pod stays one; and no probes, ours must never restart or unready a pod.
        "resources": {"requests": resources, "limits": dict(resources)},
        # Pod Security "restricted" is met by the container alone, whatever the pod says.
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            **({} if settings.run_as_user is None else {"runAsUser": settings.run_as_user}),
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
