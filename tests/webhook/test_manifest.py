"""The webhook configuration against the process that it calls, and against itself."""

from pathlib import Path

import pytest
import yaml

from webhook import names
from webhook.admission import handlers
from webhook.admission.review import RESOURCES
from webhook.admission.telemetry import Telemetry
from webhook.config import Settings

BASE = Path(__file__).parents[2] / "manifests" / "base"
MANIFEST = BASE / "mutatingwebhookconfiguration.yaml"
WEBHOOKS = yaml.safe_load(MANIFEST.read_text())["webhooks"]
OWN_NAMESPACE = yaml.safe_load((BASE / "namespace.yaml").read_text())["metadata"]


def path(webhook):
    return webhook["clientConfig"]["service"]["path"]


def matches(selector, labels):
    """Label selectors as Kubernetes has them."""
    kept = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    for rule in selector.get("matchExpressions", []):
        value, values = labels.get(rule["key"]), rule.get("values")
        kept &= {
            "Exists": lambda value, _: value is not None,
            "DoesNotExist": lambda value, _: value is None,
            "In": lambda value, values: value in values,
            "NotIn": lambda value, values: value not in values,
        }[rule["operator"]](value, values)
    return kept


def called(pod_label, namespace_label, namespace="shop"):
    """The paths that the API server calls for a new pod."""
    labels = {names.INJECT_LABEL: pod_label} if pod_label is not None else {}
    space = {"kubernetes.io/metadata.name": namespace}
    if namespace_label is not None:
        space[names.INJECT_LABEL] = namespace_label
    return [
        path(webhook)
        for webhook in WEBHOOKS
        if any("pods" in rule["resources"] for rule in webhook["rules"])
        and matches(webhook["objectSelector"], labels)
        and matches(webhook["namespaceSelector"], space)
    ]


def test_every_path_has_a_handler_and_every_handler_a_path():
    registry = handlers.registry(Settings(), Telemetry())
    ids = {handler.id for handler in registry._webhooks.get_all_handlers()}
    assert ids == set(names.HANDLERS) == set(RESOURCES)
    assert sorted(path(webhook) for webhook in WEBHOOKS) == sorted(f"/{handler}" for handler in ids)


def test_every_handler_has_an_explicit_group_and_version():
    """Without a group, kopf asks every API of the cluster, and one that is broken keeps it from starting."""
    registry = handlers.registry(Settings(), Telemetry())
    for handler in registry._webhooks.get_all_handlers():
        assert handler.selector.group is not None
        assert handler.selector.version is not None


@pytest.mark.parametrize("webhook", WEBHOOKS, ids=path)
def test_none_can_block_anything(webhook):
    assert webhook["failurePolicy"] == "Ignore"
    assert webhook["sideEffects"] == "None"
    assert webhook["timeoutSeconds"] == 5
    assert webhook["reinvocationPolicy"] == "IfNeeded"
    assert webhook["matchPolicy"] == "Equivalent"
    assert webhook["admissionReviewVersions"] == ["v1"]
    assert all(rule["scope"] == "Namespaced" for rule in webhook["rules"])
    assert "*" not in [item for rule in webhook["rules"] for item in rule["resources"] + rule["apiGroups"]]


@pytest.mark.parametrize("webhook", WEBHOOKS, ids=path)
@pytest.mark.parametrize("namespace", sorted(Settings().ignored_namespaces))
def test_none_is_called_in_a_namespace_that_is_ignored_anyway(webhook, namespace):
    labels = {"kubernetes.io/metadata.name": namespace, names.INJECT_LABEL: "true"}
    if namespace == OWN_NAMESPACE["name"]:
        labels |= OWN_NAMESPACE["labels"]
    assert not matches(webhook["namespaceSelector"], labels)


@pytest.mark.parametrize("webhook", WEBHOOKS, ids=path)
def test_none_is_called_in_our_own_namespace_whatever_its_name(webhook):
    labels = {
        **OWN_NAMESPACE["labels"],
        "kubernetes.io/metadata.name": "elsewhere",
        names.INJECT_LABEL: "true",
    }
    assert not matches(webhook["namespaceSelector"], labels)


@pytest.mark.parametrize("webhook", WEBHOOKS, ids=path)
def test_none_is_called_without_a_label(webhook):
    labels = {"kubernetes.io/metadata.name": "shop"}
    assert not (matches(webhook["objectSelector"], {}) and matches(webhook["namespaceSelector"], labels))


@pytest.mark.parametrize("namespace_label", [None, "true", "false", "yes"])
@pytest.mark.parametrize(
    ("pod_label", "expected"), [("true", ["/pod"]), ("yes", ["/pod"]), ("", ["/pod"]), ("false", [])]
)
def test_a_label_on_the_pod_decides_whatever_the_namespace_says(pod_label, namespace_label, expected):
    assert called(pod_label, namespace_label) == expected


@pytest.mark.parametrize(
    ("namespace_label", "expected"), [("true", ["/namespace"]), ("false", []), (None, [])]
)
def test_without_one_the_namespace_decides(namespace_label, expected):
    assert called(None, namespace_label) == expected


def test_jobs_are_looked_at_only_when_they_are_created():
    for webhook in WEBHOOKS:
        for rule in webhook["rules"]:
            if {"jobs", "pods"} & set(rule["resources"]):
                assert rule["operations"] == ["CREATE"]
            else:
                assert rule["operations"] == ["CREATE", "UPDATE"]
