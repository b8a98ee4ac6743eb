"""What kustomize makes of the manifests: alone, in combination, under other names and with other images."""

import itertools

import pytest

from tests.manifests import kustomize
from tests.manifests.kustomize import BASE, COMPONENTS, build, objects, overlay
from webhook import names

COMBINATIONS = [
    (),
    *((name,) for name in COMPONENTS),
    *itertools.permutations(("cert-manager", "podmonitor", "network-policy")),
    ("network-policy", "gke-managed-prometheus", "cert-manager"),
    ("prometheus", "network-policy", "cert-manager"),
    # Nobody should, and it must not fail.
    tuple(COMPONENTS),
]


def find(objs, kind, name):
    [found] = [obj for obj in objs if (obj["kind"], obj["metadata"]["name"]) == (kind, name)]
    return found


def pod_spec(deployment):
    return deployment["spec"]["template"]["spec"]


def environment(deployment):
    [container] = pod_spec(deployment)["containers"]
    return {item["name"]: item.get("value") for item in container.get("env", [])}


def images(objs):
    """Every image that the manifests name, and where."""
    found = {}
    for kind, name in (("Deployment", names.WEBHOOK), ("Deployment", names.RECONCILER)):
        spec = pod_spec(find(objs, kind, name))
        for container in spec.get("initContainers", []) + spec["containers"]:
            found[container["name"]] = container["image"]
    settings = find(objs, "ConfigMap", names.SETTINGS)
    return {**found, "injected": settings["data"]["METRICS_SIDECAR_INJECTOR_IMAGE"]}


def test_the_flat_file_is_what_the_base_makes():
    assert kustomize.INSTALL.read_text() == kustomize.flat(), "run `make manifests`"


@pytest.mark.parametrize("components", COMBINATIONS, ids="+".join)
def test_any_combination_of_components_builds(tmp_path, components):
    objs = objects(build(overlay(tmp_path, [BASE], components)))
    ids = [
        (obj["apiVersion"], obj["kind"], obj["metadata"].get("namespace"), obj["metadata"]["name"])
        for obj in objs
    ]
    assert len(ids) == len(set(ids))


def test_the_order_of_components_does_not_matter(tmp_path):
    built = {
        tuple(sorted(build(overlay(tmp_path, [BASE], order)).split("---\n")))
        for order in itertools.permutations(("cert-manager", "podmonitor", "network-policy"))
    }
    # Of one list, whose order means nothing: the environment.
    assert len({tuple(sorted("".join(parts).splitlines())) for parts in built}) == 1


def test_a_plain_overlay_changes_every_image(tmp_path):
    """The exporter's is in no container that runs; an operator need not know where it is."""
    digest = f"sha256:{'0' * 64}"
    given = [
        {"name": "metrics-sidecar", "newName": "registry.example:5000/exporter", "newTag": "7"},
        {"name": "metrics-sidecar-webhook", "newName": "registry.example/injector", "digest": digest},
    ]
    exporter, injector = "registry.example:5000/exporter:7", f"registry.example/injector@{digest}"
    assert images(objects(build(overlay(tmp_path / "one", [BASE], images=given)))) == {
        "try-exporter": exporter,
        "injected": exporter,
        "admission": injector,
        "reconciler": injector,
    }


def test_an_overlay_of_an_overlay_changes_them_again(tmp_path):
    mirror = [{"name": "metrics-sidecar", "newName": "mirror.example/exporter"}]
    again = [{"name": "mirror.example/exporter", "newTag": "8"}]
    below = overlay(tmp_path / "below", [BASE], images=mirror)
    above = overlay(tmp_path / "above", [below], ["podmonitor"], images=again)
    found = images(objects(build(above)))
    assert found["try-exporter"] == found["injected"] == "mirror.example/exporter:8"


@pytest.mark.parametrize("components", [c for c in COMBINATIONS if "cert-manager" not in c], ids="+".join)
def test_another_namespace_takes_one_line(tmp_path, components):
    text = build(overlay(tmp_path, [BASE], components, namespace="port-watch"))
    objs = objects(text)
    assert {obj["metadata"].get("namespace", "port-watch") for obj in objs} == {"port-watch"}
    assert find(objs, "Namespace", "port-watch")
    for binding in (obj for obj in objs if obj["kind"].endswith("RoleBinding")):
        assert {subject["namespace"] for subject in binding["subjects"]} == {"port-watch"}
    for webhook in find(objs, "MutatingWebhookConfiguration", names.WEBHOOK)["webhooks"]:
        assert webhook["clientConfig"]["service"]["namespace"] == "port-watch"
    # What still has the old name: a setting, about a namespace that is then nobody's.
    [left] = [line for line in text.splitlines() if says(line, names.OWN_NAMESPACE)]
    assert left.strip().startswith("METRICS_SIDECAR_INJECTOR_IGNORED_NAMESPACES: ")


def says(line, namespace):
    """Whether a line may name the namespace, and not one of the many other things that are called like it."""
    if not line.strip().endswith(namespace):
        return False
    key = line.strip().removeprefix("- ").partition(":")[0]
    return key not in {names.PART_OF_LABEL, "name", "port", namespace}


