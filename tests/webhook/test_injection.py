"""What an injection keeps: everything."""

import contextlib
import copy
import json

import pytest
from hypothesis import given, settings

from tests.webhook import strategies
from webhook import identity, names
from webhook.config import Mode, Settings
from webhook.injection import NotAPodError, inject, mended, uninject

SETTINGS = Settings(image="example.test/metrics-sidecar:1")


def pod(**spec):
    return {"metadata": {"name": "web"}, "spec": {"containers": [{"name": "app"}], **spec}}


def subset(small, big):
    """Whether everything of one JSON value is in another, lists as beginnings."""
    if isinstance(small, dict):
        return isinstance(big, dict) and all(
            key in big and subset(item, big[key]) for key, item in small.items()
        )
    if isinstance(small, list):
        return isinstance(big, list) and len(small) <= len(big) and all(map(subset, small, big))
    return small is None or small == big


@given(strategies.pods)
def test_idempotent(seen):
    once = inject(seen, SETTINGS)
    assert inject(once, SETTINGS) == once


@given(strategies.pods)
def test_the_input_stays_as_it_was(seen):
    before = copy.deepcopy(seen)
    injected = inject(seen, SETTINGS)
    assert seen == before
    frozen = copy.deepcopy(injected)
    uninject(injected)
    assert injected == frozen


@given(strategies.pods)
def test_no_field_is_lost(seen):
    """Save for what is ours to write: a leftover of an earlier injection is overwritten."""
    kept = copy.deepcopy(seen)
    for key in ("labels", "annotations"):
        for mark in (names.INJECTED_LABEL, names.WORKLOAD_LABEL, names.STATUS_ANNOTATION):
            ((kept.get("metadata") or {}).get(key) or {}).pop(mark, None)
    assert subset(kept, inject(seen, SETTINGS))


@settings(max_examples=300)
@given(strategies.pods)
def test_uninject_is_the_exact_inverse(seen):
    undone = uninject(inject(seen, SETTINGS))
    assert undone == seen
    assert json.dumps(undone) == json.dumps(seen)  # the order of the keys as well


@given(strategies.pods)
def test_what_is_not_injected_is_left_alone(seen):
    assert uninject(seen) == seen


@given(strategies.hostile)
def test_what_is_no_pod_is_said_so_or_works(seen):
    for change in (lambda it: inject(it, SETTINGS), uninject):
        with contextlib.suppress(NotAPodError):
            json.dumps(change(seen))


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        ("web", "inject: str; expected an object"),
        ({}, "inject: spec; expected an object"),
        ({"spec": {"containers": []}}, "inject: spec.containers; expected a list of containers"),
        ({**pod(), "metadata": []}, "inject: metadata; expected an object"),
        ({**pod(), "metadata": {"labels": []}}, "inject: metadata.labels; expected an object"),
        ({**pod(), "metadata": {"labels": {"a": 1}}}, "inject: metadata.labels; expected strings in it"),
        (pod(initContainers={}), "inject: spec.initContainers; expected a list"),
    ],
)
def test_what_is_wrong_with_a_pod_is_said(seen, message):
    with pytest.raises(NotAPodError) as caught:
        inject(seen, SETTINGS)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "added", [["/spec"], ["/spec/containers"], ["/metadata/labels/app"], "/spec", [1], None]
)
def test_an_edited_status_undoes_nothing_but_ours(added):
    injected = inject(pod(), SETTINGS)
    injected["metadata"]["labels"]["app"] = "web"
    done = json.loads(injected["metadata"]["annotations"][names.STATUS_ANNOTATION])
    done |= {"added": added, "replaced": {"/spec/containers": [], "/spec": None}}
    injected["metadata"]["annotations"][names.STATUS_ANNOTATION] = json.dumps(done)
    undone = uninject(injected)
    assert undone["spec"] == pod()["spec"]
    assert undone["metadata"]["labels"]["app"] == "web"


def test_what_others_put_into_our_map_stays_when_we_leave():
    injected = inject(pod(), SETTINGS)
    injected["metadata"]["annotations"]["theirs"] = "1"
    assert uninject(injected)["metadata"]["annotations"] == {"theirs": "1"}


def test_the_names_of_all_sorts_of_containers_are_taken():
    taken = pod(
        containers=[{"name": "metrics"}],
        initContainers=[{"name": "metrics-sidecar"}],
        ephemeralContainers=[{"name": "metrics-sidecar-2"}],
    )
    assert inject(taken, SETTINGS)["spec"]["containers"][-1]["name"] == "metrics-sidecar-3"


@pytest.mark.parametrize(
    ("asked", "policy", "where"),
    [
        (Mode.AUTO, "Always", "containers"),
        (Mode.AUTO, None, "containers"),
        (Mode.AUTO, "Never", "initContainers"),
        (Mode.AUTO, "OnFailure", "initContainers"),
        (Mode.CONTAINER, "Never", "containers"),
        (Mode.NATIVE, "Always", "initContainers"),
    ],
)
def test_where_it_goes(asked, policy, where):
    injected = inject(pod(restartPolicy=policy), Settings(mode=asked))
    ours = injected["spec"][where][-1]
    assert ours["name"] == "metrics"
    assert ours.get("restartPolicy") == ("Always" if where == "initContainers" else None)


