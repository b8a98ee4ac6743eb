"""One label on a workload reaches its pods, and leaves them again, with the real controllers at work."""

import contextlib
import json

import pytest
import yaml

from tests.apiserver.client import ApiError
from tests.apiserver.objects import (
    API_VERSIONS,
    containers,
    exporters,
    is_injected,
    metadata,
    pod,
    stamp,
    template,
    workload,
)
from tests.apiserver.waiting import eventually
from webhook import names
from webhook.names import Reason

LABEL = names.INJECT_LABEL
STAMPED = ("true", "true")
UNSTAMPED = (None, None)
KINDS = sorted(API_VERSIONS.keys() - {"Pod"})
# Their pods are made by a controller; a PodTemplate's are not.
CONTROLLED = sorted(API_VERSIONS.keys() - {"Pod", "PodTemplate", "CronJob", "DaemonSet"})
MUTABLE = sorted(API_VERSIONS.keys() - {"Pod", "Job"})


def reread(api, obj):
    return api.get(
        obj["apiVersion"], obj["kind"], obj["metadata"]["name"], obj["metadata"].get("namespace", "default")
    )


def relabel(api, obj, value):
    """What `kubectl label` sends; None takes the label away."""
    patch = {"metadata": {"labels": {LABEL: value}}}
    return api.patch(
        obj["apiVersion"], obj["kind"], obj["metadata"]["name"], patch, obj["metadata"]["namespace"]
    )


def pods(api, namespace):
    return [item for item in api.items("v1", "Pod", namespace) if "deletionTimestamp" not in item["metadata"]]


def make_ready(api, made):
    """Do the kubelet's part, without which no rollout goes on."""
    ready = [{"type": "Ready", "status": "True"}]
    if made.get("status", {}).get("conditions") != ready:
        name, namespace = made["metadata"]["name"], made["metadata"]["namespace"]
        status = {"status": {"phase": "Running", "conditions": ready}}
        with contextlib.suppress(ApiError):  # it may be gone by now
            api.patch("v1", "Pod", name, status, namespace, subresource="status")


def eventually_pods(api, namespace, *, injected, count=1):
    """Wait for that many pods, all with the exporter or all without, and return them."""

    def condition():
        found = pods(api, namespace)
        for made in found:
            make_ready(api, made)
        return [is_injected(item) for item in found] == [injected] * count and found

    return eventually(f"{count} pods, injected: {injected}", condition)


# --- pods of workloads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONTROLLED)
def test_pods_of_a_labelled_workload_have_the_exporter(api, controllers, namespace, injector, kind):
    api.create(workload(kind, namespace, inject="true"))
    assert api.warnings == []
    [made] = eventually_pods(api, namespace, injected=True)
    native = kind == "Job"
    assert containers(made) == (["app"] if native else ["app", "metrics"])
    assert exporters(made)[0].get("restartPolicy") == ("Always" if native else None)
    # What its Service will select by: the workload, not what stands between.
    assert made["metadata"]["labels"][names.WORKLOAD_LABEL] == f"{kind.lower()}.web"


@pytest.mark.parametrize("kind", CONTROLLED)
def test_pods_of_an_unlabelled_workload_are_not_even_sent(api, controllers, namespace, injector, kind):
    with injector.unasked(namespace):
        created = api.create(workload(kind, namespace))
        eventually_pods(api, namespace, injected=False)
    assert stamp(created) == UNSTAMPED


def test_pods_of_a_labelled_daemon_set_have_the_exporter(api, controllers, make_namespace, injector):
    namespace = make_namespace()
    node = api.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": namespace}})
    try:
        daemon_set = workload("DaemonSet", namespace, inject="true")
        api.create(daemon_set)
        [made] = eventually_pods(api, namespace, injected=True)
        assert made["metadata"]["labels"][names.WORKLOAD_LABEL] == "daemonset.web"
        relabel(api, daemon_set, None)
        assert stamp(reread(api, daemon_set)) == UNSTAMPED
    finally:
        api.delete("v1", "Node", node["metadata"]["name"])


