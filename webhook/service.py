"""Build the Service by which Prometheus finds a workload's injected pods."""

from collections.abc import Mapping
from typing import Any

from webhook import identity, names, shape, status
from webhook.config import Settings, overrides
from webhook.identity import Reference
from webhook.shape import Json
from webhook.workload import get, template_path


class NoServiceError(ValueError):
    """The object is no workload, so there are no pods for a Service to select."""


def build_service(workload: Mapping[str, Any], settings: Settings, *, distinct: bool = False) -> Json:
    """Return the Service of a workload, as a plain dict to apply.

    It selects injected pods only: those not rolled out yet would be targets that never answer.

    Args:
        workload: any object with a pod template, or a Pod.
        settings: the cluster's; the template's annotations override them here.
        distinct: select by the label of the workload as well, for where its selector finds others' pods too.

    Raises:
        NoServiceError: the object has no name, or no pod template.
    """
    obj = dict(workload)
    reference = Reference.of(obj)
    path = template_path(obj)
    if path is None or not reference.name or not reference.kind:
        raise NoServiceError(
            f"service: {reference.kind or 'object'} {reference.name!r};"
            " expected a named object with a pod template"
        )
    port = _port(get(obj, path), settings)
    return compose(reference, selector(obj, distinct=distinct), port)


def compose(workload: Reference, chosen: Mapping[str, str], port: int) -> Json:
    """Return the Service of a workload, for the pods that have these labels and serve on this port."""
    metadata: Json = {
        "name": workload.service_name,
        # Prometheus copies each label of a Service to every series that it scrapes through it: only this one.
        "labels": {names.MANAGED_BY_LABEL: names.MANAGED_BY},
        "annotations": {
            names.SCRAPE_ANNOTATION: names.TRUE,
            names.SCRAPE_PATH_ANNOTATION: names.METRICS_PATH,
            names.SCRAPE_PORT_ANNOTATION: str(port),
        },
    }
    if workload.namespace:
        metadata["namespace"] = workload.namespace
    # Without a uid the object has not been created yet, and what it will be called then is not known.
    if workload.uid:
        metadata["ownerReferences"] = [
            {
                "apiVersion": workload.api_version,
                "kind": workload.kind,
                "name": workload.name,
                "uid": workload.uid,
            }
        ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            # Running out of ports makes pods unready: just when the metrics matter.
            "publishNotReadyAddresses": True,
            "selector": dict(chosen),
            "ports": [
                # A number, for named ports of native sidecars are missing from EndpointSlices before 1.32.
                {"name": names.SERVICE_PORT_NAME, "port": port, "targetPort": port, "protocol": "TCP"}
            ],
        },
    }


def selector(workload: Mapping[str, Any], *, distinct: bool = False) -> dict[str, str]:
    """Return the labels that a workload's injected pods have, and no other workload's.

    A Service cannot select by expressions, and a CronJob or a bare pod has no selector: there the label that
    the injector wrote on the pod says whose it is.
    """
    own = match_labels(workload)
    given = shape.mapping(shape.mapping(workload.get("spec")).get("selector"))
    ambiguous = distinct or not own or bool(given.get("matchExpressions"))
    if ambiguous and (whose := identity.of_workload(workload)):
        own[names.WORKLOAD_LABEL] = whose
    return {**own, names.INJECTED_LABEL: names.TRUE}


def match_labels(workload: Mapping[str, Any]) -> dict[str, str]:
    """Return the labels by which a workload selects its pods, empty if it has none, or expressions only."""
    given = shape.mapping(shape.mapping(workload.get("spec")).get("selector"))
    # A ReplicationController, and what was made in its image, has the labels without `matchLabels` around.
    return shape.texts(given.get("matchLabels")) or shape.texts(given)


def our_marks(service: Mapping[str, Any]) -> list[Json]:
    """Return so much of a Service's managedFields as tells whether the reconciler has applied it."""
    marks = shape.mappings(shape.metadata(service).get("managedFields"))
    ours = {"manager": names.FIELD_MANAGER, "operation": "Apply"}
    return [ours for mark in marks if ours.items() <= mark.items()]


def is_ours(service: Mapping[str, Any]) -> bool:
    """Return whether the reconciler has applied it, whatever others have made of it since."""
    return not is_offline(service) and bool(our_marks(service))


def is_offline(service: Mapping[str, Any]) -> bool:
    """Return whether `inject --with-service` wrote it."""
    return shape.annotation(service, names.OFFLINE_ANNOTATION) is not None


def _port(template: Json, settings: Settings) -> int:
    done = status.read(template)
    return done.port if done else overrides(template, settings)[0].port
