"""Faults of labels: in the wrong place, of the wrong value, or without effect. Pure."""

from collections.abc import Iterator
from typing import Final

from webhook import names, shape, status
from webhook.check import mending
from webhook.check.findings import Finding, Severity, examples
from webhook.check.snapshot import Area, Snapshot
from webhook.check.workloads import Fleet, Workload, label_of, stands_for_itself
from webhook.config import overrides
from webhook.identity import Reference
from webhook.names import Action, Fault, Reason
from webhook.service import match_labels
from webhook.shape import Json
from webhook.stamp import stamp
from webhook.workload import get, template_path

_VALUES: Final = (None, names.TRUE, names.FALSE)
_NEGATIVE: Final = frozenset({"no", "n", "off", "0", "disabled", "disable", "never"})

# What keeps pods that ask for the exporter from having it, for as long as they are as they are.
_OBSTACLES: Final = frozenset(
    {
        Reason.HOST_NETWORK,
        Reason.WINDOWS,
        Reason.PORT_TAKEN,
        Reason.NO_NATIVE_SIDECARS,
        Reason.POD_RESOURCES,
        Reason.ANNOTATIONS_FULL,
    }
)


def faults(seen: Snapshot, fleet: Fleet) -> Iterator[Finding]:
    """Yield the labels that have no effect, with what their authors meant."""
    for namespace in seen.namespaces:
        yield from _namespace(namespace, fleet)
    for workload in seen.workloads:
        if workload.get("kind") == "ReplicaSet" and shape.controller(workload):
            yield from _owned_replicaset(workload, seen.workloads)
        elif stands_for_itself(workload):
            yield from _workload(workload, fleet)
    for pod in seen.pods:
        if not shape.controller(pod) and shape.is_alive(pod):
            yield from _pod(pod, fleet)
    if seen.saw(Area.WORKLOADS):
        for service in seen.services:
            if label_of(service) is not None:
                yield _service(service, fleet)


def meant(value: str) -> str:
    """Return what somebody meant who wrote another value than "true" or "false"."""
    lowered = value.strip().lower()
    return names.FALSE if lowered == names.FALSE or lowered in _NEGATIVE else names.TRUE


# --- namespaces ------------------------------------------------------------------------------------------


def _namespace(namespace: Json, fleet: Fleet) -> Iterator[Finding]:
    ref = Reference.of({"apiVersion": "v1", "kind": "Namespace", **namespace})
    if ref.name in fleet.settings.ignored_namespaces:
        if label_of(namespace) == names.TRUE:
            yield _ignored(ref)
        return
    yield from _annotated(ref, namespace, label_of(namespace))
    if (value := label_of(namespace)) not in _VALUES:
        yield _value(ref, value or "", mending.label(ref, meant(value or "")))


# --- workloads -------------------------------------------------------------------------------------------


def _workload(workload: Json, fleet: Fleet) -> Iterator[Finding]:
    ref = Reference.of(workload)
    template = get(workload, template_path(workload) or ("",))
    if ref.namespace in fleet.settings.ignored_namespaces:
        if names.TRUE in (label_of(workload), label_of(template)):
            yield _ignored(ref)
        return
    holder = workload if shape.annotation(workload, names.INJECT_LABEL) is not None else template
    asks = meant(shape.annotation(holder, names.INJECT_LABEL) or "") == names.TRUE
    # In a labelled namespace its author has what was meant.
    if not (asks and fleet.forecast(workload).action is Action.INJECT):
        yield from _annotated(ref, holder, label_of(workload) or label_of(template))
    own, inner = label_of(workload), label_of(template)
    if own not in _VALUES:
        yield _value(ref, own or "", mending.label(ref, meant(own or "")))
        return
    if inner not in _VALUES:
        command = mending.template_metadata(workload, labels={names.INJECT_LABEL: meant(inner or "")})
        yield _value(ref, inner or "", command, "the pod template is labelled")
        return
    yield from _stamped(ref, workload, own, inner)
    yield from _obstructed(ref, workload, fleet)


