"""A pod that asks for the exporter is stored with it; any other is stored as if there were no injector."""

import copy
import json

import psutil
import pytest
import yaml

from tests.apiserver.client import ApiError
from tests.apiserver.injector import configuration
from tests.apiserver.namespaces import create_namespace, delete_namespace
from tests.apiserver.objects import container, containers, exporters, is_injected, metadata, pod
from tests.apiserver.waiting import eventually
from webhook import names
from webhook.names import Reason

IGNORED = "ignored-by-the-operator"

# What differs between any two pods.
OWN = ("name", "uid", "creationTimestamp", "resourceVersion", "managedFields")


@pytest.fixture(scope="module")
def injector_settings():
    return {"IGNORED_NAMESPACES": f"kube-system,{IGNORED}"}


def said(reason):
    """What kubectl shows to whoever asked for the exporter and does not get it."""
    return [f"metrics-sidecar: not injected, {reason.sentence}"]


def once(reviews):
    """The reviews without those that only saw our own work.

    The API server asks again when it has changed the pod itself after us: it mounts the service account's
    token into the new container.
    """
    first, *rest = reviews
    assert set(rest) <= {Reason.ALREADY_INJECTED}
    return [first]


def comparable(obj):
    """The pod without what differs between any two pods."""
    obj = copy.deepcopy(obj)
    for key in OWN:
        obj["metadata"].pop(key, None)
    text = json.dumps(obj)
    # Each pod's volume with its service account's token has a random name.
    for volume in obj["spec"].get("volumes", []):
        if volume["name"].startswith("kube-api-access-"):
            text = text.replace(volume["name"], "kube-api-access")
    return json.loads(text)


# --- pods that ask ---------------------------------------------------------------------------------------


def test_a_labelled_pod_is_stored_with_the_exporter_last(api, namespace, injector):
    api.create(pod(namespace, inject="true"))
    assert api.warnings == []
    stored = api.get("v1", "Pod", "web", namespace)
    assert is_injected(stored)
    assert containers(stored) == ["app", "metrics"]
    ours = stored["spec"]["containers"][-1]
    assert ours["imagePullPolicy"] == "IfNotPresent"
    assert ours["ports"] == [{"name": "metrics-sidecar", "containerPort": 9999, "protocol": "TCP"}]
    assert ours["env"][0] == {"name": "METRICS_SIDECAR_PORT", "value": "9999"}
    assert ours["env"][1]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    fifty = {"cpu": "50m", "memory": "50Mi"}
    assert ours["resources"] == {"requests": fifty, "limits": fifty}
    assert not {"livenessProbe", "readinessProbe", "startupProbe", "lifecycle"} & ours.keys()
    assert stored["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"] == "app"
    assert once(injector.reviews(namespace)) == [Reason.POD_LABEL]


def test_nothing_else_about_the_pod_changes(api, namespace, injector):
    """Among its fields are some that typed client models of yesterday do not know."""
    rich = {
        "initContainers": [
            container("proxy", restartPolicy="Always", startupProbe={"tcpSocket": {"port": 15021}}),
            container("setup"),
        ],
        "containers": [
            container(
                command=["sh", "-c", 'echo "größer" $(POD)'],
                ports=[{"name": "http", "containerPort": 8080}],
                resizePolicy=[{"resourceName": "cpu", "restartPolicy": "NotRequired"}],
                resources={"limits": {"cpu": "1500m", "memory": "1.5Gi"}},
                volumeMounts=[{"name": "data", "mountPath": "/data", "recursiveReadOnly": "Disabled"}],
                securityContext={"procMount": "Default", "appArmorProfile": {"type": "Unconfined"}},
            ),
            container("second", terminationMessagePolicy="FallbackToLogsOnError"),
        ],
        "volumes": [{"name": "data", "image": {"reference": "example.test/model:1"}}],
        "schedulingGates": [{"name": "example.test/wait"}],
        "securityContext": {"supplementalGroupsPolicy": "Strict", "sysctls": []},
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "zone",
                "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": "web"}},
                "matchLabelKeys": ["pod-template-hash"],
                "nodeTaintsPolicy": "Honor",
            }
        ],
    }
    annotations = {"example.test/a_b": 'quotes " and ~1 and /'}
    plain = api.create(pod(namespace, "plain", annotations=annotations, **rich))
    injected = api.create(pod(namespace, "injected", annotations=annotations, inject="true", **rich))
    assert is_injected(injected)
    ours = injected["spec"]["containers"].pop()
    assert ours["name"] == "metrics"
    labels = injected["metadata"].pop("labels")
    assert labels.keys() == {names.INJECT_LABEL, names.INJECTED_LABEL, names.WORKLOAD_LABEL}
    del injected["metadata"]["annotations"][names.STATUS_ANNOTATION]
    assert comparable(injected) == comparable(plain)


