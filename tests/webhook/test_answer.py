"""What whoever made a request is told, and when nothing is said."""

import copy

import pytest

from webhook import names
from webhook.admission.answer import answer_pod, answer_workload
from webhook.config import Settings
from webhook.decision import labelled
from webhook.names import Action, Reason

SETTINGS = Settings()
SHOP = {"metadata": {"name": "shop"}}


def pod(label="true", **spec):
    labels = {} if label is None else {names.INJECT_LABEL: label}
    return {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web"}], **spec}}


def deployment(label="true", template=None, kind="Deployment", **metadata):
    labels = {} if label is None else {names.INJECT_LABEL: label}
    return {
        "kind": kind,
        "metadata": {"name": "web", "labels": labels, **metadata},
        "spec": {"template": pod(None) if template is None else template},
    }


def test_an_injection_needs_no_words():
    answer = answer_pod(pod(), SHOP, "CREATE", SETTINGS)
    assert (answer.decision.action, answer.warnings) == (Action.INJECT, ())


@pytest.mark.parametrize("operation", ["UPDATE", "DELETE", "CONNECT", ""])
def test_a_pod_changes_only_when_it_is_created(operation):
    seen = pod()
    answer = answer_pod(seen, SHOP, operation, SETTINGS)
    assert answer.obj is seen
    assert (answer.decision.reason, answer.warnings) == (Reason.OTHER_OPERATION, ())


def test_who_asked_and_does_not_get_it_is_told_why():
    answer = answer_pod(pod(hostNetwork=True), SHOP, "CREATE", SETTINGS)
    assert answer.warnings == (
        "metrics-sidecar: not injected, the pod uses the host's network, whose ports are not its own",
    )
    [warning] = answer_pod(pod("yes"), SHOP, "CREATE", SETTINGS).warnings
    assert 'neither "true" nor "false"' in warning


def test_who_did_not_ask_is_not_told():
    """A label on the namespace asks for all, and not for each."""
    assert answer_pod(pod(None, hostNetwork=True), labelled("shop"), "CREATE", SETTINGS).warnings == ()
    assert answer_pod(pod("false"), labelled("shop"), "CREATE", SETTINGS).warnings == ()


def test_being_called_again_is_quiet():
    once = answer_pod(pod(), SHOP, "CREATE", SETTINGS)
    again = answer_pod(once.obj, SHOP, "CREATE", SETTINGS)
    assert again.obj is once.obj
    assert again.warnings == ()


def test_an_annotation_that_is_ignored_is_said():
    seen = pod()
    seen["metadata"]["annotations"] = {names.PORT_ANNOTATION: "http"}
    [warning] = answer_pod(seen, SHOP, "CREATE", SETTINGS).warnings
    assert warning == (
        "metrics-sidecar: metrics-sidecar.io/port='http' is ignored; expected 1..65535; 9999 is used"
    )


def test_a_label_on_a_workload_is_carried_into_its_template_quietly():
    answer = answer_workload(deployment(), None, SHOP, "CREATE", SETTINGS)
    assert (answer.decision.action, answer.warnings) == (Action.STAMP, ())


def test_a_job_cannot_be_changed_later():
    seen = deployment(kind="Job")
    assert answer_workload(seen, None, SHOP, "CREATE", SETTINGS).decision.action is Action.STAMP
    later = answer_workload(seen, seen, SHOP, "UPDATE", SETTINGS)
    assert later.obj is seen
    assert later.decision.reason is Reason.JOB_IMMUTABLE


@pytest.mark.parametrize(
    ("workload", "warning"),
    [
        (
            deployment("yes"),
            'nothing to do, the label metrics-sidecar.io/inject is neither "true" nor "false"',
        ),
        (deployment(template={}), "nothing to do, there is no pod template in it"),
        (
            deployment(template=pod("false")),
            f"{names.INJECT_LABEL}=true has no effect here, {Reason.TEMPLATE_DECIDES.sentence}",
        ),
        (
            deployment(template=pod(None, hostNetwork=True)),
            "its pods: not injected, the pod uses the host's network, whose ports are not its own",
        ),
        (
            deployment(annotations={names.PORT_ANNOTATION: "9100"}),
            "metrics-sidecar.io/port is not read here; it belongs on the pod template",
        ),
    ],
)
def test_what_will_not_work_is_said_where_somebody_sees_it(workload, warning):
    """Nobody sees the warnings for pods that controllers make."""
    answer = answer_workload(workload, None, SHOP, "CREATE", SETTINGS)
    assert answer.warnings == (f"metrics-sidecar: {warning}",)
    unchanged = answer_workload(answer.obj, copy.deepcopy(answer.obj), SHOP, "UPDATE", SETTINGS)
    assert unchanged.warnings == ()


@pytest.mark.parametrize("workload", [deployment("false"), deployment(None)])
def test_who_opted_out_is_told_nothing(workload):
    workload["spec"]["template"]["spec"]["hostNetwork"] = True
    assert answer_workload(workload, None, SHOP, "CREATE", SETTINGS).warnings == ()


def test_the_replicasets_of_a_deployment_are_passed_over_in_silence():
    owner = {"kind": "Deployment", "name": "web", "controller": True}
    seen = deployment(kind="ReplicaSet", ownerReferences=[owner])
    answer = answer_workload(seen, None, SHOP, "CREATE", SETTINGS)
    assert answer.obj is seen
    assert (answer.decision.reason, answer.warnings) == (Reason.OWNED, ())


def test_every_warning_fits():
    """The API server cuts warnings at 256 characters."""
    longest = max(len(reason.sentence) for reason in Reason)
    assert longest + len(f"metrics-sidecar: {names.INJECT_LABEL}=false has no effect here, ") < 256


def test_pods_that_are_yet_to_be_named_get_identities_of_their_own():
    unnamed = pod()
    unnamed["metadata"]["generateName"] = "run-"
    first, second = (
        answer_pod(unnamed, SHOP, "CREATE", SETTINGS, uid).obj["metadata"]["labels"][names.WORKLOAD_LABEL]
        for uid in ("a", "b")
    )
    assert first.startswith("pod.run-")
    assert second.startswith("pod.run-")
    assert first != second


def test_a_pod_that_a_controller_made_has_its_identity_whatever_it_will_be_called():
    owner = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "web", "uid": "1", "controller": True}
    owned = pod()
    owned["metadata"] |= {"generateName": "web-", "ownerReferences": [owner]}
    injected = answer_pod(owned, SHOP, "CREATE", SETTINGS, "a").obj
    assert injected["metadata"]["labels"][names.WORKLOAD_LABEL] == "daemonset.web"
