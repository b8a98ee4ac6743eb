"""What is wrong is told where people look: on the workload, and in numbers for those who watch."""

import contextlib
import time

import pytest

from tests.apiserver.admission import CONFIGURATION, admission_barrier
from tests.apiserver.objects import is_injected, pod, workload
from tests.apiserver.targets import injected_pods, one_each
from tests.apiserver.waiting import eventually
from webhook import names
from webhook.names import EventReason

pytestmark = pytest.mark.usefixtures("kubelet", "injector")


@pytest.fixture(scope="module")
def reconciler_settings():
    # Pods without the exporter are not watched; a resync finds them.
    return {"resync_seconds": 2}


def events(api, namespace, reason):
    return [item for item in api.items("v1", "Event", namespace) if item["reason"] == reason]


def resynced(reconciler, count=2):
    before = len(reconciler.said("resync: done"))
    eventually("resyncs", lambda: len(reconciler.said("resync: done")) >= before + count)


def is_about(event, obj):
    involved = event["involvedObject"]
    return [involved.get(key) for key in ("apiVersion", "kind", "name", "namespace", "uid")] == [
        obj["apiVersion"],
        obj["kind"],
        *(obj["metadata"][key] for key in ("name", "namespace", "uid")),
    ]


def test_a_service_that_is_made_is_told_on_the_workload_once(api, kubectl, namespace, reconciler):
    created = api.create(workload("Deployment", namespace, inject="true"))
    [event] = eventually("an Event", lambda: events(api, namespace, EventReason.SERVICE_CREATED))
    assert is_about(event, created)
    assert event["type"] == "Normal"
    assert "web-metrics-sidecar" in event["message"]
    assert event["reportingComponent"] or event["source"].get("component")
    resynced(reconciler)
    assert len(events(api, namespace, EventReason.SERVICE_CREATED)) == 1
    # Where people look.
    assert EventReason.SERVICE_CREATED in kubectl("describe", "deployment", "web", "-n", namespace).stdout


@pytest.mark.parametrize("by", ["template", "namespace"])
def test_pods_that_were_made_while_the_webhook_was_away_are_told(
    api, make_namespace, reconciler, by, kubectl
):
    namespace = make_namespace({names.INJECT_LABEL: "true"} if by == "namespace" else None)
    before = reconciler.metric("uninjected_pods")
    label = {"template_inject": "true"} if by == "template" else {}
    with without_webhooks(api):
        created = api.create(workload("Deployment", namespace, replicas=2, **label))
        eventually("2 pods", lambda: len(api.items("v1", "Pod", namespace)) == 2)
    assert not any(is_injected(each) for each in api.items("v1", "Pod", namespace))

    eventually("the gauge", lambda: reconciler.metric("uninjected_pods") == before + 2)
    [event] = eventually("an Event", lambda: events(api, namespace, EventReason.NOT_INJECTED))
    assert is_about(event, created)
    assert event["type"] == "Warning"
    resynced(reconciler)
    # Repeated it may be, now and then, but not with each look.
    assert len(events(api, namespace, EventReason.NOT_INJECTED)) == 1

    done = kubectl("rollout", "restart", "deployment/web", "-n", namespace)
    assert done.returncode == 0, done.stderr
    eventually("new pods", lambda: len(injected_pods(api, namespace)) == 2)
    eventually("the gauge", lambda: reconciler.metric("uninjected_pods") == before)
    one_each(api, namespace)


@contextlib.contextmanager
def without_webhooks(api):
    """Have the API server call nobody inside."""
    stored = api.get(*CONFIGURATION, names.WEBHOOK)
    api.delete(*CONFIGURATION, names.WEBHOOK)
    admission_barrier(api)
    try:
        yield
    finally:
        for key in ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields"):
            stored["metadata"].pop(key, None)
        api.create(stored)
        admission_barrier(api)


def test_pods_that_cannot_have_the_exporter_are_not_missing_it(api, namespace, reconciler):
    """The injector said so when they were made; to say it again for ever helps nobody."""
    before = reconciler.metric("uninjected_pods")
    api.create(pod(namespace, "host", inject="true", hostNetwork=True))
    api.create(pod(namespace, "out", inject="false"))
    api.create(pod(namespace, "silent"))
    resynced(reconciler)
    assert reconciler.metric("uninjected_pods") == before
    assert not events(api, namespace, EventReason.NOT_INJECTED)


def test_the_numbers_are_right(api, namespace, reconciler):
    resynced(reconciler, 1)
    services, pods = reconciler.metric("services"), reconciler.metric("injected_pods")
    applied = reconciler.metric("writes_total", resource="services")
    api.create(workload("Deployment", namespace, inject="true", replicas=3))
    api.create(workload("StatefulSet", namespace, inject="true"))
    one_each(api, namespace, 4)
    eventually("the gauges", lambda: reconciler.metric("services") >= services + 1)
    eventually("the gauges", lambda: reconciler.metric("injected_pods") >= pods + 1)
    assert reconciler.metric("writes_total", resource="services") >= applied + 2
    assert reconciler.metric("leader") == 1
    eventually("an empty queue", lambda: reconciler.metric("queue_depth") == 0)
    assert reconciler.metric("errors_total") == 0


def test_the_gauges_count_what_is_there(api, namespace, reconciler):
    api.create(workload("Deployment", namespace, inject="true", replicas=3))
    one_each(api, namespace, 3)

    def agree():
        ours = api.items("v1", "Service", labels=f"{names.MANAGED_BY_LABEL}={names.MANAGED_BY}")
        pods = api.items("v1", "Pod", labels=f"{names.INJECTED_LABEL}=true")
        assert reconciler.metric("services") == len(ours)
        assert reconciler.metric("injected_pods") == len(pods)
        return True

    # Namespaces of other tests may be on their way out.
    eventually("the gauges to agree with the API server", agree, deadline=60)


def test_the_last_resync_is_dated(reconciler):
    resynced(reconciler, 1)
    assert time.time() - reconciler.metric("last_resync_timestamp_seconds") < 30


def test_probes_answer(reconciler):
    assert reconciler.get("/livez")[0] == 200
    assert reconciler.get("/readyz")[0] == 200
    assert reconciler.get("/nonsense")[0] == 404


def test_its_log_complains_of_what_is_wrong_and_of_nothing_else(reconciler):
    """After all of the above, and beside what tests before have left; every line of it is JSON."""
    said = [line["message"] for line in reconciler.complaints()]
    assert [line for line in said if "run without it" not in line and "is left alone" not in line] == []
