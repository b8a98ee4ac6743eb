"""What `inject` and `uninject` do with one object of a manifest, and what they say about it."""

import enum
from dataclasses import dataclass

from webhook import config, names, shape
from webhook.decision import decide, labelled
from webhook.identity import of_workload
from webhook.injection import NotAPodError, inject, shape_error, uninject
from webhook.names import Action, Note, Reason
from webhook.offline.text.node import same
from webhook.service import NoServiceError, build_service
from webhook.shape import Json
from webhook.stamp import stamp
from webhook.status import read
from webhook.workload import get, is_owned_replicaset, put, template_path


class Done(enum.StrEnum):
    """The word of the report for what became of an object."""

    INJECTED = "injected"
    UNINJECTED = "uninjected"
    ADDED = "added"
    REMOVED = "removed"
    SKIPPED = "skipped"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for on the command line."""

    settings: config.Settings
    undo: bool = False
    everything: bool = False
    with_service: bool = False
    namespace: str = ""
    """Where objects are that do not say it themselves."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One line of the report."""

    subject: str
    done: Done
    code: str
    sentence: str
    failed: bool = False
    line: int | None = None
    """Of the file, where it failed."""


def subject(obj: object, default_namespace: str = "") -> str:
    """Return `kind/namespace/name`, with a dash for what an object does not say."""
    meta = shape.metadata(obj)
    kind = shape.text(shape.mapping(obj).get("kind"))
    name = shape.name(obj) or shape.text(meta.get("generateName"))
    namespace = shape.text(meta.get("namespace")) or default_namespace
    return "/".join(part or "-" for part in (kind, namespace, name))


def outcome(
    obj: object, done: Done, reason: Reason | Note, request: Request, *, failed: bool = False
) -> Outcome:
    """Return the line of the report for an object."""
    return Outcome(subject(obj, request.namespace), done, reason.value, reason.sentence, failed)


def apply(obj: Json, namespaces: dict[str, Json], request: Request) -> tuple[Json, Outcome]:
    """Return the object with or without the sidecar, the same object if nothing changes, and what was done.

    Args:
        obj: any Kubernetes object; what has no pod template passes through.
        namespaces: the Namespaces that are known, by name.
        request: what was asked for.
    """
    if not shape.text(shape.mapping(obj).get("kind")):
        return obj, outcome(obj, Done.UNCHANGED, Note.NO_OBJECT, request)
    path = template_path(obj)
    if path is None:
        return obj, outcome(obj, Done.UNCHANGED, Reason.NO_TEMPLATE, request)
    return (_uninject if request.undo else _inject)(obj, path, namespaces, request)


def _inject(
    obj: Json, path: tuple[str, ...], namespaces: dict[str, Json], request: Request
) -> tuple[Json, Outcome]:
    template = get(obj, path)
    if read(template):
        return obj, outcome(obj, Done.UNCHANGED, Reason.ALREADY_INJECTED, request)
    if is_owned_replicaset(obj):
        return obj, outcome(obj, Done.SKIPPED, Reason.OWNED, request)
    # The label of a workload counts as it will once the webhook has stamped it; the file gets no stamp.
    stamped, stamping = stamp(obj) if path else (obj, None)
    if stamping and stamping.reason is Reason.LABEL_UNKNOWN and not request.everything:
        return obj, outcome(obj, Done.SKIPPED, Reason.LABEL_UNKNOWN, request)
    name = shape.text(shape.metadata(obj).get("namespace")) or request.namespace
    namespace = labelled(name) if request.everything else namespaces.get(name, {"metadata": {"name": name}})
    decision = decide(get(stamped, path), namespace, request.settings)
    if decision.action is not Action.INJECT:
        return obj, outcome(obj, Done.SKIPPED, decision.reason, request)
    reason: Reason | Note = decision.reason
    if reason is Reason.POD_LABEL and stamping and stamping.action is Action.STAMP:
        reason = Note.WORKLOAD_LABEL
    elif reason is Reason.NAMESPACE_LABEL and request.everything:
        reason = Note.ALL
    injected = inject(template, request.settings, of_workload(obj))
    if not same(uninject(injected), template):
        return obj, outcome(obj, Done.SKIPPED, Note.CANNOT_UNDO, request, failed=True)
    if "metadata" not in template:
        injected = {"metadata": injected["metadata"], **injected}
    return put(obj, path, injected), outcome(obj, Done.INJECTED, reason, request)


def _uninject(
    obj: Json, path: tuple[str, ...], _namespaces: dict[str, Json], request: Request
) -> tuple[Json, Outcome]:
    template = get(obj, path)
    if not read(template):
        return obj, outcome(obj, Done.UNCHANGED, Note.NOT_INJECTED, request)
    try:
        changed = put(obj, path, uninject(template))
    except NotAPodError:
        return obj, outcome(obj, Done.SKIPPED, Reason.NOT_A_POD, request, failed=True)
    return changed, outcome(obj, Done.UNINJECTED, Note.REMOVED, request)


def warnings(obj: Json, settings: config.Settings) -> list[str]:
    """Return a sentence for each setting of the workload's own that is ignored."""
    path = template_path(obj)
    template = get(obj, path) if path is not None else {}
    return [] if not template or shape_error(template) else config.overrides(template, settings)[1]


def has_sidecar(obj: Json) -> bool:
    """Return whether an object has a pod template with the sidecar in it."""
    path = template_path(obj)
    return path is not None and read(get(obj, path)) is not None


def service_of(obj: Json, request: Request) -> Json | None:
    """Return the Service for an injected workload, marked as written here; None if it cannot have a name."""
    try:
        service = build_service(obj, request.settings)
    except NoServiceError:
        return None
    annotations = {**service["metadata"]["annotations"], names.OFFLINE_ANNOTATION: names.TRUE}
    return {**service, "metadata": {**service["metadata"], "annotations": annotations}}


def is_our_service(obj: object) -> bool:
    """Return whether an object is a Service that `--with-service` wrote."""
    return (
        shape.mapping(obj).get("kind") == "Service"
        and shape.annotation(obj, names.OFFLINE_ANNOTATION) == names.TRUE
    )
