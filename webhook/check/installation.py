"""Faults of what is installed: webhook configuration, Service, Deployments, Lease, permissions. Pure."""

import datetime as dt
from collections.abc import Iterator
from typing import Final

from webhook import names, shape, status
from webhook.check import mending
from webhook.check.findings import Finding, Severity, examples
from webhook.check.snapshot import Area, Snapshot
from webhook.identity import Reference
from webhook.names import Fault
from webhook.shape import Json

# The Lease is renewed every few seconds.
_SILENT: Final = dt.timedelta(seconds=60)

_CONFIGURATION_FILE: Final = "manifests/base/mutatingwebhookconfiguration.yaml"

# What explains that the webhook is not called, so that it is not said twice.
_EXPLAIN: Final = frozenset(
    {
        Fault.NOT_INSTALLED,
        Fault.WEBHOOK_MISSING,
        Fault.WEBHOOK_ENTRY_MISSING,
        Fault.WEBHOOK_PATH,
        Fault.WEBHOOK_REFERENCE,
        Fault.WEBHOOK_SERVICE_MISSING,
        Fault.WEBHOOK_NO_ENDPOINTS,
        Fault.ADMISSION_MISSING,
        Fault.ADMISSION_UNAVAILABLE,
        Fault.CA_BUNDLE_MISSING,
        Fault.CA_BUNDLE_INVALID,
        Fault.CA_BUNDLE_STALE,
        Fault.CERTIFICATE_MISSING,
        Fault.CERTIFICATE_INVALID,
        Fault.CERTIFICATE_EXPIRED,
    }
)


def configuration_ref() -> Reference:
    """Return which webhook configuration is ours."""
    return Reference("", "admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", names.WEBHOOK)


def entries(seen: Snapshot) -> list[tuple[int, Json]]:
    """Return the entries of the webhook configuration that are ours, each with its place in the list."""
    found = enumerate(shape.mappings(shape.mapping(seen.webhook).get("webhooks")))
    return [(index, entry) for index, entry in found if _handler(entry) is not None]


def faults(seen: Snapshot) -> Iterator[Finding]:
    """Yield what is wrong with the installation, but for certificates and the probe."""
    if _is_absent(seen):
        evidence = (f"neither webhook configuration nor Deployments in namespace {seen.own_namespace}",)
        yield Finding(Fault.NOT_INSTALLED, configuration_ref(), evidence, mending.INSTALL)
        return
    if seen.saw(Area.WEBHOOK):
        yield from _configuration(seen)
    if seen.saw(Area.WEBHOOK_SERVICE, Area.ENDPOINTS, Area.DEPLOYMENTS):
        yield from _admission(seen)
    if seen.saw(Area.LEASE, Area.DEPLOYMENTS):
        yield from _reconciler(seen)
    if seen.refused:
        account = Reference(seen.own_namespace, "v1", "ServiceAccount", names.RECONCILER)
        evidence = (f"it may not {examples(seen.refused, 8)}",)
        yield Finding(Fault.PERMISSION_MISSING, account, evidence, mending.GRANT)
    yield from _settings(seen)


def probed(seen: Snapshot, found: list[Finding]) -> Iterator[Finding]:
    """Yield that the webhook is not called, unless what was found explains it."""
    probe = seen.probe
    if probe is None or status.read(probe.pod) or any(item.fault in _EXPLAIN for item in found):
        return
    namespace = shape.text(shape.metadata(probe.pod).get("namespace"))
    facts = [f"a labelled pod, created in namespace {namespace} as a dry run, came back without the exporter"]
    facts += [f"the API server: {text}" for text in probe.warnings]
    facts += [probe.route] if probe.route else []
    facts += [
        "API servers call port 10250 of the webhook's pods; a network policy or a firewall may forbid it"
    ]
    yield Finding(
        Fault.WEBHOOK_NOT_CALLED,
        configuration_ref(),
        tuple(facts),
        mending.restart(_own(seen, "Deployment", names.WEBHOOK)),
    )


# --- the webhook configuration ---------------------------------------------------------------------------


def _handler(entry: Json) -> str | None:
    """Return which handler an entry is for, None if it is no entry of ours."""
    handler, _, rest = shape.text(entry.get("name")).partition(".")
    return handler if rest == names.PREFIX and handler in names.HANDLERS else None


