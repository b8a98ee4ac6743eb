"""The JSON Patch (RFC 6902) from an object to a changed copy that shares with it what did not change.

Looking for what is the same, rather than for what is equal, leaves only the few places that were changed: a
pod of any size takes the same time. Comparing whole pods, as kopf does, takes milliseconds.
"""

from typing import Any

from webhook.shape import Json
from webhook.status import pointer


def diff(before: Any, after: Any, *path: str) -> list[Json]:  # noqa: ANN401 (any JSON)
    """Return the operations that make `before` into `after`."""
    if before is after:
        return []
    if isinstance(before, dict) and isinstance(after, dict):
        operations: list[Json] = [
            {"op": "remove", "path": pointer(*path, key)} for key in before if key not in after
        ]
        for key, value in after.items():
            if key in before:
                operations += diff(before[key], value, *path, key)
            else:
                operations.append({"op": "add", "path": pointer(*path, key), "value": value})
        return operations
    if isinstance(before, list) and isinstance(after, list) and _begins_with(after, before):
        return [
            {"op": "add", "path": pointer(*path, str(index)), "value": after[index]}
            for index in range(len(before), len(after))
        ]
    if not isinstance(before, dict | list) and type(before) is type(after) and before == after:
        return []
    return [{"op": "replace", "path": pointer(*path), "value": after}]


def _begins_with(whole: list[Any], start: list[Any]) -> bool:
    return len(whole) >= len(start) and all(one is other for one, other in zip(whole, start, strict=False))