def test_a_pod_named_by_the_api_server_is_injected(api, namespace, injector):
    unnamed = pod(namespace, None, inject="true")
    unnamed["metadata"]["generateName"] = "worker-"
    created = api.create(unnamed)
    assert created["metadata"]["name"].startswith("worker-")
    assert is_injected(created)


def test_a_pod_that_ends_gets_a_native_sidecar(api, namespace, injector):
    created = api.create(pod(namespace, inject="true", restartPolicy="OnFailure"))
    assert is_injected(created)
    assert containers(created) == ["app"]
    [ours] = created["spec"]["initContainers"]
    assert (ours["name"], ours["restartPolicy"]) == ("metrics", "Always")


def test_annotations_of_the_pod_change_what_is_injected(api, namespace, injector):
    annotations = {
        names.PORT_ANNOTATION: "19999",
        names.IMAGE_ANNOTATION: "example.test/exporter:2",
        names.CPU_ANNOTATION: "10m",
        names.MEMORY_ANNOTATION: "64Mi",
        names.MODE_ANNOTATION: "native",
    }
    created = api.create(pod(namespace, inject="true", annotations=annotations))
    assert api.warnings == []
    [ours] = created["spec"]["initContainers"]
    assert (ours["image"], ours["ports"][0]["containerPort"]) == ("example.test/exporter:2", 19999)
    assert ours["resources"]["limits"] == {"cpu": "10m", "memory": "64Mi"}


def test_a_bad_annotation_is_ignored_and_said_and_the_pod_is_injected(api, namespace, injector):
    annotations = {names.PORT_ANNOTATION: "99999", names.MODE_ANNOTATION: "x"}
    created = api.create(pod(namespace, inject="true", annotations=annotations))
    assert is_injected(created)
    assert exporters(created)[0]["ports"][0]["containerPort"] == 9999
    modes = "auto, container or native"
    assert api.warnings == [
        f"metrics-sidecar: {names.PORT_ANNOTATION}='99999' is ignored; expected 1..65535; 9999 is used",
        f"metrics-sidecar: {names.MODE_ANNOTATION}='x' is ignored; expected {modes}; auto is used",
    ]


def test_an_unrelated_container_named_metrics_keeps_its_name(api, namespace, injector):
    created = api.create(pod(namespace, inject="true", containers=[container(), container("metrics")]))
    assert is_injected(created)
    assert containers(created) == ["app", "metrics", "metrics-sidecar"]


# --- pods that do not ------------------------------------------------------------------------------------


def test_an_unlabelled_pod_is_not_even_sent(api, namespace, injector):
    before = injector.reviewed()
    with injector.unasked(namespace):
        created = api.create(pod(namespace))
    assert injector.reviewed() == before
    assert containers(created) == ["app"]
    assert created["metadata"].keys().isdisjoint({"labels", "annotations"})


def test_a_pod_that_opted_out_is_not_even_sent(api, make_namespace, injector):
    namespace = make_namespace({names.INJECT_LABEL: "true"})
    with injector.unasked(namespace):
        created = api.create(pod(namespace, inject="false"))
    assert not is_injected(created)
    assert api.warnings == []


@pytest.mark.parametrize("system", ["kube-system", "kube-public", "kube-node-lease"])
def test_a_pod_of_the_system_is_not_even_sent(api, system, injector):
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(system, "default")}
    if api.find("v1", "ServiceAccount", "default", system) is None:
        api.create(account)
    with injector.unasked(system):
        created = api.create(pod(system, inject="true"), dry_run=True)
    assert not is_injected(created)


