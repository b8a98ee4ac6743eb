"""Faults of Services: each injected pod is to be scraped through one, exactly. Pure."""

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from webhook import names, shape, status
from webhook.check import mending
from webhook.check.findings import Finding, examples
from webhook.check.installation import moment
from webhook.check.snapshot import Area, Snapshot
from webhook.check.workloads import Fleet, Workload, by_namespace
from webhook.identity import Reference
from webhook.names import Fault
from webhook.service import compose, is_offline, is_ours
from webhook.shape import Json

# A Service follows its first pod within seconds.
_PROMPT: Final = dt.timedelta(seconds=10)

# Its controller, if nothing else is known of it, hides what stands behind.
_MIDDLE: Final = frozenset({"ReplicaSet", "Job"})


def faults(seen: Snapshot, fleet: Fleet) -> Iterator[Finding]:
    """Yield workloads without their Service, or with one that does not do its work, or with too many."""
    if not seen.saw(Area.SERVICES, Area.PODS):
        return
    wanted = seen.reconciling()[0].services
    services = by_namespace(seen.services)
    scraping = _Scraping(seen.services)
    if not wanted:
        yield from _unexpected(seen.services)
    twice: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for workload in fleet.workloads:
        through: set[str] = set()
        for pod in workload.injected:
            leading = scraping.of(pod)
            through |= {shape.name(item) for item in leading}
            if len(leading) > 1:
                which = tuple(sorted(shape.name(item) for item in leading))
                twice[workload.ref.namespace, which].append(shape.name(pod))
        if wanted and workload.injected:
            there = {shape.name(item): item for item in services.get(workload.ref.namespace, [])}
            yield from _own(workload, there, through, seen, _foreign(through, there))
    for (namespace, which), pods in twice.items():
        found = [item for item in services[namespace] if shape.name(item) in which]
        yield _twice(found, pods)


# --- one for each ----------------------------------------------------------------------------------------


def _own(
    workload: Workload, there: dict[str, Json], through: set[str], seen: Snapshot, foreign: set[str]
) -> Iterator[Finding]:
    """Yield what is wrong with the Service of one workload."""
    if workload.obj is None and workload.ref.kind in _MIDDLE:
        return
    name = workload.ref.service_name
    service = there.get(name)
    reconciler = Reference(seen.own_namespace, "apps/v1", "Deployment", names.RECONCILER)
    if service is None:
        # Where others have Prometheus scrape the exporter already, it is left at that.
        if foreign or not _settled(workload, seen.now):
            return
        facts = (f"{len(workload.injected)} pods with the exporter", f"no Service {name}")
        yield Finding(Fault.SERVICE_MISSING, workload.ref, facts, mending.restart(reconciler))
        return
    ref = Reference.of(service)
    if is_ours(service):
        if drift := tuple(_drift(workload, service)):
            yield Finding(Fault.SERVICE_DRIFTED, ref, drift, mending.restart(reconciler))
    # It may do what ours would.
    elif not is_offline(service) and name not in through:
        facts = (f"Service {name} is not the reconciler's", "ours follows once the name is free")
        yield Finding(Fault.SERVICE_FOREIGN, workload.ref, facts, mending.delete(ref))


def _drift(workload: Workload, service: Json) -> Iterator[str]:
    """Yield in what a Service differs from how it was made."""
    ports = {done.port for pod in workload.injected if (done := status.read(pod))}
    spec = shape.mapping(service.get("spec"))
    listed = shape.mappings(spec.get("ports"))
    made = [compose(workload.ref, {}, port) for port in sorted(ports)]
    expected = made[0]
    if listed not in [_ports(item) for item in made]:
        said = ", ".join(f"{port.get('port')} to {port.get('targetPort')}" for port in listed)
        yield f"port {said or 'none'}; pods have {', '.join(map(str, sorted(ports)))}"
    for key, value in shape.texts(shape.metadata(expected).get("annotations")).items():
        found = shape.annotation(service, key)
        values = {shape.annotation(item, key) for item in made}
        if found not in values:
            yield f"annotation {key} is {found or 'not there'}; expected {value}"
    chosen = shape.texts(spec.get("selector"))
    if missed := [shape.name(pod) for pod in workload.injected if not _matches(chosen, pod)]:
        yield f"selects {_pairs(chosen)}"
        yield f"{len(missed)} of {len(workload.injected)} pods are not selected, e.g. {examples(missed)}"
    elif chosen.get(names.INJECTED_LABEL) != names.TRUE:
        yield f"selects {_pairs(chosen)}; without {names.INJECTED_LABEL} it finds pods that do not answer"
    if spec.get("publishNotReadyAddresses") is not True:
        yield "publishNotReadyAddresses is off; pods out of ports are not ready, and then not scraped"


