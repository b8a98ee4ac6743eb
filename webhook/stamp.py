"""Carry a workload's opt-in label into its pod template, so that it rolls out, and take it away again.

A label that was on the template already was written by somebody, and wins. Ours is told apart by an
annotation beside it that repeats its value; when the two differ, somebody has changed the label since.
"""

from webhook import names, shape
from webhook.decision import Decision
from webhook.names import Action, Reason
from webhook.shape import Json
from webhook.workload import get, is_owned_replicaset, put, template_path


def stamp(workload: Json) -> tuple[Json, Decision]:
    """Return the workload with a pod template that agrees with its label, and what was done.

    Works on any object, never raises, leaves its input as it is; without a change it returns that itself.
    """
    path = template_path(workload)
    if not path or not _can_carry(get(workload, path)):
        return workload, Decision(Action.SKIP, Reason.NO_TEMPLATE)
    if is_owned_replicaset(workload):
        return workload, Decision(Action.SKIP, Reason.OWNED)
    template = get(workload, path)
    wanted = shape.label(workload, names.INJECT_LABEL)
    current = shape.label(template, names.INJECT_LABEL)
    ours = current is not None and shape.annotation(template, names.STAMPED_ANNOTATION) == current
    if wanted not in (None, names.TRUE, names.FALSE):
        return workload, Decision(Action.SKIP, Reason.LABEL_UNKNOWN)
    if wanted is None:
        if not ours:
            return workload, Decision(Action.SKIP, Reason.NOT_LABELLED)
        return put(workload, path, _marked(template, None)), Decision(Action.UNSTAMP, Reason.UNSTAMPED)
    if current is not None and not ours:
        return workload, Decision(Action.SKIP, Reason.TEMPLATE_DECIDES)
    if current == wanted:
        return workload, Decision(Action.SKIP, Reason.UNCHANGED)
    return put(workload, path, _marked(template, wanted)), Decision(Action.STAMP, Reason.STAMPED)


def _can_carry(template: Json) -> bool:
    meta = template.get("metadata", {})
    return isinstance(meta, dict | None) and all(
        isinstance((meta or {}).get(key), dict | None) for key in ("labels", "annotations")
    )


def _marked(template: Json, value: str | None) -> Json:
    """Return the template with the label and the record that it is ours, or, for None, without both."""
    meta = dict(shape.metadata(template))
    for key, mark in (("labels", names.INJECT_LABEL), ("annotations", names.STAMPED_ANNOTATION)):
        pairs = dict(shape.mapping(meta.get(key)))
        if value is None:
            pairs.pop(mark, None)
        else:
            pairs[mark] = value
        meta[key] = pairs
        if not pairs:
            del meta[key]  # what we alone filled was not there before
    return {**template, "metadata": meta}
