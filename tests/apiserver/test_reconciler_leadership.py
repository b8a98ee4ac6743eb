"""Of two replicas one acts; whatever becomes of it, the other does soon, and never both."""

import contextlib
import itertools
import os
import signal
import time

import pytest

from tests.apiserver.objects import workload
from tests.apiserver.reconciler import LEASE
from tests.apiserver.targets import one_each, services
from tests.apiserver.waiting import eventually

pytestmark = pytest.mark.usefixtures("injector", "kubelet")

SERVICE = "v1", "Service", "web-metrics-sidecar"
TAKEOVER = 20.0
# What a busy machine may add.
SLACK = 10.0


@pytest.fixture
def replicas(make_reconciler):
    """Two of them, the one that leads first."""
    first = make_reconciler()
    first.wait_until_leading()
    second = make_reconciler()
    eventually("the second to stand by", lambda: second.said("election: standing by"))
    return first, second


def holder(api):
    lease = api.find(*LEASE)
    return lease["spec"].get("holderIdentity") if lease else None


def heals(api, namespace):
    """Delete the Service, and return after how many seconds it is there again."""
    start = time.monotonic()
    api.delete(*SERVICE, namespace)
    eventually("the Service to be back", lambda: api.find(*SERVICE, namespace), deadline=TAKEOVER + SLACK)
    return time.monotonic() - start


def taken_over(api, other, since, record_property, say, what):
    other.wait_until_leading(TAKEOVER + SLACK)
    seconds = time.monotonic() - since
    record_property("seconds", round(seconds, 2))
    say(f"{what}: the other one leads after {seconds:.1f} s")
    return seconds


def deploy(api, namespace):
    api.create(workload("Deployment", namespace, inject="true"))
    one_each(api, namespace)


def test_only_one_of_two_writes(api, namespace, replicas):
    first, second = replicas
    deploy(api, namespace)
    heals(api, namespace)
    assert (first.leads, second.leads) == (True, False)
    assert second.writes() == []
    assert first.writes(namespace)
    # Both are fit to be sent traffic and to be left alone: standing by is no fault.
    assert [each.get(path)[0] for each in replicas for path in ("/livez", "/readyz")] == [200] * 4


def test_when_the_leader_is_killed_the_other_takes_over(api, namespace, replicas, record_property, say):
    first, second = replicas
    deploy(api, namespace)
    start = time.monotonic()
    first.process.kill()
    api.delete(*SERVICE, namespace)
    taken_over(api, second, start, record_property, say, "killed")
    eventually("the Service to be back", lambda: api.find(*SERVICE, namespace))
    back = time.monotonic() - start
    say(f"killed: a Service deleted meanwhile is back after {back:.1f} s")
    one_each(api, namespace)


def test_a_leader_that_is_stopped_hands_over_at_once(api, namespace, replicas, record_property, say):
    first, second = replicas
    deploy(api, namespace)
    start = time.monotonic()
    code = first.process.stop()
    ended = time.monotonic() - start
    seconds = taken_over(api, second, start, record_property, say, f"stopped, ended in {ended:.1f} s")
    assert code == 0
    assert ended < 5 + SLACK
    # Sooner than the Lease would have run out.
    assert seconds < 10
    heals(api, namespace)
    assert first.crashes() == second.crashes() == []
    assert first.complaints() == []


def test_one_that_stands_by_ends_when_it_is_told_to(replicas):
    first, second = replicas
    start = time.monotonic()
    assert second.process.stop() == 0
    assert time.monotonic() - start < 5 + SLACK
    assert first.leads
    assert second.complaints() == []


@contextlib.contextmanager
def frozen(process):
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


def test_a_leader_that_was_frozen_steps_down_without_another_write(
    api, namespace, replicas, record_property, say
):
    first, second = replicas
    deploy(api, namespace)
    before = len(first.writes())
    start = time.monotonic()
    with frozen(first.process):
        # It was about to look at this one when it was frozen, for all that it knows.
        api.delete(*SERVICE, namespace)
        taken_over(api, second, start, record_property, say, "frozen")
        eventually("the Service to be back", lambda: api.find(*SERVICE, namespace))
        api.delete(*SERVICE, namespace)
        eventually("the Service to be back", lambda: api.find(*SERVICE, namespace))
        api.create(workload("Deployment", namespace, "later", inject="true"))
        eventually("the later Service", lambda: len(services(api, namespace)) == 2)
    eventually("the first to know", lambda: not first.leads, tolerate=(OSError,))
    assert second.leads
    one_each(api, namespace)
    heals(api, namespace)
    assert first.writes()[before:] == []
    assert second.leads
    assert not first.leads
    assert first.crashes() == []


def test_a_lease_that_is_deleted_is_made_again(api, namespace, replicas):
    deploy(api, namespace)
    api.delete(*LEASE)
    eventually("a Lease", lambda: holder(api))
    eventually("one leader", lambda: sorted(each.leads for each in replicas) == [False, True])
    heals(api, namespace)
    both_never(replicas)


def test_a_lease_that_someone_else_takes_is_respected(api, namespace, replicas, say):
    """An operator's way to have it pause; when it runs out, all goes on."""
    deploy(api, namespace)
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
    spec = {"holderIdentity": "somebody", "acquireTime": now, "renewTime": now, "leaseDurationSeconds": 8}
    start = time.monotonic()
    api.patch(*LEASE[:3], {"spec": spec}, LEASE[3])
    eventually("both to stand by", lambda: not any(each.leads for each in replicas), deadline=20)
    eventually("one to lead again", lambda: any(each.leads for each in replicas), deadline=40)
    say(f"someone else's Lease of 8 s: one leads again after {time.monotonic() - start:.1f} s")
    heals(api, namespace)
    both_never(replicas)


def both_never(replicas):
    """Check that no two of them wrote in turns, but each in one piece of time at most."""
    spans = sorted(
        (times[0], times[-1])
        for each in replicas
        if (
            times := [
                event["requestReceivedTimestamp"]
                for event in each.requests()
                if event["verb"] in ("create", "patch", "delete")
                and event["objectRef"]["resource"] == "services"
            ]
        )
    )
    assert all(earlier[1] < later[0] for earlier, later in itertools.pairwise(spans)), spans