# The rows of the truth table in webhook/decision.py that a real API server lets through. Others end before:
# `opted_out`, `namespace_opted_out` and `not_labelled` are not sent, and without containers there is no pod.
SKIPPED = [
    (Reason.LABEL_UNKNOWN, {"inject": "yes"}),
    (Reason.LABEL_UNKNOWN, {"inject": ""}),
    (Reason.RUNS_EXPORTER, {"containers": [container(env=[{"name": "METRICS_SIDECAR_PORT", "value": "1"}])]}),
    (Reason.MIRROR_POD, {"annotations": {"kubernetes.io/config.mirror": "0"}, "nodeName": "node"}),
    (Reason.HOST_NETWORK, {"hostNetwork": True}),
    (Reason.WINDOWS, {"os": {"name": "windows"}}),
    (Reason.WINDOWS, {"nodeSelector": {"kubernetes.io/os": "windows"}}),
    (Reason.PORT_TAKEN, {"containers": [container(ports=[{"containerPort": 9999}])]}),
    (Reason.POD_RESOURCES, {"resources": {"limits": {"cpu": "20m"}}}),
    (Reason.ANNOTATIONS_FULL, {"annotations": {"example.test/large": "x" * (256 * 1024 - 20)}}),
]


@pytest.mark.parametrize(
    ("reason", "fields"), SKIPPED, ids=[f"{reason}-{next(iter(fields))}" for reason, fields in SKIPPED]
)
def test_who_asked_and_is_left_out_is_told_why(api, namespace, injector, reason, fields):
    wanted = pod(namespace, **{"inject": "true", **fields})
    created = api.create(wanted)
    assert api.warnings == said(reason)
    assert containers(created) == ["app"]
    assert created["metadata"]["labels"] == wanted["metadata"]["labels"]
    assert injector.reviews(namespace) == [reason]


QUIET = [
    case
    for case in SKIPPED
    # The label is what was wrong, or the pod says nothing at all.
    if case[0] is not Reason.LABEL_UNKNOWN
]


@pytest.mark.parametrize(
    ("reason", "fields"), QUIET, ids=[f"{reason}-{next(iter(fields))}" for reason, fields in QUIET]
)
def test_who_did_not_ask_and_is_left_out_is_told_nothing(api, make_namespace, injector, reason, fields):
    """The namespace asked, for all of its pods: a few among them are not meant."""
    namespace = make_namespace({names.INJECT_LABEL: "true"})
    created = api.create(pod(namespace, **fields))
    assert api.warnings == []
    assert containers(created) == ["app"]
    assert injector.reviews(namespace) == [reason]


def test_a_namespace_that_the_operator_ignores_is_said_so(api, control_plane, injector):
    create_namespace(api, IGNORED)
    try:
        created = api.create(pod(IGNORED, inject="true"))
        assert api.warnings == said(Reason.SYSTEM_NAMESPACE)
        assert not is_injected(created)
    finally:
        delete_namespace(api, IGNORED, by_hand=not control_plane.has_controllers)


def test_a_pod_that_has_it_already_gets_no_second_one(api, namespace, injector):
    """Somebody saves a running pod and creates it again under another name."""
    saved = api.create(pod(namespace, inject="true"))
    again = {key: saved[key] for key in ("apiVersion", "kind", "metadata", "spec")}
    again["metadata"] = {key: saved["metadata"][key] for key in ("namespace", "labels", "annotations")}
    again["metadata"]["name"] = "again"
    created = api.create(again)
    assert is_injected(created)
    assert created["spec"]["containers"] == saved["spec"]["containers"]
    assert api.warnings == []
    assert set(injector.reviews(namespace)) == {Reason.POD_LABEL, Reason.ALREADY_INJECTED}


def test_the_metadata_of_an_injected_pod_on_a_new_one_is_no_excuse(api, namespace, injector):
    saved = api.create(pod(namespace, inject="true"))
    copied = {key: saved["metadata"][key] for key in ("labels", "annotations")}
    created = api.create(pod(namespace, "copied", **copied))
    assert is_injected(created)


def test_a_pod_that_is_no_pod_is_refused_for_that_and_nothing_else(api, namespace, injector):
    with pytest.raises(ApiError, match=r"spec.containers: Required value") as refusal:
        api.create(pod(namespace, inject="true", containers=[]))
    assert refusal.value.code == 422
    assert "metrics-sidecar" not in refusal.value.message


# --- namespaces ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("namespace_label", "pod_label", "injected"),
    [
        ("true", None, True),
        ("true", "true", True),
        ("true", "false", False),
        ("false", None, False),
        ("false", "true", True),
        ("yes", None, False),
        (None, None, False),
    ],
)
def test_the_pods_label_wins_over_the_namespaces(
    api, make_namespace, injector, namespace_label, pod_label, injected
):
    namespace = make_namespace({names.INJECT_LABEL: namespace_label} if namespace_label else None)
    created = api.create(pod(namespace, inject=pod_label))
    assert is_injected(created) is injected
    assert api.warnings == []