def _configuration(seen: Snapshot) -> Iterator[Finding]:
    if seen.webhook is None:
        yield _fault(Fault.WEBHOOK_MISSING, f"no {configuration_ref().kind} {names.WEBHOOK}", _apply_file())
        return
    ours = entries(seen)
    if missing := sorted(set(names.HANDLERS) - {_handler(entry) for _, entry in ours}):
        said = ", ".join(f"{handler}.{names.PREFIX}" for handler in missing)
        yield _fault(Fault.WEBHOOK_ENTRY_MISSING, f"no entry {said}", _apply_file())
    expected: Json = {"namespace": seen.own_namespace, "name": names.WEBHOOK}
    paths, references, blocking = [], [], []
    for index, entry in ours:
        client = shape.mapping(entry.get("clientConfig"))
        service = shape.mapping(client.get("service"))
        handler = _handler(entry)
        if {key: service.get(key) for key in expected} != expected:
            reference: Json = {**expected, "port": service.get("port", 443), "path": f"/{handler}"}
            where = f"{service.get('namespace')}/{service.get('name')}" if service else client.get("url")
            references.append((index, f"{entry['name']} calls {where}", reference))
        elif service.get("path") != f"/{handler}":
            said = f"{entry['name']} calls {service.get('path') or '/'}, expected /{handler}"
            paths.append((index, said, f"/{handler}"))
        if entry.get("failurePolicy", "Fail") != "Ignore":
            blocking.append((index, f"failurePolicy of {entry['name']} is {entry.get('failurePolicy')}"))
    changes: list[Json] = []
    if references:
        for index, _, value in references:
            where = f"/webhooks/{index}/clientConfig"
            if "url" in shape.mapping(seen.webhook["webhooks"][index]["clientConfig"]):
                changes.append({"op": "remove", "path": f"{where}/url"})
            changes.append({"op": "add", "path": f"{where}/service", "value": value})
        yield _fault(Fault.WEBHOOK_REFERENCE, [said for _, said, _ in references], changes)
    if paths:
        changes = [
            {"op": "add", "path": f"/webhooks/{index}/clientConfig/service/path", "value": path}
            for index, _, path in paths
        ]
        yield _fault(Fault.WEBHOOK_PATH, [said for _, said, _ in paths], changes)
    if blocking:
        changes = [
            {"op": "add", "path": f"/webhooks/{index}/failurePolicy", "value": "Ignore"}
            for index, _ in blocking
        ]
        yield _fault(Fault.WEBHOOK_BLOCKS, [said for _, said in blocking], changes)


def _fault(fault: Fault, evidence: str | list[str], mend: str | list[Json]) -> Finding:
    """Return a fault of the webhook configuration, mended by a command or by a JSON Patch."""
    said = (evidence,) if isinstance(evidence, str) else tuple(evidence)
    command = mend if isinstance(mend, str) else mending.edit(configuration_ref(), mend)
    return Finding(fault, configuration_ref(), said, command)


def _apply_file() -> str:
    return f"kubectl apply -f {_CONFIGURATION_FILE}"


# --- the processes ---------------------------------------------------------------------------------------


def _is_absent(seen: Snapshot) -> bool:
    areas = (Area.WEBHOOK, Area.WEBHOOK_SERVICE, Area.DEPLOYMENTS)
    ours = (names.WEBHOOK, names.RECONCILER)
    there = seen.webhook or seen.webhook_service or any(map(seen.deployment, ours))
    return seen.saw(*areas) and not there


def _admission(seen: Snapshot) -> Iterator[Finding]:
    deployment = seen.deployment(names.WEBHOOK)
    ref = _own(seen, "Deployment", names.WEBHOOK)
    if deployment is None:
        evidence = (f"no Deployment {names.WEBHOOK} in namespace {seen.own_namespace}",)
        yield Finding(Fault.ADMISSION_MISSING, ref, evidence, mending.INSTALL)
    elif not _available(deployment):
        yield Finding(Fault.ADMISSION_UNAVAILABLE, ref, *_why_unavailable(seen, deployment))
    service = _own(seen, "Service", names.WEBHOOK)
    if seen.webhook_service is None:
        evidence = (f"no Service {names.WEBHOOK} in namespace {seen.own_namespace}",)
        yield Finding(Fault.WEBHOOK_SERVICE_MISSING, service, evidence, mending.INSTALL)
    elif deployment is not None and _available(deployment) and not _has_ready(seen.endpoint_slices):
        said = shape.texts(shape.mapping(seen.webhook_service.get("spec")).get("selector"))
        pairs = ",".join(f"{key}={value}" for key, value in sorted(said.items()))
        facts = (f"the Service selects {pairs or 'nothing'}", "none of its endpoints is ready")
        yield Finding(Fault.WEBHOOK_NO_ENDPOINTS, service, facts, mending.INSTALL)


