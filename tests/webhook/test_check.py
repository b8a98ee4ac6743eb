"""What `check` makes of what it sees: snapshots of a healthy cluster, with one thing wrong in each."""

import base64
import copy
import datetime as dt
import functools
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from hypothesis import given

from tests.webhook import strategies
from webhook import certificates, names
from webhook.check import mending, report
from webhook.check.examination import examine
from webhook.check.findings import Severity, examples
from webhook.check.permissions import needed
from webhook.check.snapshot import Area, Probe, Snapshot, reduced
from webhook.config import Reconciling, Settings
from webhook.decision import decide, labelled
from webhook.identity import Reference
from webhook.injection import inject
from webhook.names import Fault
from webhook.service import build_service
from webhook.stamp import stamp

ROOT = Path(__file__).parents[2]
SETTINGS = Settings()
NOW = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)
LONG_AGO = "2026-04-01T12:00:00Z"
DAY = dt.timedelta(days=1)
LABEL = names.INJECT_LABEL
OWN = names.OWN_NAMESPACE
AUTHORITY = certificates.new_authority(NOW - DAY, 3650 * DAY)


# --- a healthy cluster -----------------------------------------------------------------------------------


@functools.cache
def manifests():
    return list(yaml.safe_load_all((ROOT / "manifests" / "install.yaml").read_text()))


def manifest(kind, name):
    named = (item for item in manifests() if (item["kind"], item["metadata"]["name"]) == (kind, name))
    return copy.deepcopy(next(named))


def secret(authority=AUTHORITY, start=NOW - DAY, days=90, host_namespace=OWN):
    pair = certificates.new_certificate(authority, certificates.hosts(host_namespace), start, days * DAY)
    content = {
        names.SERVING_CERTIFICATE: certificates.certificates_pem([pair.certificate]),
        names.SERVING_KEY: certificates.key_pem(pair.key),
        names.CA_CERTIFICATES: certificates.certificates_pem([authority.certificate]),
    }
    metadata = {
        "name": names.CERTIFICATE_SECRET,
        "namespace": OWN,
        "labels": {names.MANAGED_BY_LABEL: names.MANAGED_BY},
    }
    data = {key: base64.b64encode(value).decode() for key, value in content.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}


def workload(kind="Deployment", name="web", namespace="shop", label="true", **spec):
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": name}}, **spec}
    metadata = {"name": name, "namespace": namespace, "uid": f"uid-of-{name}", "generation": 1}
    metadata["labels"] = {} if label is None else {LABEL: label}
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "app"}]}}
    versions = {"Job": "batch/v1", "CronJob": "batch/v1"}
    obj = {
        "apiVersion": versions.get(kind, "apps/v1"),
        "kind": kind,
        "metadata": metadata,
        "spec": {"template": template, **spec},
    }
    return stamp(obj)[0]


def pod_of(obj, number=1, injected=True, **metadata):
    """A pod as a Deployment's ReplicaSet makes it."""
    name = obj["metadata"]["name"]
    template = obj["spec"]["template"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **template["metadata"],
            "labels": {**template["metadata"]["labels"], "pod-template-hash": "5d8c"},
            "name": f"{name}-5d8c-{number}",
            "namespace": obj["metadata"]["namespace"],
            "creationTimestamp": LONG_AGO,
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"{name}-5d8c", "controller": True}
            ],
            **metadata,
        },
        "spec": copy.deepcopy(template["spec"]),
        "status": {"phase": "Running"},
    }
    return inject(pod, SETTINGS) if injected else pod


def service_of(obj):
    service = build_service(obj, SETTINGS)
    service["metadata"]["managedFields"] = [{"manager": names.FIELD_MANAGER, "operation": "Apply"}]
    return service


def labelled_pod(namespace="shop", injected=True):
    pod = {
        "metadata": {"namespace": namespace, "labels": {LABEL: "true"}},
        "spec": {"containers": [{"name": "a"}]},
    }
    return inject(pod, SETTINGS) if injected else pod


def healthy():
    webhook = manifest("MutatingWebhookConfiguration", names.WEBHOOK)
    bundle = base64.b64encode(certificates.certificates_pem([AUTHORITY.certificate])).decode()
    for entry in webhook["webhooks"]:
        entry["clientConfig"]["caBundle"] = bundle
    webhook["metadata"]["creationTimestamp"] = "2026-03-01T12:00:00Z"
    deployments = [manifest("Deployment", name) for name in (names.WEBHOOK, names.RECONCILER)]
    for deployment in deployments:
        deployment["status"] = {"availableReplicas": 2}
    web, plain = workload(), workload(name="plain", label=None)
    return Snapshot(
        now=NOW,
        webhook=webhook,
        webhook_service=manifest("Service", names.WEBHOOK),
        endpoint_slices=[{"endpoints": [{"conditions": {"ready": True}}]}],
        deployments=deployments,
        secret=secret(),
        lease={"spec": {"renewTime": "2026-05-01T11:59:55.000000Z"}},
        settings=manifest("ConfigMap", names.SETTINGS),
        namespaces=[{"metadata": {"name": name}} for name in ("shop", "kube-system", OWN)],
        workloads=[web, plain],
        pods=[pod_of(web, 1), pod_of(web, 2)],
        services=[service_of(web)],
        probe=Probe(labelled_pod()),
    )


def codes(seen):
    return [finding.fault for finding in examine(seen)]


def only(seen, fault, severity=Severity.PROBLEM):
    """The one finding that there is, of the kind that is expected."""
    findings = examine(seen)
    assert [(item.fault, item.severity) for item in findings] == [(fault, severity)], findings
    return findings[0]


