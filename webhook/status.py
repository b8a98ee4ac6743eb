"""What was done to a pod, written on the pod: enough to know it again, and to undo it exactly."""

import dataclasses
import json
from typing import Any, Final

from webhook import names, shape
from webhook.config import Mode


def pointer(*parts: str) -> str:
    """Return a JSON Pointer (RFC 6901)."""
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)


METADATA: Final = ("metadata",)
LABELS: Final = ("metadata", "labels")
ANNOTATIONS: Final = ("metadata", "annotations")
INIT_CONTAINERS: Final = ("spec", "initContainers")

# What every injection adds, besides the container.
ALWAYS: Final[tuple[tuple[str, ...], ...]] = (
    (*LABELS, names.INJECTED_LABEL),
    (*ANNOTATIONS, names.STATUS_ANNOTATION),
)

# All that an injection may add. A status can be edited by anyone who may edit the pod, so undoing it touches
# nothing else.
UNDOABLE: Final[dict[str, tuple[str, ...]]] = {
    pointer(*path): path
    for path in (
        METADATA,
        LABELS,
        ANNOTATIONS,
        INIT_CONTAINERS,
        (*LABELS, names.WORKLOAD_LABEL),
        (*ANNOTATIONS, names.DEFAULT_CONTAINER_ANNOTATION),
        *ALWAYS,
    )
}


@dataclasses.dataclass(frozen=True, slots=True)
class Status:
    """The annotation metrics-sidecar.io/status."""

    mode: Mode
    port: int
    container: str
    version: str = names.VERSION
    added: tuple[str, ...] = ()
    """JSON Pointers to what was not there before, in that order; what always is goes unsaid."""
    replaced: dict[str, Any] = dataclasses.field(default_factory=dict)
    """JSON Pointers to what was there before and is not now, with its value."""

    @property
    def list_name(self) -> str:
        """The list of the pod's spec that holds the container."""
        return list_name(self.mode)

    def to_json(self) -> str:
        """Return the annotation's value."""
        content: dict[str, Any] = {
            "version": self.version,
            "mode": self.mode.value,
            "port": self.port,
            "container": self.container,
        }
        if self.added:
            content["added"] = list(self.added)
        if self.replaced:
            content["replaced"] = self.replaced
        return json.dumps(content, separators=(",", ":"))


def list_name(mode: Mode) -> str:
    """Return the list of a pod's spec that holds a container of this mode."""
    return "initContainers" if mode is Mode.NATIVE else "containers"


def sets_port(container: object) -> bool:
    """Return whether a container runs the exporter: it has the variable that only the exporter reads."""
    env = shape.mapping(container).get("env")
    if not isinstance(env, list):
        return False
    return any(isinstance(entry, dict) and entry.get("name") == names.PORT_ENV for entry in env)


def read(pod: object) -> Status | None:
    """Return what was injected into a pod, None if nothing was, or if it is no longer there.

    A status without its container is a leftover: people copy the metadata of running pods into new ones.
    """
    raw = shape.annotation(pod, names.STATUS_ANNOTATION)
    if raw is None:
        return None
    try:
        content = shape.mapping(json.loads(raw))
        mode = Mode(content.get("mode", ""))
    except (ValueError, RecursionError):
        return None
    port, container = content.get("port"), shape.text(content.get("container"))
    if mode is Mode.AUTO or not isinstance(port, int) or isinstance(port, bool) or not container:
        return None
    spec = shape.mapping(shape.mapping(pod).get("spec"))
    beside = shape.mappings(spec.get(list_name(mode)))
    if not any(item.get("name") == container and sets_port(item) for item in beside):
        return None
    added = content.get("added")
    return Status(
        mode=mode,
        port=port,
        container=container,
        version=shape.text(content.get("version")),
        added=tuple(item for item in added if isinstance(item, str)) if isinstance(added, list) else (),
        replaced=shape.mapping(content.get("replaced")),
    )
