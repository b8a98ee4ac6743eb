"""`check` on a real API server: it says nothing of a healthy cluster, and names each fault that is planted.

Where the command that it gives can mend the fault, it is run as it stands, and `check` is content afterwards.
"""

import base64
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from tests.apiserver import binaries
from tests.apiserver.admission import CONFIGURATION, Endpoint, admission_barrier
from tests.apiserver.certificates import DAY, Authority, Identity
from tests.apiserver.client import ApiError
from tests.apiserver.injector import ROOT, Injector
from tests.apiserver.objects import pod, workload
from tests.apiserver.reconciler import Reconciler
from tests.apiserver.targets import Kubelet
from tests.apiserver.waiting import eventually
from webhook import names, status
from webhook.names import Fault

LABEL = names.INJECT_LABEL
OWN = names.OWN_NAMESPACE
SECRET = "v1", "Secret", names.CERTIFICATE_SECRET, OWN
LEASE = "coordination.k8s.io/v1", "Lease", names.RECONCILER, OWN
WEBHOOK = *CONFIGURATION, names.WEBHOOK
SLICE = "discovery.k8s.io/v1", "EndpointSlice", f"{names.WEBHOOK}-tests", OWN
DEPLOYMENT = "apps/v1", "Deployment"
KEPT = ("Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")