@pytest.fixture
def seen():
    return healthy()


def test_a_healthy_cluster_has_no_findings_and_one_line(seen):
    assert examine(seen) == []
    assert report.as_text([], seen) == "healthy: 2 pods of 1 workload with the exporter"
    content = json.loads(report.as_json([], seen))
    assert content == {"version": names.VERSION, "healthy": True, "findings": [], "notChecked": []}


# --- what is installed -----------------------------------------------------------------------------------


def test_where_nothing_is_installed_that_is_said_once():
    assert codes(Snapshot(now=NOW)) == [Fault.NOT_INSTALLED]


def entry(seen, index):
    return seen.webhook["webhooks"][index]


@pytest.mark.parametrize(
    ("fault", "plant", "command"),
    [
        (Fault.WEBHOOK_MISSING, lambda s: setattr(s, "webhook", None), "kubectl apply -f manifests/base/"),
        (Fault.WEBHOOK_ENTRY_MISSING, lambda s: s.webhook["webhooks"].pop(1), "kubectl apply -f manifests/"),
        (
            Fault.WEBHOOK_PATH,
            lambda s: entry(s, 2)["clientConfig"]["service"].update(path="/mutate"),
            '{"op":"add","path":"/webhooks/2/clientConfig/service/path","value":"/workload"}',
        ),
        (
            Fault.WEBHOOK_BLOCKS,
            lambda s: entry(s, 0).update(failurePolicy="Fail"),
            '{"op":"add","path":"/webhooks/0/failurePolicy","value":"Ignore"}',
        ),
        (
            Fault.WEBHOOK_REFERENCE,
            lambda s: entry(s, 1)["clientConfig"]["service"].update(namespace="elsewhere"),
            '"path":"/webhooks/1/clientConfig/service"',
        ),
        (Fault.WEBHOOK_SERVICE_MISSING, lambda s: setattr(s, "webhook_service", None), mending.INSTALL),
        (Fault.WEBHOOK_NO_ENDPOINTS, lambda s: s.endpoint_slices.clear(), mending.INSTALL),
        (
            Fault.WEBHOOK_NO_ENDPOINTS,
            lambda s: s.endpoint_slices[0]["endpoints"][0]["conditions"].update(ready=False),
            mending.INSTALL,
        ),
        (Fault.ADMISSION_MISSING, lambda s: s.deployments.pop(0), mending.INSTALL),
        (
            Fault.ADMISSION_UNAVAILABLE,
            lambda s: s.deployments[0].update(status={}, spec={"replicas": 0}),
            "kubectl scale deployment/metrics-sidecar-webhook -n metrics-sidecar --replicas=2",
        ),
        (
            Fault.ADMISSION_UNAVAILABLE,
            lambda s: s.deployments[0].update(status={"availableReplicas": 0}),
            "kubectl rollout restart deployment/metrics-sidecar-webhook -n metrics-sidecar",
        ),
        (
            Fault.RECONCILER_STOPPED,
            lambda s: setattr(s, "lease", None),
            "kubectl rollout restart deployment/metrics-sidecar-reconciler -n metrics-sidecar",
        ),
        (
            Fault.RECONCILER_STOPPED,
            lambda s: s.lease["spec"].update(renewTime="2026-05-01T11:58:00.000000Z"),
            "kubectl rollout restart deployment/metrics-sidecar-reconciler -n metrics-sidecar",
        ),
        (
            Fault.RECONCILER_MISSING,
            lambda s: (s.deployments.pop(1), setattr(s, "lease", None)),
            mending.INSTALL,
        ),
        (Fault.PERMISSION_MISSING, lambda s: s.refused.append("patch services"), mending.GRANT),
    ],
)
def test_a_fault_of_the_installation_is_found_and_nothing_else(seen, fault, plant, command):
    plant(seen)
    assert command in only(seen, fault).command


def test_an_entry_that_leads_to_an_url_is_led_to_the_service(seen):
    client = entry(seen, 0)["clientConfig"]
    client["url"] = "https://elsewhere.example/"
    del client["service"]
    command = only(seen, Fault.WEBHOOK_REFERENCE).command
    service = {"namespace": OWN, "name": names.WEBHOOK, "port": 443, "path": "/pod"}
    changes = [
        {"op": "remove", "path": "/webhooks/0/clientConfig/url"},
        {"op": "add", "path": "/webhooks/0/clientConfig/service", "value": service},
    ]
    assert json.loads(command.split("-p ")[1].strip("'")) == changes


def test_why_no_pod_of_the_webhook_runs_is_said(seen):
    seen.deployments[0]["status"] = {}
    waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}
    state = {"containerStatuses": [{"name": "admission", "state": {"waiting": waiting}}]}
    seen.own_pods = [{"metadata": {"name": f"{names.WEBHOOK}-1"}, "status": state}]
    evidence = only(seen, Fault.ADMISSION_UNAVAILABLE).evidence
    assert f"{names.WEBHOOK}-1: ImagePullBackOff Back-off pulling image" in evidence


def test_a_setting_that_is_no_value_is_a_warning_wherever_it_is_set(seen):
    seen.settings["data"]["METRICS_SIDECAR_INJECTOR_CPU"] = "much"
    command = only(seen, Fault.SETTING_INVALID, Severity.WARNING).command
    assert '{"data":{"METRICS_SIDECAR_INJECTOR_CPU":null}}' in command
    del seen.settings["data"]["METRICS_SIDECAR_INJECTOR_CPU"]
    containers = seen.deployments[1]["spec"]["template"]["spec"]["containers"]
    containers[0]["env"].append({"name": "METRICS_SIDECAR_INJECTOR_RECONCILE_SERVICES", "value": "no"})
    command = only(seen, Fault.SETTING_INVALID, Severity.WARNING).command
    assert command == (
        "kubectl set env deployment/metrics-sidecar-reconciler -n metrics-sidecar"
        " METRICS_SIDECAR_INJECTOR_RECONCILE_SERVICES-"
    )


