"""The harness keeps its own promises; if one breaks, the rest of the tier proves nothing."""

import shutil
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.apiserver import binaries
from tests.apiserver.client import ApiError
from tests.apiserver.stub import StubWebhook, allowed
from tests.apiserver.waiting import eventually


@pytest.fixture
def nothing_installed(monkeypatch, tmp_path):
    """A machine without Go, without cached programs, without KUBEBUILDER_ASSETS."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(binaries.ASSETS, raising=False)


def pod(namespace, name="web", **labels):
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    }


def deployment(namespace, replicas):
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": namespace},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "app", "image": "app"}]},
            },
        },
    }


def webhook_configuration(namespace):
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": f"{namespace}.test.invalid"},
        "webhooks": [
            {
                "name": "pods.test.invalid",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Fail",
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "rules": [
                    {
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE"],
                        "resources": ["pods"],
                    }
                ],
                "clientConfig": {"service": {"name": "webhook", "namespace": "any", "path": "/mutate"}},
            }
        ],
    }


def test_without_go_and_without_assets_the_reason_names_both(nothing_installed):
    with pytest.raises(binaries.UnavailableError, match=r"no etcd: set KUBEBUILDER_ASSETS .* or install Go"):
        binaries.find("etcd")


def test_assets_come_first(nothing_installed, monkeypatch, tmp_path):
    (tmp_path / "etcd").touch(mode=0o755)
    monkeypatch.setenv(binaries.ASSETS, str(tmp_path))
    assert binaries.find("etcd") == {"etcd": tmp_path / "etcd"}
    with pytest.raises(binaries.UnavailableError, match="no kubectl"):
        binaries.find("etcd", "kubectl")


def test_a_pod_is_created_and_read_back(api, namespace):
    created = api.create(pod(namespace))
    assert api.get("v1", "Pod", "web", namespace) == created
    assert [item["metadata"]["uid"] for item in api.items("v1", "Pod", namespace)] == [
        created["metadata"]["uid"]
    ]
    api.delete("v1", "Pod", "web", namespace)
    assert api.find("v1", "Pod", "web", namespace) is None


def test_a_dry_run_stores_nothing(api, namespace):
    assert api.create(pod(namespace), dry_run=True)["metadata"]["uid"]
    assert api.find("v1", "Pod", "web", namespace) is None


def test_an_unknown_field_is_refused_unless_strictness_is_waived(api, namespace):
    misspelt = pod(namespace)
    misspelt["spec"]["containers"][0]["imagePullPolice"] = "Always"
    with pytest.raises(ApiError, match="unknown field") as refusal:
        api.create(misspelt)
    assert refusal.value.code == 400
    api.create(misspelt, strict=False)
    assert api.warnings == ['unknown field "spec.containers[0].imagePullPolice"']


def test_objects_can_be_patched_replaced_and_applied(api, namespace):
    api.create(pod(namespace))
    api.patch("v1", "Pod", "web", {"metadata": {"labels": {"by": "merge"}}}, namespace)
    operation = {"op": "replace", "path": "/metadata/labels/by", "value": "json"}
    patched = api.patch("v1", "Pod", "web", [operation], namespace, type_="json")
    assert patched["metadata"]["labels"] == {"by": "json"}
    patched["metadata"]["labels"] = {"by": "update"}
    api.update(patched)
    with pytest.raises(ApiError) as conflict:
        api.update(patched)
    assert conflict.value.reason == "Conflict"
    wanted = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": namespace}}
    wanted["metadata"]["labels"] = {"by": "apply"}
    with pytest.raises(ApiError, match="conflict"):
        api.apply(wanted, manager="me")
    applied = api.apply(wanted, manager="me", force=True)
    assert applied["metadata"]["labels"] == {"by": "apply"}
    assert "me" in {entry["manager"] for entry in applied["metadata"]["managedFields"]}


def test_many_threads_share_one_client(api, namespace):
    with ThreadPoolExecutor(8) as threads:
        created = list(threads.map(lambda i: api.create(pod(namespace, f"web-{i}")), range(100)))
    assert {item["metadata"]["name"] for item in created} == {
        item["metadata"]["name"] for item in api.items("v1", "Pod", namespace)
    }


@pytest.mark.parametrize("end", ["stop_api_server", "kill_api_server"])
def test_the_api_server_comes_back_with_its_data(control_plane, api, namespace, end):
    created = api.create(pod(namespace))
    getattr(control_plane, end)()
    with pytest.raises(ConnectionRefusedError):
        api.get("v1", "Pod", "web", namespace)
    control_plane.start_api_server()
    assert api.get("v1", "Pod", "web", namespace) == created


def test_a_user_may_do_nothing_until_bound_to_a_role(control_plane, namespace):
    with control_plane.client(control_plane.user_kubeconfig("ann", ["staff"])) as ann:
        with pytest.raises(ApiError, match='User "ann" cannot list') as refusal:
            ann.items("v1", "Pod", namespace)
        assert refusal.value.code == 403


def test_a_service_account_has_its_own_permissions_and_leaves_a_trail(control_plane, api, namespace):
    # A role of its own: the rules of `view` and `edit` are put together by a controller, which need not run.
    group = "rbac.authorization.k8s.io"
    metadata = {"name": "list-pods", "namespace": namespace}
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    api.create({"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": rules})
    api.create(
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "list-pods"},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
        }
    )
    with control_plane.client(control_plane.service_account_kubeconfig(namespace, "default")) as account:
        # The authorizer learns of a binding by a watch.
        assert eventually(
            "the binding", lambda: [account.items("v1", "Pod", namespace)], tolerate=(ApiError,)
        ) == [[]]
        with pytest.raises(ApiError, match="cannot create"):
            account.create(pod(namespace))
    trail = control_plane.audit_events(f"system:serviceaccount:{namespace}:default")
    assert ("create", "pods", 403) in {
        (event["verb"], event["objectRef"].get("resource"), event["responseStatus"]["code"])
        for event in trail
        if "objectRef" in event
    }


def test_a_webhook_is_called_its_patch_lands_and_its_warning_arrives(api, namespace, endpoint, install):
    patch = {"op": "add", "path": "/metadata/annotations", "value": {"seen": "yes"}}
    response = allowed(patch, warnings=['it is "so": größer'])
    with StubWebhook(endpoint, lambda _: response) as webhook:
        install(webhook_configuration(namespace), endpoint)
        created = api.create(pod(namespace))
        assert created["metadata"]["annotations"] == {"seen": "yes"}
        assert api.warnings == ['it is "so": größer']
        assert [(request["operation"], request["dryRun"]) for request in webhook.requests] == [
            ("CREATE", False)
        ]


def test_a_webhook_that_is_gone_no_longer_matters(api, namespace, endpoint, install):
    configuration = install(webhook_configuration(namespace), endpoint)
    with pytest.raises(ApiError, match="failed calling webhook"):
        api.create(pod(namespace))
    configuration["webhooks"][0]["failurePolicy"] = "Ignore"
    api.update(configuration)
    eventually("the new policy", lambda: api.create(pod(namespace)), tolerate=(ApiError,))


def test_kubectl_reaches_the_api_server(kubectl, namespace):
    assert kubectl("get", "namespace", namespace, "-o", "name").stdout == f"namespace/{namespace}\n"


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux)")
def test_children_outlive_the_thread_that_started_them_but_not_the_test_run(tmp_path, pytestconfig):
    script = """
        import sys, threading
        from pathlib import Path
        from tests.apiserver.processes import Child

        children = []
        thread = threading.Thread(
            target=lambda: children.append(Child("sleeper", ["sleep", "600"], Path(sys.argv[1])))
        )
        thread.start()
        thread.join()
        print(children[0].pid, flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "log")]
    root = pytestconfig.rootpath
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root) as run:
        sleeper = int(run.stdout.readline())
        run.send_signal(signal.SIGKILL)

    # Gone, or dead and waiting for whoever inherited it to notice.
    state = Path(f"/proc/{sleeper}/stat")
    eventually("the child to end with its parent", lambda: not state.exists() or " Z " in state.read_text())


# Last: once started, the controllers stay.
def test_a_deployment_gets_a_replica_set_and_pods(controllers, api, namespace):
    api.create(deployment(namespace, replicas=2))

    def owners():
        return [item["metadata"]["ownerReferences"][0]["kind"] for item in api.items("v1", "Pod", namespace)]

    eventually("two pods", lambda: owners() == ["ReplicaSet"] * 2)
    api.delete("apps/v1", "Deployment", "web", namespace)
    eventually("the garbage collector", lambda: not api.items("v1", "Pod", namespace))
