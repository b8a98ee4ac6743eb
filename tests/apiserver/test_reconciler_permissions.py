"""Each process may do what it does, and nothing more."""

import base64
import contextlib

import pytest

from tests.apiserver.admission import CONFIGURATION
from tests.apiserver.client import ApiError
from tests.apiserver.customkinds import KINDS, custom, owned, pod_of, replica_set
from tests.apiserver.injector import configuration
from tests.apiserver.objects import pod, workload
from tests.apiserver.permissions import granted, manifests, refused, uses
from tests.apiserver.reconciler import ACCOUNT, LEASE, described
from tests.apiserver.targets import one_each, services
from tests.apiserver.waiting import eventually
from webhook import names
from webhook.config import Settings
from webhook.identity import Reference, of_workload
from webhook.injection import inject

pytestmark = pytest.mark.usefixtures("kubelet", "custom_kinds")

SECRET = "v1", "Secret", names.CERTIFICATE_SECRET, names.OWN_NAMESPACE
KRUISE_ALPHA, KRUISE_BETA = "apps.kruise.io/v1alpha1", "apps.kruise.io/v1beta1"
WORKLOADS = (
    "Deployment",
    "StatefulSet",
    "ReplicaSet",
    "ReplicationController",
    "Job",
    "CronJob",
    "DaemonSet",
)


@pytest.fixture
def webhooks(api):
    """The configuration as it is applied, without a CA bundle; nobody listens where it leads."""
    created = api.create(configuration())
    yield created
    api.delete(*CONFIGURATION, created["metadata"]["name"])


def injected(workload):
    """Have each pod of a workload made injected: what the webhook would do, which is not there."""
    template = workload["spec"].get("jobTemplate", workload)["spec"]["template"]
    made = inject(template, Settings(), of_workload(workload))
    template |= made
    return workload


def test_what_the_reconciler_may_do_is_what_it_does(api, kubectl, namespace, webhooks, make_reconciler):
    """A whole life: start, certificates, each kind of workload, drift, a foreign Service, and opting out."""
    reconciler = make_reconciler(certificates="true", resync_seconds=2)
    reconciler.wait_until_leading()
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: api.find(*SECRET) and api.delete(*SECRET))
        node = api.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": namespace}})
        stack.callback(api.delete, "v1", "Node", node["metadata"]["name"])
        eventually("certificates", lambda: api.find(*SECRET), deadline=60)
        eventually("the CA bundle", lambda: bundles(api))

        for kind in WORKLOADS:
            api.create(injected(workload(kind, namespace, inject="true")))
        done = kubectl("create", "job", "web-29000000", "--from=cronjob/web", "-n", namespace)
        assert done.returncode == 0, done.stderr
        rollout = api.create(custom("argoproj.io/v1alpha1", "Rollout", namespace))
        api.create(injected(replica_set(rollout)))
        for api_version, kind in (
            (KRUISE_ALPHA, "CloneSet"),
            (KRUISE_ALPHA, "DaemonSet"),
            (KRUISE_BETA, "StatefulSet"),
        ):
            made = api.create(custom(api_version, kind, namespace))
            api.create(inject(pod_of(made, kind.lower()), Settings(), of_workload(made)))
        config = api.create(custom("apps.openshift.io/v1", "DeploymentConfig", namespace))
        version = injected(workload("ReplicationController", namespace, "web-1", inject="true"))
        version["metadata"]["ownerReferences"] = owned(config)
        api.create(version)
        bare = pod(namespace, "bare", inject="true")
        api.create(inject(bare, Settings(), of_workload(bare)))
        api.create(pod(namespace, "missed", inject="true"))
        count = len(WORKLOADS) + len(KINDS)
        found = one_each(api, namespace, count, deadline=60)
        assert len(set(found.values())) == count

        # Drift, and a certificate that is lost.
        first = services(api, namespace)[0]["metadata"]["name"]
        api.delete("v1", "Service", first, namespace)
        eventually("it to be back", lambda: api.find("v1", "Service", first, namespace))
        kept = api.get(*SECRET)["data"][names.SERVING_CERTIFICATE]
        broken = base64.b64encode(b"broken").decode()
        api.patch(*SECRET[:3], {"data": {names.SERVING_CERTIFICATE: broken}}, SECRET[3])
        eventually("another", lambda: certificate(api) not in (kept, broken), deadline=60)

        # Somebody else's Service in the way.
        spec = {"selector": {"app": "x"}, "ports": [{"port": 80}]}
        theirs = {"name": "other-metrics-sidecar", "namespace": namespace}
        api.create({"apiVersion": "v1", "kind": "Service", "metadata": theirs, "spec": spec})
        api.create(injected(workload("Deployment", namespace, "other", inject="true")))
        eventually("it to be told", lambda: reconciler.metric("foreign_services") == 1)

        # Opted out while scaled to nothing: it looks whether somebody still wants the Service.
        zero = custom("apps.kruise.io/v1alpha1", "CloneSet", namespace, "zero")
        zero["spec"]["template"]["metadata"]["labels"][names.INJECT_LABEL] = "true"
        zero = api.create(zero)
        made = api.create(inject(pod_of(zero), Settings(), of_workload(zero)))
        service = "v1", "Service", Reference.of(zero).service_name, namespace
        eventually("its Service", lambda: api.find(*service))
        api.delete("v1", "Pod", made["metadata"]["name"], namespace)
        template = {"metadata": {"labels": {names.INJECT_LABEL: None}}}
        api.patch(zero["apiVersion"], "CloneSet", "zero", {"spec": {"template": template}}, namespace)
        eventually("its Service to go", lambda: not api.find(*service))
        reconciler.process.stop()

    requests = reconciler.requests()
    assert refused(requests) == []
    rules = granted(manifests(), names.RECONCILER)
    assert rules
    unused = sorted(str(rule) for rule in rules if not any(uses(event, rule) for event in requests))
    assert unused == [], "granted, and never used"