def test_a_namespaces_label_counts_from_now_on(api, namespace, injector):
    """The API server sees namespaces by a watch: the label and its removal count within moments."""

    def injects():
        return is_injected(api.create(pod(namespace), dry_run=True))

    assert not injects()
    for value, expected in (("true", True), (None, False)):
        api.patch("v1", "Namespace", namespace, {"metadata": {"labels": {names.INJECT_LABEL: value}}})
        eventually(f"label {value} to count", lambda expected=expected: injects() is expected)


# --- everything but creation -----------------------------------------------------------------------------


def test_a_dry_run_shows_the_exporter_and_stores_nothing(api, namespace, injector):
    shown = api.create(pod(namespace, inject="true"), dry_run=True)
    assert is_injected(shown)
    assert api.items("v1", "Pod", namespace) == []
    assert once(injector.reviews(namespace)) == [Reason.POD_LABEL]


def test_updates_of_a_pod_are_not_even_sent(api, namespace, injector):
    created = api.create(pod(namespace, inject="true"))
    with injector.unasked(namespace):
        changed = api.patch("v1", "Pod", "web", {"metadata": {"labels": {"version": "2"}}}, namespace)
        changed["metadata"]["annotations"]["example.test/note"] = "by update"
        changed["spec"]["containers"][0]["image"] = "example.test/app:2"
        changed = api.update(changed)
        status = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        changed = api.patch("v1", "Pod", "web", status, namespace, subresource="status")
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": metadata(namespace, "web"),
            "target": {"kind": "Node", "name": "node"},
        }
        api.request("POST", api.path("v1", "Pod", "web", namespace, "binding"), binding)
    assert is_injected(changed)
    assert changed["spec"]["containers"][1] == created["spec"]["containers"][1]


def test_an_ephemeral_container_is_none_of_its_business(api, namespace, injector):
    """`kubectl debug` on a pod with the exporter, and on one without."""
    for name, inject in (("with", "true"), ("without", None)):
        api.create(pod(namespace, name, inject=inject))
        debugger = {"spec": {"ephemeralContainers": [{**container("debugger"), "stdin": True}]}}
        options = {"type_": "strategic", "subresource": "ephemeralcontainers"}
        with injector.unasked(namespace):
            changed = api.patch("v1", "Pod", name, debugger, namespace, **options)
        assert [item["name"] for item in changed["spec"]["ephemeralContainers"]] == ["debugger"]
        assert is_injected(changed) is (inject == "true")


def test_a_label_that_comes_after_the_pod_does_nothing(api, namespace, injector):
    """The containers of a pod never change; one that could not be created again must stay as it is."""
    api.create(pod(namespace))
    with injector.unasked(namespace):
        label = {"metadata": {"labels": {names.INJECT_LABEL: "true"}}}
        changed = api.patch("v1", "Pod", "web", label, namespace)
    assert not is_injected(changed)


# --- the process and its configuration -------------------------------------------------------------------


def test_the_configuration_passes_strict_validation_and_is_stored_as_written(api, kubectl, tmp_path):
    written = configuration()
    written["metadata"]["name"] = "strictly.test.invalid"
    manifest = tmp_path / "configuration.yaml"
    manifest.write_text(yaml.safe_dump(written))
    command = ("create", "--validate=strict", "--dry-run=server", "-o", "json", "-f", str(manifest))
    done = kubectl(*command)
    assert (done.returncode, done.stderr) == (0, "")
    stored = json.loads(done.stdout)
    assert [webhook["name"] for webhook in stored["webhooks"]] == [
        webhook["name"] for webhook in written["webhooks"]
    ]
    # Nothing is left to defaults, which change from version to version.
    assert stored["webhooks"] == written["webhooks"]


def test_the_process_has_no_way_to_the_cluster_and_needs_none(api, namespace, injector):
    process = psutil.Process(injector.process.pid)
    environment = process.environ()
    assert not {key for key in environment if key.startswith("KUBE")} | {"HOME"} & environment.keys()
    assert is_injected(api.create(pod(namespace, inject="true")))
    ours = {injector.port, injector.probe_port}
    called = [each for each in process.net_connections("inet") if each.laddr.port not in ours]
    assert called == []