# --- certificates ----------------------------------------------------------------------------------------

DELETE_SECRET = f"kubectl delete secret/{names.CERTIFICATE_SECRET} -n {OWN}"


@pytest.mark.parametrize(
    ("fault", "bundle"),
    [
        (Fault.CA_BUNDLE_MISSING, ""),
        (Fault.CA_BUNDLE_INVALID, base64.b64encode(b"garbage").decode()),
        (Fault.CA_BUNDLE_INVALID, "no base64"),
        (
            Fault.CA_BUNDLE_STALE,
            base64.b64encode(
                certificates.certificates_pem([certificates.new_authority(NOW - DAY, 10 * DAY).certificate])
            ).decode(),
        ),
    ],
)
def test_a_bundle_that_does_not_fit_is_copied_from_the_secret_again(seen, fault, bundle):
    entry(seen, 0)["clientConfig"]["caBundle"] = entry(seen, 2)["clientConfig"]["caBundle"] = bundle
    finding = only(seen, fault)
    assert len([fact for fact in finding.evidence if ".metrics-sidecar.io" in fact]) == 2
    assert f"get secret/{names.CERTIFICATE_SECRET} -n {OWN}" in finding.command
    assert "/webhooks/0/clientConfig/caBundle" in finding.command
    assert "/webhooks/1/" not in finding.command


def test_a_bundle_of_the_old_and_the_new_authority_is_right(seen):
    both = [certificates.new_authority(NOW - DAY, 10 * DAY).certificate, AUTHORITY.certificate]
    bundle = base64.b64encode(certificates.certificates_pem(both)).decode()
    for index in range(3):
        entry(seen, index)["clientConfig"]["caBundle"] = bundle
    assert examine(seen) == []


@pytest.mark.parametrize(
    ("fault", "severity", "made"),
    [
        (Fault.CERTIFICATE_INVALID, Severity.PROBLEM, {"host_namespace": "elsewhere"}),
        (Fault.CERTIFICATE_EXPIRED, Severity.PROBLEM, {"start": NOW - 91 * DAY}),
        (Fault.CERTIFICATE_EXPIRED, Severity.PROBLEM, {"start": NOW + DAY}),
        (Fault.CERTIFICATE_EXPIRING, Severity.WARNING, {"start": NOW - 80 * DAY}),
    ],
)
def test_a_certificate_of_no_use_is_made_anew(seen, fault, severity, made):
    seen.secret = secret(**made)
    assert only(seen, fault, severity).command == DELETE_SECRET


def test_a_certificate_that_is_about_to_be_renewed_is_healthy(seen):
    seen.secret = secret(start=NOW - 61 * DAY)
    assert examine(seen) == []


@pytest.mark.parametrize("key", [names.SERVING_CERTIFICATE, names.SERVING_KEY])
@pytest.mark.parametrize("value", ["", "!", base64.b64encode(b"garbage").decode()])
def test_a_corrupt_secret_is_made_anew(seen, key, value):
    seen.secret["data"][key] = value
    assert only(seen, Fault.CERTIFICATE_INVALID).command == DELETE_SECRET


def test_a_missing_secret_is_the_reconcilers_to_make(seen):
    seen.secret = None
    command = only(seen, Fault.CERTIFICATE_MISSING).command
    assert command == f"kubectl rollout restart deployment/{names.RECONCILER} -n {OWN}"


def test_a_secret_of_somebody_else_is_renewed_by_nobody_unless_that_is_meant(seen):
    del seen.secret["metadata"]["labels"]
    assert only(seen, Fault.CERTIFICATE_FOREIGN, Severity.WARNING).command == DELETE_SECRET
    seen.settings["data"]["METRICS_SIDECAR_INJECTOR_RECONCILE_CERTIFICATES"] = "false"
    assert examine(seen) == []


# --- end to end ------------------------------------------------------------------------------------------


def test_a_probe_that_comes_back_bare_shows_that_the_webhook_is_not_called(seen):
    seen.probe = Probe(labelled_pod(injected=False), ("w1",), "cannot connect: i/o timeout")
    finding = only(seen, Fault.WEBHOOK_NOT_CALLED)
    assert "the API server: w1" in finding.evidence
    assert "cannot connect: i/o timeout" in finding.evidence


def test_a_probe_adds_nothing_where_the_cause_is_known(seen):
    seen.probe = Probe(labelled_pod(injected=False))
    seen.endpoint_slices.clear()
    only(seen, Fault.WEBHOOK_NO_ENDPOINTS)


# --- labels ----------------------------------------------------------------------------------------------


def unlabelled(seen, **options):
    """Put in a workload that nobody has labelled yet, with no pods that would be known."""
    obj = workload(name="api", label=None, **options)
    seen.workloads.append(obj)
    return obj


def on_workload(seen, **metadata):
    unlabelled(seen)["metadata"].update(metadata)


def on_template(seen, **metadata):
    unlabelled(seen)["spec"]["template"]["metadata"].update(metadata)


def on_namespace(seen, **metadata):
    seen.namespaces[0]["metadata"].update(metadata)


