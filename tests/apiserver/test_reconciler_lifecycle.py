"""Services come with the first injected pod, and go when nobody wants them any more."""

import subprocess
import sys

import pytest
import yaml

from tests.apiserver.namespaces import create_namespace
from tests.apiserver.objects import metadata, workload
from tests.apiserver.targets import injected_pods, one_each, services
from tests.apiserver.waiting import eventually
from webhook import names
from webhook.names import EventReason

pytestmark = pytest.mark.usefixtures("injector", "kubelet")

SERVICE = "v1", "Service", "web-metrics-sidecar"
DEPLOYMENT = "apps/v1", "Deployment", "web"


@pytest.fixture(scope="module")
def reconciler_settings():
    # What it deletes late, it deletes at a resync.
    return {"resync_seconds": 1}


def deploy(api, namespace, **options):
    created = api.create(workload("Deployment", namespace, **{"inject": "true", **options}))
    one_each(api, namespace)
    return created


def looked_at(api, reconciler, namespace, name="later"):
    """Wait until another workload, made now, has its Service: what was before has been seen by then."""
    api.create(workload("Deployment", namespace, name, inject="true"))
    wanted = f"{name}-metrics-sidecar"
    eventually("the later Service", lambda: api.find("v1", "Service", wanted, namespace))


def resynced(reconciler):
    """Wait until everything has been compared, from the beginning to the end."""
    before = len(reconciler.said("resync: done"))
    eventually("two resyncs", lambda: len(reconciler.said("resync: done")) >= before + 2)


# --- going -----------------------------------------------------------------------------------------------


def test_opting_out_takes_the_service_away_with_the_last_injected_pod(api, kubectl, namespace, reconciler):
    deploy(api, namespace, replicas=3)
    done = kubectl("label", "deployment/web", f"{names.INJECT_LABEL}-", "-n", namespace)
    assert done.returncode == 0, done.stderr

    def gone():
        # While there is one injected pod, there is its Service.
        pods, found = injected_pods(api, namespace), api.find(*SERVICE, namespace)
        assert found or not injected_pods(api, namespace), pods
        return found is None

    eventually("the Service to go", gone)
    assert len(api.items("v1", "Pod", namespace)) >= 3
    assert api.find(*DEPLOYMENT, namespace)


@pytest.mark.parametrize("value", ["false", None])
def test_opting_out_while_scaled_to_zero_takes_it_away(api, namespace, reconciler, value):
    deploy(api, namespace)
    api.patch(*DEPLOYMENT, {"spec": {"replicas": 0}}, namespace)
    eventually("no pods", lambda: not injected_pods(api, namespace))
    resynced(reconciler)
    assert api.find(*SERVICE, namespace), "scaled to zero it stays"
    api.patch(*DEPLOYMENT, {"metadata": {"labels": {names.INJECT_LABEL: value}}}, namespace)
    eventually("the Service to go", lambda: api.find(*SERVICE, namespace) is None)


def test_scaled_to_zero_it_stays(api, namespace, reconciler):
    """It may be an autoscaler's doing, every night; Services that come and go are churn for nothing."""
    deploy(api, namespace)
    before = api.get(*SERVICE, namespace)
    for replicas in (0, 2):
        api.patch(*DEPLOYMENT, {"spec": {"replicas": replicas}}, namespace)
        eventually("the pods", lambda wanted=replicas: len(injected_pods(api, namespace)) == wanted)
        resynced(reconciler)
    assert api.get(*SERVICE, namespace) == before


def test_opted_in_by_the_namespace_and_scaled_to_zero_it_stays(api, make_namespace, reconciler):
    namespace = make_namespace({names.INJECT_LABEL: "true"})
    deploy(api, namespace, inject=None)
    api.patch(*DEPLOYMENT, {"spec": {"replicas": 0}}, namespace)
    eventually("no pods", lambda: not injected_pods(api, namespace))
    resynced(reconciler)
    assert api.find(*SERVICE, namespace)
    api.patch("v1", "Namespace", namespace, {"metadata": {"labels": {names.INJECT_LABEL: None}}})
    eventually("the Service to go", lambda: api.find(*SERVICE, namespace) is None)


def test_without_its_workload_it_goes(api, namespace, reconciler):
    deploy(api, namespace)
    api.delete(*DEPLOYMENT, namespace)
    eventually("the Service to go", lambda: api.find(*SERVICE, namespace) is None)
    eventually("the pods to go", lambda: not api.items("v1", "Pod", namespace))
    resynced(reconciler)
    assert services(api, namespace) == []


