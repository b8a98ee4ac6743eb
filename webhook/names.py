"""Every name that the injector reads or writes on Kubernetes objects, and every reason that it gives."""

import enum
from typing import Final, Self

VERSION: Final = "0.1.0"

PREFIX: Final = "metrics-sidecar.io"
OWN_NAMESPACE: Final = "metrics-sidecar"
MANAGED_BY: Final = "metrics-sidecar"
PART_OF: Final = "metrics-sidecar"

# What `manifests/` deploys, in the namespace of our own unless they say otherwise.
WEBHOOK: Final = "metrics-sidecar-webhook"
"""The admission process: its Deployment, Service, ServiceAccount and MutatingWebhookConfiguration."""
RECONCILER: Final = "metrics-sidecar-reconciler"
"""The reconciler: its Deployment, ServiceAccount, roles and Lease."""
CERTIFICATES_ROLE: Final = "metrics-sidecar-reconciler-certificates"
"""What the reconciler may do for certificates, beside its other roles."""
OWN_METRICS: Final = "metrics-sidecar-own-metrics"
"""The Service by which Prometheus finds both processes themselves."""
SETTINGS: Final = "metrics-sidecar-settings"
"""The ConfigMap with the settings of both."""
CERTIFICATE_SECRET: Final = "metrics-sidecar-webhook-tls"  # noqa: S105 (its name)
SERVING_CERTIFICATE: Final = "tls.crt"
SERVING_KEY: Final = "tls.key"
CA_CERTIFICATES: Final = "ca.crt"
CA_KEY: Final = "ca.key"

# Who wrote a field, in an object's managedFields.
FIELD_MANAGER: Final = "metrics-sidecar"

# Labels.
INJECT_LABEL: Final = f"{PREFIX}/inject"
INJECTED_LABEL: Final = f"{PREFIX}/injected"
WORKLOAD_LABEL: Final = f"{PREFIX}/workload"
MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
PART_OF_LABEL: Final = "app.kubernetes.io/part-of"
TRUE: Final = "true"
FALSE: Final = "false"

# Annotations of a pod, or of a pod template, by which a workload overrides the cluster's settings.
PORT_ANNOTATION: Final = f"{PREFIX}/port"
IMAGE_ANNOTATION: Final = f"{PREFIX}/image"
CPU_ANNOTATION: Final = f"{PREFIX}/cpu"
MEMORY_ANNOTATION: Final = f"{PREFIX}/memory"
MODE_ANNOTATION: Final = f"{PREFIX}/mode"
OVERRIDES: Final = (PORT_ANNOTATION, IMAGE_ANNOTATION, CPU_ANNOTATION, MEMORY_ANNOTATION, MODE_ANNOTATION)

# Annotations that the injector writes: what it did to a pod; that a template's label is its stamp.
STATUS_ANNOTATION: Final = f"{PREFIX}/status"
STAMPED_ANNOTATION: Final = f"{PREFIX}/stamped"

# On the Services that `inject --with-service` writes, so that `uninject` takes away those and no others.
OFFLINE_ANNOTATION: Final = f"{PREFIX}/offline"

# Annotations of others.
DEFAULT_CONTAINER_ANNOTATION: Final = "kubectl.kubernetes.io/default-container"
DEFAULT_CONTAINER_ANNOTATIONS: Final = frozenset(
    {DEFAULT_CONTAINER_ANNOTATION, "kubectl.kubernetes.io/default-logs-container"}
)
MIRROR_ANNOTATION: Final = "kubernetes.io/config.mirror"
SCRAPE_ANNOTATION: Final = "prometheus.io/scrape"
SCRAPE_PATH_ANNOTATION: Final = "prometheus.io/path"
SCRAPE_PORT_ANNOTATION: Final = "prometheus.io/port"

# The injected container. Many charts name a container of their own "metrics"; then ours is the second name.
CONTAINER: Final = "metrics"
CONTAINER_IF_TAKEN: Final = "metrics-sidecar"
PORT_NAME: Final = "metrics-sidecar"
PORT_ENV: Final = "METRICS_SIDECAR_PORT"
POD_NAME_ENV: Final = "POD_NAME"

# The Service.
SERVICE_SUFFIX: Final = "-metrics-sidecar"
SERVICE_PORT_NAME: Final = "metrics"
METRICS_PATH: Final = "/metrics"

# Why the API server calls: each webhook of the configuration has a path, and the path is a handler's id.
POD_HANDLER: Final = "pod"
NAMESPACE_HANDLER: Final = "namespace"
WORKLOAD_HANDLER: Final = "workload"
HANDLERS: Final = (POD_HANDLER, NAMESPACE_HANDLER, WORKLOAD_HANDLER)


class Action(enum.StrEnum):
    """What is done to an object."""

    INJECT = "inject"
    STAMP = "stamp"
    UNSTAMP = "unstamp"
    SKIP = "skip"