LABEL_API = f"kubectl label --overwrite deployment/api -n shop {LABEL}=true"


@pytest.mark.parametrize("value", ["true", "yes"])
@pytest.mark.parametrize(
    ("put", "command"),
    [
        (on_workload, LABEL_API),
        (on_template, LABEL_API),
        (on_namespace, f"kubectl label --overwrite namespace/shop {LABEL}=true"),
    ],
)
def test_an_annotation_instead_of_the_label(seen, put, command, value):
    put(seen, annotations={LABEL: value})
    assert only(seen, Fault.LABEL_IS_ANNOTATION).command == command


def test_an_annotation_beside_the_label_does_no_harm(seen):
    seen.workloads[0]["metadata"]["annotations"] = {LABEL: "true"}
    assert examine(seen) == []


def test_an_annotation_in_a_labelled_namespace_does_no_harm(seen):
    on_workload(seen, annotations={LABEL: "true"})
    on_namespace(seen, labels={LABEL: "true"})
    assert examine(seen) == []


@pytest.mark.parametrize(
    ("value", "meant"), [("yes", "true"), ("True", "true"), ("enabled", "true"), ("no", "false")]
)
def test_a_value_that_is_neither(seen, value, meant):
    on_workload(seen, labels={LABEL: value})
    command = only(seen, Fault.LABEL_VALUE).command
    assert command == f"kubectl label --overwrite deployment/api -n shop {LABEL}={meant}"


def test_a_value_that_is_neither_on_the_namespace(seen):
    on_namespace(seen, labels={LABEL: "on"})
    assert only(seen, Fault.LABEL_VALUE).command == f"kubectl label --overwrite namespace/shop {LABEL}=true"


def test_a_value_that_is_neither_in_the_template_is_mended_there(seen):
    on_template(seen, labels={"app": "api", LABEL: "yes"})
    assert only(seen, Fault.LABEL_VALUE).command == (
        "kubectl patch deployment/api -n shop --type=merge"
        ' -p \'{"spec":{"template":{"metadata":{"labels":{"metrics-sidecar.io/inject":"true"}}}}}\''
    )


def replicaset(**labels):
    obj = workload("ReplicaSet", name="api-77f", label=None)
    obj["metadata"]["labels"] = labels
    obj["metadata"]["ownerReferences"] = [
        {"apiVersion": "apps/v1", "kind": "Deployment", "name": "api", "uid": "u", "controller": True}
    ]
    return obj


def test_a_label_on_a_replicaset_belongs_on_its_owner(seen):
    seen.workloads.append(replicaset(**{LABEL: "true"}))
    assert only(seen, Fault.LABEL_ON_REPLICASET).command == LABEL_API


def test_a_label_that_a_deployment_gave_its_replicaset_is_healthy(seen):
    copied = replicaset(**{LABEL: "true"})
    copied["spec"]["template"]["metadata"]["labels"][LABEL] = "true"
    seen.workloads.append(copied)
    assert examine(seen) == []


def test_a_label_on_a_service_belongs_on_the_workloads_behind_it(seen):
    unlabelled(seen)
    metadata = {"name": "api", "namespace": "shop", "labels": {LABEL: "true"}}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"selector": {"app": "api"}},
    }
    seen.services.append(service)
    command = only(seen, Fault.LABEL_ON_SERVICE).command
    assert command == f"{LABEL_API} && kubectl label service/api -n shop {LABEL}-"


def test_a_job_labelled_after_its_creation_has_to_run_anew_unless_it_has_ended(seen):
    job = workload("Job", name="migrate", label=None)
    job["metadata"]["labels"] = {LABEL: "true"}
    seen.workloads.append(job)
    finding = only(seen, Fault.LABEL_ON_RUNNING_JOB)
    assert finding.command.startswith("kubectl get job/migrate -n shop -o json | jq ")
    assert finding.command.endswith(" | kubectl replace --force -f -")
    job["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    assert examine(seen) == []


@pytest.mark.parametrize("where", ["workload", "pod", "namespace"])
def test_a_label_in_a_namespace_that_is_left_alone(seen, where):
    obj = workload(name="dns", namespace="kube-system")
    bare = pod_of(obj, injected=False, ownerReferences=[])
    target = {"workload": "deployment/dns -n kube-system", "namespace": "namespace/kube-system"}.get(
        where, f"pod/{bare['metadata']['name']} -n kube-system"
    )
    match where:
        case "workload":
            seen.workloads.append(obj)
        case "pod":
            seen.pods.append(bare)
        case "namespace":
            seen.namespaces[1]["metadata"]["labels"] = {LABEL: "true"}
    assert only(seen, Fault.LABEL_IN_IGNORED_NAMESPACE).command == f"kubectl label {target} {LABEL}-"


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("Deployment", "kubectl rollout restart deployment/api -n shop"),
        ("CronJob", f"kubectl label --overwrite cronjob/api -n shop {LABEL}=true"),
    ],
)
def test_a_labelled_workload_whose_template_was_never_stamped(seen, kind, command):
    obj = workload(kind, name="api", label=None)
    if kind == "CronJob":
        obj["spec"] = {"jobTemplate": {"spec": {"template": obj["spec"]["template"]}}}
    obj["metadata"]["labels"] = {LABEL: "true"}
    seen.workloads.append(obj)
    assert only(seen, Fault.TEMPLATE_NOT_STAMPED).command == command


