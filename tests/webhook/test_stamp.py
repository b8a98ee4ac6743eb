"""A workload's label is carried into its template, and taken away again: ours, never the user's."""

import copy

import pytest
from hypothesis import given

from tests.webhook import strategies
from webhook import names
from webhook.decision import Decision
from webhook.names import Action, Reason
from webhook.stamp import stamp
from webhook.workload import get, template_path


def deployment(label=None, template_label=None, *, kind="Deployment", path=("spec", "template"), **metadata):
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web"}]}}
    if template_label is not None:
        template["metadata"]["labels"][names.INJECT_LABEL] = template_label
    obj = template
    for key in reversed(path):
        obj = {key: obj}
    labels = {} if label is None else {names.INJECT_LABEL: label}
    return {"kind": kind, "metadata": {"name": "web", "labels": labels, **metadata}, **obj}


def relabelled(workload, label):
    workload = copy.deepcopy(workload)
    workload["metadata"]["labels"] = {} if label is None else {names.INJECT_LABEL: label}
    return workload


def stamped(workload):
    """The label and the record of the template."""
    meta = get(workload, template_path(workload))["metadata"]
    return meta["labels"].get(names.INJECT_LABEL), meta.get("annotations", {}).get(names.STAMPED_ANNOTATION)


@pytest.mark.parametrize("label", ["true", "false"])
def test_the_label_goes_into_the_template_and_out_again(label):
    labelled, decision = stamp(deployment(label))
    assert decision == Decision(Action.STAMP, Reason.STAMPED)
    assert stamped(labelled) == (label, label)
    back, decision = stamp(relabelled(labelled, None))
    assert decision == Decision(Action.UNSTAMP, Reason.UNSTAMPED)
    assert back == deployment()


def test_a_changed_label_changes_the_stamp():
    changed, decision = stamp(relabelled(stamp(deployment("true"))[0], "false"))
    assert decision.action is Action.STAMP
    assert stamped(changed) == ("false", "false")


@pytest.mark.parametrize("label", ["true", "false"])
@pytest.mark.parametrize("own", ["true", "false", "yes"])
def test_a_label_that_the_user_wrote_wins_and_stays(label, own):
    workload = deployment(label, own)
    assert stamp(workload) == (workload, Decision(Action.SKIP, Reason.TEMPLATE_DECIDES))
    alone = relabelled(workload, None)
    assert stamp(alone) == (alone, Decision(Action.SKIP, Reason.NOT_LABELLED))


def test_a_stamp_that_the_user_changed_is_his():
    labelled, _ = stamp(deployment("true"))
    get(labelled, ("spec", "template", "metadata"))["labels"][names.INJECT_LABEL] = "false"
    assert stamp(labelled)[1].reason is Reason.TEMPLATE_DECIDES
    alone = relabelled(labelled, None)
    assert stamp(alone)[0] == alone


def test_a_value_that_means_nothing_changes_nothing():
    labelled, _ = stamp(deployment("true"))
    strange = relabelled(labelled, "yes")
    assert stamp(strange) == (strange, Decision(Action.SKIP, Reason.LABEL_UNKNOWN))


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("Deployment", ("spec", "template")),
        ("StatefulSet", ("spec", "template")),
        ("DaemonSet", ("spec", "template")),
        ("ReplicaSet", ("spec", "template")),
        ("ReplicationController", ("spec", "template")),
        ("Job", ("spec", "template")),
        ("CronJob", ("spec", "jobTemplate", "spec", "template")),
        ("PodTemplate", ("template",)),
        ("Rollout", ("spec", "template")),
    ],
)
def test_every_kind_has_its_template_found(kind, path):
    workload = deployment("true", kind=kind, path=path)
    assert template_path(workload) == path
    assert stamped(stamp(workload)[0]) == ("true", "true")


def test_a_replicaset_that_a_controller_made_is_left_alone():
    owner = {"kind": "Deployment", "name": "web", "controller": True}
    workload = deployment("true", kind="ReplicaSet", ownerReferences=[owner])
    assert stamp(workload) == (workload, Decision(Action.SKIP, Reason.OWNED))


@pytest.mark.parametrize(
    "obj",
    [
        {"kind": "Service", "spec": {"selector": {}}},
        {"kind": "Secret", "spec": {"template": {"metadata": {}, "data": {}}}},
        {"kind": "Pod", "spec": {"containers": [{"name": "web"}]}},
        {"kind": "Deployment", "spec": {"template": {"spec": {"containers": []}}}},
        {"kind": "Deployment", "spec": {"template": {"metadata": [], "spec": {"containers": [{}]}}}},
    ],
)
def test_what_has_no_template_is_left_alone(obj):
    obj["metadata"] = {"labels": {names.INJECT_LABEL: "true"}}
    assert stamp(obj) == (obj, Decision(Action.SKIP, Reason.NO_TEMPLATE))


@given(strategies.hostile)
def test_it_never_raises_and_leaves_its_input(seen):
    before = copy.deepcopy(seen)
    once, _ = stamp(seen)
    assert seen == before
    assert stamp(once)[0] == once
