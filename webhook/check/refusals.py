"""Pods that are refused for the exporter's sake: by a LimitRange, or by a quota. Pure."""

import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Final

from webhook import names, quantity, shape
from webhook.check import mending
from webhook.check.findings import Finding
from webhook.check.snapshot import Snapshot
from webhook.check.workloads import Fleet, Workload, by_namespace
from webhook.config import Settings, overrides
from webhook.identity import Reference
from webhook.names import Fault
from webhook.shape import Json
from webhook.stamp import stamp
from webhook.workload import get, template_path

_ANNOTATIONS: Final = {"cpu": names.CPU_ANNOTATION, "memory": names.MEMORY_ANNOTATION}
_EXCEEDED: Final = re.compile(r"exceeded quota: ([^,\s]+), requested: (\S+), used: (\S+), limited: (\S+)")
_UNITS: Final = {"m": Decimal("0.001"), "Mi": Decimal(2**20)}


def faults(seen: Snapshot, fleet: Fleet) -> Iterator[Finding]:
    """Yield the opted-in workloads whose new pods are refused."""
    ranges = by_namespace(seen.limit_ranges)
    events = by_namespace(seen.events)
    for workload in fleet.opted_in():
        namespace = workload.ref.namespace
        settings = _settings(workload, fleet)
        yield from _outside(workload, settings, ranges.get(namespace, []))
        if (lacking := _lacking(workload.obj)) and (message := _refusal(workload, events.get(namespace, []))):
            yield from _exceeded(workload, settings, message, lacking)


def _settings(workload: Workload, fleet: Fleet) -> Settings:
    if workload.obj is None:
        return fleet.settings
    stamped, _ = stamp(workload.obj)
    return overrides(get(stamped, template_path(stamped) or ()), fleet.settings)[0]


# --- LimitRange ------------------------------------------------------------------------------------------


def _outside(workload: Workload, settings: Settings, ranges: list[Json]) -> Iterator[Finding]:
    facts, wanted = [], {}
    for item in ranges:
        for rule in shape.mappings(shape.mapping(item.get("spec")).get("limits")):
            if rule.get("type") != "Container":
                continue
            for resource, annotation in _ANNOTATIONS.items():
                ours = getattr(settings, resource)
                if bound := _bound(rule, resource, ours):
                    facts.append(
                        f"LimitRange {shape.name(item)}: {bound[0]} {resource} {bound[1]}, ours {ours}"
                    )
                    wanted[annotation] = bound[1]
    if facts and workload.obj is not None and workload.ref.kind not in ("Pod", "Job"):
        command = mending.template_metadata(workload.obj, annotations=wanted)
        yield Finding(Fault.LIMIT_RANGE_REFUSES, workload.ref, tuple(facts), command)


def _bound(rule: Json, resource: str, ours: str) -> tuple[str, str] | None:
    """Return which bound of a LimitRange an amount is beyond, None if it is within."""
    amount = quantity.parse(ours)
    low, high = (shape.mapping(rule.get(key)).get(resource) for key in ("min", "max"))
    least, most = quantity.parse(low), quantity.parse(high)
    if amount is None:
        return None
    if least is not None and amount < least:
        return "min", str(low)
    if most is not None and amount > most:
        return "max", str(high)
    return None


# --- quota -----------------------------------------------------------------------------------------------


def _lacking(workload: Json | None) -> int:
    """Return how many pods a workload has less than it wants, as far as its status tells."""
    spec, state = (shape.mapping(shape.mapping(workload).get(key)) for key in ("spec", "status"))
    wanted = state.get("desiredNumberScheduled", spec.get("replicas", 1))
    # While a Deployment rolls out it has more pods than it wants, and still lacks new ones.
    there = state.get("currentNumberScheduled", state.get("updatedReplicas", state.get("replicas", 0)))
    if shape.mapping(workload).get("kind") == "Job":
        there = sum(int(state.get(key) or 0) for key in ("active", "succeeded", "failed"))
        wanted = spec.get("parallelism", 1)
    return max(0, wanted - there) if isinstance(wanted, int) and isinstance(there, int) else 0


def _refusal(workload: Workload, events: list[Json]) -> str | None:
    """Return why the latest pod of a workload was refused: by its status, or else by Events."""
    state = shape.mapping(shape.mapping(workload.obj).get("status"))
    for condition in shape.mappings(state.get("conditions")):
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return shape.text(condition.get("message"))
    found = [event for event in events if _is_about(event, workload)]
    latest = max(found, key=_last, default=None)
    return shape.text(latest.get("message")) if latest else None


def _is_about(event: Json, workload: Workload) -> bool:
    about = shape.mapping(event.get("involvedObject"))
    name, kind = shape.text(about.get("name")), about.get("kind")
    if (kind, name) == (workload.ref.kind, workload.ref.name):
        return True
    made_by = {"Deployment": "ReplicaSet", "Rollout": "ReplicaSet", "CronJob": "Job"}.get(workload.ref.kind)
    return kind == made_by and name.rpartition("-")[0] == workload.ref.name


def _last(event: Json) -> str:
    for key in ("lastTimestamp", "eventTime"):
        if when := shape.text(event.get(key)):
            return when
    return shape.text(shape.metadata(event).get("creationTimestamp"))


def _exceeded(workload: Workload, settings: Settings, message: str, lacking: int) -> Iterator[Finding]:
    refused = _EXCEEDED.search(message)
    if refused is None:
        return
    requested, used, limited = (_amounts(part) for part in refused.groups()[1:])
    wanted: dict[str, str] = {}
    for resource, amount in requested.items():
        unit = "m" if resource.endswith("cpu") else "Mi"
        ours = quantity.parse(getattr(settings, "cpu" if unit == "m" else "memory")) or Decimal(0)
        kind = resource.removeprefix("requests.").removeprefix("limits.")
        if kind not in _ANNOTATIONS or resource not in limited:
            return  # it counts something that the exporter does not use
        already = used.get(resource, Decimal(0))
        if already + amount - ours > limited[resource]:
            return  # without the exporter it would be refused as well
        wanted[resource] = f"{math.ceil((already + amount * lacking) / _UNITS[unit])}{unit}"
    ref = Reference(workload.ref.namespace, "v1", "ResourceQuota", refused[1])
    facts = (
        f"{lacking} pod{'s' if lacking > 1 else ''} missing",
        f"quota {refused[1]}: requested {refused[2]}, used {refused[3]}, limited {refused[4]}",
        f"of that the exporter has cpu={settings.cpu}, memory={settings.memory}",
    )
    command = mending.merge(ref, {"spec": {"hard": wanted}})
    yield Finding(Fault.QUOTA_REFUSES, workload.ref, facts, command)


def _amounts(text: str) -> Mapping[str, Decimal]:
    """Return the amounts in a message of the quota controller: `requests.cpu=150m,pods=1`."""
    pairs = (part.partition("=") for part in text.split(","))
    amounts = ((key, quantity.parse(value)) for key, _, value in pairs)
    return {key: amount for key, amount in amounts if amount is not None}