def test_a_template_that_kept_its_stamp(seen):
    obj = workload(name="api")
    obj["metadata"]["labels"] = {}
    seen.workloads.append(obj)
    command = only(seen, Fault.TEMPLATE_STILL_STAMPED, Severity.WARNING).command
    assert '"labels":{"metrics-sidecar.io/inject":null}' in command
    assert '"annotations":{"metrics-sidecar.io/stamped":null}' in command


def test_a_workload_and_a_template_that_contradict_each_other(seen):
    obj = workload(name="api", label=None)
    obj["metadata"]["labels"] = {LABEL: "true"}
    obj["spec"]["template"]["metadata"]["labels"][LABEL] = "false"
    seen.workloads.append(obj)
    only(seen, Fault.LABELS_DISAGREE, Severity.WARNING)


@pytest.mark.parametrize(
    ("spec", "command"),
    [
        ({"hostNetwork": True}, f"kubectl label --overwrite deployment/api -n shop {LABEL}=false"),
        (
            {"containers": [{"name": "app", "ports": [{"containerPort": 9999}, {"containerPort": 10000}]}]},
            '{"metrics-sidecar.io/port":"10001"}',
        ),
    ],
)
def test_a_labelled_workload_whose_pods_cannot_have_the_exporter(seen, spec, command):
    obj = workload(name="api")
    obj["spec"]["template"]["spec"].update(spec)
    seen.workloads.append(obj)
    assert command in only(seen, Fault.NOT_INJECTABLE, Severity.WARNING).command


def test_a_manual_setup_is_left_alone(seen):
    obj = workload(name="api")
    exporter = {"name": "metrics", "env": [{"name": names.PORT_ENV, "value": "9999"}]}
    obj["spec"]["template"]["spec"]["containers"].append(exporter)
    seen.workloads.append(obj)
    seen.pods.append(pod_of(obj, injected=False))
    assert examine(seen) == []


def test_annotations_of_the_workload_belong_on_its_template(seen):
    obj = workload(name="api")
    obj["metadata"]["annotations"] = {names.CPU_ANNOTATION: "100m"}
    seen.workloads.append(obj)
    command = only(seen, Fault.OVERRIDE_IGNORED, Severity.WARNING).command
    assert '"annotations":{"metrics-sidecar.io/cpu":"100m"}' in command


def test_an_annotation_that_is_no_value_is_taken_away(seen):
    obj = workload(name="api")
    obj["spec"]["template"]["metadata"]["annotations"][names.MEMORY_ANNOTATION] = "50m"
    seen.workloads.append(obj)
    command = only(seen, Fault.OVERRIDE_IGNORED, Severity.WARNING).command
    assert '"annotations":{"metrics-sidecar.io/memory":null}' in command


# --- pods ------------------------------------------------------------------------------------------------


def test_pods_without_the_exporter_are_one_finding_with_their_number(seen):
    seen.pods += [pod_of(seen.workloads[0], number, injected=False) for number in range(3, 10)]
    finding = only(seen, Fault.PODS_NOT_INJECTED)
    assert finding.evidence[0] == "7 of 9 pods, e.g. web-5d8c-3, web-5d8c-4, web-5d8c-5 and 4 more"
    assert finding.command == "kubectl rollout restart deployment/web -n shop"


def test_pods_older_than_the_webhook_are_said_to_be(seen):
    seen.webhook["metadata"]["creationTimestamp"] = "2026-04-30T00:00:00Z"
    seen.pods.append(pod_of(seen.workloads[0], 3, injected=False))
    assert "they are older than the webhook" in only(seen, Fault.PODS_NOT_INJECTED).evidence


def test_pods_that_a_rollout_is_replacing_are_a_warning(seen):
    seen.pods.append(pod_of(seen.workloads[0], 3, injected=False))
    seen.workloads[0]["status"] = {"observedGeneration": 1, "updatedReplicas": 1, "replicas": 3}
    only(seen, Fault.PODS_NOT_INJECTED, Severity.WARNING)


def test_pods_of_a_labelled_namespace_count_without_a_label_of_their_own(seen):
    seen.namespaces[0]["metadata"]["labels"] = {LABEL: "true"}
    seen.pods.append(pod_of(seen.workloads[1], injected=False))
    command = only(seen, Fault.PODS_NOT_INJECTED).command
    assert command == "kubectl rollout restart deployment/plain -n shop"


@pytest.mark.parametrize("change", [{"status": {"phase": "Succeeded"}}, {"status": {"phase": "Failed"}}])
def test_pods_that_have_ended_do_not_count(seen, change):
    seen.pods.append(pod_of(seen.workloads[0], 3, injected=False) | change)
    assert examine(seen) == []


def test_pods_that_are_being_deleted_do_not_count(seen):
    seen.pods.append(pod_of(seen.workloads[0], 3, injected=False, deletionTimestamp=LONG_AGO))
    assert examine(seen) == []


def test_a_bare_pod_is_made_anew(seen):
    bare = pod_of(seen.workloads[1], injected=False, ownerReferences=[], name="tool")
    bare["metadata"]["labels"] = {LABEL: "true"}
    seen.pods.append(bare)
    command = only(seen, Fault.PODS_NOT_INJECTED).command
    assert command == "kubectl get pod/tool -n shop -o json | kubectl replace --force -f -"


def test_pods_of_a_kind_that_is_not_known_are_named(seen):
    owner = {"apiVersion": "example.org/v1", "kind": "Flock", "name": "sheep", "controller": True}
    pod = pod_of(seen.workloads[1], injected=False, ownerReferences=[owner], name="sheep-1")
    pod["metadata"]["labels"] = {LABEL: "true"}
    seen.pods.append(pod)
    finding = only(seen, Fault.PODS_NOT_INJECTED)
    assert mending.target(finding.obj) == "flock.example.org/sheep -n shop"
    assert finding.command == "kubectl delete pods -n shop sheep-1"


