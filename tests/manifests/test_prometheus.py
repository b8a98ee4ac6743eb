"""The component `prometheus`, and a real Prometheus that works with it: what it finds, and how often.

Pods are network namespaces with a real exporter each, and the API server is
told its address, as a kubelet would. The API server is on loopback of this machine, and forwarded into the
namespace where Prometheus runs.
"""

import contextlib
import http.client
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from lab import namespace as lab
from tests.apiserver import objects as users
from tests.apiserver.balancer import Balancer, Replica
from tests.apiserver.namespaces import create_namespace
from tests.apiserver.skipping import skipping_if_unavailable
from tests.apiserver.waiting import eventually
from tests.manifests import modules
from tests.manifests.installed import applied, kubectl
from tests.manifests.kustomize import BASE, COMPONENTS, overlay
from webhook import names
from webhook.config import Mode, Settings
from webhook.injection import inject
from webhook.service import build_service

ROOT = Path(__file__).parents[2]
ACCOUNT = "metrics-sidecar-prometheus"
NODE = "node-of-prometheus"
SHOP = "shop"
JOB = "kubernetes-service-endpoints"
UI = 9090

# What the Prometheus Operator makes of our PodMonitor, as far as it decides what is a target.
POD_MONITOR = {
    "job_name": "podmonitor",
    "kubernetes_sd_configs": [{"role": "pod"}],
    "relabel_configs": [
        {
            "source_labels": [
                f"__meta_kubernetes_pod_label_{key}",
                f"__meta_kubernetes_pod_labelpresent_{key}",
            ],
            "regex": "(true);true",
            "action": "keep",
        }
        for key in ["metrics_sidecar_io_injected"]
    ]
    + [
        {
            "source_labels": ["__meta_kubernetes_pod_container_port_name"],
            "regex": names.PORT_NAME,
            "action": "keep",
        },
        {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
    ],
}


@pytest.fixture(scope="module")
def programs(say):
    with skipping_if_unavailable():
        return modules.prometheus(say)


@pytest.fixture(scope="module")
def world():
    """Where Prometheus runs; skipped where no network namespaces can be had."""
    if why := lab.why_not():
        pytest.skip(f"needs network namespaces: {why}")
    with lab.Namespace() as world:
        yield world


class Pods:
    """Network namespaces that are pods, joined to the world by a cable each."""

    def __init__(self, api, world, folder):
        self._api, self._world, self._folder = api, world, folder
        self._stack = contextlib.ExitStack()
        self._number = 0

    def close(self):
        self._stack.close()

    def run(self, pod, command, *, ready=True, six=False, **environment):
        """Give a pod that the API server has an address where a program listens; return the address."""
        self._number += 1
        number = self._number
        here = self._stack.enter_context(lab.Namespace())
        here.join(self._world, other_interface=f"pod{number}")
        network, length = (f"fd76:{number}::", 64) if six else (f"10.76.{number}.", 24)
        here.add_address(f"{network}2/{length}", "eth0")
        self._world.add_address(f"{network}1/{length}", f"pod{number}")
        address = f"{network}2"
        with (self._folder / f"{number}.log").open("wb") as log:
            here.popen(
                [sys.executable, "-m", *command],
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], "POD_NAME": pod["metadata"]["name"], **environment},
                stdout=log,
                stderr=log,
            )
        status = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": str(ready)}],
        }
        metadata = pod["metadata"]
        self._api.patch(
            "v1", "Pod", metadata["name"], {"status": status}, metadata["namespace"], subresource="status"
        )
        return address


class Prometheus:
    """A Prometheus in the world, asked over its own API."""

    def __init__(self, world, program, config, folder):
        self._world = world
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.log = folder / "prometheus.log"
        with self.log.open("wb") as log:
            self.process = world.popen(
                [
                    str(program),
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{UI}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def get(self, path):
        with self._world.entered():
            connection = http.client.HTTPConnection("127.0.0.1", UI, timeout=5)
            connection.connect()
        with contextlib.closing(connection):
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())["data"]

    def targets(self, job):
        found = self.get("/api/v1/targets?state=active")["activeTargets"]
        return [target for target in found if target["scrapePool"] == job]

    def query(self, expression):
        return self.get(f"/api/v1/query?query={expression}")["result"]


@pytest.fixture(scope="module")
def shop(control_plane, api, world, tmp_path_factory):
    """A cluster with what shall be scraped, and what shall not; the addresses of the former, by pod."""
    folder = overlay(tmp_path_factory.mktemp("overlay"), [BASE], ["prometheus"])
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
    pods = Pods(api, world, tmp_path_factory.mktemp("pods"))
    with contextlib.ExitStack() as stack:
        stack.callback(pods.close)
        stack.enter_context(applied(control_plane, folder))
        api.create(node)
        stack.callback(api.delete, "v1", "Node", NODE)
        create_namespace(api, SHOP)
        stack.callback(kubectl, control_plane, "delete", "namespace", SHOP)
        # No kubelet says that they have ended.
        stack.callback(api.delete_all, "v1", "Pod", SHOP)
        yield {
            **injected(api, pods),
            names.WEBHOOK: of_our_own(api, pods),
        }


def injected(api, pods):
    """Pods with the exporter, one a native sidecar, one of IPv6, each with its Service; and one without."""
    found = {}
    for name, mode, family in (
        ("web", Mode.CONTAINER, "IPv4"),
        ("batch", Mode.NATIVE, "IPv4"),
        *([("six", Mode.CONTAINER, "IPv6")] if lab.has_ipv6() else []),
    ):
        application = users.container(
            ports=[{"name": "http", "containerPort": 8080}, {"containerPort": 8081}]
        )
        plain = users.pod(SHOP, name, labels={"app": name}, containers=[application], nodeName=NODE)
        pod = api.create(inject(plain, Settings(mode=mode)))
        service = build_service(pod, Settings())
        service["spec"]["ipFamilies"] = [family]
        api.create(service)
        found[name] = pods.run(pod, ["sidecar"], ready=name == "web", six=family == "IPv6")
    # Neither injected nor annotated: nobody's target.
    api.create(users.pod(SHOP, "plain", labels={"app": "plain"}, nodeName=NODE))
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "plain", "namespace": SHOP},
        "spec": {"selector": {"app": "plain"}, "ports": [{"port": 80}]},
    }
    api.create(service)
    return found


