"""Beside other webhooks, which run before ours or after it, a pod ends up with one exporter all the same.

Webhooks run in the order of their configurations' names: `a` before ours, `z` after.
"""

import contextlib
import copy

import pytest

from tests.apiserver.objects import container, containers, exporters, is_injected, pod, stamp, workload
from tests.apiserver.stub import StubWebhook, allowed
from webhook import names, status
from webhook.names import Reason

BEFORE, AFTER = "a.test.invalid", "z.test.invalid"
BOTH_ORDERS = pytest.mark.parametrize("order", [BEFORE, AFTER], ids=["before", "after"])
BOTH_POLICIES = pytest.mark.parametrize("policy", ["Never", "IfNeeded"])


def other_webhook(name, namespace, policy="Never", resources=("pods",), groups=("",)):
    rule = {
        "apiGroups": list(groups),
        "apiVersions": ["v1"],
        "operations": ["CREATE", "UPDATE"],
        "resources": list(resources),
    }
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": name,
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Fail",
                "reinvocationPolicy": policy,
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "rules": [rule],
                "clientConfig": {"service": {"name": "other", "namespace": "any"}},
            }
        ],
    }


@pytest.fixture
def beside(endpoint, install, namespace):
    """Return a function that puts another webhook to work, which changes objects by `change(obj)`."""
    with contextlib.ExitStack() as stack:

        def beside(name, change, policy="Never", **rule):
            def answer(request):
                before = request["object"]
                after = copy.deepcopy(before)
                change(after)
                if after == before:
                    return allowed()
                # Whole sections at a time, as webhooks do that pass pods through typed models.
                return allowed(
                    *(
                        {"op": "add", "path": f"/{key}", "value": after[key]}
                        for key in ("metadata", "spec")
                        if after[key] != before[key]
                    )
                )

            webhook = stack.enter_context(StubWebhook(endpoint, answer))
            install(other_webhook(name, namespace, policy, **rule), endpoint)
            return webhook

        yield beside


def add_container(obj):
    if "other" not in containers(obj):
        obj["spec"]["containers"].append(container("other"))


def add_first(obj):
    """What Istio does when its proxy is to start before the application."""
    if "istio-proxy" in containers(obj):
        return
    metadata, spec = obj["metadata"], obj["spec"]
    proxy = container("istio-proxy", ports=[{"name": "http-envoy-prom", "containerPort": 15090}])
    spec["containers"].insert(0, proxy)
    spec.setdefault("initContainers", []).insert(0, container("istio-init"))
    metadata.setdefault("labels", {})["security.istio.io/tlsMode"] = "istio"
    annotations = metadata.setdefault("annotations", {})
    annotations |= {"sidecar.istio.io/status": "{}", "prometheus.io/port": "15020"}
    annotations.setdefault("kubectl.kubernetes.io/default-container", "app")


def sort_containers(obj):
    obj["spec"]["containers"].sort(key=lambda item: item["name"], reverse=True)


def change_images(obj):
    """What a mirror of registries does."""
    for item in [*obj["spec"]["containers"], *obj["spec"].get("initContainers", [])]:
        item["image"] = f"mirror.test/{item['image'].removeprefix('mirror.test/')}"


def drop_all_metadata(obj):
    for key in ("labels", "annotations"):
        obj["metadata"].pop(key, None)


@BOTH_ORDERS
@BOTH_POLICIES
@pytest.mark.parametrize("change", [add_container, add_first, sort_containers, change_images])
def test_beside_a_webhook_that_rewrites_pods_there_is_one_exporter(
    api, namespace, injector, beside, order, policy, change
):
    other = beside(order, change, policy)
    created = api.create(pod(namespace, inject="true"))
    assert is_injected(created)
    assert api.warnings == []
    [ours] = exporters(created)
    done = status.read(created)
    assert (ours["name"], ours["ports"][0]["containerPort"]) == (done.container, done.port)
    # Both had their say, and neither had it for ever.
    assert 1 <= len(other.requests) <= 3
    assert 1 <= len(injector.reviews(namespace)) <= 3
    if order is AFTER or policy == "IfNeeded":
        # Having had the last word, the other one would find nothing left to do.
        again = copy.deepcopy(created)
        change(again)
        assert again == created


@BOTH_ORDERS
def test_a_webhook_that_adds_a_container_named_metrics_takes_nothing_from_ours(
    api, namespace, injector, beside, order
):
    def add_metrics(obj):
        if "example.test/metrics" not in [item["image"] for item in obj["spec"]["containers"]]:
            taken = "metrics" in containers(obj)
            name = "metrics-2" if taken else "metrics"
            obj["spec"]["containers"].append({"name": name, "image": "example.test/metrics"})

    beside(order, add_metrics)
    created = api.create(pod(namespace, inject="true"))
    assert is_injected(created)
    assert exporters(created)[0]["name"] == ("metrics-sidecar" if order is BEFORE else "metrics")


def test_a_webhook_that_labels_pods_before_ours_opts_them_in(api, namespace, injector, beside):
    def label(obj):
        obj["metadata"].setdefault("labels", {})[names.INJECT_LABEL] = "true"

    beside(BEFORE, label)
    assert is_injected(api.create(pod(namespace)))