def test_what_a_controller_makes_is_not_a_workload_of_its_own(seen):
    """A Job that was made by hand from a CronJob has no run's time in its name."""
    cron = workload("CronJob", name="api", label=None)
    cron["spec"] = {"jobTemplate": {"spec": {"template": cron["spec"]["template"]}}}
    job = workload("Job", name="again", label=None)
    job["metadata"]["ownerReferences"] = [
        {"apiVersion": "batch/v1", "kind": "CronJob", "name": "api", "controller": True}
    ]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "again", "controller": True}
    bare = pod_of(job, injected=False, ownerReferences=[owner])
    bare["metadata"]["labels"][LABEL] = "true"
    seen.workloads += [job, cron]
    seen.pods.append(bare)
    finding = only(seen, Fault.PODS_NOT_INJECTED, Severity.WARNING)
    assert mending.target(finding.obj) == "cronjob/api -n shop"


def test_pods_of_other_controllers_are_deleted_by_their_labels(seen):
    clones = workload("CloneSet", name="api") | {"apiVersion": "apps.kruise.io/v1alpha1"}
    seen.workloads.append(clones)
    owner = {
        "apiVersion": "apps.kruise.io/v1alpha1",
        "kind": "CloneSet",
        "name": "api",
        "uid": "uid-of-api",
        "controller": True,
    }
    seen.pods.append(pod_of(clones, injected=False, ownerReferences=[owner]))
    command = only(seen, Fault.PODS_NOT_INJECTED).command
    assert command == f"kubectl delete pods -n shop -l 'app=api,{names.INJECTED_LABEL}!=true'"


def state(pod, **report):
    return pod | {"status": {"phase": "Running", "containerStatuses": [{"name": "metrics", **report}]}}


@pytest.mark.parametrize(
    ("report_", "fault", "command"),
    [
        (
            {"state": {"waiting": {"reason": "ImagePullBackOff"}}},
            Fault.SIDECAR_IMAGE,
            "kubectl describe pod web-5d8c-1 -n shop",
        ),
        (
            {"state": {"waiting": {"reason": "CrashLoopBackOff"}}},
            Fault.SIDECAR_CRASHES,
            "kubectl logs web-5d8c-1 -n shop -c metrics --previous",
        ),
        (
            {
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"reason": "OOMKilled"}},
            },
            Fault.SIDECAR_OUT_OF_MEMORY,
            '{"metrics-sidecar.io/memory":"100Mi"}',
        ),
    ],
)
def test_an_exporter_that_does_not_run(seen, report_, fault, command):
    seen.pods = [state(pod, **report_) for pod in seen.pods]
    finding = only(seen, fault)
    assert finding.evidence[0].startswith("2 of 2 pods")
    assert command in finding.command


def test_an_application_that_does_not_run_is_not_our_business(seen):
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    seen.pods[0]["status"]["containerStatuses"] = [{"name": "app", "state": waiting}]
    assert examine(seen) == []


def test_an_image_that_is_the_workloads_own_choice_is_taken_back(seen):
    obj = seen.workloads[0]
    obj["spec"]["template"]["metadata"]["annotations"][names.IMAGE_ANNOTATION] = "no.such/image:1"
    seen.pods = [state(pod_of(obj), state={"waiting": {"reason": "ErrImagePull"}})]
    finding = only(seen, Fault.SIDECAR_IMAGE)
    assert "ErrImagePull: no.such/image:1" in finding.evidence
    assert '{"metrics-sidecar.io/image":null}' in finding.command


@pytest.mark.parametrize(("version", "found"), [("0.0.9", True), (names.VERSION, False), ("9.0.0", False)])
def test_pods_with_an_older_exporter_are_a_warning(seen, version, found):
    for pod in seen.pods:
        annotations = pod["metadata"]["annotations"]
        annotations[names.STATUS_ANNOTATION] = annotations[names.STATUS_ANNOTATION].replace(
            names.VERSION, version
        )
    if found:
        command = only(seen, Fault.SIDECAR_OUTDATED, Severity.WARNING).command
        assert command == "kubectl rollout restart deployment/web -n shop"
    else:
        assert examine(seen) == []


# --- refused pods ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        ({"type": "Container", "min": {"cpu": "100m"}}, True),
        ({"type": "Container", "max": {"memory": "32Mi"}}, True),
        ({"type": "Container", "min": {"cpu": "50m", "memory": "50Mi"}}, False),
        ({"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}}, False),
    ],
)
def test_a_limit_range_that_the_exporter_is_outside_of(seen, rule, found):
    seen.limit_ranges = [{"metadata": {"name": "bounds", "namespace": "shop"}, "spec": {"limits": [rule]}}]
    if not found:
        assert examine(seen) == []
        return
    command = only(seen, Fault.LIMIT_RANGE_REFUSES).command
    value = '{"metrics-sidecar.io/cpu":"100m"}' if "min" in rule else '{"metrics-sidecar.io/memory":"32Mi"}'
    assert value in command


def quota_message(requested="150m", used="900m", limited="1"):
    return (
        f'pods "web-5d8c-x" is forbidden: exceeded quota: compute, requested: requests.cpu={requested},'
        f" used: requests.cpu={used}, limited: requests.cpu={limited}"
    )


def refuse(seen, message):
    condition = {"type": "ReplicaFailure", "status": "True", "message": message}
    seen.workloads[0]["status"] = {"replicas": 1, "updatedReplicas": 1, "conditions": [condition]}
    seen.workloads[0]["spec"]["replicas"] = 2