class _Explained(enum.StrEnum):
    """A code for logs, metrics and reports, and a sentence for people."""

    sentence: str

    def __new__(cls, code: str, sentence: str) -> Self:
        """Make the code the value, so that a reason is a string wherever one is wanted."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.sentence = sentence
        return member


class Reason(_Explained):
    """Why it is done, or not."""

    # Pods that get the sidecar.
    POD_LABEL = "pod_label", f"the pod is labelled {INJECT_LABEL}=true"
    NAMESPACE_LABEL = "namespace_label", f"the namespace is labelled {INJECT_LABEL}=true"

    # Pods that do not.
    NOT_A_POD = "not_a_pod", "this has not the shape of a pod"
    NOT_LABELLED = "not_labelled", f"neither the pod nor its namespace is labelled {INJECT_LABEL}=true"
    OPTED_OUT = "opted_out", f"the pod is labelled {INJECT_LABEL}=false"
    NAMESPACE_OPTED_OUT = "namespace_opted_out", f"the namespace is labelled {INJECT_LABEL}=false"
    LABEL_UNKNOWN = "label_unknown", f'the label {INJECT_LABEL} is neither "true" nor "false"'
    ALREADY_INJECTED = "already_injected", "the pod has the sidecar already"
    RUNS_EXPORTER = "runs_exporter", f"a container of the pod runs the exporter already, it sets {PORT_ENV}"
    MIRROR_POD = (
        "mirror_pod",
        "the kubelet runs the pod from a file, whatever is changed here",
    )
    SYSTEM_NAMESPACE = "system_namespace", "the namespace belongs to the system"
    HOST_NETWORK = "host_network", "the pod uses the host's network, whose ports are not its own"
    WINDOWS = "windows", "the pod runs on Windows"
    PORT_TAKEN = "port_taken", f"another container of the pod uses the port; {PORT_ANNOTATION} sets another"
    NO_NATIVE_SIDECARS = (
        "no_native_sidecars",
        "the pod is one that ends, which takes a native sidecar, and the cluster has none",
    )
    POD_RESOURCES = "pod_resources", "the resources of the pod as a whole leave no room for the sidecar"
    ANNOTATIONS_FULL = "annotations_full", "the annotations of the pod leave no room for ours"

    # Workloads.
    STAMPED = "stamped", f"the pod template now says {INJECT_LABEL}, as the workload does"
    UNSTAMPED = "unstamped", f"the workload no longer says {INJECT_LABEL}, nor does the pod template now"
    UNCHANGED = "unchanged", "the pod template agrees with the workload already"
    TEMPLATE_DECIDES = (
        "template_decides",
        f"the pod template says {INJECT_LABEL} itself, and that wins",
    )
    NO_TEMPLATE = "no_template", "there is no pod template in it"
    OWNED = "owned", "a controller owns this ReplicaSet; the label belongs on that controller's object"
    JOB_IMMUTABLE = (
        "job_immutable",
        "the pod template of a Job never changes; the label counts at its creation",
    )

    # Either.
    OTHER_OPERATION = "other_operation", "this kind of change is none that the injector acts on"
    FAILED = "failed", "the injector failed, so the object was let through unchanged"


class EventReason(enum.StrEnum):
    """What the reconciler reports on a workload, as `kubectl describe` and `kubectl events` show it."""

    SERVICE_CREATED = "MetricsServiceCreated"
    SERVICE_FOREIGN = "MetricsServiceForeign"
    NOT_INJECTED = "MetricsSidecarMissing"


class Fault(_Explained):
    """What `check` finds, each with the symptom by which people know it."""

    NOT_INSTALLED = "not_installed", "no pod gets the exporter: metrics-sidecar is not installed here"

    # Of the webhook.
    WEBHOOK_MISSING = "webhook_missing", "no pod gets the exporter: the API server does not know the webhook"
    WEBHOOK_ENTRY_MISSING = "webhook_entry_missing", "labels have no effect: the API server calls for less"
    WEBHOOK_PATH = "webhook_path", "labels have no effect: the API server calls a path that nobody answers"
    WEBHOOK_REFERENCE = "webhook_reference", "labels have no effect: the API server calls another Service"
    WEBHOOK_BLOCKS = "webhook_blocks", "no pod can be created while the webhook is away: it must be Ignore"
    WEBHOOK_SERVICE_MISSING = (
        "webhook_service_missing",
        "labels have no effect: the Service of the webhook is missing",
    )
    WEBHOOK_NO_ENDPOINTS = "webhook_no_endpoints", "labels have no effect: no ready pod is behind the webhook"
    WEBHOOK_NOT_CALLED = "webhook_not_called", "labels have no effect: a labelled pod comes back as it was"
    ADMISSION_MISSING = "admission_missing", "no pod gets the exporter: the webhook is not installed"
    ADMISSION_UNAVAILABLE = "admission_unavailable", "no pod gets the exporter: the webhook does not run"
    CA_BUNDLE_MISSING = "ca_bundle_missing", "labels have no effect: the webhook has no CA bundle"
    CA_BUNDLE_INVALID = "ca_bundle_invalid", "labels have no effect: the CA bundle of the webhook is garbage"
    CA_BUNDLE_STALE = "ca_bundle_stale", "labels have no effect: the API server distrusts the webhook"
    CERTIFICATE_MISSING = "certificate_missing", "labels have no effect: the webhook has no certificate"
    CERTIFICATE_INVALID = "certificate_invalid", "labels have no effect: the certificate is of no use"
    CERTIFICATE_EXPIRED = "certificate_expired", "labels have no effect: the certificate is not valid today"
    CERTIFICATE_EXPIRING = "certificate_expiring", "labels will have no effect soon: nobody renewed in time"
    CERTIFICATE_FOREIGN = "certificate_foreign", "nobody renews the certificate: it is not the reconciler's"

    # Of the reconciler.
    RECONCILER_MISSING = "reconciler_missing", "Services do not follow the pods: nothing is there that would"
    RECONCILER_STOPPED = "reconciler_stopped", "Services do not follow the pods: the reconciler does not run"
    PERMISSION_MISSING = "permission_missing", "the reconciler is refused by the API server"
    SETTING_INVALID = "setting_invalid", "a setting has no effect: its value is wrong, the default is used"

    # Of labels.
    LABEL_IS_ANNOTATION = "label_is_annotation", "nothing happens: it is an annotation, a label is read"
    LABEL_ON_REPLICASET = "label_on_replicaset", "nothing happens: a ReplicaSet is labelled, not its owner"
    LABEL_ON_SERVICE = (
        "label_on_service",
        "nothing happens: a Service is labelled, which has no pods of its own",
    )
    LABEL_ON_RUNNING_JOB = "label_on_running_job", "nothing happens: the Job was there before its label"
    LABEL_VALUE = "label_value", 'nothing happens: the value is neither "true" nor "false"'
    LABEL_IN_IGNORED_NAMESPACE = (
        "label_in_ignored_namespace",
        "nothing happens: the injector leaves this namespace alone",
    )
    NOT_INJECTABLE = "not_injectable", "labelled, but its pods cannot have the exporter as they are"
    TEMPLATE_NOT_STAMPED = "template_not_stamped", "labelled, but no rollout began: the webhook was not there"

    TEMPLATE_STILL_STAMPED = (
        "template_still_stamped",
        "no longer labelled, but pods keep the exporter: the webhook was not there",
    )
    LABELS_DISAGREE = "labels_disagree", "the label has no effect: the pod template says another, which wins"
    OVERRIDE_IGNORED = "override_ignored", "an annotation has no effect"

    # Of pods.
    PODS_NOT_INJECTED = "pods_not_injected", "labelled, but pods run without the exporter"
    SIDECAR_IMAGE = "sidecar_image", "pods are not ready: the exporter's image cannot be pulled"
    SIDECAR_CRASHES = "sidecar_crashes", "the exporter does not keep running"
    SIDECAR_OUT_OF_MEMORY = "sidecar_out_of_memory", "the exporter runs out of memory and is killed"
    SIDECAR_OUTDATED = "sidecar_outdated", "pods run an exporter older than the one that new pods get"
    LIMIT_RANGE_REFUSES = "limit_range_refuses", "new pods are refused: the exporter is outside a LimitRange"
    QUOTA_REFUSES = "quota_refuses", "new pods are refused: with the exporter the quota is exceeded"

    # Of Services.
    SERVICE_MISSING = "service_missing", "no series in Prometheus: the workload's Service is missing"
    SERVICE_FOREIGN = "service_foreign", "no series in Prometheus: another Service has the name of ours"
    SERVICE_DRIFTED = "service_drifted", "series are missing in Prometheus: the Service is not as it was made"
    SERVICE_UNEXPECTED = (
        "service_unexpected",
        "series may be there twice: Services are switched off, one is there",
    )
    SCRAPED_TWICE = "scraped_twice", "every series is in Prometheus twice: two Services lead to the exporter"


class Note(_Explained):
    """Reasons that only the command line has, beside those of `Reason`."""

    ALL = "all", "--all treats it as labelled"
    WORKLOAD_LABEL = "workload_label", f"the workload is labelled {INJECT_LABEL}=true"
    REMOVED = "removed", "the sidecar is taken out, and the rest is as it was"
    NOT_INJECTED = "not_injected", "there is no injected sidecar in it"
    NO_OBJECT = "no_object", "this is no Kubernetes object"
    CANNOT_UNDO = "cannot_undo", "uninject could not bring it back exactly, so nothing was done"
    CANNOT_EDIT = "cannot_edit", "the text cannot be edited"
    SERVICE_ADDED = "service_added", "the Service by which Prometheus finds the pods"
    SERVICE_REMOVED = "service_removed", "inject --with-service wrote it"
    SERVICE_EXISTS = "service_exists", "a Service of that name is there already"
    SERVICE_NO_NAME = "service_no_name", "without a name for the workload there is none for its Service"
    SERVICE_NOT_IN_PATCH = "service_not_in_patch", "a patch changes a document, it cannot add one"
