"""The injector's image, run as a cluster runs its reconciler: as a service account, with nothing else."""

import base64
import contextlib
import ipaddress
import json
import signal

import pytest
import yaml

from tests.apiserver import permissions
from tests.apiserver.controlplane import ControlPlane
from tests.apiserver.namespaces import create_namespace
from tests.apiserver.objects import pod as labelled_pod
from tests.apiserver.proxy import Proxy
from tests.apiserver.skipping import skipping_if_unavailable
from tests.apiserver.waiting import eventually
from tests.image.pod import MEBIBYTE, Limits
from webhook import names
from webhook.config import Settings
from webhook.injection import inject

PROBE_PORT = 8080
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
API_SERVER = "kubernetes.default.svc"
LIMITS = Limits(cpu=0.5, memory=256 * MEBIBYTE)


@pytest.fixture(scope="module")
def control_plane(say):
    with contextlib.ExitStack() as stack:
        with skipping_if_unavailable():
            plane = stack.enter_context(ControlPlane(say=say))
        with plane.client() as api:
            permissions.plant(api)
            create_namespace(api, "shop")
        yield plane


@pytest.fixture
def account(control_plane, tmp_path):
    """A folder like the one that the kubelet mounts."""
    kubeconfig = control_plane.service_account_kubeconfig(names.OWN_NAMESPACE, names.RECONCILER)
    content = yaml.safe_load(kubeconfig.read_text())
    folder = tmp_path / "account"
    folder.mkdir()
    (folder / "token").write_text(content["users"][0]["user"]["token"])
    (folder / "ca.crt").write_bytes(
        base64.b64decode(content["clusters"][0]["cluster"]["certificate-authority-data"])
    )
    (folder / "namespace").write_text(names.OWN_NAMESPACE)
    for path in folder.iterdir():
        path.chmod(0o644)
    return folder


@pytest.fixture
def start(control_plane, pod, webhook_image, account, tmp_path):
    """Return a function that runs a command of the image where it finds the API server as in a cluster."""
    gateway = str(ipaddress.ip_address(pod.address) - 1)
    with Proxy(control_plane.url, gateway) as proxy:
        hosts = tmp_path / "hosts"
        hosts.write_text(f"127.0.0.1 localhost\n{gateway} {API_SERVER}\n")
        environment = {"KUBERNETES_SERVICE_HOST": API_SERVER, "KUBERNETES_SERVICE_PORT": str(proxy.port)}

        def start(*arguments, **options):
            return pod.start(
                webhook_image,
                *arguments,
                environment=environment,
                limits=LIMITS,
                mounts={account: ACCOUNT, hosts: "/etc/hosts"},
                **options,
            )

        yield start


def test_it_reconciles_as_its_service_account_without_any_privilege(control_plane, pod, start, report):
    """uid 65532, no capability, read-only root, default seccomp; the token of the pod, no kubeconfig."""
    container = start("reconcile")
    with control_plane.client() as api:
        api.create(inject(labelled_pod("shop", "web"), Settings()))
        service = eventually(
            "the Service", lambda: api.find("v1", "Service", "web-metrics-sidecar-pod", "shop"), deadline=90
        )
        assert service["metadata"]["annotations"][names.SCRAPE_ANNOTATION] == "true"
        secret = eventually(
            "the certificate",
            lambda: api.find("v1", "Secret", names.CERTIFICATE_SECRET, names.OWN_NAMESPACE),
            deadline=60,
        )
        assert secret["data"][names.SERVING_CERTIFICATE]
    assert pod.get("/livez", port=PROBE_PORT)[0] == 200
    assert "metrics_sidecar_reconciler_leader 1.0" in pod.get("/metrics", port=PROBE_PORT)[1]
    status = container.status()
    assert status["Uid"].split() == ["65532"] * 4
    assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
    report("reconciler: memory", f"{int(status['VmHWM'].split()[0]) / 1024:.0f} MiB")
    assert container.ends_within(10.0, signal.SIGTERM)
    complaints = [
        line
        for line in map(json.loads, container.output().splitlines())
        if line["level"] in ("error", "critical")
    ]
    assert complaints == []


def test_check_looks_at_the_cluster_it_runs_in(start):
    container = start("check", "--output", "json")
    # It has fewer permissions than an administrator, and says so; that it looks is what counts here.
    assert container.wait() in (0, 1)
    assert json.loads(container.output())["findings"]
