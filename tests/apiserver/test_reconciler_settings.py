"""What the reconciler is told to do, it does, and what it cannot do, it says."""

import json
import os
import subprocess
import sys

import pytest

from tests.apiserver.injector import PREFIX, ROOT
from tests.apiserver.objects import workload
from tests.apiserver.reconciler import RECONCILE
from tests.apiserver.targets import one_each
from tests.apiserver.waiting import eventually
from webhook import names

pytestmark = pytest.mark.usefixtures("injector", "kubelet")

SERVICE = "v1", "Service", "web-metrics-sidecar"


def test_where_services_are_switched_off_ours_go_and_those_of_others_stay(
    api, namespace, make_namespace, make_reconciler
):
    """A PodMonitor finds the pods there: with a Service besides, they would be scraped twice."""
    reconciler = make_reconciler()
    reconciler.wait_until_leading()
    api.create(workload("Deployment", namespace, inject="true"))
    one_each(api, namespace)
    reconciler.process.stop()

    def service(**more):
        head = {"name": SERVICE[2], "namespace": make_namespace(), **more}
        spec = {"selector": {"app": "web"}, "ports": [{"port": 80}]}
        return api.create({"apiVersion": "v1", "kind": "Service", "metadata": head, "spec": spec})

    of_files = service(
        labels={names.MANAGED_BY_LABEL: names.MANAGED_BY}, annotations={names.OFFLINE_ANNOTATION: "true"}
    )
    of_others = service()
    without = make_reconciler(services="false", resync_seconds=1)
    without.wait_until_leading()
    eventually("ours to go", lambda: api.find(*SERVICE, namespace) is None)
    eventually("a resync", lambda: len(without.said("resync: done")) >= 2)
    for kept in (of_files, of_others):
        assert api.get(*SERVICE, kept["metadata"]["namespace"]) == kept


def test_namespaces_can_be_ignored(api, make_namespace, make_reconciler):
    ignored, namespace = make_namespace(), make_namespace()
    for where in (ignored, namespace):
        api.create(workload("Deployment", where, inject="true"))
    reconciler = make_reconciler(cluster={"ignored_namespaces": f"kube-system,{ignored}"})
    reconciler.wait_until_leading()
    eventually("the other's Service", lambda: api.find(*SERVICE, namespace))
    eventually("a resync", lambda: reconciler.said("resync: done"))
    assert api.find(*SERVICE, ignored) is None


def test_the_clusters_port_is_the_services(api, namespace, make_reconciler):
    """Where nothing tells otherwise; a pod that was injected with another knows its own."""
    api.create(workload("Deployment", namespace, inject="true"))
    reconciler = make_reconciler(cluster={"port": 9100})
    reconciler.wait_until_leading()
    # The pod was injected, by an injector that has the default.
    one_each(api, namespace)
    assert api.get(*SERVICE, namespace)["spec"]["ports"][0]["port"] == 9999


def run(tmp_path, **environment):
    """Run it to its end, which must come by itself; return exit code, and its log's lines."""
    given = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        f"{PREFIX}RECONCILE_ADDRESS": "127.0.0.1",
        f"{PREFIX}RECONCILE_PROBE_PORT": "0",
        **environment,
    }
    done = subprocess.run(
        [sys.executable, *RECONCILE], env=given, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout == ""
    return done.returncode, [json.loads(line) for line in done.stderr.splitlines()]


@pytest.mark.parametrize("content", [None, "", "{", "apiVersion: v1\nkind: Config\n"])
def test_without_a_cluster_it_ends_and_says_what_it_expected(tmp_path, content):
    kubeconfig = tmp_path / "kubeconfig"
    if content is not None:
        kubeconfig.write_text(content)
    code, lines = run(tmp_path, KUBECONFIG=str(kubeconfig))
    assert code != 0
    # The library may warn of a missing file before.
    *before, last = lines
    assert len(before) <= 1
    assert last["level"] == "error"
    assert "kubeconfig" in last["message"]
    assert "expected KUBECONFIG" in last["message"]
    assert not any("exception" in line for line in lines)


def test_a_bad_setting_is_a_sentence_and_the_default(make_reconciler):
    reconciler = make_reconciler(resync_seconds="often")
    reconciler.wait_until_leading()
    said = [line["message"] for line in reconciler.complaints()]
    variable = f"{PREFIX}RECONCILE_RESYNC_SECONDS"
    assert said == [f"config: {variable}='often'; expected 1..86400"]
