"""Decide whether a pod gets the exporter, and say why. Pure, and never raises, whatever it is given.

The truth table, whose rows are the cases of `tests/webhook/test_decision.py`. The first row that holds, from
the top, decides; `-` is absent, `*` is anything.

pod label | namespace label | the pod                                   | action | reason
--------- | --------------- | ----------------------------------------- | ------ | -------------------
*         | *               | has not the shape of a pod                | skip   | not_a_pod
*         | *               | has our container and our status          | skip   | already_injected
false     | *               | *                                         | skip   | opted_out
other     | *               | *                                         | skip   | label_unknown
-         | false           | *                                         | skip   | namespace_opted_out
-         | - or other      | *                                         | skip   | not_labelled
true      | *               | a container sets METRICS_SIDECAR_PORT     | skip   | runs_exporter
true      | *               | is a mirror pod                           | skip   | mirror_pod
true      | *               | is in a namespace of the system           | skip   | system_namespace
true      | *               | uses the host's network                   | skip   | host_network
true      | *               | runs on Windows                           | skip   | windows
true      | *               | a container has our TCP port              | skip   | port_taken
true      | *               | is to have a native sidecar, unsupported  | skip   | no_native_sidecars
true      | *               | its own resources have no room for ours   | skip   | pod_resources
true      | *               | its annotations have no room for ours     | skip   | annotations_full
true      | *               | *                                         | inject | pod_label
-         | true            | *                                         | inject | namespace_label

Rows with `true` and a skip hold for `-` in a namespace with `true` as well.
"""

import dataclasses
from decimal import Decimal
from typing import Final

from webhook import names, quantity, shape
from webhook.config import Mode, Settings, overrides
from webhook.injection import containers, mode_of, shape_error
from webhook.names import Action, Reason
from webhook.shape import Json
from webhook.status import read, sets_port

# The API server allows 256 KiB for the keys and values of all annotations together, and rejects a pod beyond
# that. Ours take a few hundred bytes.
_ANNOTATIONS_LIMIT: Final = 256 * 1024
_ANNOTATIONS_OURS: Final = 2048
_OS_LABELS: Final = ("kubernetes.io/os", "beta.kubernetes.io/os")


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """What is done with an object, and why."""

    action: Action
    reason: Reason


def decide(pod: object, namespace: object, settings: Settings) -> Decision:
    """Return whether a pod gets the exporter.

    Args:
        pod: a Pod, or a pod template.
        namespace: its Namespace as an object, as far as it is known: name and labels count; see `labelled`.
        settings: the cluster's; the pod's own annotations override them here.
    """
    if not isinstance(pod, dict) or shape_error(pod):
        return Decision(Action.SKIP, Reason.NOT_A_POD)
    asked = _asked(pod, namespace)
    reason = asked
    if read(pod):
        reason = Reason.ALREADY_INJECTED
    elif asked in (Reason.POD_LABEL, Reason.NAMESPACE_LABEL):
        reason = _obstacle(pod, namespace, settings) or asked
    injects = reason in (Reason.POD_LABEL, Reason.NAMESPACE_LABEL)
    return Decision(Action.INJECT if injects else Action.SKIP, reason)


def labelled(name: str = "") -> Json:
    """Return a Namespace that is labelled for injection: for callers who know that it is, or want it so."""
    return {"metadata": {"name": name, "labels": {names.INJECT_LABEL: names.TRUE}}}


def _asked(pod: Json, namespace: object) -> Reason:
    match shape.label(pod, names.INJECT_LABEL):
        case names.TRUE:
            return Reason.POD_LABEL
        case names.FALSE:
            return Reason.OPTED_OUT
        case None:
            match shape.label(namespace, names.INJECT_LABEL):
                case names.TRUE:
                    return Reason.NAMESPACE_LABEL
                case names.FALSE:
                    return Reason.NAMESPACE_OPTED_OUT
            return Reason.NOT_LABELLED
    return Reason.LABEL_UNKNOWN


