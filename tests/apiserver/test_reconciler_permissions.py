"""Each process may do what it does, and nothing more."""

import contextlib

import pytest

from tests.apiserver import permissions
from tests.apiserver.admission import CONFIGURATION
from tests.apiserver.customkinds import custom, pod_of, replica_set
from tests.apiserver.injector import configuration
from tests.apiserver.objects import pod, workload
from tests.apiserver.permissions import granted, manifests, refused, uses
from tests.apiserver.reconciler import LEASE
from tests.apiserver.targets import one_each, services
from tests.apiserver.waiting import eventually
from webhook import names
from webhook.config import Settings
from webhook.identity import of_workload
from webhook.injection import inject

pytestmark = pytest.mark.usefixtures("kubelet", "custom_kinds")

SECRET = "v1", "Secret", names.CERTIFICATE_SECRET, names.OWN_NAMESPACE
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
        clone_set = api.create(custom("apps.kruise.io/v1alpha1", "CloneSet", namespace))
        api.create(inject(pod_of(clone_set), Settings(), of_workload(clone_set)))
        bare = pod(namespace, "bare", inject="true")
        api.create(inject(bare, Settings(), of_workload(bare)))
        api.create(pod(namespace, "missed", inject="true"))
        count = len(WORKLOADS) + 3
        found = one_each(api, namespace, count, deadline=60)
        assert len(set(found.values())) == count

        # Drift, and a certificate that is lost.
        first = services(api, namespace)[0]["metadata"]["name"]
        api.delete("v1", "Service", first, namespace)
        eventually("it to be back", lambda: api.find("v1", "Service", first, namespace))
        [lost] = [api.get(*SECRET)]
        api.patch(*SECRET[:3], {"data": {names.SERVING_CERTIFICATE: None}}, SECRET[3])
        eventually(
            "the certificate", lambda: names.SERVING_CERTIFICATE in api.get(*SECRET)["data"], deadline=60
        )
        assert lost

        # Opted out, while scaled to zero: it looks who still wants it.
        zero = [{"op": "replace", "path": "/spec/replicas", "value": 0}]
        api.patch("apps/v1", "StatefulSet", "web", zero, namespace, type_="json")
        template = {"metadata": {"labels": {names.INJECT_LABEL: None}}}
        opted_out = {"metadata": template["metadata"], "spec": {"template": template}}
        api.patch("apps/v1", "StatefulSet", "web", opted_out, namespace)
        eventually(
            "its Service to go",
            lambda: api.find("v1", "Service", "web-metrics-sidecar-statefulset", namespace) is None,
        )
        reconciler.process.stop()

    requests = reconciler.requests()
    assert refused(requests) == []
    rules = granted(manifests(), names.RECONCILER)
    assert rules
    unused = sorted(str(rule) for rule in rules if not any(uses(event, rule) for event in requests))
    assert unused == [], "granted, and never used"


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


def test_the_harness_tells_what_was_refused():
    assert permissions.refused([{"responseStatus": {"code": 403}}, {"responseStatus": {"code": 200}}])