def test_a_webhook_that_labels_pods_after_ours_comes_too_late(api, namespace, injector, beside):
    """The API server calls again only who was called before: name such a configuration ahead of ours."""

    def label(obj):
        obj["metadata"].setdefault("labels", {})[names.INJECT_LABEL] = "true"

    beside(AFTER, label)
    with injector.unasked(namespace):
        assert not is_injected(api.create(pod(namespace)))


def test_a_webhook_before_ours_that_opts_a_pod_out_has_the_word(api, namespace, injector, beside):
    def label(obj):
        obj["metadata"]["labels"][names.INJECT_LABEL] = "false"

    beside(BEFORE, label)
    with injector.unasked(namespace):
        assert not is_injected(api.create(pod(namespace, inject="true")))


def test_a_port_that_a_webhook_before_ours_takes_is_said(api, namespace, injector, beside):
    def take(obj):
        if len(containers(obj)) == 1:
            obj["spec"]["containers"].append(container("other", ports=[{"containerPort": 9999}]))

    beside(BEFORE, take)
    created = api.create(pod(namespace, inject="true"))
    assert containers(created) == ["app", "other"]
    assert api.warnings == [f"metrics-sidecar: not injected, {Reason.PORT_TAKEN.sentence}"]


@BOTH_POLICIES
def test_a_webhook_that_throws_the_exporter_out_has_its_way_and_the_pod_is_created(
    api, namespace, injector, beside, policy
):
    """A policy that allows no sidecars, say: asked again, ours puts it back, but not for ever."""

    def throw_out(obj):
        obj["spec"]["containers"] = [item for item in obj["spec"]["containers"] if item["name"] == "app"]

    other = beside(AFTER, throw_out, policy)
    created = api.create(pod(namespace, inject="true"))
    # The pod never has two; whether one is left is for the other's reinvocation policy to say.
    assert len(exporters(created)) == (0 if policy == "IfNeeded" else 1)
    assert len(other.requests) <= 3
    assert len(injector.reviews(namespace)) <= 3


def test_a_webhook_that_drops_all_metadata_leaves_one_exporter(api, namespace, injector, beside):
    """Without its label the pod asks no more, and without its status ours still knows its own container."""
    beside(AFTER, drop_all_metadata)
    created = api.create(pod(namespace, inject="true"))
    assert containers(created) == ["app", "metrics"]


def test_a_webhook_that_drops_our_annotation_leaves_one_exporter(api, namespace, injector, beside):
    def drop(obj):
        obj["metadata"].get("annotations", {}).pop(names.STATUS_ANNOTATION, None)

    beside(AFTER, drop)
    created = api.create(pod(namespace, inject="true"))
    assert containers(created) == ["app", "metrics"]
    assert injector.reviews(namespace)[0] == Reason.POD_LABEL


@BOTH_ORDERS
def test_a_native_sidecar_stays_one_beside_another(api, namespace, injector, beside, order):
    def add_native(obj):
        init = obj["spec"].setdefault("initContainers", [])
        if "proxy" not in [item["name"] for item in init]:
            init.insert(0, container("proxy", restartPolicy="Always"))

    beside(order, add_native)
    created = api.create(pod(namespace, inject="true", restartPolicy="Never"))
    assert is_injected(created)
    policies = {item["name"]: item.get("restartPolicy") for item in created["spec"]["initContainers"]}
    assert policies == {"proxy": "Always", "metrics": "Always"}


def test_a_webhook_that_drops_what_it_does_not_know_leaves_the_native_sidecar_one(
    api, namespace, injector, beside
):
    def drop(obj):
        for item in obj["spec"].get("initContainers", []):
            item.pop("restartPolicy", None)

    beside(AFTER, drop)
    [ours] = exporters(api.create(pod(namespace, inject="true", restartPolicy="Never")))
    assert ours.get("restartPolicy") == "Always"


@BOTH_ORDERS
def test_a_webhook_that_changes_templates_and_ours_both_have_their_say(
    api, namespace, injector, beside, order
):
    def annotate(obj):
        meta = obj["spec"]["template"].setdefault("metadata", {})
        meta.setdefault("annotations", {})["example.test/seen"] = "yes"

    other = beside(order, annotate, "IfNeeded", resources=("statefulsets",), groups=("apps",))
    created = api.create(workload("StatefulSet", namespace, inject="true", replicas=0))
    assert stamp(created) == ("true", "true")
    assert created["spec"]["template"]["metadata"]["annotations"]["example.test/seen"] == "yes"
    patch = {"metadata": {"labels": {names.INJECT_LABEL: None}}}
    bare = api.patch("apps/v1", "StatefulSet", "web", patch, namespace)
    assert stamp(bare) == (None, None)
    assert bare["spec"]["template"]["metadata"]["annotations"] == {"example.test/seen": "yes"}
    assert len([request for request in other.requests if request["operation"] == "CREATE"]) <= 2


def test_a_pod_that_only_the_other_webhook_is_for_is_not_sent_to_ours(api, namespace, injector, beside):
    other = beside(BEFORE, add_container, "IfNeeded")
    with injector.unasked(namespace):
        assert containers(api.create(pod(namespace))) == ["app", "other"]
    assert other.requests
