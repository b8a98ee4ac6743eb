"""The commands that mend: each is one line for a shell, with kubectl. Pure."""

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any, Final

from webhook import names, shape
from webhook.identity import BUILT_IN_GROUPS, Reference
from webhook.service import match_labels
from webhook.shape import Json
from webhook.workload import template_path

INSTALL: Final = "kubectl apply -f manifests/install.yaml"
# Of a manifest, the roles and what binds them, and nothing else.
GRANT: Final = "kubectl auth reconcile -f manifests/install.yaml"

_ROLLS_OUT: Final = frozenset({("apps", "Deployment"), ("apps", "StatefulSet"), ("apps", "DaemonSet")})
_MADE_BY_SERVER: Final = (
    "controller-uid",
    "job-name",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
)


def in_context(command: str, context: str | None) -> str:
    """Return the command for another cluster than kubectl's current one."""
    if context is None:
        return command
    return re.sub(r"\bkubectl ", lambda _: f"kubectl --context {shlex.quote(context)} ", command)


def target(obj: Reference) -> str:
    """Return an object as kubectl takes it: `deployment/web -n shop`."""
    kind = obj.kind if obj.group in BUILT_IN_GROUPS or "k8s.io" in obj.group else f"{obj.kind}.{obj.group}"
    namespace = f" -n {obj.namespace}" if obj.namespace else ""
    return f"{kind.lower()}/{obj.name}{namespace}"


def label(obj: Reference, value: str | None, key: str = names.INJECT_LABEL) -> str:
    """Set a label, or take it away."""
    if value is None:
        return f"kubectl label {target(obj)} {key}-"
    return f"kubectl label --overwrite {target(obj)} {key}={value}"


def unannotate(obj: Reference, key: str) -> str:
    """Take an annotation away."""
    return f"kubectl annotate {target(obj)} {key}-"


def annotate(obj: Reference, key: str, value: str) -> str:
    """Set an annotation."""
    return f"kubectl annotate --overwrite {target(obj)} {key}={value}"


def merge(obj: Reference, content: Json) -> str:
    """Change some fields; None takes one away."""
    return f"kubectl patch {target(obj)} --type=merge -p {shlex.quote(_compact(content))}"


def edit(obj: Reference, operations: Iterable[Mapping[str, Any]]) -> str:
    """Apply a JSON Patch."""
    return f"kubectl patch {target(obj)} --type=json -p {shlex.quote(_compact(list(operations)))}"


def template_metadata(
    workload: Json,
    *,
    labels: Mapping[str, str | None] | None = None,
    annotations: Mapping[str, str | None] | None = None,
) -> str:
    """Set labels and annotations of a workload's pod template; None takes one away."""
    metadata = {
        key: dict(pairs) for key, pairs in (("labels", labels), ("annotations", annotations)) if pairs
    }
    content: Json = {"metadata": metadata}
    for key in reversed(template_path(workload) or ()):
        content = {key: content}
    return merge(Reference.of(workload), content)


def delete(obj: Reference) -> str:
    """Delete an object."""
    return f"kubectl delete {target(obj)}"


def restart(obj: Reference) -> str:
    """Have a Deployment, StatefulSet or DaemonSet make new pods, in its own pace."""
    return f"kubectl rollout restart {target(obj)}"


def recreate_pods(obj: Reference, workload: Json | None, pods: Iterable[Json]) -> str:
    """Have new pods made in place of those that are not injected."""
    if (obj.group, obj.kind) in _ROLLS_OUT:
        return restart(obj)
    if (obj.group, obj.kind) == ("", "Pod"):
        return f"kubectl get {target(obj)} -o json | kubectl replace --force -f -"
    if (obj.group, obj.kind) == ("batch", "CronJob"):
        return f"kubectl create job {obj.name[:40]}-again -n {obj.namespace} --from=cronjob/{obj.name}"
    if (obj.group, obj.kind) == ("batch", "Job"):
        return recreate_job(obj)
    own = match_labels(workload or {})
    if own and not shape.mapping(shape.mapping(workload).get("spec")).get("matchExpressions"):
        pairs = [f"{key}={value}" for key, value in sorted(own.items())]
        chosen = ",".join([*pairs, f"{names.INJECTED_LABEL}!={names.TRUE}"])
        return f"kubectl delete pods -n {obj.namespace} -l {shlex.quote(chosen)}"
    return f"kubectl delete pods -n {obj.namespace} {' '.join(sorted(map(shape.name, pods)))}"


def recreate_job(obj: Reference) -> str:
    """Run a Job anew: its template never changes, and the server's own labels are not accepted back."""
    made = ",".join(f'"{key}"' for key in _MADE_BY_SERVER)
    strip = f"del(.spec.selector,.spec.template.metadata.labels[{made}])"
    return f"kubectl get {target(obj)} -o json | jq '{strip}' | kubectl replace --force -f -"


def trust(configuration: Reference, secret: Reference, indexes: Iterable[int]) -> str:
    """Copy the CA bundle from the Secret into entries of the webhook configuration."""
    path = "{.data." + names.CA_CERTIFICATES.replace(".", r"\.") + "}"
    operations = ",".join(
        f'{{"op":"add","path":"/webhooks/{index}/clientConfig/caBundle","value":"\'$CA\'"}}'
        for index in indexes
    )
    return (
        f"CA=$(kubectl get {target(secret)} -o jsonpath='{path}')"
        f" && kubectl patch {target(configuration)} --type=json -p '[{operations}]'"
    )


def _compact(content: object) -> str:
    return json.dumps(content, separators=(",", ":"))