def test_cert_manager_in_another_namespace_takes_a_kustomization_below(tmp_path):
    below = overlay(tmp_path / "below", [BASE], namespace="port-watch")
    above = overlay(tmp_path / "above", [below], ["cert-manager"], namespace="port-watch")
    objs = objects(build(above))
    certificate = find(objs, "Certificate", names.WEBHOOK)
    assert certificate["spec"]["dnsNames"] == [
        f"{names.WEBHOOK}.port-watch.svc",
        f"{names.WEBHOOK}.port-watch.svc.cluster.local",
    ]
    configuration = find(objs, "MutatingWebhookConfiguration", names.WEBHOOK)
    assert configuration["metadata"]["annotations"] == {
        "cert-manager.io/inject-ca-from": f"port-watch/{names.WEBHOOK}"
    }
    assert {obj["metadata"].get("namespace", "port-watch") for obj in objs} == {"port-watch"}


def test_cert_manager_makes_the_certificate_that_the_base_mounts(tmp_path):
    objs = objects(build(overlay(tmp_path, [BASE], ["cert-manager"])))
    certificate = find(objs, "Certificate", names.WEBHOOK)
    assert certificate["spec"]["secretName"] == names.CERTIFICATE_SECRET
    # The name that the API server verifies.
    assert f"{names.WEBHOOK}.{names.OWN_NAMESPACE}.svc" in certificate["spec"]["dnsNames"]
    configuration = find(objs, "MutatingWebhookConfiguration", names.WEBHOOK)
    assert configuration["metadata"]["annotations"]["cert-manager.io/inject-ca-from"] == "/".join(
        (certificate["metadata"]["namespace"], certificate["metadata"]["name"])
    )


def test_with_cert_manager_the_reconciler_leaves_certificates_alone_and_may_not_read_them(tmp_path):
    objs = objects(build(overlay(tmp_path, [BASE], ["cert-manager"])))
    reconciler = find(objs, "Deployment", names.RECONCILER)
    assert environment(reconciler)["METRICS_SIDECAR_INJECTOR_RECONCILE_CERTIFICATES"] == "false"
    # Still there: `kubectl apply` would not delete what it is no longer given, and leave the old rules.
    assert find(objs, "ClusterRole", names.CERTIFICATES_ROLE).get("rules") is None
    assert find(objs, "Role", names.CERTIFICATES_ROLE).get("rules") is None
    granted = {
        resource
        for obj in objs
        for rule in obj.get("rules", [])
        for resource in rule["resources"]
        if obj["kind"] in ("Role", "ClusterRole")
    }
    assert granted.isdisjoint({"secrets", "mutatingwebhookconfigurations"})


@pytest.mark.parametrize("component", ["podmonitor", "gke-managed-prometheus"])
def test_where_pods_are_found_by_label_no_service_is_annotated(tmp_path, component):
    objs = objects(build(overlay(tmp_path, [BASE], [component])))
    reconciler = find(objs, "Deployment", names.RECONCILER)
    assert environment(reconciler)["METRICS_SIDECAR_INJECTOR_RECONCILE_SERVICES"] == "false"
    annotated = [
        obj["metadata"]["name"]
        for obj in objs
        if obj["metadata"].get("annotations", {}).get(names.SCRAPE_ANNOTATION) == "true"
    ]
    assert annotated == []


@pytest.mark.parametrize("component", ["podmonitor", "gke-managed-prometheus"])
def test_monitors_select_what_the_injector_and_the_base_write(tmp_path, base, component):
    objs = objects(build(overlay(tmp_path, [BASE], [component])))
    every, own = [obj for obj in objs if obj["apiVersion"].startswith("monitoring.")]
    key = "endpoints" if component == "gke-managed-prometheus" else "podMetricsEndpoints"
    assert every["spec"]["selector"] == {"matchLabels": {names.INJECTED_LABEL: names.TRUE}}
    [endpoint] = every["spec"][key]
    assert (endpoint["port"], endpoint["path"]) == (names.PORT_NAME, names.METRICS_PATH)
    # All namespaces.
    assert every["spec"].get("namespaceSelector") == {"any": True} or every["kind"].startswith("Cluster")
    [endpoint] = own["spec"][key]
    for name in (names.WEBHOOK, names.RECONCILER):
        template = find(base, "Deployment", name)["spec"]["template"]
        assert own["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        ports = [port["name"] for port in template["spec"]["containers"][0]["ports"]]
        assert endpoint["port"] in ports


def test_network_policies_select_each_process_and_open_what_it_listens_on(tmp_path):
    objs = objects(build(overlay(tmp_path, [BASE], ["network-policy"])))
    for name in (names.WEBHOOK, names.RECONCILER):
        policy = find(objs, "NetworkPolicy", name)["spec"]
        template = find(objs, "Deployment", name)["spec"]["template"]
        assert policy["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        listening = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
        assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == listening
    assert "egress" not in find(objs, "NetworkPolicy", names.WEBHOOK)["spec"]