def test_jobs_of_a_labelled_cron_job_have_a_native_sidecar(api, controllers, kubectl, namespace, injector):
    created = api.create(workload("CronJob", namespace, inject="true"))
    assert stamp(created) == STAMPED
    done = kubectl("create", "job", "web-29000000", "--from=cronjob/web", "-n", namespace)
    assert done.returncode == 0, done.stderr
    [made] = eventually_pods(api, namespace, injected=True)
    assert containers(made) == ["app"]
    assert exporters(made)[0]["restartPolicy"] == "Always"
    assert made["metadata"]["labels"][names.WORKLOAD_LABEL] == "cronjob.web"


# --- the label comes and goes ----------------------------------------------------------------------------


def test_kubectl_label_rolls_a_deployment_out_and_back(api, controllers, kubectl, namespace, injector):
    deployment = api.create(workload("Deployment", namespace, replicas=2))
    eventually_pods(api, namespace, injected=False, count=2)

    def label(value):
        done = kubectl("label", "deployment", "web", value, "-n", namespace)
        assert (done.returncode, done.stderr) == (0, "")

    label(f"{LABEL}=true")
    labelled = reread(api, deployment)
    assert stamp(labelled) == STAMPED
    eventually_pods(api, namespace, injected=True, count=2)

    label(f"{LABEL}-")
    bare = reread(api, deployment)
    assert template(bare) == template(deployment)
    eventually_pods(api, namespace, injected=False, count=2)
    # To the template as it was belongs the ReplicaSet as it was: there and back made two, not three.
    assert len(api.items("apps/v1", "ReplicaSet", namespace)) == 2


@pytest.mark.parametrize("kind", MUTABLE)
def test_the_label_comes_and_goes_and_leaves_no_trace(api, namespace, injector, kind):
    created = api.create(workload(kind, namespace))
    assert stamp(created) == UNSTAMPED
    before = template(created)
    assert stamp(relabel(api, created, "true")) == STAMPED
    assert api.warnings == []
    assert stamp(relabel(api, created, "false")) == ("false", "false")
    assert template(relabel(api, created, None)) == before
    assert api.warnings == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_workload_that_is_created_with_the_label_is_stamped(api, namespace, injector, kind):
    created = api.create(workload(kind, namespace, inject="true"))
    assert stamp(created) == STAMPED
    assert api.warnings == []
    assert containers({"spec": template(created)["spec"]}) == ["app"]
    assert Reason.STAMPED in injector.reviews(namespace, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_an_unlabelled_workload_is_not_even_sent(api, namespace, injector, kind):
    with injector.unasked(namespace):
        created = api.create(workload(kind, namespace))
        patch = {"metadata": {"labels": {"team": "a"}}}
        api.patch(created["apiVersion"], kind, "web", patch, namespace)
    assert stamp(created) == UNSTAMPED


def test_a_dry_run_stamps_in_the_answer_only(api, kubectl, namespace, injector):
    deployment = api.create(workload("Deployment", namespace, replicas=0))
    patch = json.dumps({"metadata": {"labels": {LABEL: "true"}}})
    command = ("patch", "deployment", "web", "-p", patch, "--dry-run=server", "-o", "json", "-n", namespace)
    shown = json.loads(kubectl(*command).stdout)
    assert stamp(shown) == STAMPED
    assert stamp(reread(api, deployment)) == UNSTAMPED


def test_a_job_that_runs_can_be_labelled_and_stays_as_it_is(api, namespace, injector):
    """The template of a Job never changes: a stamp would have the API server refuse the label."""
    job = api.create(workload("Job", namespace))
    with injector.unasked(namespace):
        labelled = relabel(api, job, "true")
    assert labelled["metadata"]["labels"][LABEL] == "true"
    assert template(labelled) == template(job)


def test_a_labelled_job_keeps_its_stamp_when_its_label_goes(api, namespace, injector):
    job = api.create(workload("Job", namespace, inject="true"))
    assert stamp(job) == STAMPED
    assert stamp(relabel(api, job, None)) == STAMPED


# --- who wins --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("namespace_label", "workload_label", "template_label", "injected", "reason"),
    [
        ("true", None, None, True, None),
        ("true", "false", None, False, Reason.STAMPED),
        ("false", "true", None, True, Reason.STAMPED),
        ("true", None, "false", False, None),
        ("false", "false", "true", True, Reason.TEMPLATE_DECIDES),
        ("true", "true", "false", False, Reason.TEMPLATE_DECIDES),
        (None, None, "true", True, None),
    ],
)
def test_the_pod_wins_over_the_workload_and_the_workload_over_the_namespace(
    api,
    controllers,
    make_namespace,
    injector,
    namespace_label,
    workload_label,
    template_label,
    injected,
    reason,
):
    namespace = make_namespace({LABEL: namespace_label} if namespace_label else None)
    labels = {"inject": workload_label, "template_inject": template_label}
    api.create(workload("StatefulSet", namespace, **labels))
    disagree = workload_label and template_label and workload_label != template_label
    assert api.warnings == (
        [f"metrics-sidecar: {LABEL}={workload_label} has no effect here, {reason.sentence}"]
        if disagree
        else []
    )
    eventually_pods(api, namespace, injected=injected)
    assert injector.reviews(namespace, "StatefulSet")[:1] == ([reason] if reason else [])