def _stamped(ref: Reference, workload: Json, own: str | None, inner: str | None) -> Iterator[Finding]:
    """Yield that a template says something else than its workload, as `stamp` has it."""
    _, decision = stamp(workload)
    facts = (f"the workload says {names.INJECT_LABEL}={own}", f"its pod template says {inner or 'nothing'}")
    if decision.reason is Reason.TEMPLATE_DECIDES and own != inner:
        command = mending.template_metadata(
            workload, labels={names.INJECT_LABEL: None}, annotations={names.STAMPED_ANNOTATION: None}
        )
        yield Finding(Fault.LABELS_DISAGREE, ref, facts, command, Severity.WARNING)
    elif decision.action is Action.STAMP:
        if ref.kind == "Job":
            if own == names.TRUE and not _finished(workload):
                yield Finding(Fault.LABEL_ON_RUNNING_JOB, ref, facts, mending.recreate_job(ref))
            return
        rolls_out = ref.kind in ("Deployment", "StatefulSet", "DaemonSet") and ref.group == "apps"
        # Any update of a labelled workload passes through the webhook, which then stamps it.
        command = mending.restart(ref) if rolls_out else mending.label(ref, own)
        yield Finding(Fault.TEMPLATE_NOT_STAMPED, ref, facts, command)
    elif decision.action is Action.UNSTAMP and ref.kind != "Job":
        facts = ("the workload has no label any more", f"its pod template still says {inner}")
        command = mending.template_metadata(
            workload, labels={names.INJECT_LABEL: None}, annotations={names.STAMPED_ANNOTATION: None}
        )
        yield Finding(Fault.TEMPLATE_STILL_STAMPED, ref, facts, command, Severity.WARNING)


def _obstructed(ref: Reference, workload: Json, fleet: Fleet) -> Iterator[Finding]:
    """Yield why the pods of a labelled workload cannot have the exporter, or not as they want it."""
    stamped, _ = stamp(workload)
    template = get(stamped, template_path(stamped) or ("",))
    decision = fleet.decide(template, ref.namespace)
    if label_of(template) is not None and decision.reason in _OBSTACLES:
        yield _not_injectable(ref, decision.reason, _way_out(workload, decision.reason, fleet))
    if decision.action is not Action.INJECT:
        return
    misplaced = {
        key: value
        for key in names.OVERRIDES
        if (value := shape.annotation(workload, key)) is not None
        and shape.annotation(template, key) is None
        and workload.get("kind") != "Pod"
    }
    if misplaced:
        facts = tuple(
            f"{key}={value} is on the workload, it is read on the pod template"
            for key, value in misplaced.items()
        )
        command = mending.template_metadata(workload, annotations=misplaced)
        yield Finding(Fault.OVERRIDE_IGNORED, ref, facts, command, Severity.WARNING)
    if warnings := overrides(template, fleet.settings)[1]:
        wrong = {key: None for key in names.OVERRIDES if any(said.startswith(f"{key}=") for said in warnings)}
        command = mending.template_metadata(workload, annotations=wrong)
        yield Finding(Fault.OVERRIDE_IGNORED, ref, tuple(warnings), command, Severity.WARNING)


def _way_out(workload: Json, reason: Reason, fleet: Fleet) -> str:
    if reason is not Reason.PORT_TAKEN:
        return mending.label(Reference.of(workload), names.FALSE)
    template = get(workload, template_path(workload) or ())
    spec = shape.mapping(template.get("spec"))
    containers = shape.mappings(spec.get("containers")) + shape.mappings(spec.get("initContainers"))
    taken = {
        entry.get("containerPort")
        for container in containers
        for entry in shape.mappings(container.get("ports"))
    }
    wanted = overrides(template, fleet.settings)[0].port
    free = next(port for port in (*range(wanted + 1, 65536), *range(1024, 65536)) if port not in taken)
    return mending.template_metadata(workload, annotations={names.PORT_ANNOTATION: str(free)})


def _finished(job: Json) -> bool:
    conditions = shape.mappings(shape.mapping(job.get("status")).get("conditions"))
    return any(
        item.get("type") in ("Complete", "Failed") and item.get("status") == "True" for item in conditions
    )