def test_a_quota_that_is_exceeded_for_the_exporters_sake(seen):
    refuse(seen, quota_message())
    finding = only(seen, Fault.QUOTA_REFUSES)
    assert finding.command == (
        "kubectl patch resourcequota/compute -n shop --type=merge"
        ' -p \'{"spec":{"hard":{"requests.cpu":"1050m"}}}\''
    )


def test_a_quota_that_is_exceeded_anyway_is_not_our_business(seen):
    refuse(seen, quota_message(requested="250m"))
    assert examine(seen) == []


def test_what_events_say_of_refused_pods_counts_while_pods_are_missing(seen):
    stateful = workload("StatefulSet", name="db", replicas=2)
    stateful["status"] = {"replicas": 1}
    seen.workloads.append(stateful)
    about = {"kind": "StatefulSet", "name": "db"}
    event = {"metadata": {"namespace": "shop"}, "involvedObject": about, "message": quota_message()}
    seen.events = [event]
    only(seen, Fault.QUOTA_REFUSES)
    stateful["status"] = {"replicas": 2}
    assert examine(seen) == []


# --- Services --------------------------------------------------------------------------------------------


def test_a_workload_without_its_service(seen):
    seen.services.clear()
    finding = only(seen, Fault.SERVICE_MISSING)
    assert mending.target(finding.obj) == "deployment/web -n shop"
    assert finding.command == f"kubectl rollout restart deployment/{names.RECONCILER} -n {OWN}"


def test_a_workload_whose_pods_are_seconds_old_has_no_service_yet(seen):
    seen.services.clear()
    for pod in seen.pods:
        pod["metadata"]["creationTimestamp"] = "2026-05-01T11:59:55Z"
    assert examine(seen) == []


def test_a_service_of_somebody_else_by_that_name(seen):
    seen.services[0]["metadata"]["managedFields"] = []
    seen.services[0]["metadata"]["annotations"] = {}
    command = only(seen, Fault.SERVICE_FOREIGN).command
    assert command == "kubectl delete service/web-metrics-sidecar -n shop"


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda s: s["spec"]["ports"][0].update(port=80, targetPort=80), "port 80 to 80; pods have 9999"),
        (lambda s: s["spec"].update(selector={"app": "other"}), "selects app=other"),
        (lambda s: s["spec"].update(selector={"app": "web"}), "selects app=web; without"),
        (
            lambda s: s["metadata"]["annotations"].pop(names.SCRAPE_ANNOTATION),
            "annotation prometheus.io/scrape is not there",
        ),
        (lambda s: s["spec"].update(publishNotReadyAddresses=False), "publishNotReadyAddresses is off"),
    ],
)
def test_a_service_that_is_not_as_it_was_made(seen, change, fact):
    change(seen.services[0])
    assert only(seen, Fault.SERVICE_DRIFTED).evidence[0].startswith(fact)


def other_service(port="9999", name="mine"):
    annotations = {names.SCRAPE_ANNOTATION: "true"}
    if port:
        annotations[names.SCRAPE_PORT_ANNOTATION] = port
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "shop", "annotations": annotations},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }


@pytest.mark.parametrize(
    ("port", "command"),
    [
        ("9999", f"kubectl annotate service/mine -n shop {names.SCRAPE_ANNOTATION}-"),
        (None, f"kubectl annotate --overwrite service/mine -n shop {names.SCRAPE_PORT_ANNOTATION}=8080"),
    ],
)
def test_pods_that_are_scraped_twice(seen, port, command):
    seen.services.append(other_service(port))
    finding = only(seen, Fault.SCRAPED_TWICE)
    assert finding.evidence[0] == "2 pods, e.g. web-5d8c-1, web-5d8c-2"
    assert finding.command == command


def test_a_service_that_leads_to_the_application_is_healthy(seen):
    seen.services.append(other_service("8080"))
    assert examine(seen) == []


def test_a_service_of_somebody_else_that_does_the_work_of_ours_is_healthy(seen):
    seen.services = [other_service()]
    assert examine(seen) == []


def test_without_services_of_ours_none_is_expected_and_one_is_too_many(seen):
    containers = seen.deployments[1]["spec"]["template"]["spec"]["containers"]
    containers[0]["env"].append({"name": "METRICS_SIDECAR_INJECTOR_RECONCILE_SERVICES", "value": "false"})
    command = only(seen, Fault.SERVICE_UNEXPECTED).command
    assert command == "kubectl delete service/web-metrics-sidecar -n shop"
    seen.services.clear()
    assert examine(seen) == []


# --- what could not be looked at -------------------------------------------------------------------------


@pytest.mark.parametrize("area", list(Area))
def test_what_could_not_be_looked_at_is_said_and_nothing_is_made_of_it(area):
    """The same snapshot as if the area had been forbidden: nothing in it, and no conclusion from that."""
    seen = healthy()
    empty = Snapshot(now=NOW)
    field = {
        Area.ENDPOINTS: "endpoint_slices",
        Area.PERMISSIONS: "refused",
        Area.PODS: "pods",
        Area.LEASE: "lease",
    }.get(area, area.name.lower())
    setattr(seen, field, getattr(empty, field))
    seen.unchecked[area] = "forbidden"
    assert examine(seen) == []
    assert report.as_text([], seen).splitlines()[0] == f"not checked: {area.value} (forbidden)"
    assert json.loads(report.as_json([], seen))["notChecked"] == [{"what": area.value, "why": "forbidden"}]


