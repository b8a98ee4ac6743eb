"""One replica acts: the rules of the Lease, against a store that fails on demand."""

import asyncio
import copy

import pytest

from webhook.cluster import ClusterError
from webhook.reconciler import election
from webhook.reconciler.election import LEASE, RENEW, Lock, campaign


class Clock:
    """The monotonic clock of the module under test, set by hand."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(election.time, "monotonic", lambda: self.now)


class Store:
    """What a Cluster does with one Lease."""

    def __init__(self):
        self.lease = None
        self.version = 0
        self.broken = False
        self.writes = []

    async def get(self, _resource, _name, _namespace):
        self._fail()
        return copy.deepcopy(self.lease)

    async def create(self, _resource, lease):
        self._fail()
        if self.lease is not None:
            raise ClusterError("exists", 409, "AlreadyExists")
        self._store(lease)

    async def replace(self, _resource, lease):
        self._fail()
        if lease["metadata"]["resourceVersion"] != str(self.version):
            raise ClusterError("changed", 409, "Conflict")
        self._store(lease)

    def _fail(self):
        if self.broken:
            raise ClusterError("no answer")

    def _store(self, lease):
        self.version += 1
        self.lease = copy.deepcopy(lease)
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        self.writes.append(lease["spec"].get("holderIdentity"))


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def store():
    return Store()


def lock(store, identity):
    return Lock(store, "metrics-sidecar", "metrics-sidecar-reconciler", identity)


def gets(lock):
    return asyncio.run(lock.acquire_or_renew())


def test_the_first_that_comes_gets_it_and_keeps_it(clock, store):
    one, other = lock(store, "one"), lock(store, "other")
    assert gets(one)
    assert one.held
    for _ in range(30):
        clock.now += 2
        assert not gets(other)
        assert not other.held
        assert gets(one)
    assert store.lease["spec"]["leaseTransitions"] == 0


def test_a_leader_that_is_gone_is_replaced_when_its_lease_has_not_changed_for_its_duration(clock, store):
    one, other = lock(store, "one"), lock(store, "other")
    assert gets(one)
    assert not gets(other)
    clock.now += LEASE - 0.5
    assert not gets(other)
    clock.now += 1
    assert gets(other)
    assert store.lease["spec"]["holderIdentity"] == "other"
    assert store.lease["spec"]["leaseTransitions"] == 1


def test_the_clock_of_the_holder_does_not_matter(clock, store):
    one, other = lock(store, "one"), lock(store, "other")
    assert gets(one)
    store.lease["spec"]["renewTime"] = "1999-01-01T00:00:00.000000Z"
    assert not gets(other)


def test_who_cannot_renew_stops_before_another_may_begin(clock, store):
    one, other = lock(store, "one"), lock(store, "other")
    assert gets(one)
    assert not gets(other)
    clock.now += RENEW + 0.1
    assert not one.held
    assert not gets(other)


def test_who_was_frozen_finds_that_another_leads(clock, store):
    one, other = lock(store, "one"), lock(store, "other")
    assert gets(one)
    assert not gets(other)
    clock.now += LEASE + 1
    assert not one.held
    assert gets(other)
    assert not gets(one)
    assert not one.held


def test_of_two_that_want_a_free_lease_one_gets_it(clock, store):
    one, other = lock(store, "one"), lock(store, "other")

    async def both():
        return await asyncio.gather(one.acquire_or_renew(), other.acquire_or_renew(), return_exceptions=True)

    results = asyncio.run(both())
    assert results.count(True) == 1
    assert [one.held, other.held].count(True) == 1


@pytest.mark.parametrize("spec", [None, {}, {"holderIdentity": ""}, {"leaseDurationSeconds": 5}])
def test_a_lease_that_nobody_holds_is_free(clock, store, spec):
    store.lease = {"metadata": {"name": "x", "resourceVersion": "0"}, "spec": spec}
    assert gets(lock(store, "one"))


@pytest.mark.parametrize("seconds", [None, -1, 0, 10**9, "long"])
def test_a_duration_that_nobody_can_have_meant_is_not_waited_for(clock, store, seconds):
    held = {"holderIdentity": "gone", "leaseDurationSeconds": seconds}
    store.lease = {"metadata": {"name": "x", "resourceVersion": "0"}, "spec": held}
    one = lock(store, "one")
    assert not gets(one)
    clock.now += LEASE + 1
    assert gets(one)


def test_who_lets_go_is_replaced_at_once(clock, store):
    one, other = lock(store, "one"), lock(store, "other")
    assert gets(one)
    asyncio.run(one.release())
    assert not one.held
    assert gets(other)


def test_who_lets_go_of_what_another_has_by_now_changes_nothing(clock, store):
    one, other = lock(store, "one"), lock(store, "other")
    assert gets(one)
    assert not gets(other)
    clock.now += LEASE + 1
    assert gets(other)
    asyncio.run(one.release())
    assert store.lease["spec"]["holderIdentity"] == "other"


def test_letting_go_without_an_answer_is_no_error(clock, store):
    one = lock(store, "one")
    assert gets(one)
    store.broken = True
    asyncio.run(one.release())


def run_campaign(store, monkeypatch, seconds, lead):
    """Campaign for some seconds with everything a hundred times as fast; return what was said."""
    monkeypatch.setattr(election, "LEASE", 0.12)
    monkeypatch.setattr(election, "RENEW", 0.08)
    monkeypatch.setattr(election, "RETRY", 0.02)
    said = []

    async def main():
        await asyncio.wait_for(campaign(lock(store, "one"), lead, said.append), seconds)

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    return said


def test_leading_ends_when_the_lease_cannot_be_renewed_and_begins_again_when_it_can(store, monkeypatch):
    led = []

    async def lead():
        led.append("begin")
        asyncio.get_running_loop().call_later(0.05, setattr, store, "broken", len(led) == 1)
        asyncio.get_running_loop().call_later(0.3, setattr, store, "broken", False)
        try:
            await asyncio.Event().wait()
        finally:
            led.append("end")

    said = run_campaign(store, monkeypatch, 2, lead)
    assert led[:3] == ["begin", "end", "begin"]
    assert said[:4] == [False, True, False, True]
    assert store.writes[-1] is None  # it has let go


def test_a_fault_in_what_leads_is_handed_on_and_the_lease_let_go(store):
    async def lead():
        raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError):
        asyncio.run(campaign(lock(store, "one"), lead, lambda _: None))
    assert store.writes[-1] is None


def test_what_goes_wrong_with_the_lease_is_said_once_while_it_stays_the_same(store, monkeypatch, caplog):
    caplog.set_level("INFO")
    store.broken = True
    run_campaign(store, monkeypatch, 0.5, lambda: None)
    assert [record.getMessage() for record in caplog.records] == ["election: no answer"]