def _owned_replicaset(replicaset: Json, workloads: list[Json]) -> Iterator[Finding]:
    """Yield that a ReplicaSet is labelled in vain: a label that its owner gave it is in its template too."""
    value = label_of(replicaset)
    template = get(replicaset, ("spec", "template"))
    if value is None or label_of(template) == value:
        return
    owner = Reference.of_controller(replicaset)
    if owner is None or any(Reference.of(item) == owner and label_of(item) is not None for item in workloads):
        return
    facts = (f"{mending.target(owner)} makes it from its own template",)
    wanted = value if value in _VALUES else meant(value)
    yield Finding(Fault.LABEL_ON_REPLICASET, Reference.of(replicaset), facts, mending.label(owner, wanted))


# --- pods and Services -----------------------------------------------------------------------------------


def _pod(pod: Json, fleet: Fleet) -> Iterator[Finding]:
    """Yield what is wrong with the label of a pod that nobody controls; else its controller has it."""
    ref = Reference.of(pod)
    value = label_of(pod)
    if value is None or status.read(pod):
        return
    decision = fleet.decide(pod, ref.namespace)
    if decision.reason is Reason.SYSTEM_NAMESPACE:
        yield _ignored(ref)
    elif decision.reason is Reason.LABEL_UNKNOWN:
        again = mending.recreate_pods(ref, pod, [pod])
        command = mending.label(ref, meant(value))
        yield _value(ref, value, f"{command} && {again}" if meant(value) == names.TRUE else command)
    elif decision.reason in _OBSTACLES:
        yield _not_injectable(ref, decision.reason, mending.label(ref, names.FALSE))


def _service(service: Json, fleet: Fleet) -> Finding:
    ref = Reference.of(service)
    chosen = shape.texts(shape.mapping(service.get("spec")).get("selector"))
    behind = [
        item for item in fleet.workloads if item.ref.namespace == ref.namespace and _is_behind(item, chosen)
    ]
    meant_for = [item.ref for item in behind if label_of(item.obj) is None]
    wanted = meant(label_of(service) or "")
    commands = [mending.label(item, wanted) for item in meant_for] if wanted == names.TRUE else []
    commands.append(mending.label(ref, None))
    leads = examples([mending.target(item.ref).split()[0] for item in behind]) or "no workload"
    return Finding(Fault.LABEL_ON_SERVICE, ref, (f"it leads to {leads}",), " && ".join(commands))


def _is_behind(workload: Workload, selector: dict[str, str]) -> bool:
    if not selector or workload.obj is None or not stands_for_itself(workload.obj):
        return False
    template = get(workload.obj, template_path(workload.obj) or ())
    labels = shape.texts(shape.metadata(template).get("labels")) | match_labels(workload.obj)
    return selector.items() <= labels.items()


# --- shared ----------------------------------------------------------------------------------------------


def _annotated(ref: Reference, holder: Json, label: str | None) -> Iterator[Finding]:
    """Yield that the name of the label was used for an annotation, unless the label is there as well."""
    value = shape.annotation(holder, names.INJECT_LABEL)
    if value is None or label is not None:
        return
    command = mending.label(ref, value if value in _VALUES else meant(value))
    facts = (f"the annotation says {names.INJECT_LABEL}={value}, no label does",)
    yield Finding(Fault.LABEL_IS_ANNOTATION, ref, facts, command)


def _value(ref: Reference, value: str, command: str, where: str = "it is labelled") -> Finding:
    return Finding(Fault.LABEL_VALUE, ref, (f"{where} {names.INJECT_LABEL}={value}",), command)


def _ignored(ref: Reference) -> Finding:
    where = ref.namespace or ref.name
    facts = (f"{where} is among the namespaces that are left alone",)
    return Finding(Fault.LABEL_IN_IGNORED_NAMESPACE, ref, facts, mending.label(ref, None))


def _not_injectable(ref: Reference, reason: Reason, command: str) -> Finding:
    return Finding(Fault.NOT_INJECTABLE, ref, (reason.sentence,), command, Severity.WARNING)
