"""The truth table of `webhook.decision`, row by row."""

import copy

import pytest
from hypothesis import given

from tests.webhook import strategies
from webhook import decision, names
from webhook.config import Mode, Settings
from webhook.decision import Decision, decide
from webhook.injection import inject
from webhook.names import Action, Reason

PLAIN = {"metadata": {"namespace": "shop"}, "spec": {"containers": [{"name": "web"}]}}


def pod(label=None, *, metadata=None, container=None, **spec):
    new = copy.deepcopy(PLAIN)
    if label is not None:
        new["metadata"]["labels"] = {names.INJECT_LABEL: label}
    new["metadata"].update(metadata or {})
    new["spec"]["containers"][0].update(container or {})
    new["spec"].update(spec)
    return new


def namespace(label=None):
    return {"metadata": {"labels": {} if label is None else {names.INJECT_LABEL: label}}}


SETTINGS = Settings()
OLD_CLUSTER = Settings(native_sidecars=False)
EXPORTER = {"env": [{"name": "METRICS_SIDECAR_PORT", "value": "9999"}]}
WINDOWS_TERM = {"matchExpressions": [{"key": "kubernetes.io/os", "operator": "In", "values": ["windows"]}]}
WINDOWS_AFFINITY = {
    "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [WINDOWS_TERM]}}
}
TIGHT = {"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}}
FULL = {"annotations": {"notes": "x" * 262_000}}

# One row of the table per reason, in its order: what is seen in the table's words, then all its examples.
ROWS = [
    (Reason.NOT_A_POD, [({"spec": {"containers": "web"}}, None), ({}, None), (None, None), ([], "true")]),
    (Reason.ALREADY_INJECTED, [(inject(pod("true"), SETTINGS), None), (inject(pod(), SETTINGS), "true")]),
    (Reason.OPTED_OUT, [(pod("false"), "true"), (pod("false", hostNetwork=True), None)]),
    (Reason.LABEL_UNKNOWN, [(pod("yes"), "true"), (pod("True"), None), (pod(""), None)]),
    (Reason.NAMESPACE_OPTED_OUT, [(pod(), "false")]),
    (Reason.NOT_LABELLED, [(pod(), None), (pod(), "yes"), (pod(hostNetwork=True), None)]),
    (
        Reason.RUNS_EXPORTER,
        [
            (pod("true", container=EXPORTER), None),
            (pod("true", initContainers=[{"name": "exporter", "restartPolicy": "Always", **EXPORTER}]), None),
            (pod(container=EXPORTER), "true"),
        ],
    ),
    (
        Reason.MIRROR_POD,
        [(pod("true", metadata={"annotations": {"kubernetes.io/config.mirror": "8d8e"}}), None)],
    ),
    (
        Reason.SYSTEM_NAMESPACE,
        [
            (pod("true", metadata={"namespace": "kube-system"}), None),
            (pod(metadata={"namespace": "kube-public"}), "true"),
        ],
    ),
    (Reason.HOST_NETWORK, [(pod("true", hostNetwork=True), None), (pod(hostNetwork=True), "true")]),
    (
        Reason.WINDOWS,
        [
            (pod("true", os={"name": "windows"}), None),
            (pod("true", nodeSelector={"kubernetes.io/os": "windows"}), None),
            (pod("true", securityContext={"windowsOptions": {}}), None),
            (pod("true", affinity=WINDOWS_AFFINITY), None),
        ],
    ),
    (
        Reason.PORT_TAKEN,
        [
            (pod("true", container={"ports": [{"containerPort": 9999}]}), None),
            (
                pod(
                    "true",
                    metadata={"annotations": {names.PORT_ANNOTATION: "8080"}},
                    container={"ports": [{"containerPort": 8080, "protocol": "TCP"}]},
                ),
                "true",
            ),
            (
                pod(
                    "true",
                    initContainers=[
                        {"name": "proxy", "restartPolicy": "Always", "ports": [{"containerPort": 9999}]}
                    ],
                ),
                None,
            ),
        ],
    ),
    (
        Reason.NO_NATIVE_SIDECARS,
        [
            (pod("true", restartPolicy="Never"), None, OLD_CLUSTER),
            (pod("true", metadata={"annotations": {names.MODE_ANNOTATION: "native"}}), None, OLD_CLUSTER),
            (
                pod("true", metadata={"ownerReferences": [{"kind": "Job", "controller": True}]}),
                None,
                OLD_CLUSTER,
            ),
        ],
    ),
    (
        Reason.POD_RESOURCES,
        [
            (
                pod(
                    "true",
                    resources=TIGHT,
                    container={"resources": {"requests": {"cpu": "60m"}}},
                ),
                None,
            ),
            (pod("true", resources={"limits": {"memory": "32Mi"}}), None),
        ],
    ),
    (Reason.ANNOTATIONS_FULL, [(pod("true", metadata=FULL), None)]),
    (
        Reason.POD_LABEL,
        [
            (pod("true"), None),
            (pod("true"), "false"),
            (pod("true", restartPolicy="Never"), None),
            (pod("true", resources=TIGHT), None),
            (pod("true", container={"ports": [{"containerPort": 9999, "protocol": "UDP"}]}), None),
            (pod("true", initContainers=[{"name": "init", "ports": [{"containerPort": 9999}]}]), None),
            (pod("true", hostNetwork="yes"), None),
            (
                pod(
                    "true",
                    restartPolicy="Never",
                    metadata={"annotations": {names.MODE_ANNOTATION: "container"}},
                ),
                None,
                OLD_CLUSTER,
            ),
        ],
    ),
    (Reason.NAMESPACE_LABEL, [(pod(), "true"), (pod(restartPolicy="OnFailure"), "true")]),
]
CASES = [
    pytest.param(reason, *example, id=f"{reason}-{number}")
    for reason, examples in ROWS
    for number, example in enumerate(examples)
]


@pytest.mark.parametrize(
    ("reason", "seen", "label", "settings"),
    [pytest.param(*(*case.values, SETTINGS)[:4], id=case.id) for case in CASES],
)
def test_row(reason, seen, label, settings):
    action = Action.INJECT if reason in (Reason.POD_LABEL, Reason.NAMESPACE_LABEL) else Action.SKIP
    assert decide(seen, namespace(label), settings) == Decision(action, reason)


def test_the_rows_are_those_of_the_table():
    table = [line.split("|") for line in decision.__doc__.splitlines() if line.count("|") == 4][2:]
    assert [(cells[3].strip(), cells[4].strip()) for cells in table] == [
        ("inject" if reason in (Reason.POD_LABEL, Reason.NAMESPACE_LABEL) else "skip", str(reason))
        for reason, _ in ROWS
    ]


def test_a_copied_status_without_its_container_does_not_count():
    """People paste the metadata of a running pod into a new one."""
    copied = inject(pod("true"), SETTINGS)
    copied = {**copied, "spec": PLAIN["spec"]}
    assert decide(copied, None, SETTINGS).reason is Reason.POD_LABEL


def test_an_opt_in_may_come_without_any_namespace_known():
    assert decide(pod("true"), None, SETTINGS).action is Action.INJECT
    assert decide(pod(), decision.labelled("shop"), SETTINGS).action is Action.INJECT
    assert decide(pod(), decision.labelled("kube-system"), SETTINGS).reason is Reason.SYSTEM_NAMESPACE


@given(strategies.hostile, strategies.json_values)
def test_it_never_raises(seen, space):
    for mode in Mode:
        assert decide(seen, space, Settings(mode=mode, native_sidecars=False)).reason.sentence


@given(strategies.pods)
def test_an_injected_pod_is_known_again(seen):
    assert decide(inject(seen, SETTINGS), None, SETTINGS).reason is Reason.ALREADY_INJECTED