def _ports(service: Json) -> list[Json]:
    return shape.mappings(shape.mapping(service.get("spec")).get("ports"))


def _settled(workload: Workload, now: dt.datetime) -> bool:
    """Return whether there was time enough to make a Service."""
    born = [moment(shape.metadata(pod).get("creationTimestamp")) for pod in workload.injected]
    return any(when is None or now - when > _PROMPT for when in born)


def _foreign(through: set[str], there: dict[str, Json]) -> set[str]:
    return {name for name in through if not is_ours(there[name])}


# --- one and no more -------------------------------------------------------------------------------------


class _Scraping:
    """Services by whose annotations Prometheus scrapes what they select, found by a pod's labels."""

    def __init__(self, services: list[Json]) -> None:
        self._index: dict[tuple[str, str, str], list[Json]] = defaultdict(list)
        for service in services:
            if shape.annotation(service, names.SCRAPE_ANNOTATION) != names.TRUE:
                continue
            path = shape.annotation(service, names.SCRAPE_PATH_ANNOTATION)
            selector = shape.texts(shape.mapping(service.get("spec")).get("selector"))
            if path in (None, names.METRICS_PATH) and selector:
                # By the pair that the fewest pods have: nearly all have ours.
                key = min(selector, key=lambda key: (key == names.INJECTED_LABEL, key))
                namespace = shape.text(shape.metadata(service).get("namespace"))
                self._index[namespace, key, selector[key]].append(service)

    def of(self, pod: Json) -> list[Json]:
        """Return the Services through which the exporter of a pod is scraped."""
        done = status.read(pod)
        namespace = shape.text(shape.metadata(pod).get("namespace"))
        labels = shape.texts(shape.metadata(pod).get("labels"))
        return [
            service
            for pair in labels.items()
            for service in self._index.get((namespace, *pair), ())
            # Without the annotation, Prometheus tries each port that the containers declare.
            if done
            and shape.annotation(service, names.SCRAPE_PORT_ANNOTATION) in (None, str(done.port))
            and _matches(shape.texts(shape.mapping(service["spec"]).get("selector")), pod)
        ]


def _matches(selector: dict[str, str], pod: Json) -> bool:
    labels = shape.texts(shape.metadata(pod).get("labels"))
    return bool(selector) and selector.items() <= labels.items()


def _twice(services: list[Json], pods: list[str]) -> Finding:
    """Return that pods are scraped through several Services, of which the first by rank is to stay."""
    services = sorted(services, key=_rank)
    keep, *rest = services
    facts = (
        f"{len(pods)} pods, e.g. {examples(pods)}",
        f"through {examples([shape.name(item) for item in services])}",
    )
    return Finding(Fault.SCRAPED_TWICE, Reference.of(keep), facts, " && ".join(map(_stop, rest)))


def _rank(service: Json) -> tuple[bool, bool, str]:
    unspecific = shape.annotation(service, names.SCRAPE_PORT_ANNOTATION) is None
    return not is_ours(service), unspecific, shape.name(service)


def _stop(service: Json) -> str:
    """Return how a Service is kept from leading to the exporter, and goes on to lead to the application."""
    ref = Reference.of(service)
    if is_ours(service):
        return mending.delete(ref)
    targets = [port.get("targetPort", port.get("port")) for port in _ports(service)]
    if shape.annotation(service, names.SCRAPE_PORT_ANNOTATION) is None and isinstance(targets[0], int):
        return mending.annotate(ref, names.SCRAPE_PORT_ANNOTATION, str(targets[0]))
    return mending.unannotate(ref, names.SCRAPE_ANNOTATION)


def _unexpected(services: list[Json]) -> Iterator[Finding]:
    for service in services:
        if is_ours(service):
            facts = ("the reconciler is set to make no Services",)
            ref = Reference.of(service)
            yield Finding(Fault.SERVICE_UNEXPECTED, ref, facts, mending.delete(ref))


def _pairs(labels: dict[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items())) or "nothing"