def test_a_label_in_the_template_that_somebody_wrote_stays_when_the_workloads_goes(api, namespace, injector):
    created = api.create(workload("Deployment", namespace, inject="true", template_inject="true", replicas=0))
    assert stamp(created) == ("true", None)
    assert stamp(relabel(api, created, None)) == ("true", None)


# --- what is said ----------------------------------------------------------------------------------------


def warned(result):
    """The lines that kubectl wrote on stderr, without its prefix."""
    assert result.returncode == 0, result.stderr
    return [line.removeprefix("Warning: ") for line in result.stderr.splitlines()]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"pod_spec": {"hostNetwork": True}}, f"its pods: not injected, {Reason.HOST_NETWORK.sentence}"),
        ({"pod_spec": {"os": {"name": "windows"}}}, f"its pods: not injected, {Reason.WINDOWS.sentence}"),
        (
            {"template_annotations": {names.PORT_ANNOTATION: "web"}},
            f"{names.PORT_ANNOTATION}='web' is ignored; expected 1..65535; 9999 is used",
        ),
        (
            {"annotations": {names.PORT_ANNOTATION: "9998"}},
            f"{names.PORT_ANNOTATION} is not read here; it belongs on the pod template",
        ),
    ],
)
def test_who_labels_a_workload_is_told_what_its_pods_will_lack(
    api, kubectl, namespace, injector, fields, sentence
):
    """The warnings of its pods' own reviews reach only the controller that makes them."""
    api.create(workload("Deployment", namespace, replicas=0, **fields))
    assert api.warnings == []
    done = kubectl("label", "deployment", "web", f"{LABEL}=true", "-n", namespace)
    assert warned(done) == [f"metrics-sidecar: {sentence}"]
    # Once: whoever only scales or annotates it later has heard enough.
    assert warned(kubectl("annotate", "deployment", "web", "a=b", "-n", namespace)) == []


def test_a_label_with_another_value_does_nothing_and_is_said_so(api, kubectl, namespace, injector):
    deployment = api.create(workload("Deployment", namespace, replicas=0))
    done = kubectl("label", "deployment", "web", f"{LABEL}=yes", "-n", namespace)
    assert warned(done) == [f"metrics-sidecar: nothing to do, {Reason.LABEL_UNKNOWN.sentence}"]
    assert template(reread(api, deployment)) == template(deployment)


# --- left alone ------------------------------------------------------------------------------------------


def test_replica_sets_of_a_deployment_are_left_alone(api, controllers, namespace, injector):
    """One with another template would no longer be its Deployment's, which would make another, for ever."""
    deployment = api.create(workload("Deployment", namespace, inject="true"))
    eventually_pods(api, namespace, injected=True)
    [replica_set] = api.items("apps/v1", "ReplicaSet", namespace)
    assert stamp(replica_set) == STAMPED  # by its Deployment
    changed = relabel(api, replica_set, "false")
    assert template(changed) == template(replica_set)
    assert api.warnings == []
    assert set(injector.reviews(namespace, "ReplicaSet")) == {Reason.OWNED}
    # The controller has seen all of this, made one ReplicaSet, and has nothing left to do.
    current = reread(api, deployment)
    assert len(api.items("apps/v1", "ReplicaSet", namespace)) == 1
    assert current["metadata"]["generation"] == deployment["metadata"]["generation"]