def test_objects_of_a_namespace_that_is_being_deleted_do_not_count(seen):
    seen.services.clear()
    seen.namespaces[0]["metadata"]["deletionTimestamp"] = LONG_AGO
    assert examine(seen) == []


# --- how it is said --------------------------------------------------------------------------------------


def test_problems_come_before_warnings_and_causes_before_what_follows(seen):
    seen.services.clear()
    seen.lease = None
    on_workload(seen, labels={LABEL: "yes"})
    seen.settings["data"]["METRICS_SIDECAR_INJECTOR_CPU"] = "much"
    assert codes(seen) == [
        Fault.RECONCILER_STOPPED,
        Fault.LABEL_VALUE,
        Fault.SERVICE_MISSING,
        Fault.SETTING_INVALID,
    ]


def test_the_text_is_what_people_read_and_can_copy_from(seen):
    on_workload(seen, labels={LABEL: "yes"})
    assert report.as_text(examine(seen), seen) == (
        "PROBLEM   deployment/api in shop\n"
        '          nothing happens: the value is neither "true" nor "false"\n'
        "          - it is labelled metrics-sidecar.io/inject=yes\n"
        "          $ kubectl label --overwrite deployment/api -n shop metrics-sidecar.io/inject=true\n"
        "\n"
        "1 problem"
    )


def test_colour_changes_nothing_but_colour(seen):
    on_workload(seen, labels={LABEL: "yes"})
    plain, coloured = (report.as_text(examine(seen), seen, colour=colour) for colour in (False, True))
    assert "\033" not in plain
    assert coloured != plain
    for code in ("\033[1;31m", "\033[1m", "\033[2m", "\033[0m"):
        coloured = coloured.replace(code, "")
    assert coloured == plain


def test_a_finding_is_the_same_for_machines(seen):
    on_workload(seen, labels={LABEL: "yes"})
    [found] = json.loads(report.as_json(examine(seen), seen))["findings"]
    assert found == {
        "code": "label_value",
        "severity": "problem",
        "object": {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": "shop", "name": "api"},
        "symptom": 'nothing happens: the value is neither "true" nor "false"',
        "evidence": ["it is labelled metrics-sidecar.io/inject=yes"],
        "command": "kubectl label --overwrite deployment/api -n shop metrics-sidecar.io/inject=true",
    }


def test_commands_are_for_the_context_that_was_asked_for():
    ref = Reference("shop", "v1", "Pod", "web")
    again = mending.recreate_pods(ref, None, [])
    assert mending.in_context(again, "my cluster") == (
        "kubectl --context 'my cluster' get pod/web -n shop -o json"
        " | kubectl --context 'my cluster' replace --force -f -"
    )
    annotate = mending.annotate(ref, names.DEFAULT_CONTAINER_ANNOTATION, "app")
    assert mending.in_context(annotate, "c").count("--context") == 1
    assert mending.in_context(annotate, None) == annotate


def test_of_many_names_a_few_are_said():
    assert examples(["b", "a"]) == "a, b"
    assert examples([str(number) for number in range(8)]) == "0, 1, 2 and 5 more"


def test_every_fault_is_a_code_and_a_sentence():
    for fault in Fault:
        assert str(fault) == fault.value == fault.name.lower()
        assert not fault.sentence.endswith(".")
        assert len(fault.sentence) <= 100


# --- what is kept ----------------------------------------------------------------------------------------


@given(strategies.pods)
def test_what_is_kept_of_a_pod_is_decided_upon_as_the_whole(pod):
    for namespace in (None, labelled("shop")):
        assert decide(reduced(pod), namespace, SETTINGS) == decide(pod, namespace, SETTINGS)


def test_what_the_reconciler_is_said_to_need_is_what_it_is_granted():
    """What is granted and needed for less than an outage is not asked about."""
    granted = {
        (verb, group, resource, item["kind"] == "Role", name)
        for item in manifests()
        if item["kind"] in ("Role", "ClusterRole")
        for rule in item["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
    }
    asked = {
        (one.verb, one.group, one.resource, one.own_namespace, one.name) for one in needed(Reconciling())
    }
    assert asked <= granted


# --- the command -----------------------------------------------------------------------------------------


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "webhook", "check", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment},
        check=False,
        timeout=60,
    )


def test_without_a_cluster_it_says_what_it_expects(tmp_path):
    done = run(KUBECONFIG=str(tmp_path / "none"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("check: kubeconfig: ")
    assert done.stderr.endswith("; expected KUBECONFIG, ~/.kube/config or a pod's service account\n")
    assert done.stderr.count("\n") == 1


def kubeconfig(folder, server):
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "c", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    }
    path = folder / "config"
    path.write_text(yaml.safe_dump(config))
    return str(path)


def test_a_cluster_that_cannot_be_reached_is_said(tmp_path):
    path = kubeconfig(tmp_path, "https://127.0.0.1:1")
    done = run(KUBECONFIG=path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("check: cluster: GET /version: ")
    done = run("--context", "other", KUBECONFIG=path)
    assert done.returncode == 2
    assert "other" in done.stderr


class Broken(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked += 1
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def test_an_api_server_that_is_out_of_order_is_asked_once(tmp_path):
    with http.server.HTTPServer(("127.0.0.1", 0), Broken) as server:
        server.asked = 0
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            done = run(KUBECONFIG=kubeconfig(tmp_path, f"http://127.0.0.1:{server.server_port}"))
        finally:
            server.shutdown()
            thread.join()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "check: cluster: GET /version: 503: no reason given\n"
    assert server.asked == 1