def own_address():
    """An address of this machine by which the API server may call: endpoints are never on loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address besides loopback, which an endpoint may not have")
        address = probe.getsockname()[0]
    if address.startswith("127."):
        pytest.skip("this machine has no address besides loopback, which an endpoint may not have")
    return address


class Node(Kubelet):
    """A kubelet that also shows the certificate in the Secret to the injector, as a mounted Secret does."""

    def __init__(self, api, endpoint):
        super().__init__(api)
        self.shown = threading.Event()
        self._endpoint = endpoint
        self._pair = None

    def _run(self):
        mounting = threading.Thread(target=self._mount, name="mount")
        mounting.start()
        super()._run()
        mounting.join()

    def _mount(self):
        while not self._end.wait(0.2):
            with contextlib.suppress(OSError, http.client.HTTPException, ApiError):
                data = (self._api.find(*SECRET) or {}).get("data", {})
                pair = [base64.b64decode(data.get(key, "")) for key in ("tls.crt", "tls.key")]
                if all(pair) and pair != self._pair:
                    self._endpoint.renew(Identity(*pair))
                    self._pair = pair
                    self.shown.set()


def installation():
    """What operators apply, but for what the harness has planted before."""
    documents = yaml.safe_load_all((ROOT / "manifests" / "install.yaml").read_text())
    return [document for document in documents if document["kind"] not in KEPT]


def endpoints(address, port):
    """What the controller writes of pods on nodes. There are no nodes here."""
    labels = {
        "kubernetes.io/service-name": names.WEBHOOK,
        "endpointslice.kubernetes.io/managed-by": "tests.metrics-sidecar.io",
    }
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{names.WEBHOOK}-tests", "namespace": OWN, "labels": labels},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        "ports": [{"name": "webhooks", "port": port, "protocol": "TCP"}],
    }


class Cluster:
    """The cluster under test, and what `check` says of it."""

    def __init__(self, control_plane, api, kubectl_folder, reconciler, injector):
        self.reconciler = reconciler
        self.injector = injector
        self.control_plane = control_plane
        self.api = api
        self.environment = {
            "PATH": f"{kubectl_folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "KUBECONFIG": str(control_plane.admin_kubeconfig),
            "HOME": str(control_plane.folder),
        }

    def run(self, *arguments, kubeconfig=None):
        environment = self.environment | ({"KUBECONFIG": str(kubeconfig)} if kubeconfig else {})
        command = [sys.executable, "-W", "error", "-m", "webhook", "check", *arguments]
        return subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
        )

    def report(self, *arguments, **options):
        done = self.run("--output", "json", *arguments, **options)
        assert done.stderr == ""
        content = json.loads(done.stdout)
        assert done.returncode == (0 if content["healthy"] else 1)
        return content

    def findings(self, namespace):
        content = self.report("--namespace", namespace)
        assert content["notChecked"] == []
        return content["findings"]

    @contextlib.contextmanager
    def without_reconciler(self):
        """Have the reconciler stand still, but not for so long that its Lease tells."""
        os.kill(self.reconciler.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.reconciler.process.pid, signal.SIGCONT)

    @contextlib.contextmanager
    def without_webhook(self):
        """Have nobody listen where the API server calls, until somebody does again."""
        self.injector.__exit__()
        try:
            yield
        finally:
            self.injector.__enter__()

    def finds(self, namespace, *faults):
        """Wait until these are all that is found, and return them; some faults take time to show."""

        def found():
            findings = self.findings(namespace)
            assert [item["code"] for item in findings] == [fault.value for fault in faults], findings
            return findings or True

        return eventually(f"{faults or 'nothing'} to be found", found, deadline=90)

    def healthy(self, namespace):
        self.finds(namespace)

    def mend(self, finding):
        """Run the command of a finding as it stands."""
        done = subprocess.run(
            ["/bin/bash", "-c", finding["command"]],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, f"{finding['command']}\n{done.stderr}"
        admission_barrier(self.api)

    def injected(self, namespace, count=1):
        """Wait until a namespace has that many pods, all with the exporter and their Service."""

        def condition():
            pods = [
                item
                for item in self.api.items("v1", "Pod", namespace)
                if "deletionTimestamp" not in item["metadata"]
            ]
            assert [bool(status.read(item)) for item in pods] == [True] * count
            return pods

        return eventually(f"{count} injected pods", condition, deadline=60)


@pytest.fixture(scope="module")
def cluster(controllers, admin, accounts, say, tmp_path_factory):
    """A cluster as after `kubectl apply -f manifests/install.yaml`, and all of it at work."""
    controllers.start_api_server()
    address = own_address()
    folder = binaries.find("kubectl", say=say)["kubectl"].parent
    with contextlib.ExitStack() as stack:
        endpoint = stack.enter_context(contextlib.closing(Endpoint()))
        node = stack.enter_context(Node(admin, endpoint))
        for document in [*installation(), endpoints(address, endpoint.port)]:
            admin.create(document)
            metadata = document["metadata"]
            where = document["apiVersion"], document["kind"], metadata["name"], metadata.get("namespace")
            stack.callback(_forget, admin, *where)
        stack.callback(_forget, admin, *SECRET)
        stack.callback(_forget, admin, *LEASE)
        reconciler = stack.enter_context(Reconciler(controllers, certificates="true", settle_seconds=0))
        reconciler.wait_until_leading()
        assert node.shown.wait(30), reconciler.process.log_tail()
        injector = stack.enter_context(Injector(endpoint, settings={"SERVE_ADDRESS": address}))
        cluster = Cluster(controllers, admin, folder, reconciler, injector)
        cluster.healthy("default")
        yield cluster
    admission_barrier(admin)


def _forget(api, api_version, kind, name, namespace):
    with contextlib.suppress(ApiError):
        api.delete(api_version, kind, name, namespace)


@pytest.fixture
def shop(cluster, namespace):
    """A namespace in which a workload has the exporter and its Service, and nothing is wrong."""
    cluster.api.create(workload("Deployment", namespace, "shop", inject="true", replicas=2))
    cluster.injected(namespace, 2)
    cluster.healthy(namespace)
    return namespace


# --- healthy ---------------------------------------------------------------------------------------------


def test_a_healthy_cluster_is_one_line(cluster, shop):
    done = cluster.run("--namespace", shop)
    line = "healthy: 2 pods of 1 workload with the exporter\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, line, "")


def test_it_reads_and_writes_nothing(cluster, shop):
    user = "check-auditor"
    kubeconfig = cluster.control_plane.user_kubeconfig(user)
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }
    cluster.api.create(binding)
    try:
        content = cluster.report("--namespace", shop, kubeconfig=kubeconfig)
        assert (content["findings"], content["notChecked"]) == ([], [])
    finally:
        cluster.api.delete(binding["apiVersion"], binding["kind"], user)
    requests = cluster.control_plane.audit_events(user)
    writes = [event for event in requests if event["verb"] not in ("get", "list")]
    assert {event["objectRef"]["resource"] for event in writes} == {"pods", "subjectaccessreviews"}
    probes = [event for event in writes if event["objectRef"]["resource"] == "pods"]
    assert all("dryRun=All" in event["requestURI"] for event in probes)


def test_what_may_not_be_read_is_said(cluster, shop):
    user = "check-tenant"
    kubeconfig = cluster.control_plane.user_kubeconfig(user)
    done = cluster.run(kubeconfig=kubeconfig)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("check: cluster: mutatingwebhookconfigurations")
    cluster.api.create(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": user, "namespace": shop},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        }
    )
    content = cluster.report("--namespace", shop, kubeconfig=kubeconfig)
    assert content["findings"] == []
    unchecked = {item["what"] for item in content["notChecked"]}
    assert {"the webhook configuration", "the Secret with the certificate"} <= unchecked
    assert not {"pods", "workloads", "Services"} & unchecked


# --- the installation ------------------------------------------------------------------------------------


def edit(path, value, op="replace"):
    def plant(cluster):
        operation = {"op": op, "path": path} | ({} if op == "remove" else {"value": value})
        cluster.api.patch(*WEBHOOK, [operation], type_="json")

    return plant


def scale_to_nothing(cluster):
    cluster.api.patch(*DEPLOYMENT, names.WEBHOOK, {"spec": {"replicas": 0}}, OWN)


@pytest.mark.parametrize(
    ("fault", "plant"),
    [
        (Fault.WEBHOOK_MISSING, lambda cluster: cluster.api.delete(*WEBHOOK)),
        (Fault.WEBHOOK_ENTRY_MISSING, edit("/webhooks/1", None, "remove")),
        (Fault.WEBHOOK_PATH, edit("/webhooks/0/clientConfig/service/path", "/mutate")),
        (Fault.WEBHOOK_REFERENCE, edit("/webhooks/0/clientConfig/service/namespace", "elsewhere")),
        (Fault.WEBHOOK_BLOCKS, edit("/webhooks/2/failurePolicy", "Fail")),
        (
            Fault.WEBHOOK_SERVICE_MISSING,
            lambda cluster: cluster.api.delete("v1", "Service", names.WEBHOOK, OWN),
        ),
        (Fault.ADMISSION_UNAVAILABLE, scale_to_nothing),
        (
            Fault.PERMISSION_MISSING,
            lambda cluster: cluster.api.delete(
                "rbac.authorization.k8s.io/v1", "ClusterRoleBinding", names.RECONCILER
            ),
        ),
    ],
)
def test_a_fault_of_the_installation_is_named_and_mended(cluster, api, fault, plant):
    plant(cluster)
    [finding] = cluster.finds("default", fault)
    cluster.mend(finding)
    cluster.healthy("default")


@pytest.mark.parametrize(
    ("fault", "bundle"),
    [
        (Fault.CA_BUNDLE_STALE, base64.b64encode(Authority("another").certificate).decode()),
        (Fault.CA_BUNDLE_MISSING, None),
    ],
)
def test_a_bundle_that_is_not_of_the_secret_is_named_and_mended(cluster, api, fault, bundle):
    with cluster.without_reconciler():
        operation = "replace" if bundle else "remove"
        for index in range(3):
            edit(f"/webhooks/{index}/clientConfig/caBundle", bundle, operation)(cluster)
        [finding] = cluster.finds("default", fault)
        cluster.mend(finding)
        cluster.healthy("default")


def expired():
    authority = Authority("expired")
    pair = authority.server(f"{names.WEBHOOK}.{OWN}.svc", lifetime=-DAY)
    return {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": authority.certificate}


@pytest.mark.parametrize(
    ("fault", "content"),
    [
        (Fault.CERTIFICATE_EXPIRED, expired()),
        (Fault.CERTIFICATE_INVALID, {"tls.crt": b"garbage"}),
        (Fault.CERTIFICATE_MISSING, None),
    ],
)
def test_a_certificate_of_no_use_is_named_and_mended(cluster, api, fault, content):
    with cluster.without_reconciler():
        if content is None:
            api.delete(*SECRET)
        else:
            data = {key: base64.b64encode(value).decode() for key, value in content.items()}
            api.patch(*SECRET[:3], {"data": data}, OWN)
        [finding] = cluster.finds("default", fault)
        cluster.mend(finding)
    cluster.healthy("default")


def test_a_reconciler_that_stands_still_is_named(cluster, api):
    with cluster.without_reconciler():
        patch = {"spec": {"renewTime": "2020-01-01T00:00:00.000000Z"}}
        api.patch(*LEASE[:3], patch, OWN)
        [finding] = cluster.finds("default", Fault.RECONCILER_STOPPED)
        cluster.mend(finding)
        template = api.get(*DEPLOYMENT, names.RECONCILER, OWN)["spec"]["template"]
        assert "kubectl.kubernetes.io/restartedAt" in template["metadata"]["annotations"]
    cluster.healthy("default")


def test_a_webhook_without_endpoints_is_named(cluster, api):
    def endpoint(ready):
        endpoints = [{"addresses": [own_address()], "conditions": {"ready": ready}}]
        api.patch(*SLICE[:3], {"endpoints": endpoints}, OWN)

    endpoint(ready=False)
    try:
        [finding] = cluster.finds("default", Fault.WEBHOOK_NO_ENDPOINTS)
        assert finding["object"]["name"] == names.WEBHOOK
    finally:
        endpoint(ready=True)
    cluster.healthy("default")


def test_a_webhook_that_cannot_be_reached_is_named(cluster, api):
    with cluster.without_webhook():
        [finding] = cluster.finds("default", Fault.WEBHOOK_NOT_CALLED)
        assert "came back without the exporter" in finding["evidence"][0]
    cluster.healthy("default")


# --- workloads -------------------------------------------------------------------------------------------


@pytest.fixture
def plain(cluster, namespace):
    """A namespace with a workload that nobody has labelled."""
    cluster.api.create(workload("Deployment", namespace, "shop", replicas=2))
    return namespace


def replicaset(cluster, namespace):
    [found] = eventually("the ReplicaSet", lambda: cluster.api.items("apps/v1", "ReplicaSet", namespace))
    return found["metadata"]["name"]


def label_replicaset(cluster, namespace):
    patch = {"metadata": {"labels": {LABEL: "true"}}}
    cluster.api.patch("apps/v1", "ReplicaSet", replicaset(cluster, namespace), patch, namespace)


def label_service(cluster, namespace):
    metadata = {"name": "shop", "namespace": namespace, "labels": {LABEL: "true"}}
    spec = {"selector": {"app": "shop"}, "ports": [{"port": 80}]}
    cluster.api.create({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})


def label_while_away(cluster, namespace):
    with cluster.without_webhook():
        mark(labels={LABEL: "true"})(cluster, namespace)


def label_namespace(cluster, namespace):
    eventually("two pods", lambda: len(cluster.api.items("v1", "Pod", namespace)) == 2)
    cluster.api.patch("v1", "Namespace", namespace, {"metadata": {"labels": {LABEL: "true"}}})


def mark(**metadata):
    return lambda cluster, namespace: cluster.api.patch(
        *DEPLOYMENT, "shop", {"metadata": metadata}, namespace
    )


@pytest.mark.parametrize(
    ("fault", "plant"),
    [
        (Fault.LABEL_IS_ANNOTATION, mark(annotations={LABEL: "true"})),
        (Fault.LABEL_VALUE, mark(labels={LABEL: "yes"})),
        (Fault.LABEL_ON_REPLICASET, label_replicaset),
        (Fault.LABEL_ON_SERVICE, label_service),
        (Fault.TEMPLATE_NOT_STAMPED, label_while_away),
        (Fault.PODS_NOT_INJECTED, label_namespace),
    ],
)
def test_a_label_without_effect_is_named_and_mended(cluster, plain, fault, plant):
    plant(cluster, plain)
    [finding] = cluster.finds(plain, fault)
    cluster.mend(finding)
    cluster.injected(plain, 2)
    cluster.healthy(plain)


def test_a_bare_pod_from_before_the_webhook_is_named_and_mended(cluster, namespace):
    with cluster.without_webhook():
        cluster.api.create(pod(namespace, "tool", inject="true"))
    [finding] = cluster.finds(namespace, Fault.PODS_NOT_INJECTED)
    cluster.mend(finding)
    cluster.injected(namespace)
    cluster.healthy(namespace)


def test_a_job_that_was_labelled_too_late_is_named_and_mended(cluster, namespace):
    cluster.api.create(workload("Job", namespace, "migrate"))
    patch = {"metadata": {"labels": {LABEL: "true"}}}
    cluster.api.patch("batch/v1", "Job", "migrate", patch, namespace)
    [finding] = cluster.finds(namespace, Fault.LABEL_ON_RUNNING_JOB)
    if shutil.which("jq") is None:
        pytest.skip("the command needs jq, which is not on this machine")
    cluster.mend(finding)
    cluster.injected(namespace)
    cluster.healthy(namespace)


def test_an_exporter_out_of_memory_is_named_and_mended(cluster, shop):
    for made in cluster.injected(shop, 2):
        ended = {"exitCode": 137, "reason": "OOMKilled"}
        report = {"name": "metrics", "ready": False, "restartCount": 3, "image": "i", "imageID": "i"}
        report |= {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": ended}}
        patch = {"status": {"containerStatuses": [report]}}
        cluster.api.patch("v1", "Pod", made["metadata"]["name"], patch, shop, subresource="status")
    [finding] = cluster.finds(shop, Fault.SIDECAR_OUT_OF_MEMORY)
    cluster.mend(finding)
    cluster.healthy(shop)


# --- refused pods ----------------------------------------------------------------------------------------


def test_a_limit_range_that_refuses_the_exporter_is_named_and_mended(cluster, shop):
    cluster.api.create(
        {
            "apiVersion": "v1",
            "kind": "LimitRange",
            "metadata": {"name": "bounds", "namespace": shop},
            "spec": {"limits": [{"type": "Container", "min": {"cpu": "100m"}}]},
        }
    )
    [finding] = cluster.finds(shop, Fault.LIMIT_RANGE_REFUSES)
    cluster.mend(finding)
    cluster.healthy(shop)
    cluster.injected(shop, 2)


def test_a_quota_without_room_for_the_exporter_is_named_and_mended(cluster, namespace):
    cluster.api.create(
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "compute", "namespace": namespace},
            "spec": {"hard": {"requests.cpu": "120m"}},
        }
    )
    eventually(
        "the quota to be counted",
        lambda: cluster.api.get("v1", "ResourceQuota", "compute", namespace)["status"].get("used"),
    )
    container = {"name": "app", "image": "example.test/app:1", "resources": {"requests": {"cpu": "100m"}}}
    cluster.api.create(
        workload("Deployment", namespace, "shop", inject="true", pod_spec={"containers": [container]})
    )
    [finding] = cluster.finds(namespace, Fault.QUOTA_REFUSES)
    cluster.mend(finding)
    cluster.injected(namespace)
    cluster.healthy(namespace)


# --- Services --------------------------------------------------------------------------------------------

SERVICE = "shop-metrics-sidecar"


def test_a_service_that_nobody_made_is_named_and_mended(cluster, shop):
    with cluster.without_reconciler():
        cluster.api.delete("v1", "Service", SERVICE, shop)
        [finding] = cluster.finds(shop, Fault.SERVICE_MISSING)
        cluster.mend(finding)
    cluster.healthy(shop)


def test_a_service_that_somebody_edited_is_named_and_mended(cluster, shop):
    with cluster.without_reconciler():
        cluster.api.patch("v1", "Service", SERVICE, {"spec": {"selector": {"app": "other"}}}, shop)
        [finding] = cluster.finds(shop, Fault.SERVICE_DRIFTED)
        cluster.mend(finding)
    cluster.healthy(shop)


def test_a_service_of_somebody_else_is_named_and_mended(cluster, plain):
    metadata = {"name": SERVICE, "namespace": plain}
    spec = {"selector": {"app": "shop"}, "ports": [{"port": 80}]}
    cluster.api.create({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
    mark(labels={LABEL: "true"})(cluster, plain)
    cluster.injected(plain, 2)
    [finding] = cluster.finds(plain, Fault.SERVICE_FOREIGN)
    cluster.mend(finding)
    cluster.healthy(plain)


def test_a_service_through_which_pods_are_scraped_again_is_named_and_mended(cluster, shop):
    annotations = {names.SCRAPE_ANNOTATION: "true"}
    metadata = {"name": "shop", "namespace": shop, "annotations": annotations}
    spec = {"selector": {"app": "shop"}, "ports": [{"port": 80, "targetPort": 8080}]}
    cluster.api.create({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
    [finding] = cluster.finds(shop, Fault.SCRAPED_TWICE)
    cluster.mend(finding)
    cluster.healthy(shop)
