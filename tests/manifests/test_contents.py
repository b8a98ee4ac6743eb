"""What the manifests say, against what the code says."""

import itertools
import re

import pytest
import yaml

from tests.manifests.kustomize import BASE, COMPONENTS, MANIFESTS
from webhook import config, names
from webhook.config import Reconciling, Serving, Settings

SOURCES = sorted(path for path in MANIFESTS.rglob("*.y*ml") if path.name != "install.yaml")

# Objects that belong to one component alone; the processes do not know them.
OF_COMPONENTS = {"metrics-sidecar-prometheus", "metrics-sidecar-ca", "metrics-sidecar-self-signed"}


def find(base, kind, name):
    [found] = [obj for obj in base if (obj["kind"], obj["metadata"]["name"]) == (kind, name)]
    return found


def template(base, name):
    return find(base, "Deployment", name)["spec"]["template"]


def container(base, name):
    [found] = template(base, name)["spec"]["containers"]
    return found


def said(source):
    """The text without its comments."""
    return re.sub(r"(^|\s)#.*", "", source.read_text())


def constants():
    """Every string that names.py has."""
    return {value for key, value in vars(names).items() if key.isupper() and isinstance(value, str)}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(MANIFESTS)))
def test_every_name_of_ours_is_one_that_the_code_knows(source):
    words = set(re.findall(r"(?<![\w./-])metrics-sidecar[a-z-]*(?![\w./-])", said(source)))
    assert words - constants() - OF_COMPONENTS == set()


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(MANIFESTS)))
def test_every_label_and_annotation_of_ours_is_one_that_the_code_knows(source):
    keys = set(re.findall(rf"(?:{re.escape(names.PREFIX)}|prometheus\.io)/[\w-]+", said(source)))
    assert keys - constants() == set()
    # Prometheus spells annotations in its own way.
    spelt = {re.sub(r"\W", "_", key) for key in constants()} | {"prometheus_io_scheme"}
    found = re.findall(r"__meta_kubernetes_service_annotation_(\w+)", said(source))
    assert set(found) <= spelt


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(MANIFESTS)))
def test_every_setting_is_one_that_the_processes_read(source):
    known = {
        prefix + field.upper()
        for prefix, parsers in (
            (config.PREFIX, config._SETTINGS),
            (f"{config.PREFIX}SERVE_", config._SERVING),
            (f"{config.PREFIX}RECONCILE_", config._RECONCILING),
        )
        for field in parsers
    }
    assert set(re.findall(rf"{config.PREFIX}\w+", said(source))) - known == set()


def test_settings_are_written_with_their_defaults(base):
    data = find(base, "ConfigMap", names.SETTINGS)["data"]
    assert config.settings(data) == (Settings(), [])
    assert config.serving(data) == (Serving(), [])
    assert config.reconciling(data) == (Reconciling(), [])


def test_every_setting_says_what_it_is():
    lines = (BASE / "settings.yaml").read_text().partition("\ndata:\n")[2].splitlines()
    for before, line in itertools.pairwise(["", *lines]):
        assert before.startswith("  # ") or line.startswith("  # "), line


def test_images_have_the_version_of_the_code(base):
    assert container(base, names.WEBHOOK)["image"] == f"{names.WEBHOOK}:{names.VERSION}"
    assert container(base, names.RECONCILER)["image"] == f"{names.WEBHOOK}:{names.VERSION}"


def test_the_admission_process_tries_the_very_image_that_it_injects(base):
    [tried] = template(base, names.WEBHOOK)["spec"]["initContainers"]
    assert tried["image"] == Settings().image
    assert tried["args"] == ["--version"]


def test_ports_and_paths_are_where_the_processes_listen(base):
    serving, reconciling = Serving(), Reconciling()
    ports = {port["name"]: port["containerPort"] for port in container(base, names.WEBHOOK)["ports"]}
    assert ports == {"webhooks": serving.port, "probes": serving.probe_port}
    ports = {port["name"]: port["containerPort"] for port in container(base, names.RECONCILER)["ports"]}
    assert ports == {"probes": reconciling.probe_port}
    for name in (names.WEBHOOK, names.RECONCILER):
        probes = {
            key: probe["httpGet"] for key, probe in container(base, name).items() if key.endswith("Probe")
        }
        assert probes == {
            "startupProbe": {"path": "/livez", "port": "probes"},
            "livenessProbe": {"path": "/livez", "port": "probes"},
            "readinessProbe": {"path": "/readyz", "port": "probes"},
        }


def test_the_certificate_is_mounted_where_it_is_read_and_the_authoritys_key_is_not(base):
    [mount] = container(base, names.WEBHOOK)["volumeMounts"]
    [volume] = template(base, names.WEBHOOK)["spec"]["volumes"]
    assert mount["name"] == volume["name"]
    assert mount["readOnly"]
    secret = volume["secret"]
    assert (secret["secretName"], secret["optional"]) == (names.CERTIFICATE_SECRET, True)
    files = {item["key"]: f"{mount['mountPath']}/{item['path']}" for item in secret["items"]}
    assert files == {
        names.SERVING_CERTIFICATE: Serving().certificate,
        names.SERVING_KEY: Serving().key,
    }