def _obstacle(pod: Json, namespace: object, cluster: Settings) -> Reason | None:
    """Return what keeps a pod that is to get the exporter from getting it."""
    spec = pod["spec"]
    settings, _ = overrides(pod, cluster)
    native = mode_of(pod, settings) is Mode.NATIVE
    namespace_name = shape.name(namespace) or shape.text(shape.metadata(pod).get("namespace"))
    checks = (
        (any(map(sets_port, containers(spec))), Reason.RUNS_EXPORTER),
        (shape.annotation(pod, names.MIRROR_ANNOTATION) is not None, Reason.MIRROR_POD),
        (namespace_name in settings.ignored_namespaces, Reason.SYSTEM_NAMESPACE),
        (spec.get("hostNetwork") is True, Reason.HOST_NETWORK),
        (_runs_on_windows(spec), Reason.WINDOWS),
        (_has_port(spec, settings.port), Reason.PORT_TAKEN),
        (native and not settings.native_sidecars, Reason.NO_NATIVE_SIDECARS),
        (not _has_room(spec, settings), Reason.POD_RESOURCES),
        (_annotations_full(pod), Reason.ANNOTATIONS_FULL),
    )
    return next((reason for holds, reason in checks if holds), None)


def _stays(container: Json) -> bool:
    """Return whether an init container is a native sidecar: one that runs beside the application."""
    return container.get("restartPolicy") == "Always"


def _beside(spec: Json) -> list[Json]:
    """Return the containers that run at the same time as ours."""
    sidecars = [item for item in shape.mappings(spec.get("initContainers")) if _stays(item)]
    return shape.mappings(spec.get("containers")) + sidecars


def _has_port(spec: Json, port: int) -> bool:
    return any(
        entry.get("containerPort") == port and entry.get("protocol") in (None, "", "TCP")
        for container in _beside(spec)
        for entry in shape.mappings(container.get("ports"))
    )


def _runs_on_windows(spec: Json) -> bool:
    selector = shape.mapping(spec.get("nodeSelector"))
    return (
        shape.mapping(spec.get("os")).get("name") == "windows"
        or any(selector.get(label) == "windows" for label in _OS_LABELS)
        or isinstance(shape.mapping(spec.get("securityContext")).get("windowsOptions"), dict)
        or _is_bound_to_windows(spec)
    )


def _is_bound_to_windows(spec: Json) -> bool:
    affinity = shape.mapping(shape.mapping(spec.get("affinity")).get("nodeAffinity"))
    required = shape.mapping(affinity.get("requiredDuringSchedulingIgnoredDuringExecution"))
    terms = shape.mappings(required.get("nodeSelectorTerms"))
    return bool(terms) and all(
        any(
            rule.get("key") in _OS_LABELS
            and rule.get("operator") == "In"
            and rule.get("values") == ["windows"]
            for rule in shape.mappings(term.get("matchExpressions"))
        )
        for term in terms
    )


def _has_room(spec: Json, settings: Settings) -> bool:
    """Return whether ours fits into the resources that a pod may set for itself as a whole (KEP-2837).

    The API server rejects a pod whose containers ask for more together, or may use more alone, than the pod.
    """
    whole = shape.mapping(spec.get("resources"))
    if not whole:
        return True
    requests, limits = (shape.mapping(whole.get(key)) for key in ("requests", "limits"))
    for resource, ours in (("cpu", settings.cpu), ("memory", settings.memory)):
        need = quantity.parse(ours) or Decimal(0)
        limit = quantity.parse(limits.get(resource))
        asked = quantity.parse(requests.get(resource))
        if limit is not None and need > limit:
            return False
        budget = asked if asked is not None else limit
        if budget is not None and need + sum(_request(item, resource) for item in _beside(spec)) > budget:
            return False
    return True


def _request(container: Json, resource: str) -> Decimal:
    resources = shape.mapping(container.get("resources"))
    for key in ("requests", "limits"):
        amount = quantity.parse(shape.mapping(resources.get(key)).get(resource))
        if amount is not None:
            return amount
    return Decimal(0)


def _annotations_full(pod: Json) -> bool:
    annotations = shape.texts(shape.metadata(pod).get("annotations"))
    leftover = len(annotations.get(names.STATUS_ANNOTATION, ""))
    size = sum(len(key) + len(value) for key, value in annotations.items())
    if (size + leftover) * 4 + _ANNOTATIONS_OURS < _ANNOTATIONS_LIMIT:
        return False  # not even if every character took four bytes
    size = sum(len(f"{key}{value}".encode(errors="replace")) for key, value in annotations.items())
    return size + leftover * 2 + _ANNOTATIONS_OURS > _ANNOTATIONS_LIMIT
