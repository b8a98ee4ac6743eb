"""What the reconciler knows stays consistent, in whatever order it comes in; and whom a Service selects."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webhook import names
from webhook.identity import Reference
from webhook.reconciler.inventory import Inventory, ObjectKey, Pod, WorkloadKey, matches
from webhook.reconciler.selection import choose, port_of

WEB = WorkloadKey("shop", "apps", "Deployment", "web")
CANARY = WorkloadKey("shop", "apps", "Deployment", "web-canary")
INJECTED = {names.INJECTED_LABEL: names.TRUE}


def pod(name, owner="rs-1", port=9999, ending=False, namespace="shop", whose=None, **labels):
    labels = {**labels, **INJECTED} | ({names.WORKLOAD_LABEL: whose} if whose else {})
    made_by = Reference(namespace, "apps/v1", "ReplicaSet", owner, owner)
    return Pod(ObjectKey(namespace, name), f"uid-{name}", "1", labels, made_by, port, ending)


def inventory(*pods, **workloads):
    """An inventory of pods, with the workload behind each owner."""
    known = Inventory()
    for each in pods:
        known.put_pod(each)
        if each.owner.name.replace("-", "_") in workloads:
            known.assign(each.owner_key, workloads[each.owner.name.replace("-", "_")])
    return known


def test_an_injected_pod_is_taken_in_with_its_controller_and_its_port():
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "7", "controller": True}
    container = {"name": "metrics", "env": [{"name": names.PORT_ENV, "value": "9100"}]}
    status = '{"version":"0.1.0","mode":"container","port":9100,"container":"metrics"}'
    obj = {
        "metadata": {
            "name": "web-1-x",
            "namespace": "shop",
            "uid": "8",
            "resourceVersion": "9",
            "labels": INJECTED,
            "annotations": {names.STATUS_ANNOTATION: status},
            "ownerReferences": [owner],
        },
        "spec": {"containers": [{"name": "app"}, container]},
    }
    taken = Pod.of(obj, 9999)
    assert taken.port == 9100
    assert taken.owner == Reference("shop", "apps/v1", "ReplicaSet", "web-1", "7")
    assert not taken.ending


@pytest.mark.parametrize("labels", [{}, {names.INJECTED_LABEL: "false"}, None, "nonsense"])
def test_a_pod_without_the_label_is_not_taken_in(labels):
    assert Pod.of({"metadata": {"name": "web", "labels": labels}}, 9999) is None


def test_a_bare_pod_belongs_to_itself():
    taken = Pod.of({"metadata": {"name": "web", "namespace": "shop", "uid": "1", "labels": INJECTED}}, 9999)
    assert taken.owner == Reference("shop", "v1", "Pod", "web", "1")
    assert taken.port == 9999


_PODS = st.builds(
    pod,
    st.sampled_from("abcdef"),
    owner=st.sampled_from(["rs-1", "rs-2", "rs-3"]),
    namespace=st.sampled_from(["shop", "bank"]),
    app=st.sampled_from(["x", "y"]),
    tier=st.sampled_from(["1", "2"]),
)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), _PODS),
        st.tuples(st.just("drop"), _PODS),
        st.tuples(st.just("assign"), _PODS, st.sampled_from([WEB, CANARY])),
        st.tuples(st.just("expect"), st.sampled_from([WEB, CANARY]), st.sampled_from(["x", "y"])),
        st.tuples(st.just("forget"), st.sampled_from([WEB, CANARY])),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(_STEPS)
def test_the_indexes_say_what_a_look_at_everything_would(steps):
    known, workload_of, selectors = Inventory(), {}, {}
    for what, *which in steps:
        if what == "put":
            known.put_pod(which[0])
        elif what == "drop":
            known.drop_pod(which[0].key)
        elif what == "assign":
            known.assign(which[0].owner_key, which[1])
            workload_of[which[0].owner_key] = which[1]
        elif what == "expect":
            selectors[which[0]] = {"app": which[1]}
            known.expect(which[0], which[0].service, selectors[which[0]])
        else:
            known.forget(which[0])
            selectors.pop(which[0], None)
    everything = list(known.pods.values())
    for workload in (WEB, CANARY):
        mine = [each for each in everything if workload_of.get(each.owner_key) == workload]
        assert sorted(each.key for each in known.pods_of(workload)) == sorted(each.key for each in mine)
    for namespace, selector in itertools.product(
        ["shop", "bank"], [{"app": "x"}, {"app": "y", "tier": "1"}, {}]
    ):
        found = [
            each for each in everything if each.key.namespace == namespace and matches(selector, each.labels)
        ]
        assert sorted(p.key for p in known.selected(namespace, selector)) == sorted(p.key for p in found)
    for each in everything:
        expected = {
            workload
            for workload, selector in selectors.items()
            if workload.namespace == each.key.namespace and matches(selector, each.labels)
        }
        assert set(known.selecting(each)) == expected
    assert known.owners == {each.owner_key for each in everything}


def test_a_workloads_pods_that_are_being_deleted_count_only_while_there_are_no_others():
    old, new = pod("old", ending=True), pod("new")
    known = inventory(old, new, rs_1=WEB)
    assert known.pods_of(WEB) == [new]
    known.drop_pod(new.key)
    assert known.pods_of(WEB) == [old]


def test_a_service_selects_by_the_workloads_labels_and_by_the_one_that_the_injector_wrote():
    mine = [pod("a", app="web", whose="deployment.web"), pod("b", app="web", whose="deployment.web")]
    selector, exact = choose(WEB, {"app": "web"}, mine, inventory(*mine, rs_1=WEB))
    assert selector == {"app": "web", names.WORKLOAD_LABEL: "deployment.web", **INJECTED}
    assert exact


def test_a_canary_whose_labels_overlap_is_told_apart_from_its_stable_twin():
    stable = pod("a", "rs-1", app="web", whose="deployment.web")
    canary = pod("b", "rs-2", app="web", track="canary", whose="deployment.web-canary")
    known = inventory(stable, canary, rs_1=WEB, rs_2=CANARY)
    for workload, own, mine, other in (
        (WEB, {"app": "web"}, stable, canary),
        (CANARY, {"app": "web", "track": "canary"}, canary, stable),
    ):
        selector, exact = choose(workload, own, [mine], known)
        assert exact
        assert matches(selector, mine.labels)
        assert not matches(selector, other.labels)


def test_pods_that_the_workloads_labels_no_longer_select_are_found_all_the_same():
    mine = [pod("a", app="web", whose="deployment.web")]
    selector, exact = choose(WEB, {"app": "renamed"}, mine, inventory(*mine, rs_1=WEB))
    assert exact
    assert matches(selector, mine[0].labels)


def test_without_the_injectors_label_the_workloads_own_select():
    mine = [pod("a", app="web"), pod("b", app="web")]
    assert choose(WEB, {"app": "web"}, mine, inventory(*mine, rs_1=WEB)) == ({"app": "web", **INJECTED}, True)


def test_of_a_workload_that_is_known_by_name_only_its_pods_common_labels_select():
    mine = [pod("a", app="web", hash="1"), pod("b", app="web", hash="2")]
    assert choose(WEB, {}, mine, inventory(*mine, rs_1=WEB)) == ({"app": "web", **INJECTED}, True)


def test_pods_that_nothing_tells_apart_are_scraped_twice_rather_than_not_at_all():
    one, other = pod("a", "rs-1", app="web"), pod("b", "rs-2", app="web")
    known = inventory(one, other, rs_1=WEB, rs_2=CANARY)
    selector, exact = choose(WEB, {"app": "web"}, [one], known)
    assert matches(selector, one.labels)
    assert not exact


def test_pods_whose_workload_is_not_known_yet_change_nothing():
    mine, new = pod("a", app="web"), pod("b", "rs-2", app="web")
    assert choose(WEB, {"app": "web"}, [mine], inventory(mine, new, rs_1=WEB))[1]


def test_the_port_is_that_of_most_pods():
    assert port_of([pod("a"), pod("b", port=9100), pod("c", port=9100)]) == 9100