def _has_ready(slices: list[Json]) -> bool:
    return any(
        shape.mapping(endpoint.get("conditions")).get("ready") is not False
        for item in slices
        for endpoint in shape.mappings(item.get("endpoints"))
    )


def _reconciler(seen: Snapshot) -> Iterator[Finding]:
    deployment = seen.deployment(names.RECONCILER)
    ref = _own(seen, "Deployment", names.RECONCILER)
    lease = _lease(seen)
    if lease is None:
        return
    if deployment is None:
        yield Finding(Fault.RECONCILER_MISSING, ref, (lease,), mending.INSTALL)
    elif not _available(deployment):
        evidence, command = _why_unavailable(seen, deployment)
        yield Finding(Fault.RECONCILER_STOPPED, ref, (lease, *evidence), command)
    else:
        yield Finding(Fault.RECONCILER_STOPPED, ref, (lease,), mending.restart(ref))


def _lease(seen: Snapshot) -> str | None:
    """Return what is wrong with the Lease, None if it is renewed."""
    renewed = moment(shape.mapping(shape.mapping(seen.lease).get("spec")).get("renewTime"))
    if renewed is None:
        return f"nobody holds the Lease {seen.own_namespace}/{names.RECONCILER}"
    silent = seen.now - renewed
    if silent <= _SILENT:
        return None
    return f"the Lease {seen.own_namespace}/{names.RECONCILER} was last renewed {ago(silent)}"


def _available(deployment: Json) -> bool:
    available = shape.mapping(deployment.get("status")).get("availableReplicas")
    return isinstance(available, int) and available > 0


def _why_unavailable(seen: Snapshot, deployment: Json) -> tuple[tuple[str, ...], str]:
    """Return the evidence and the command for a Deployment of ours of which no pod is available."""
    ref = Reference.of({"apiVersion": "apps/v1", "kind": "Deployment", **deployment})
    replicas = shape.mapping(deployment.get("spec")).get("replicas", 1)
    if replicas == 0:
        return ("it is scaled to 0",), f"kubectl scale {mending.target(ref)} --replicas=2"
    facts = [f"0 of {replicas} pods are available"]
    for pod in seen.own_pods:
        if shape.name(pod).startswith(f"{ref.name}-"):
            facts += [f"{shape.name(pod)}: {why}" for why in _waiting(pod)]
    for condition in shape.mappings(shape.mapping(deployment.get("status")).get("conditions")):
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            facts.append(shape.text(condition.get("message")))
    return tuple(facts[:5]), mending.restart(ref)


def _waiting(pod: Json) -> Iterator[str]:
    state = shape.mapping(pod.get("status"))
    for container in shape.mappings(state.get("containerStatuses")):
        waiting = shape.mapping(shape.mapping(container.get("state")).get("waiting"))
        if reason := shape.text(waiting.get("reason")):
            yield f"{reason} {shape.text(waiting.get('message'))}".strip()[:200]
    for condition in shape.mappings(state.get("conditions")):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            yield f"not scheduled: {shape.text(condition.get('message'))}"[:200]


# --- settings --------------------------------------------------------------------------------------------


def _settings(seen: Snapshot) -> Iterator[Finding]:
    config_map = _own(seen, "ConfigMap", names.SETTINGS, "v1")
    for name, read in ((names.WEBHOOK, seen.cluster_settings), (names.RECONCILER, seen.reconciling)):
        deployment = _own(seen, "Deployment", name)
        for message in read()[1]:
            said = message.removeprefix("config: ")
            key = said.partition("=")[0]
            if key in seen.own_variables(name):
                ref, command = deployment, f"kubectl set env {mending.target(deployment)} {key}-"
            else:
                # Without it the default is used, as it is now; but whoever reads it knows.
                ref, command = config_map, mending.merge(config_map, {"data": {key: None}})
            yield Finding(Fault.SETTING_INVALID, ref, (said,), command, Severity.WARNING)


# --- shared ----------------------------------------------------------------------------------------------


def _own(seen: Snapshot, kind: str, name: str, api_version: str = "") -> Reference:
    version = api_version or ("v1" if kind == "Service" else "apps/v1")
    return Reference(seen.own_namespace, version, kind, name)


def moment(value: object) -> dt.datetime | None:
    """Return the time that a field of an object says, None if it says none."""
    try:
        found = dt.datetime.fromisoformat(shape.text(value))
    except ValueError:
        return None
    return found if found.tzinfo else None


def ago(span: dt.timedelta) -> str:
    """Return how long something is ago, as people say it."""
    seconds = int(span.total_seconds())
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if (number := seconds // size) > 0:
            return f"{number} {unit}{'s' if number > 1 else ''} ago"
    return f"{seconds} seconds ago"
