"""Where nothing changes, nothing is written, however often all of it is compared."""

import pytest

from tests.apiserver.objects import pod, workload
from tests.apiserver.targets import one_each
from tests.apiserver.waiting import eventually

pytestmark = pytest.mark.usefixtures("injector", "kubelet")

RESYNCS = 4


@pytest.fixture(scope="module")
def reconciler_settings():
    return {"resync_seconds": 1}


def resyncs(reconciler):
    return reconciler.said("resync: done")


def wait_for_resyncs(reconciler, count):
    before = len(resyncs(reconciler))
    eventually("resyncs", lambda: len(resyncs(reconciler)) >= before + count)
    return resyncs(reconciler)[before:]


def test_a_resync_without_changes_writes_nothing(api, namespace, reconciler):
    for kind in ("Deployment", "StatefulSet", "ReplicaSet", "Job", "ReplicationController"):
        api.create(workload(kind, namespace, inject="true"))
    api.create(pod(namespace, inject="true"))
    assert len(set(one_each(api, namespace, 6).values())) == 6
    wait_for_resyncs(reconciler, 2)
    stored = api.items("v1", "Service", namespace)
    with reconciler.writing_nothing():
        lines = wait_for_resyncs(reconciler, RESYNCS)
    assert [line["writes"] for line in lines] == [0] * len(lines)
    assert api.items("v1", "Service", namespace) == stored
    assert reconciler.complaints() == []


def test_pods_that_become_ready_and_move_cost_no_writes(api, namespace, reconciler):
    api.create(workload("Deployment", namespace, inject="true", replicas=3))
    one_each(api, namespace, 3)
    wait_for_resyncs(reconciler, 1)
    with reconciler.writing_nothing(namespace):
        for made in api.items("v1", "Pod", namespace):
            state = {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}
            api.patch("v1", "Pod", made["metadata"]["name"], state, namespace, subresource="status")
            api.delete("v1", "Pod", made["metadata"]["name"], namespace)
        one_each(api, namespace, 3)
        wait_for_resyncs(reconciler, 2)
