"""Whatever others do to our Services, they are right again in seconds, and nobody is fought."""

import threading
import time

import pytest

from tests.apiserver.client import ApiError
from tests.apiserver.objects import workload
from tests.apiserver.targets import one_each, services
from tests.apiserver.waiting import eventually
from webhook import names

pytestmark = pytest.mark.usefixtures("injector", "kubelet")

SERVICE = "v1", "Service", "web-metrics-sidecar"
# What a busy machine may take; what it took is printed.
DEADLINE = 20.0


@pytest.fixture
def web(api, namespace, reconciler):
    """The Service of a Deployment `web`, as it was made."""
    api.create(workload("Deployment", namespace, inject="true", replicas=2))
    one_each(api, namespace, 2)
    return api.get(*SERVICE, namespace)


def shape(service):
    """What of a Service is for us to keep."""
    metadata = service["metadata"]
    kept = {key: metadata.get(key) for key in ("labels", "annotations", "ownerReferences")}
    # Comes back with its successor, not with itself.
    return {**kept, "spec": service["spec"]}


def delete(api, service):
    api.delete(*SERVICE, service["metadata"]["namespace"])


def patched(patch, type_="merge"):
    def damage(api, service):
        api.patch(*SERVICE, patch, service["metadata"]["namespace"], type_=type_)

    return damage


def annotation(name, value):
    return patched({"metadata": {"annotations": {name: value}}})


def replaced_by_anothers(api, service):
    """Delete and create again, as `kubectl replace --force` does, with another selector."""
    namespace = service["metadata"]["namespace"]
    metadata = {**service["metadata"], "ownerReferences": []}
    for key in ("uid", "resourceVersion", "managedFields", "creationTimestamp"):
        metadata.pop(key)
    delete(api, service)
    api.create({**service, "metadata": metadata, "spec": {**service["spec"], "selector": {"app": "b"}}})
    assert api.get(*SERVICE, namespace)


DAMAGES = {
    "deleted": delete,
    "another selector": patched({"spec": {"selector": {"app": "other"}}}),
    "a wider selector": patched({"spec": {"selector": {names.WORKLOAD_LABEL: None}}}),
    "another port": patched([{"op": "replace", "path": "/spec/ports/0/port", "value": 80}], "json"),
    "another target port": patched(
        [{"op": "replace", "path": "/spec/ports/0/targetPort", "value": "metrics"}], "json"
    ),
    "no scrape": annotation(names.SCRAPE_ANNOTATION, None),
    "another path": annotation(names.SCRAPE_PATH_ANNOTATION, "/"),
    "another scraped port": annotation(names.SCRAPE_PORT_ANNOTATION, "80"),
    "not managed by us": patched({"metadata": {"labels": {names.MANAGED_BY_LABEL: None}}}),
    "managed by Helm": patched({"metadata": {"labels": {names.MANAGED_BY_LABEL: "Helm"}}}),
    "no owner": patched({"metadata": {"ownerReferences": None}}),
    "ready pods only": patched({"spec": {"publishNotReadyAddresses": False}}),
    "replaced": replaced_by_anothers,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_it_is_back_within_seconds(api, reconciler, web, damage, record_property, say):
    namespace = web["metadata"]["namespace"]
    DAMAGES[damage](api, web)
    start = time.monotonic()
    current = api.find(*SERVICE, namespace)
    assert current is None or shape(current) != shape(web)
    eventually("the Service to be back", lambda: matches(api, web), deadline=DEADLINE)
    seconds = time.monotonic() - start
    record_property("seconds", round(seconds, 2))
    say(f"{damage}: back after {seconds:.1f} s")
    one_each(api, namespace)
    assert [item["metadata"]["name"] for item in services(api, namespace)] == ["web-metrics-sidecar"]


def matches(api, wanted):
    found = api.find(*SERVICE, wanted["metadata"]["namespace"])
    assert found is not None, "no Service"
    assert shape(found) == shape(wanted)
    return True


def test_what_others_add_stays_and_is_not_fought(api, make_namespace, reconciler, web):
    namespace = web["metadata"]["namespace"]
    added = {"labels": {"team": "a"}, "annotations": {"example.test/note": "keep"}}
    api.patch(*SERVICE, {"metadata": added}, namespace)
    elsewhere = make_namespace()
    with reconciler.writing_nothing(namespace):
        # Once a later one has its Service, this one has been looked at.
        api.create(workload("Deployment", elsewhere, inject="true"))
        one_each(api, elsewhere)
    assert "team" in api.get(*SERVICE, namespace)["metadata"]["labels"]


def test_it_comes_back_with_what_others_added(api, reconciler, web):
    namespace = web["metadata"]["namespace"]
    added = {"labels": {"team": "a"}, "annotations": {"example.test/note": "keep"}}
    api.patch(*SERVICE, {"metadata": added, "spec": {"selector": {"app": "other"}}}, namespace)

    def mended():
        found = api.get(*SERVICE, namespace)
        assert found["spec"] == web["spec"]
        return found["metadata"]

    found = eventually("the selector to be back", mended, deadline=DEADLINE)
    assert found["labels"] == {**web["metadata"]["labels"], **added["labels"]}
    assert found["annotations"] == {**web["metadata"]["annotations"], **added["annotations"]}


@pytest.mark.parametrize("hostile", [False, True])
def test_someone_who_edits_it_all_the_time_is_answered_but_not_fought(
    api, reconciler, web, hostile, record_property, say
):
    """Another controller that thinks the Service is its own; hostile, it takes the fields over."""
    namespace = web["metadata"]["namespace"]
    end, edits = threading.Event(), []

    def edit():
        while not end.wait(0.2):
            wanted = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": SERVICE[2]}}
            wanted["metadata"]["namespace"] = namespace
            wanted["spec"] = {"selector": {"app": f"other-{len(edits)}"}}
            try:
                if hostile:
                    api.apply(wanted, manager="other", force=True)
                else:
                    api.patch(*SERVICE, {"spec": wanted["spec"]}, namespace)
            except ApiError:
                continue
            edits.append(time.monotonic())

    before, errors = len(reconciler.writes(namespace)), reconciler.metric("errors_total")
    thread = threading.Thread(target=edit, name="other")
    thread.start()
    time.sleep(10)  # that long
    end.set()
    thread.join()
    start = time.monotonic()
    # What was applied by another stays its own; only what we apply counts here.
    eventually("the Service to be right", lambda: selects(api, web), deadline=DEADLINE)
    seconds = time.monotonic() - start
    writes = len(reconciler.writes(namespace)) - before
    record_property("writes", writes)
    record_property("seconds", round(seconds, 2))
    say(f"{len(edits)} edits in 10 s: {writes} writes, right {seconds:.1f} s after the last edit")
    assert len(edits) > 20
    assert 1 <= writes <= len(edits) + 1
    assert reconciler.metric("errors_total") == errors


def selects(api, wanted):
    selector = api.get(*SERVICE, wanted["metadata"]["namespace"])["spec"]["selector"]
    assert selector == wanted["spec"]["selector"]
    return True
