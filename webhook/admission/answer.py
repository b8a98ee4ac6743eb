"""Answer one admission request: what becomes of the object, why, and what its author is told."""

import dataclasses
from typing import Final

from webhook import identity, names, shape
from webhook.config import Settings, overrides
from webhook.decision import Decision, decide
from webhook.injection import inject, mended
from webhook.names import Action, Reason
from webhook.shape import Json
from webhook.stamp import stamp
from webhook.workload import get, template_path

# What nobody needs to hear who asked for an injection: it is there, or it was not asked for here.
_QUIET: Final = frozenset(
    {Reason.ALREADY_INJECTED, Reason.OPTED_OUT, Reason.NOT_LABELLED, Reason.NAMESPACE_OPTED_OUT}
)


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What is done with the object of a request."""

    obj: Json
    """The object as it is to be; the one that was given if nothing changes."""
    decision: Decision
    warnings: tuple[str, ...] = ()
    """Sentences that kubectl shows to whoever made the request."""


def answer_pod(pod: Json, namespace: Json, operation: str, settings: Settings, uid: str = "") -> Answer:
    """Answer a request about a pod: its containers can change only when it is created.

    Args:
        pod: the object.
        namespace: where it is to be.
        operation: what is done with it.
        settings: the cluster's.
        uid: of the request.
    """
    if operation != "CREATE":
        return Answer(pod, Decision(Action.SKIP, Reason.OTHER_OPERATION))
    decision = decide(pod, namespace, settings)
    if decision.action is Action.INJECT:
        injected = inject(pod, settings, identity.of_pod(pod) or identity.of_unnamed_pod(pod, uid))
        return Answer(injected, decision, tuple(_said(overrides(pod, settings)[1])))
    if decision.reason is Reason.ALREADY_INJECTED:
        return Answer(mended(pod), decision)
    return Answer(pod, decision, tuple(_said(_objections(pod, decision))))


def answer_workload(
    new: Json, old: Json | None, namespace: Json, operation: str, settings: Settings
) -> Answer:
    """Answer a request about an object that is labelled, or was: its pod template is to say the same."""
    if operation not in ("CREATE", "UPDATE"):
        return Answer(new, Decision(Action.SKIP, Reason.OTHER_OPERATION))
    if operation == "UPDATE" and new.get("kind") == "Job":
        return Answer(new, Decision(Action.SKIP, Reason.JOB_IMMUTABLE))
    stamped, decision = stamp(new)
    # Controllers update their objects all the time; only who changes something is told about it.
    changed = old is None or _pods_of(old) != _pods_of(stamped)
    return Answer(
        stamped,
        decision,
        tuple(_said(_forecast(stamped, decision.reason, namespace, settings)) if changed else ()),
    )


def _said(sentences: list[str]) -> list[str]:
    return [f"metrics-sidecar: {sentence}" for sentence in sentences]


def _objections(pod: Json, decision: Decision) -> list[str]:
    """Return why a pod that asks for the exporter by its own label does not get it."""
    if decision.action is not Action.SKIP or decision.reason in _QUIET:
        return []
    if shape.label(pod, names.INJECT_LABEL) is None:
        return []
    return [f"not injected, {decision.reason.sentence}"]


def _pods_of(workload: Json) -> tuple[str | None, Json]:
    return shape.label(workload, names.INJECT_LABEL), get(workload, template_path(workload) or ("",))


def _forecast(workload: Json, reason: Reason, namespace: Json, settings: Settings) -> list[str]:
    """Return what will become of the pods of a labelled workload, whose own warnings only controllers see."""
    label = shape.label(workload, names.INJECT_LABEL)
    if label is None or reason is Reason.OWNED:
        return []
    if reason in (Reason.LABEL_UNKNOWN, Reason.NO_TEMPLATE):
        return [f"nothing to do, {reason.sentence}"]
    template = get(workload, template_path(workload) or ())
    if shape.label(template, names.INJECT_LABEL) != label:
        return [f"{names.INJECT_LABEL}={label} has no effect here, {reason.sentence}"]
    if label != names.TRUE:
        return []
    decision = decide(template, namespace, settings)
    misplaced = [key for key in names.OVERRIDES if shape.annotation(workload, key) is not None]
    return [
        *(f"{key} is not read here; it belongs on the pod template" for key in misplaced),
        *(overrides(template, settings)[1] if decision.action is Action.INJECT else ()),
        *(f"its pods: {sentence}" for sentence in _objections(template, decision)),
    ]