def test_the_service_leads_to_the_admission_process(base):
    service = find(base, "Service", names.WEBHOOK)["spec"]
    assert service["selector"].items() <= template(base, names.WEBHOOK)["metadata"]["labels"].items()
    assert not service["selector"].items() <= template(base, names.RECONCILER)["metadata"]["labels"].items()
    [port] = service["ports"]
    assert (port["port"], port["targetPort"]) == (443, "webhooks")
    for webhook in find(base, "MutatingWebhookConfiguration", names.WEBHOOK)["webhooks"]:
        called = webhook["clientConfig"]["service"]
        assert (called["name"], called["namespace"]) == (names.WEBHOOK, names.OWN_NAMESPACE)
        assert called["port"] == port["port"]


def test_the_drain_fits_into_the_grace_period(base):
    grace = template(base, names.WEBHOOK)["spec"]["terminationGracePeriodSeconds"]
    # What the drain leaves unanswered has another five seconds.
    assert grace >= 2 * (Serving().drain_seconds + 5)


def test_a_rollout_never_leaves_fewer_admission_processes(base):
    webhook = find(base, "Deployment", names.WEBHOOK)["spec"]
    assert webhook["replicas"] == 2
    assert webhook["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


@pytest.mark.parametrize("name", [names.WEBHOOK, names.RECONCILER])
def test_both_are_kept_apart_and_no_drain_takes_both(base, name):
    deployment = find(base, "Deployment", name)["spec"]
    assert deployment["replicas"] == 2
    selector = deployment["selector"]
    spread = deployment["template"]["spec"]["topologySpreadConstraints"]
    assert [item["topologyKey"] for item in spread] == [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    ]
    assert all(item["labelSelector"] == selector for item in spread)
    budget = find(base, "PodDisruptionBudget", name)["spec"]
    assert (budget["selector"], budget["maxUnavailable"]) == (selector, 1)


@pytest.mark.parametrize("name", [names.WEBHOOK, names.RECONCILER])
def test_processes_have_settings_an_account_and_nothing_of_other_services(base, name):
    spec = template(base, name)["spec"]
    assert spec["serviceAccountName"] == name
    assert not spec["enableServiceLinks"]
    assert container(base, name)["envFrom"] == [{"configMapRef": {"name": names.SETTINGS}}]
    resources = container(base, name)["resources"]
    assert set(resources["requests"]) == {"cpu", "memory"}
    # Throttled, they would be late; without memory, they must end.
    assert set(resources["limits"]) == {"memory"}


def test_only_the_reconciler_has_a_token(base):
    for obj in base:
        if obj["kind"] == "ServiceAccount":
            assert obj["automountServiceAccountToken"] is False
    assert template(base, names.WEBHOOK)["spec"]["automountServiceAccountToken"] is False
    assert template(base, names.RECONCILER)["spec"]["automountServiceAccountToken"] is True


def test_the_reconciler_learns_its_namespace_from_its_pod(base):
    [variable] = container(base, names.RECONCILER)["env"]
    assert variable["name"] == f"{config.PREFIX}RECONCILE_NAMESPACE"
    assert variable["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.namespace"}}


def test_no_object_looks_like_one_that_the_reconciler_looks_after(base):
    """It deletes Services that have this label and belong to no workload."""
    for obj in base:
        assert names.MANAGED_BY_LABEL not in obj["metadata"].get("labels", {})


def test_the_own_metrics_are_one_target_for_each_process(base):
    service = find(base, "Service", names.OWN_METRICS)
    assert service["metadata"]["annotations"] == {
        names.SCRAPE_ANNOTATION: names.TRUE,
        names.SCRAPE_PATH_ANNOTATION: names.METRICS_PATH,
        names.SCRAPE_PORT_ANNOTATION: str(Serving().probe_port),
    }
    assert service["spec"]["clusterIP"] == "None"
    for name in (names.WEBHOOK, names.RECONCILER):
        metadata = template(base, name)["metadata"]
        assert service["spec"]["selector"].items() <= metadata["labels"].items()
        # Or a job for annotated pods would scrape them a second time.
        assert not any(key.startswith("prometheus.io/") for key in metadata.get("annotations", {}))
    others = [
        obj for obj in base if obj["kind"] == "Service" and obj["metadata"]["name"] != names.OWN_METRICS
    ]
    assert all(names.SCRAPE_ANNOTATION not in obj["metadata"].get("annotations", {}) for obj in others)


def test_nobody_but_the_reconciler_is_bound_to_a_role(base):
    bindings = [obj for obj in base if obj["kind"].endswith("RoleBinding")]
    assert bindings
    for binding in bindings:
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": names.RECONCILER, "namespace": names.OWN_NAMESPACE}
        ]


def test_no_role_has_a_wildcard_and_none_reaches_other_namespaces_secrets(base):
    for role in (obj for obj in base if obj["kind"] in ("Role", "ClusterRole")):
        for rule in role["rules"]:
            assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]
            if role["kind"] == "ClusterRole":
                assert "secrets" not in rule["resources"]


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_begins_with_what_it_is_for(component):
    text = (COMPONENTS[component] / "kustomization.yaml").read_text()
    assert text.startswith("# ")
    assert yaml.safe_load(text)["kind"] == "Component"