def test_scale_and_status_are_not_even_sent(api, kubectl, namespace, injector):
    # Paused, no controller writes to it but its status.
    created = api.create(workload("Deployment", namespace, inject="true", replicas=0, paused=True))
    with injector.unasked(namespace):
        assert kubectl("scale", "deployment", "web", "--replicas=3", "-n", namespace).returncode == 0
        status = {"status": {"observedGeneration": 2, "unavailableReplicas": 3}}
        api.patch("apps/v1", "Deployment", "web", status, namespace, subresource="status")
    changed = reread(api, created)
    assert changed["spec"]["replicas"] == 3
    assert template(changed) == template(created)


def test_kubectl_commands_on_a_labelled_deployment_keep_its_stamp(
    api, controllers, kubectl, namespace, injector
):
    deployment = api.create(workload("Deployment", namespace, inject="true"))
    eventually_pods(api, namespace, injected=True)
    for command in (
        ("set", "image", "deployment/web", "app=example.test/app:2"),
        ("set", "env", "deployment/web", "A=B"),
        ("rollout", "restart", "deployment/web"),
        ("rollout", "undo", "deployment/web"),
    ):
        done = kubectl(*command, "-n", namespace)
        assert (done.returncode, done.stderr) == (0, "")
        assert stamp(reread(api, deployment)) == STAMPED
    eventually_pods(api, namespace, injected=True)


def test_undoing_a_rollout_does_not_undo_the_label(api, controllers, kubectl, namespace, injector):
    """The label on the Deployment says what is wanted; the revision before had no stamp."""
    deployment = api.create(workload("Deployment", namespace))
    eventually_pods(api, namespace, injected=False)
    relabel(api, deployment, "true")
    eventually_pods(api, namespace, injected=True)
    kubectl("rollout", "undo", "deployment/web", "-n", namespace)
    assert stamp(reread(api, deployment)) == STAMPED
    eventually_pods(api, namespace, injected=True)


# --- applied again and again -----------------------------------------------------------------------------


def managers(obj):
    return {entry["manager"] for entry in obj["metadata"]["managedFields"]}


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "CronJob"])
@pytest.mark.parametrize("how", ["--server-side=false", "--server-side"])
def test_applying_a_labelled_manifest_again_changes_nothing(api, kubectl, namespace, injector, kind, how):
    """No drift for GitOps: as its manifest says nothing of the stamp, the stamp is no difference."""
    wanted = workload(kind, namespace, inject="true")
    if kind != "CronJob":
        wanted["spec"]["replicas"] = 0
    manifest = yaml.safe_dump(wanted)
    assert kubectl("apply", how, "-f", "-", stdin=manifest).returncode == 0
    first = reread(api, wanted)
    assert stamp(first) == STAMPED
    for _ in range(3):
        done = kubectl("apply", how, "-f", "-", stdin=manifest)
        assert (done.returncode, done.stderr) == (0, "")
    again = reread(api, wanted)
    assert again["metadata"]["generation"] == first["metadata"]["generation"]
    assert again["spec"] == first["spec"]
    compared = kubectl("diff", how, "-f", "-", stdin=manifest)
    assert (compared.returncode, compared.stdout) == (0, "")
    assert managers(again) <= {"kubectl", "kubectl-client-side-apply", "kube-controller-manager"}


@pytest.mark.parametrize("how", ["--server-side=false", "--server-side"])
def test_taking_the_label_out_of_an_applied_manifest_takes_the_stamp_away(
    api, kubectl, namespace, injector, how
):
    wanted = workload("Deployment", namespace, inject="true", replicas=0)
    bare = workload("Deployment", namespace, replicas=0)
    for manifest, expected in ((wanted, STAMPED), (bare, UNSTAMPED), (wanted, STAMPED)):
        done = kubectl("apply", how, "-f", "-", stdin=yaml.safe_dump(manifest))
        assert (done.returncode, done.stderr) == (0, "")
        assert stamp(reread(api, wanted)) == expected


