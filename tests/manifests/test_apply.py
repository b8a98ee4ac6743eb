"""The manifests in a real API server, with real controllers: accepted, applied, applied again, deleted."""

import base64

import pytest

from tests.apiserver.client import ApiError
from tests.apiserver.waiting import eventually
from tests.manifests import kustomize
from tests.manifests.installed import applied, defined, kubectl, left_over
from tests.manifests.kustomize import BASE, COMPONENTS, build, objects, overlay
from webhook import names

RBAC = "rbac.authorization.k8s.io/v1"
CONFIGURATION = "admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", names.WEBHOOK
TOGETHER = ("cert-manager", "podmonitor", "network-policy")


@pytest.fixture
def folder(tmp_path, request, api, definitions):
    """A kustomization with components, whose custom resources the cluster has meanwhile."""
    components = request.param
    needed = [definition for component in components for definition in definitions(component)]
    with defined(api, needed):
        yield overlay(tmp_path / "overlay", [BASE], components)


@pytest.fixture(scope="module")
def live(control_plane, api):
    """The base, applied."""
    with applied(control_plane, BASE):
        yield
    assert left_over(api) == []


def combinations():
    each = [(), *((name,) for name in COMPONENTS), TOGETHER]
    return pytest.mark.parametrize(
        "folder", each, indirect=True, ids=lambda chosen: "+".join(chosen) or "base"
    )


@combinations()
def test_every_object_is_accepted_strictly_and_without_a_warning(api, folder):
    """On the server's side, as a dry run. Strict: an unknown or doubled field is an error."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": names.OWN_NAMESPACE}}
    # Without it nothing in it could be tried.
    api.create(namespace)
    try:
        for obj in objects(build(folder)):
            api.apply(obj, manager="operator", dry_run=True)
            assert api.warnings == [], obj["metadata"]["name"]
    finally:
        api.delete("v1", "Namespace", names.OWN_NAMESPACE)
        eventually("the namespace to go", lambda: api.find("v1", "Namespace", names.OWN_NAMESPACE) is None)


@combinations()
@pytest.mark.parametrize("flags", [(), ("--server-side",)], ids=["client-side", "server-side"])
def test_applied_twice_changes_nothing_and_deleted_leaves_nothing(control_plane, api, folder, flags):
    with applied(control_plane, folder, *flags):
        written = {key: of(api, key) for key in keys(folder)}
        again = kubectl(control_plane, "apply", *flags, "--kustomize", str(folder))
        assert len(again) == len(written)
        word = "serverside-applied" if flags else "unchanged"
        # Kubectl sends the selector of a PodDisruptionBudget every time; the API server finds it the same.
        assert [line for line in again if not line.endswith(f" {word}") and not is_budget(line)] == []
        assert {key: of(api, key) for key in keys(folder)} == written
    assert left_over(api) == []


def is_budget(line):
    return line.startswith("poddisruptionbudget.policy/")


def keys(folder):
    return [
        (obj["apiVersion"], obj["kind"], obj["metadata"]["name"], obj["metadata"].get("namespace"))
        for obj in objects(build(folder))
    ]


def of(api, key):
    """Return what tells whether somebody wrote: the specification, without what controllers say."""
    obj = api.get(*key)
    return obj["metadata"].get("generation"), {
        key: value for key, value in obj.items() if key not in ("metadata", "status")
    }


def test_the_flat_file_is_applied_like_the_folder(control_plane, api, tmp_path):
    path = str(kustomize.INSTALL)
    kubectl(control_plane, "apply", "--filename", path)
    try:
        again = kubectl(control_plane, "apply", "--kustomize", str(BASE))
        assert [line for line in again if not line.endswith(" unchanged") and not is_budget(line)] == []
    finally:
        kubectl(control_plane, "delete", "--ignore-not-found", "--timeout=120s", "--filename", path)
    assert left_over(api) == []


def test_in_another_namespace_it_is_accepted_too(control_plane, api, tmp_path):
    moved = overlay(tmp_path, [BASE], ["network-policy", "prometheus"], namespace="port-watch")
    with applied(control_plane, moved):
        eventually("pods", lambda: len(api.items("v1", "Pod", "port-watch")) == 4)
    assert left_over(api) == []


def test_pod_security_admits_the_pods_of_both_deployments(api, live):
    namespace = api.get("v1", "Namespace", names.OWN_NAMESPACE)
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"

    def pods(name):
        return api.items("v1", "Pod", names.OWN_NAMESPACE, labels=f"app.kubernetes.io/name={name}")

    for name in (names.WEBHOOK, names.RECONCILER):
        eventually(f"two pods of {name}", lambda name=name: len(pods(name)) == 2)
        assert {pod["spec"]["serviceAccountName"] for pod in pods(name)} == {name}
    refused = api.items("v1", "Event", names.OWN_NAMESPACE, fields="reason=FailedCreate")
    assert [event["message"] for event in refused] == []


def test_a_pod_that_asks_for_more_is_refused_beside_them(api, live):
    """So the test before would notice: the restrictions are in effect."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "root", "namespace": names.OWN_NAMESPACE},
        "spec": {
            "serviceAccountName": names.WEBHOOK,
            "containers": [{"name": "app", "image": "example.test/app:1"}],
        },
    }
    with pytest.raises(ApiError, match='violates PodSecurity "restricted'):
        api.create(pod, dry_run=True)