def of_our_own(api, pods):
    """A pod of the admission process: not ready, for it has no certificate."""
    webhook = eventually(
        "a pod of the admission process",
        lambda: api.items("v1", "Pod", names.OWN_NAMESPACE, labels=f"app.kubernetes.io/name={names.WEBHOOK}"),
    )[0]
    return pods.run(webhook, ["webhook", "serve"], ready=False)


@pytest.fixture(scope="module")
def prometheus(control_plane, api, shop, world, programs, tmp_path_factory):
    """Prometheus with the configuration and the account that the component put into the cluster."""
    written = api.get("v1", "ConfigMap", ACCOUNT, names.OWN_NAMESPACE)["data"]["prometheus.yml"]
    config = yaml.safe_load(written)
    config["scrape_configs"].append(POD_MONITOR)
    kubeconfig = control_plane.service_account_kubeconfig(names.OWN_NAMESPACE, ACCOUNT)
    for job in config["scrape_configs"]:
        # In a pod it would find the API server, and its token, by itself.
        for discovery in job["kubernetes_sd_configs"]:
            discovery["kubeconfig_file"] = str(kubeconfig)
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s"}
    port = int(control_plane.url.rpartition(":")[2])
    with world.entered():
        forwarder = Balancer(port)
    api_server = Replica(port, lambda: True)
    api_server.ready = True
    forwarder.replicas = [api_server]
    with forwarder:
        prometheus = Prometheus(world, programs["prometheus"], config, tmp_path_factory.mktemp("prometheus"))
        try:
            eventually(
                "Prometheus to answer",
                lambda: prometheus.targets(JOB),
                deadline=60,
                tolerate=(OSError, http.client.HTTPException, ValueError),
            )
            yield prometheus
        finally:
            lab.end_all([prometheus.process])


def up(prometheus):
    return [target for target in prometheus.targets(JOB) if target["health"] == "up"]


def applications(shop):
    return [pod for pod in shop if pod != names.WEBHOOK]


def at(address, port):
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def test_the_configuration_is_one(programs):
    path = COMPONENTS["prometheus"] / "prometheus.yml"
    command = [str(programs["promtool"]), "check", "config", "--lint=all", "--lint-fatal", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_pod_behind_an_annotated_service_is_one_target_and_nothing_else_is(prometheus, shop):
    expected = Counter(
        f"http://{at(address, 8080 if pod == names.WEBHOOK else 9999)}/metrics"
        for pod, address in shop.items()
    )

    def found():
        seen = Counter(target["scrapeUrl"] for target in up(prometheus))
        # Those of our pods that no program was started for have no address, so they are none.
        assert seen == expected, [(item["scrapeUrl"], item["lastError"]) for item in prometheus.targets(JOB)]
        assert len(prometheus.targets(JOB)) == len(expected)
        return True

    eventually("exactly these targets", found)


def test_every_series_is_there_once_with_the_labels_of_its_service_and_no_others(prometheus, shop):
    def found():
        series = [item["metric"] for item in prometheus.query(f'port_total{{job="{JOB}"}}')]
        assert sorted(item["pod_name"] for item in series) == sorted(applications(shop))
        for item in series:
            assert set(item) == {"__name__", "instance", "job", "namespace", "node", "pod_name", "service"}
            assert (item["namespace"], item["node"]) == (SHOP, NODE)
            assert item["service"].startswith(item["pod_name"] + names.SERVICE_SUFFIX)
        return True

    eventually("one series for each pod", found)


def test_our_own_processes_are_found_even_while_they_are_not_ready(prometheus, shop):
    def found():
        [series] = prometheus.query("metrics_sidecar_webhook_certificate_expiry_timestamp_seconds")
        assert series["metric"]["service"] == names.OWN_METRICS
        return True

    eventually("our own metrics", found, tolerate=(ValueError,))


def test_a_pod_monitor_finds_the_port_by_name_on_containers_and_on_native_sidecars(prometheus, shop):
    def found():
        targets = prometheus.targets("podmonitor")
        assert sorted(target["labels"]["pod"] for target in targets) == sorted(applications(shop))
        assert {target["health"] for target in targets} == {"up"}
        return True

    eventually("both pods", found)


def test_the_account_is_never_refused_and_nothing_it_may_do_is_unused(control_plane, prometheus):
    events = control_plane.audit_events(f"system:serviceaccount:{names.OWN_NAMESPACE}:{ACCOUNT}")
    assert {event["responseStatus"]["code"] for event in events if "responseStatus" in event} <= {200}
    used = {
        (event["verb"], event["objectRef"].get("apiGroup", ""), event["objectRef"]["resource"])
        for event in events
    }
    [role] = [
        obj
        for obj in yaml.safe_load_all((COMPONENTS["prometheus"] / "permissions.yaml").read_text())
        if obj["kind"] == "ClusterRole"
    ]
    granted = {
        (verb, group, resource)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    # To list first is what Prometheus did before it could begin with a watch, and still does where it cannot.
    assert {item for item in granted if item[0] == "watch"} <= used <= granted
    assert {verb for verb, *_ in granted} == {"list", "watch"}
