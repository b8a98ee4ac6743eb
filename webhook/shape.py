"""Read JSON that anyone may have written: what is absent, null or of the wrong type reads as empty.

Kubernetes objects are plain dicts here. Typed models lose the fields that they do not know.
"""

from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]


def mapping(value: object) -> Json:
    """Return the value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def mappings(value: object) -> list[Json]:
    """Return the JSON objects of a JSON array, in order; whatever else it holds is left out."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def text(value: object) -> str:
    """Return the value if it is a string, else an empty one."""
    return value if isinstance(value, str) else ""


def texts(value: object) -> dict[str, str]:
    """Return the pairs of a JSON object whose values are strings: labels, annotations, selectors."""
    return {key: item for key, item in mapping(value).items() if isinstance(item, str)}


def metadata(obj: object) -> Json:
    """Return the metadata of an object or of a pod template."""
    return mapping(mapping(obj).get("metadata"))


def name(obj: object) -> str:
    """Return the object's name, empty if the API server has yet to make one from generateName."""
    return text(metadata(obj).get("name"))


def label(obj: object, key: str) -> str | None:
    """Return one label's value, None without it."""
    value = mapping(metadata(obj).get("labels")).get(key)
    return value if isinstance(value, str) else None


def annotation(obj: object, key: str) -> str | None:
    """Return one annotation's value, None without it."""
    value = mapping(metadata(obj).get("annotations")).get(key)
    return value if isinstance(value, str) else None


def controller(obj: object) -> Json:
    """Return the owner reference of the controller that made the object, empty without one."""
    for owner in mappings(metadata(obj).get("ownerReferences")):
        if owner.get("controller") is True:
            return owner
    return {}


def is_alive(pod: object) -> bool:
    """Return whether a pod runs, or will: it has not ended and is not being deleted."""
    phase = mapping(mapping(pod).get("status")).get("phase")
    return phase not in ("Succeeded", "Failed") and "deletionTimestamp" not in metadata(pod)