def test_only_the_reconcilers_pods_get_a_token(api, live):
    def tokens(name):
        pods = eventually(
            "pods",
            lambda: api.items("v1", "Pod", names.OWN_NAMESPACE, labels=f"app.kubernetes.io/name={name}"),
        )
        return {
            "serviceAccountToken" in source
            for pod in pods
            for volume in pod["spec"].get("volumes", [])
            for source in volume.get("projected", {}).get("sources", [])
        }

    assert tokens(names.WEBHOOK) == set()
    assert True in tokens(names.RECONCILER)


def may(control_plane, name, namespace):
    """What a service account of ours may do in a namespace, as `kubectl auth can-i --list` shows it."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    with control_plane.client(control_plane.service_account_kubeconfig(names.OWN_NAMESPACE, name)) as account:
        status = account.request("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", review)[
            "status"
        ]
    assert not status["incomplete"]
    return {
        (verb, group, resource, object_name)
        for rule in status["resourceRules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for object_name in rule.get("resourceNames", [None])
    }


def written(base, kinds):
    """What the roles of these kinds allow, in the same form."""
    return {
        (verb, group, resource, object_name)
        for role in base
        if role["kind"] in kinds
        for rule in role["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for object_name in rule.get("resourceNames", [None])
    }


@pytest.mark.parametrize("namespace", [names.OWN_NAMESPACE, "default", "kube-system"])
def test_the_admission_process_may_do_no_more_than_anybody(control_plane, api, live, namespace):
    eventually("an account", lambda: api.find("v1", "ServiceAccount", "default", names.OWN_NAMESPACE))
    assert may(control_plane, names.WEBHOOK, namespace) == may(control_plane, "default", namespace)


def test_the_reconciler_may_do_what_its_roles_say_and_only_where_they_say_it(control_plane, api, live, base):
    eventually("an account", lambda: api.find("v1", "ServiceAccount", "default", names.OWN_NAMESPACE))

    def extra(namespace):
        return may(control_plane, names.RECONCILER, namespace) - may(control_plane, "default", namespace)

    eventually("its roles", lambda: extra(names.OWN_NAMESPACE) == written(base, {"ClusterRole", "Role"}))
    for namespace in ("default", "kube-system"):
        assert extra(namespace) == written(base, {"ClusterRole"})


@pytest.mark.parametrize("flags", [(), ("--server-side",)], ids=["client-side", "server-side"])
def test_applying_again_keeps_the_ca_bundle_that_the_reconciler_wrote(control_plane, api, flags):
    with applied(control_plane, BASE, *flags):
        webhooks = api.get(*CONFIGURATION)["webhooks"]
        bundles = [
            {"op": "add", "path": f"/webhooks/{index}/clientConfig/caBundle", "value": trust(control_plane)}
            for index in range(len(webhooks))
        ]
        api.patch(*CONFIGURATION, bundles, type_="json", manager=names.FIELD_MANAGER)
        kubectl(control_plane, "apply", *flags, "--kustomize", str(BASE))
        kept = {webhook["clientConfig"].get("caBundle") for webhook in api.get(*CONFIGURATION)["webhooks"]}
        assert kept == {trust(control_plane)}


def trust(control_plane):
    """Some authority's certificate, as a webhook configuration holds it."""
    return base64.b64encode((control_plane.folder / "ca.crt").read_bytes()).decode()


@pytest.mark.parametrize("folder", [("cert-manager", "podmonitor")], indirect=True, ids="+".join)
def test_components_that_are_added_later_take_effect_by_apply_alone(control_plane, api, folder):
    with applied(control_plane, BASE), applied(control_plane, folder):
        assert not api.get(RBAC, "ClusterRole", names.CERTIFICATES_ROLE).get("rules")
        assert not api.get(RBAC, "Role", names.CERTIFICATES_ROLE, names.OWN_NAMESPACE).get("rules")
        service = api.get("v1", "Service", names.OWN_METRICS, names.OWN_NAMESPACE)
        assert service["metadata"]["annotations"][names.SCRAPE_ANNOTATION] == names.FALSE
        # And they restart the process that they are for.
        assert (
            api.get("apps/v1", "Deployment", names.RECONCILER, names.OWN_NAMESPACE)["metadata"]["generation"]
            > 1
        )
    assert left_over(api) == []