def test_a_workload_may_choose_for_itself():
    chosen = pod()
    chosen["metadata"]["annotations"] = {
        names.PORT_ANNOTATION: "9100",
        names.IMAGE_ANNOTATION: "example.test/other:2",
        names.CPU_ANNOTATION: "100m",
        names.MEMORY_ANNOTATION: "64Mi",
        names.MODE_ANNOTATION: "native",
    }
    [ours] = inject(chosen, SETTINGS)["spec"]["initContainers"]
    assert ours["image"] == "example.test/other:2"
    assert ours["env"][0] == {"name": "METRICS_SIDECAR_PORT", "value": "9100"}
    assert ours["ports"] == [{"name": "metrics-sidecar", "containerPort": 9100, "protocol": "TCP"}]
    assert ours["resources"]["requests"] == ours["resources"]["limits"] == {"cpu": "100m", "memory": "64Mi"}


def test_the_platform_may_choose_the_user():
    [_, ours] = inject(pod(), Settings(run_as_user=None))["spec"]["containers"]
    assert "runAsUser" not in ours["securityContext"]
    assert ours["securityContext"]["runAsNonRoot"] is True


def test_there_is_no_probe_and_no_volume():
    """A probe of ours could take the application down; a volume could keep it from starting."""
    injected = inject(pod(), SETTINGS)
    assert not {"livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "volumeMounts"} & set(
        injected["spec"]["containers"][-1]
    )
    assert "volumes" not in injected["spec"]


@pytest.mark.parametrize("annotation", sorted(names.DEFAULT_CONTAINER_ANNOTATIONS))
def test_a_default_container_that_was_chosen_stays(annotation):
    chosen = pod()
    chosen["metadata"]["annotations"] = {annotation: "other"}
    annotations = inject(chosen, SETTINGS)["metadata"]["annotations"]
    assert annotations[annotation] == "other"
    assert len(annotations.keys() & names.DEFAULT_CONTAINER_ANNOTATIONS) == 1


def test_a_pod_of_several_containers_gets_no_default():
    several = pod(containers=[{"name": "app"}, {"name": "log"}])
    assert names.DEFAULT_CONTAINER_ANNOTATION not in inject(several, SETTINGS)["metadata"]["annotations"]


def owned(kind, name, api_version="apps/v1", **labels):
    owner = {"apiVersion": api_version, "kind": kind, "name": name, "controller": True}
    return {
        "metadata": {"ownerReferences": [owner], "labels": labels},
        "spec": {"containers": [{"name": "app"}]},
    }


@pytest.mark.parametrize(
    ("seen", "workload"),
    [
        (owned("ReplicaSet", "web-5d8f", **{"pod-template-hash": "5d8f"}), "deployment.web"),
        (owned("ReplicaSet", "web-5d8f"), "replicaset.web-5d8f"),
        (
            owned("ReplicaSet", "web-77c", **{"rollouts-pod-template-hash": "77c"}),
            "rollout.argoproj.io.web",
        ),
        (owned("StatefulSet", "db"), "statefulset.db"),
        (owned("Job", "nightly-29000000", "batch/v1"), "cronjob.nightly"),
        (owned("Job", "once", "batch/v1"), "job.once"),
        (owned("CloneSet", "web", "apps.kruise.io/v1alpha1"), "cloneset.apps.kruise.io.web"),
        (pod(), "pod.web"),
        ({"metadata": {"generateName": "web-"}, "spec": {"containers": [{"name": "app"}]}}, None),
        (owned("StatefulSet", "d" * 80), identity.fit("statefulset." + "d" * 80)),
        (owned("StatefulSet", "not a name"), None),
    ],
)
def test_a_pod_says_whose_it_is(seen, workload):
    assert inject(seen, SETTINGS)["metadata"]["labels"].get(names.WORKLOAD_LABEL) == workload


def test_the_caller_may_know_better_whose_it_is():
    injected = inject(pod(), SETTINGS, workload="deployment.web")
    assert injected["metadata"]["labels"][names.WORKLOAD_LABEL] == "deployment.web"


def test_a_native_sidecar_that_lost_its_restart_policy_is_mended():
    injected = inject(pod(restartPolicy="Never"), SETTINGS)
    [ours] = injected["spec"]["initContainers"]
    broken = copy.deepcopy(injected)
    del broken["spec"]["initContainers"][0]["restartPolicy"]
    assert ours["restartPolicy"] == "Always"
    assert mended(broken) == injected


@given(strategies.pods)
def test_what_is_whole_is_not_mended(seen):
    injected = inject(seen, SETTINGS)
    assert mended(seen) is seen
    assert mended(injected) is injected
