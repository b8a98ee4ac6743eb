"""Build the Service by which Prometheus finds a workload's injected pods."""

from collections.abc import Mapping
from typing import Any

from webhook import identity, names, shape, status
from webhook.config import Settings, overrides
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
    api_version, kind, name = shape.text(obj.get("apiVersion")), shape.text(obj.get("kind")), shape.name(obj)
    path = template_path(obj)
    if path is None or not name or not kind:
        raise NoServiceError(
            f"service: {kind or 'object'} {name!r}; expected a named object with a pod template"
        )
    template = get(obj, path)
    port = _port(template, settings)
    metadata: Json = {
        "name": identity.service_name(api_version, kind, name),
        # Prometheus copies each label of a Service to every series that it scrapes through it: only this one.
        "labels": {names.MANAGED_BY_LABEL: names.MANAGED_BY},
        "annotations": {
            names.SCRAPE_ANNOTATION: names.TRUE,
            names.SCRAPE_PATH_ANNOTATION: names.METRICS_PATH,
            names.SCRAPE_PORT_ANNOTATION: str(port),
        },
    }
    if namespace := shape.text(shape.metadata(obj).get("namespace")):
        metadata["namespace"] = namespace
    # Without a uid the object has not been created yet, and what it will be called then is not known.
    if uid := shape.text(shape.metadata(obj).get("uid")):
        metadata["ownerReferences"] = [{"apiVersion": api_version, "kind": kind, "name": name, "uid": uid}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            # Running out of ports makes pods unready: just when the metrics matter.
            "publishNotReadyAddresses": True,
            "selector": selector(obj, distinct=distinct),
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
    spec = shape.mapping(workload.get("spec"))
    given = shape.mapping(spec.get("selector"))
    # A ReplicationController, and what was made in its image, has the labels without `matchLabels` around.
    own = shape.texts(given.get("matchLabels")) or shape.texts(given)
    ambiguous = distinct or not own or bool(given.get("matchExpressions"))
    if ambiguous and (whose := identity.of_workload(workload)):
        own[names.WORKLOAD_LABEL] = whose
    return {**own, names.INJECTED_LABEL: names.TRUE}


def _port(template: Json, settings: Settings) -> int:
    done = status.read(template)
    return done.port if done else overrides(template, settings)[0].port