def certificate(api):
    return api.get(*SECRET)["data"][names.SERVING_CERTIFICATE]


def bundles(api):
    stored = api.get(*CONFIGURATION, names.WEBHOOK)
    return all(webhook["clientConfig"].get("caBundle") for webhook in stored["webhooks"])


def test_the_admission_process_may_do_nothing(accounts, api, injector, namespace):
    assert granted(manifests(), names.WEBHOOK) == set()
    account = f"system:serviceaccount:{names.OWN_NAMESPACE}:{names.WEBHOOK}"
    for resource in ("pods", "secrets", "configmaps"):
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "metadata": {},
            "spec": {
                "user": account,
                "groups": ["system:serviceaccounts", "system:authenticated"],
                "resourceAttributes": {"verb": "get", "resource": resource, "namespace": names.OWN_NAMESPACE},
            },
        }
        assert api.create(review)["status"]["allowed"] is False


def test_the_admission_process_asks_the_api_server_for_nothing(control_plane, api, injector, namespace):
    """It has no kubeconfig and no token; and nobody who is not known asks for anything in its stead."""
    api.create(pod(namespace, inject="true"))
    account = f"system:serviceaccount:{names.OWN_NAMESPACE}:{names.WEBHOOK}"
    assert control_plane.audit_events(account) == []


def test_only_the_reconcilers_lease_and_secret_are_its_own():
    """In its own namespace, too, it reads no Secret but the one it keeps."""
    rules = granted(manifests(), names.RECONCILER)
    kept = {"secrets": names.CERTIFICATE_SECRET, "leases.coordination.k8s.io": LEASE[2]}
    for rule in rules:
        if rule.resource in kept:
            assert rule.namespace == names.OWN_NAMESPACE
            assert rule.name == (None if rule.verb == "create" else kept[rule.resource])
        if rule.resource.startswith("mutatingwebhookconfigurations"):
            assert rule.name == names.WEBHOOK
        assert "*" not in f"{rule.verb}{rule.resource}"


def test_the_manifests_permissions_are_those_that_the_tests_ran_with(api, accounts):
    for document in manifests():
        if "rules" in document:
            where = document["metadata"].get("namespace")
            stored = api.get(document["apiVersion"], document["kind"], document["metadata"]["name"], where)
            assert stored["rules"] == document["rules"]


def test_the_harness_would_see_a_refusal(control_plane, accounts):
    """Else an empty list of refusals would prove nothing."""
    kubeconfig = control_plane.service_account_kubeconfig(names.OWN_NAMESPACE, names.RECONCILER)
    with control_plane.client(kubeconfig) as reconciler, pytest.raises(ApiError, match="forbidden"):
        reconciler.items("v1", "ConfigMap", "kube-system")
    assert "list configmaps kube-system" in map(described, refused(control_plane.audit_events(ACCOUNT)))