def test_a_workload_made_again_has_its_own(api, namespace, reconciler):
    """At once, with the first one's pods still there: the Service must not stay with the first one's uid."""
    deploy(api, namespace)
    api.delete(*DEPLOYMENT, namespace)
    second = api.create(workload("Deployment", namespace, inject="true"))

    def owned():
        [reference] = api.get(*SERVICE, namespace)["metadata"]["ownerReferences"]
        return reference["uid"] == second["metadata"]["uid"]

    eventually("the second's Service", lambda: api.find(*SERVICE, namespace) and owned())
    eventually("the first's pods to go", lambda: len(api.items("v1", "Pod", namespace)) == 1)
    resynced(reconciler)
    assert owned()
    one_each(api, namespace)


def test_a_bare_pods_service_goes_with_it(api, namespace, reconciler):
    api.create(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata(namespace, "web", "true"),
            "spec": {"containers": [{"name": "app", "image": "example.test/app:1"}]},
        }
    )
    one_each(api, namespace)
    api.delete("v1", "Pod", "web", namespace)
    eventually("its Service to go", lambda: not services(api, namespace))


def test_a_finished_jobs_service_is_no_bother(api, namespace, reconciler):
    """Its pods are no endpoints any more; it goes with the Job."""
    api.create(workload("Job", namespace, inject="true"))
    one_each(api, namespace)
    [made] = api.items("v1", "Pod", namespace)
    state = {"status": {"phase": "Succeeded", "conditions": [{"type": "Ready", "status": "False"}]}}
    api.patch("v1", "Pod", made["metadata"]["name"], state, namespace, subresource="status")
    resynced(reconciler)
    with reconciler.writing_nothing(namespace):
        resynced(reconciler)
    api.delete("batch/v1", "Job", "web", namespace)
    eventually("its Service to go", lambda: not services(api, namespace))


# --- namespaces ------------------------------------------------------------------------------------------


def test_a_namespace_that_goes_is_let_go_and_may_come_again(api, make_namespace, reconciler):
    namespace = make_namespace()
    deploy(api, namespace, replicas=3)
    complaints, writes = len(reconciler.complaints()), len(reconciler.writes(namespace))
    api.delete("v1", "Namespace", namespace)
    eventually("the namespace to go", lambda: api.find("v1", "Namespace", namespace) is None, deadline=60)
    assert reconciler.complaints()[complaints:] == []
    # What is deleted there may be mended once before it is seen why.
    assert len(reconciler.writes(namespace)[writes:]) <= 3

    create_namespace(api, namespace)
    deploy(api, namespace)
    one_each(api, namespace)
    eventually("an empty queue", lambda: reconciler.metric("queue_depth") == 0)


# --- Services of others ----------------------------------------------------------------------------------


def foreign(namespace, **more):
    spec = {"selector": {"app": "x"}, "ports": [{"port": 80}]}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": SERVICE[2], "namespace": namespace},
        "spec": spec,
    } | more


def events(api, namespace, reason):
    return [item for item in api.items("v1", "Event", namespace) if item["reason"] == reason]


def test_a_service_of_others_by_that_name_is_left_alone_and_reported(api, namespace, reconciler):
    theirs = api.create(foreign(namespace))
    created = api.create(workload("Deployment", namespace, inject="true"))
    [event] = eventually("an Event", lambda: events(api, namespace, EventReason.SERVICE_FOREIGN))
    assert event["type"] == "Warning"
    assert SERVICE[2] in event["message"]
    involved = event["involvedObject"]
    assert (involved["kind"], involved["name"], involved["uid"]) == (
        "Deployment",
        "web",
        created["metadata"]["uid"],
    )
    eventually("the gauge", lambda: reconciler.metric("foreign_services") == 1)
    resynced(reconciler)
    assert api.get(*SERVICE, namespace) == theirs
    assert len(events(api, namespace, EventReason.SERVICE_FOREIGN)) == 1
    said = [line for line in reconciler.complaints() if namespace in str(line)]
    assert len(said) == 1, said

    # Theirs goes, ours comes.
    api.delete(*SERVICE, namespace)
    assert set(one_each(api, namespace).values()) == {SERVICE[2]}
    eventually("the gauge", lambda: reconciler.metric("foreign_services") == 0)


def test_what_inject_with_service_wrote_is_not_doubled(api, namespace, reconciler):
    """People who go from files to the webhook have both for a while."""
    given = yaml.safe_dump(workload("Deployment", namespace, inject="true"))
    done = subprocess.run(
        [sys.executable, "-m", "webhook", "inject", "--with-service", "-f", "-"],
        input=given,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    documents = list(yaml.safe_load_all(done.stdout))
    assert [item["kind"] for item in documents] == ["Deployment", "Service"]
    for document in documents:
        api.create(document)
    assert set(one_each(api, namespace).values()) == {SERVICE[2]}
    resynced(reconciler)
    assert len(services(api, namespace)) == 1
    one_each(api, namespace)
    assert not events(api, namespace, EventReason.SERVICE_FOREIGN)