def test_two_appliers_do_not_fight_over_the_stamp(api, namespace, injector):
    """One owns the label, the other the image; nobody owns the stamp, so nobody conflicts with it."""
    wanted = workload("Deployment", namespace, inject="true", replicas=0)
    label = {key: wanted[key] for key in ("apiVersion", "kind")} | {
        "metadata": metadata(namespace, "web", "true")
    }
    application = workload("Deployment", namespace, replicas=0)
    api.apply(application, manager="team")
    assert stamp(api.apply(label, manager="platform")) == STAMPED
    for _ in range(2):
        assert stamp(api.apply(application, manager="team")) == STAMPED
        assert stamp(api.apply(label, manager="platform")) == STAMPED
    stored = reread(api, wanted)
    owned = {entry["manager"]: json.dumps(entry["fieldsV1"]) for entry in stored["metadata"]["managedFields"]}
    assert not [manager for manager, fields in owned.items() if names.STAMPED_ANNOTATION in fields]
    # The platform takes its label back.
    label["metadata"] = metadata(namespace, "web")
    assert stamp(api.apply(label, manager="platform")) == UNSTAMPED


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet", "CronJob"])
def test_replacing_a_workload_by_its_manifest_rolls_nothing_out(api, kubectl, namespace, injector, kind):
    """Without a stamp in it, the template that is put differs from the one that is stored."""
    wanted = workload(kind, namespace, inject="true")
    created = api.create(wanted)
    assert kubectl("replace", "-f", "-", stdin=yaml.safe_dump(wanted)).returncode == 0
    replaced = reread(api, wanted)
    assert replaced["spec"] == created["spec"]
    assert replaced["metadata"]["generation"] == created["metadata"]["generation"]


# --- custom resources ------------------------------------------------------------------------------------


@pytest.fixture
def rollouts(api):
    """Argo Rollouts' own kind, as far as the API server needs to know it."""
    version = {
        "name": "v1alpha1",
        "served": True,
        "storage": True,
        "schema": {
            "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        },
    }
    name = "rollouts.argoproj.io"
    definition = "apiextensions.k8s.io/v1", "CustomResourceDefinition", name
    api.create(
        {
            "apiVersion": definition[0],
            "kind": definition[1],
            "metadata": {"name": name},
            "spec": {
                "group": "argoproj.io",
                "names": {"kind": "Rollout", "plural": "rollouts", "listKind": "RolloutList"},
                "scope": "Namespaced",
                "versions": [version],
            },
        }
    )

    def served():
        conditions = api.get(*definition).get("status", {}).get("conditions") or []
        return {"type": "Established", "status": "True"} in [
            {key: condition[key] for key in ("type", "status")} for condition in conditions
        ]

    try:
        eventually("the new kind to be served", served)
        yield "argoproj.io/v1alpha1"
    finally:
        api.delete(*definition)
        eventually("the new kind to be gone", lambda: api.find(*definition) is None)


def test_a_custom_resource_with_a_pod_template_is_stamped_by_its_shape(
    api, rollouts, make_namespace, injector
):
    rollout = workload("Deployment", make_namespace(), inject="true", strategy={"canary": {"steps": []}})
    rollout |= {"apiVersion": rollouts, "kind": "Rollout"}
    created = eventually(
        "the kind to be known", lambda: api.create(rollout), tolerate=(ApiError, LookupError)
    )
    assert stamp(created) == STAMPED
    assert created["spec"]["strategy"] == {"canary": {"steps": []}}
    assert stamp(relabel(api, created, None)) == UNSTAMPED


# --- and pods of nobody ----------------------------------------------------------------------------------


def test_labels_of_the_injector_on_a_workload_reach_no_bare_pod(api, namespace, injector):
    api.create(workload("Deployment", namespace, inject="true", replicas=0))
    assert not is_injected(api.create(pod(namespace, "bare")))
