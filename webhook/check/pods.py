"""Faults of pods: without the exporter, or with one that does not run, or not for long. Pure."""

import datetime as dt
import re
from collections.abc import Iterator
from typing import Final

from webhook import names, quantity, shape, status
from webhook.check import mending
from webhook.check.findings import Finding, Severity, examples
from webhook.check.installation import moment
from webhook.check.snapshot import Snapshot
from webhook.check.workloads import Fleet, Workload, rolls_out
from webhook.config import overrides
from webhook.names import Fault
from webhook.shape import Json
from webhook.workload import get, template_path

_NO_IMAGE: Final = frozenset(
    {"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
)
_NO_START: Final = frozenset(
    {"CrashLoopBackOff", "CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
)
_RUNS_ONCE: Final = frozenset({"Job", "CronJob"})
_MEBIBYTE: Final = 1024 * 1024


def faults(seen: Snapshot, fleet: Fleet) -> Iterator[Finding]:
    """Yield one finding for each workload and fault, however many of its pods have it."""
    newest = status.read(seen.probe.pod) if seen.probe else None
    version = newest.version if newest else names.VERSION
    for workload in fleet.workloads:
        if workload.bare:
            yield _not_injected(workload, seen)
        yield from _not_running(workload, fleet)
        if workload.injected:
            yield from _outdated(workload, version)


def _not_injected(workload: Workload, seen: Snapshot) -> Finding:
    created = moment(shape.metadata(seen.webhook).get("creationTimestamp"))
    older = [pod for pod in workload.bare if created and (born := _born(pod)) and born < created]
    facts = [_count(workload.bare, workload.pods)]
    if len(older) == len(workload.bare):
        facts.append("they are older than the webhook")
    elif older:
        facts.append(f"{len(older)} of them older than the webhook")
    else:
        facts.append("they are older than the label, or the webhook was away when they were made")
    passing = rolls_out(workload.obj) or workload.ref.kind in _RUNS_ONCE
    if rolls_out(workload.obj):
        facts.append("a rollout is under way that replaces them")
    command = mending.recreate_pods(workload.ref, workload.obj, workload.bare)
    severity = Severity.WARNING if passing else Severity.PROBLEM
    return Finding(Fault.PODS_NOT_INJECTED, workload.ref, tuple(facts), command, severity)


def _not_running(workload: Workload, fleet: Fleet) -> Iterator[Finding]:
    found: dict[Fault, list[tuple[Json, str]]] = {}
    for pod in workload.injected:
        if trouble := _trouble(pod):
            found.setdefault(trouble[0], []).append((pod, trouble[1]))
    for fault, items in found.items():
        pods = [pod for pod, _ in items]
        facts = (_count(pods, workload.pods), *sorted({said for _, said in items})[:2])
        yield Finding(fault, workload.ref, facts, _remedy(fault, workload, pods, fleet))


def _trouble(pod: Json) -> tuple[Fault, str] | None:
    """Return what keeps the injected container from running, with what the kubelet says."""
    done = status.read(pod)
    state = shape.mapping(pod.get("status"))
    reports = shape.mappings(state.get("containerStatuses")) + shape.mappings(
        state.get("initContainerStatuses")
    )
    report = next((item for item in reports if done and item.get("name") == done.container), {})
    waiting = shape.mapping(shape.mapping(report.get("state")).get("waiting"))
    ended = shape.mapping(shape.mapping(report.get("state")).get("terminated")) or shape.mapping(
        shape.mapping(report.get("lastState")).get("terminated")
    )
    reason = shape.text(waiting.get("reason"))
    if ended.get("reason") == "OOMKilled":
        return Fault.SIDECAR_OUT_OF_MEMORY, f"OOMKilled, limit {_limit(pod)}"
    if reason in _NO_IMAGE:
        return Fault.SIDECAR_IMAGE, f"{reason}: {_ours(pod).get('image')}"
    if reason in _NO_START:
        code = f", exit code {ended['exitCode']}" if "exitCode" in ended else ""
        return Fault.SIDECAR_CRASHES, f"{reason}{code} {shape.text(waiting.get('message'))[:160]}".strip()
    return None


def _remedy(fault: Fault, workload: Workload, pods: list[Json], fleet: Fleet) -> str:
    """Return what mends it, or, where only people can know, what shows more."""
    obj, ref = workload.obj, workload.ref
    can_change = obj is not None and bool(template_path(obj)) and ref.kind != "Job"
    template = get(obj, template_path(obj) or ()) if obj is not None else {}
    if fault is Fault.SIDECAR_OUT_OF_MEMORY and obj is not None and can_change:
        limit = quantity.parse(_limit(pods[0])) or quantity.parse(fleet.settings.memory) or 0
        more = f"{max(1, int(limit * 2) // _MEBIBYTE)}Mi"
        return mending.template_metadata(obj, annotations={names.MEMORY_ANNOTATION: more})
    if fault is Fault.SIDECAR_IMAGE and obj is not None and can_change:
        if shape.annotation(template, names.IMAGE_ANNOTATION) is not None:
            return mending.template_metadata(obj, annotations={names.IMAGE_ANNOTATION: None})
        if _ours(pods[0]).get("image") != overrides(template, fleet.settings)[0].image:
            return mending.recreate_pods(ref, obj, pods)
    name, namespace = shape.name(pods[0]), ref.namespace
    if fault is Fault.SIDECAR_CRASHES:
        return f"kubectl logs {name} -n {namespace} -c {_ours(pods[0]).get('name')} --previous"
    return f"kubectl describe pod {name} -n {namespace}"


def _outdated(workload: Workload, version: str) -> Iterator[Finding]:
    versions = {shape.name(pod): done.version for pod in workload.injected if (done := status.read(pod))}
    old = {name: found for name, found in versions.items() if _precedes(found, version)}
    if old:
        which = examples(sorted(set(old.values())))
        facts = (
            f"{len(old)} of {workload.pods} pods have version {which}, e.g. {examples(list(old))}",
            f"new pods get {version}",
        )
        pods = [pod for pod in workload.injected if shape.name(pod) in old]
        command = _renew(workload, pods)
        yield Finding(Fault.SIDECAR_OUTDATED, workload.ref, facts, command, Severity.WARNING)


def _renew(workload: Workload, pods: list[Json]) -> str:
    """Return how pods come back that are injected already."""
    ref = workload.ref
    if (ref.group, ref.kind) == ("", "Pod"):
        # It would keep the container that it has.
        without = "python -m webhook uninject -f -"
        return f"kubectl get {mending.target(ref)} -o json | {without} | kubectl replace --force -f -"
    if (ref.group, ref.kind) in {("apps", "Deployment"), ("apps", "StatefulSet"), ("apps", "DaemonSet")}:
        return mending.restart(ref)
    return f"kubectl delete pods -n {ref.namespace} {' '.join(sorted(map(shape.name, pods)))}"


def _precedes(version: str, other: str) -> bool:
    """Return whether a version is older than another; of what is none, nobody knows."""
    ours, theirs = (tuple(map(int, re.findall(r"\d+", item)[:3])) for item in (version, other))
    return bool(ours) and bool(theirs) and ours < theirs


def _count(pods: list[Json], total: int) -> str:
    return f"{len(pods)} of {total} pods, e.g. {examples([shape.name(pod) for pod in pods])}"


def _born(pod: Json) -> dt.datetime | None:
    return moment(shape.metadata(pod).get("creationTimestamp"))


def _ours(pod: Json) -> Json:
    """Return the injected container."""
    done = status.read(pod)
    spec = shape.mapping(pod.get("spec"))
    beside = shape.mappings(spec.get(done.list_name)) if done else []
    return next((item for item in beside if done and item.get("name") == done.container), {})


def _limit(pod: Json) -> str:
    limits = shape.mapping(shape.mapping(_ours(pod).get("resources")).get("limits"))
    return shape.text(limits.get("memory")) or "unknown"
