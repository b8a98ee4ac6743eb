"""Each workload with injected pods has one Service, and each injected pod is an endpoint of exactly one."""

import copy

import pytest

from tests.apiserver.customkinds import custom, owned, pod_of, replica_set
from tests.apiserver.objects import API_VERSIONS, container, pod, workload
from tests.apiserver.targets import injected_pods, never_double, one_each, selected, services
from tests.apiserver.waiting import eventually
from webhook import names

pytestmark = pytest.mark.usefixtures("injector", "reconciler", "kubelet", "custom_kinds")

HASH_LIMIT = 63
# Their pods are made by a controller, without a node.
CONTROLLED = {
    "Deployment": "web-metrics-sidecar",
    "StatefulSet": "web-metrics-sidecar-statefulset",
    "ReplicaSet": "web-metrics-sidecar-replicaset",
    "ReplicationController": "web-metrics-sidecar-replicationcontrolle",
    "Job": "web-metrics-sidecar-job",
}
ROLLOUT, CLONE_SET = ("argoproj.io/v1alpha1", "Rollout"), ("apps.kruise.io/v1alpha1", "CloneSet")
GANG = ("gangs.test.invalid/v1", "Gang")


def only_service(api, namespace, deadline=30):
    def condition():
        found = services(api, namespace)
        assert len(found) == 1, [item["metadata"]["name"] for item in found]
        return found[0]

    return eventually("one Service", condition, deadline=deadline)


def owner(service):
    """Return kind, name and uid of the only owner."""
    [reference] = service["metadata"]["ownerReferences"]
    # A Service must not keep its workload from being deleted in the foreground.
    assert not reference.get("blockOwnerDeletion")
    return reference["kind"], reference["name"], reference["uid"]


def owner_of(obj):
    return obj["kind"], obj["metadata"]["name"], obj["metadata"]["uid"]


def chosen(api, namespace, count):
    """Wait for that many injected pods, each an endpoint of one Service, and return the Services' names."""
    return sorted(one_each(api, namespace, count).values())


def selector(whose, **labels):
    return {**labels, names.WORKLOAD_LABEL: whose, names.INJECTED_LABEL: "true"}


# --- what it is like -------------------------------------------------------------------------------------


def test_the_service_is_what_prometheus_finds_pods_by_and_nothing_more(api, namespace):
    deployment = api.create(workload("Deployment", namespace, inject="true", replicas=2))
    assert chosen(api, namespace, 2) == ["web-metrics-sidecar"] * 2
    service = only_service(api, namespace)
    metadata = {
        key: service["metadata"].get(key)
        for key in ("name", "labels", "annotations", "ownerReferences", "finalizers")
    }
    assert metadata == {
        "name": "web-metrics-sidecar",
        "labels": {"app.kubernetes.io/managed-by": "metrics-sidecar"},
        "annotations": {
            "prometheus.io/scrape": "true",
            "prometheus.io/path": "/metrics",
            "prometheus.io/port": "9999",
        },
        "ownerReferences": [
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": "web",
                "uid": deployment["metadata"]["uid"],
            }
        ],
        "finalizers": None,
    }
    assert service["spec"] == {
        "type": "ClusterIP",
        "clusterIP": "None",
        "clusterIPs": ["None"],
        "publishNotReadyAddresses": True,
        "selector": {
            "app": "web",
            "metrics-sidecar.io/injected": "true",
            "metrics-sidecar.io/workload": "deployment.web",
        },
        "ports": [{"name": "metrics", "port": 9999, "targetPort": 9999, "protocol": "TCP"}],
        # What the API server adds.
        "internalTrafficPolicy": "Cluster",
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "sessionAffinity": "None",
    }


@pytest.mark.parametrize("kind", CONTROLLED)
def test_every_kind_of_workload_has_one(api, namespace, kind):
    created = api.create(workload(kind, namespace, inject="true"))
    [found] = chosen(api, namespace, 1)
    assert found == CONTROLLED[kind]
    assert owner(only_service(api, namespace)) == owner_of(created)


def test_a_daemon_set_has_one(api, namespace):
    node = api.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": namespace}})
    try:
        created = api.create(workload("DaemonSet", namespace, inject="true"))
        assert chosen(api, namespace, 1) == ["web-metrics-sidecar-daemonset"]
        assert owner(only_service(api, namespace)) == owner_of(created)
    finally:
        api.delete("v1", "Node", node["metadata"]["name"])


def test_a_cron_job_has_one_for_all_its_runs(api, kubectl, namespace):
    created = api.create(workload("CronJob", namespace, inject="true"))
    for minute in (29000000, 29000001):
        done = kubectl("create", "job", f"web-{minute}", "--from=cronjob/web", "-n", namespace)
        assert done.returncode == 0, done.stderr
    assert chosen(api, namespace, 2) == ["web-metrics-sidecar-cronjob"] * 2
    service = only_service(api, namespace)
    assert owner(service) == owner_of(created)
    assert service["spec"]["selector"] == selector("cronjob.web")


def test_a_bare_pod_has_one(api, namespace):
    created = api.create(pod(namespace, inject="true", labels={"app": "web"}))
    assert chosen(api, namespace, 1) == ["web-metrics-sidecar-pod"]
    assert owner(only_service(api, namespace)) == owner_of(created)


def test_bare_pods_with_names_made_by_the_api_server_have_one_each(api, namespace):
    """They look alike in all but the name, which nobody knows when they are injected."""
    bare = pod(namespace, None, inject="true", labels={"app": "web"})
    bare["metadata"]["generateName"] = "web-"
    made = [api.create(copy.deepcopy(bare)) for _ in range(2)]
    found = chosen(api, namespace, 2)
    assert len(set(found)) == 2
    assert {owner(service) for service in services(api, namespace)} == {owner_of(each) for each in made}


def test_an_argo_rollout_has_one_and_its_replica_sets_none(api, namespace):
    rollout = api.create(custom(*ROLLOUT, namespace))
    # A blue and a green one, as in the middle of a rollout.
    for digest in ("6b7f9c", "7d5c4b"):
        api.create(replica_set(rollout, digest))
    assert len(set(chosen(api, namespace, 2))) == 1
    service = only_service(api, namespace)
    assert owner(service) == owner_of(rollout)
    assert service["spec"]["selector"] == selector("rollout.argoproj.io.web", app="web")


def test_a_clone_set_has_one(api, namespace):
    clone_set = api.create(custom(*CLONE_SET, namespace))
    for suffix in ("x7x2p", "m5k8q"):
        api.create(pod_of(clone_set, suffix))
    assert len(set(chosen(api, namespace, 2))) == 1
    service = only_service(api, namespace)
    assert owner(service) == owner_of(clone_set)
    assert service["spec"]["selector"] == selector("cloneset.apps.kruise.io.web", app="web")


def test_a_kind_that_it_may_not_read_has_one_all_the_same(api, namespace):
    gang = api.create(custom(*GANG, namespace, inject=None))
    for suffix in ("x7x2p", "m5k8q"):
        made = pod_of(gang, suffix)
        made["metadata"]["labels"] = {"app": "web", names.INJECT_LABEL: "true"}
        api.create(made)
    assert len(set(chosen(api, namespace, 2))) == 1
    service = only_service(api, namespace)
    assert owner(service) == owner_of(gang)
    assert service["spec"]["selector"] == selector("gang.gangs.test.invalid.web")


def test_a_kind_that_the_api_server_does_not_even_have_has_one(api, namespace):
    made = pod(namespace, "web-x7x2p", inject="true", labels={"app": "web"})
    # The garbage collector does not know it either, and leaves the pod alone.
    gone = {"apiVersion": "gone.test.invalid/v1", "kind": "Herd", "metadata": {"name": "web", "uid": "0-1-2"}}
    made["metadata"]["ownerReferences"] = owned(gone)
    api.create(made)
    assert len(chosen(api, namespace, 1)) == 1
    assert owner(only_service(api, namespace)) == ("Herd", "web", "0-1-2")


def test_what_an_operator_owns_has_the_service_itself(api, namespace):
    """Many operators make StatefulSets and Deployments; those are what people know as the workload."""
    gang = api.create(custom(*GANG, namespace, inject=None))
    for kind in ("StatefulSet", "Deployment"):
        wanted = workload(kind, namespace, f"web-{kind.lower()}", template_inject="true")
        wanted["metadata"]["ownerReferences"] = owned(gang)
        api.create(wanted)
    chosen(api, namespace, 2)
    assert {owner(service)[0] for service in services(api, namespace)} == {"StatefulSet", "Deployment"}


def test_jobs_of_a_kind_that_it_may_not_read_are_told_apart_or_have_one_together(api, namespace):
    """A JobSet, say: what stands between, the Job, is all that its pods know of."""
    gang = api.create(custom(*GANG, namespace, inject=None))
    for name in ("web-one", "web-two"):
        wanted = workload("Job", namespace, name, template_inject="true")
        wanted["metadata"]["ownerReferences"] = owned(gang)
        api.create(wanted)
    chosen(api, namespace, 2)
    never_double(api, namespace)


def test_ports_that_workloads_choose_are_their_services(api, namespace):
    port = {names.PORT_ANNOTATION: "9998"}
    api.create(workload("Deployment", namespace, inject="true", template_annotations=port))
    chosen(api, namespace, 1)
    service = only_service(api, namespace)
    assert service["spec"]["ports"] == [
        {"name": "metrics", "port": 9998, "targetPort": 9998, "protocol": "TCP"}
    ]
    assert service["metadata"]["annotations"][names.SCRAPE_PORT_ANNOTATION] == "9998"


def test_a_port_that_changes_takes_the_service_along(api, namespace):
    api.create(workload("Deployment", namespace, inject="true"))
    chosen(api, namespace, 1)
    annotations = {"metadata": {"annotations": {names.PORT_ANNOTATION: "9998"}}}
    api.patch("apps/v1", "Deployment", "web", {"spec": {"template": annotations}}, namespace)

    def moved():
        [service] = services(api, namespace)
        assert service["spec"]["ports"][0]["port"] == 9998
        assert service["spec"]["ports"][0]["targetPort"] == 9998
        return service["metadata"]["annotations"][names.SCRAPE_PORT_ANNOTATION] == "9998"

    eventually("the Service to follow", moved)
    eventually("the old pod to end", lambda: len(injected_pods(api, namespace)) == 1)
    one_each(api, namespace)


# --- names -----------------------------------------------------------------------------------------------


def test_long_names_are_cut_and_still_told_apart(api, namespace):
    common = "a-service-with-a-name-that-somebody-thought-about-for-a-very-long-time"
    for end in ("-one", "-two"):
        wanted = workload("Deployment", namespace, common + end, inject="true")
        label = {"app": end.strip("-")}
        wanted["spec"]["selector"]["matchLabels"] = wanted["spec"]["template"]["metadata"]["labels"] = label
        api.create(wanted)
    found = chosen(api, namespace, 2)
    assert len(set(found)) == 2
    assert all(len(name) <= HASH_LIMIT and name.startswith("a-service-with-a-name") for name in found)


def test_a_name_with_dots_is_made_to_fit(api, namespace):
    """A Service's name has none, and starts with a letter."""
    api.create(workload("Deployment", namespace, "3.web.example", inject="true"))
    [found] = chosen(api, namespace, 1)
    assert "." not in found
    assert found[0].isalpha()


def test_workloads_of_one_name_have_one_each(api, namespace):
    for kind in ("Deployment", "StatefulSet"):
        api.create(workload(kind, namespace, inject="true"))
    api.create(pod(namespace, inject="true", labels={"app": "web"}))
    assert chosen(api, namespace, 3) == [
        "web-metrics-sidecar",
        "web-metrics-sidecar-pod",
        "web-metrics-sidecar-statefulset",
    ]


# --- exactly one -----------------------------------------------------------------------------------------


def test_a_canary_with_the_stable_ones_labels_is_scraped_once(api, namespace):
    api.create(workload("Deployment", namespace, "web", inject="true", replicas=2))
    chosen(api, namespace, 2)
    canary = workload("Deployment", namespace, "web-canary", inject="true")
    both = {"app": "web", "track": "canary"}
    canary["spec"]["selector"] = {"matchLabels": both}
    canary["spec"]["template"]["metadata"]["labels"] = dict(both)
    api.create(canary)
    assert chosen(api, namespace, 3) == ["web-canary-metrics-sidecar", *["web-metrics-sidecar"] * 2]
    never_double(api, namespace)


def test_a_selector_by_expressions_finds_its_own_pods_only(api, namespace):
    expressions = [{"key": "app", "operator": "In", "values": ["web", "site"]}]
    for name in ("web", "site"):
        wanted = workload("Deployment", namespace, name, inject="true")
        wanted["spec"]["selector"] = {"matchExpressions": expressions}
        api.create(wanted)
    assert chosen(api, namespace, 2) == ["site-metrics-sidecar", "web-metrics-sidecar"]


def test_through_a_rolling_update_it_stays_as_it_is(api, kubectl, namespace):
    api.create(workload("Deployment", namespace, inject="true", replicas=4))
    chosen(api, namespace, 4)
    before = only_service(api, namespace)
    old = {item["metadata"]["uid"] for item in injected_pods(api, namespace)}
    done = kubectl("set", "image", "deployment/web", "app=example.test/app:2", "-n", namespace)
    assert done.returncode == 0, done.stderr

    def rolled_out():
        never_double(api, namespace)
        found = injected_pods(api, namespace)
        [service] = services(api, namespace)
        assert all(selected(each, [service]) for each in found)
        uids = {each["metadata"]["uid"] for each in found}
        return len(uids) == 4 and not uids & old

    assert rolling(rolled_out)
    one_each(api, namespace)
    assert only_service(api, namespace) == before


def rolling(rolled_out):
    """Wait for the end of a rollout; unlike `eventually`, what fails on the way fails the test."""
    problems = []

    def condition():
        try:
            return rolled_out()
        except AssertionError as error:
            problems.append(error)
            return True

    eventually("the rollout to end", condition)
    for problem in problems:
        raise problem
    return True


def test_pods_that_are_not_rolled_out_yet_are_no_targets(api, kubectl, namespace):
    api.create(workload("Deployment", namespace, replicas=3))
    eventually("3 pods", lambda: len(api.items("v1", "Pod", namespace)) == 3)
    done = kubectl("label", "deployment/web", f"{names.INJECT_LABEL}=true", "-n", namespace)
    assert done.returncode == 0, done.stderr

    def rolled_out():
        never_double(api, namespace)
        return len(injected_pods(api, namespace)) == len(api.items("v1", "Pod", namespace)) == 3

    rolling(rolled_out)
    assert set(one_each(api, namespace).values()) == {"web-metrics-sidecar"}


def test_a_pod_that_is_not_ready_is_a_target(api, namespace):
    """Pods that run out of ports fail their probes: just when the metrics matter."""
    api.create(workload("StatefulSet", namespace, inject="true"))
    chosen(api, namespace, 1)
    state = {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}
    api.patch("v1", "Pod", "web-0", state, namespace, subresource="status")

    def ready():
        [piece] = api.items("discovery.k8s.io/v1", "EndpointSlice", namespace)
        [endpoint] = piece["endpoints"]
        return endpoint["conditions"]["ready"]

    assert api.get("v1", "Pod", "web-0", namespace)["status"]["conditions"][0]["status"] == "False"
    assert ready()
    one_each(api, namespace)


def test_in_the_whole_cluster_each_injected_pod_is_one_target(api, namespace, reconciler):
    """After all of the above, and whatever of it is still there."""
    for number in range(3):
        api.create(workload("Deployment", namespace, f"web-{number}", inject="true", replicas=2))
    assert len(chosen(api, namespace, 6)) == 6
    one_each(api)
    assert reconciler.complaints() == []


# --- not ours --------------------------------------------------------------------------------------------


def test_the_manual_setup_gets_nothing_of_ours(api, namespace, injector):
    """A `metrics` container and a Service that people wrote: it is scraped already."""
    exporter = container("metrics", env=[{"name": names.PORT_ENV, "value": "9999"}])
    wanted = workload(
        "Deployment", namespace, inject="true", pod_spec={"containers": [container(), exporter]}
    )
    api.create(wanted)
    manual = api.create(manual_service(namespace))
    other = workload("Deployment", namespace, "other", inject="true")
    api.create(other)
    # Once the other one has its Service, all that was before has been looked at.
    assert chosen(api, namespace, 1) == ["other-metrics-sidecar"]
    assert api.get("v1", "Service", "web-metrics", namespace) == manual


def manual_service(namespace, name="web-metrics", **labels):
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": {
                names.SCRAPE_ANNOTATION: "true",
                names.SCRAPE_PATH_ANNOTATION: "/metrics",
                names.SCRAPE_PORT_ANNOTATION: "9999",
            },
        },
        "spec": {
            "type": "ClusterIP",
            "selector": {"app": "web", **labels},
            "ports": [{"name": "metrics", "port": 9999, "targetPort": 9999, "protocol": "TCP"}],
        },
    }


def test_pods_that_a_service_of_others_has_scraped_already_are_not_scraped_twice(api, namespace):
    manual = api.create(manual_service(namespace))
    api.create(workload("Deployment", namespace, inject="true"))
    api.create(workload("Deployment", namespace, "other", inject="true"))

    def settled():
        return len(injected_pods(api, namespace)) == 2 and services(api, namespace)

    eventually("both to be looked at", settled)
    assert [item["metadata"]["name"] for item in services(api, namespace)] == ["other-metrics-sidecar"]
    assert api.get("v1", "Service", "web-metrics", namespace) == manual


def test_namespaces_that_are_ignored_get_none(api, namespace, reconciler):
    planted = pod("kube-system", f"web-{namespace[-6:]}", labels={names.INJECTED_LABEL: "true"})
    made = api.create(planted)
    try:
        api.create(workload("Deployment", namespace, inject="true"))
        chosen(api, namespace, 1)
        assert services(api, "kube-system") == []
    finally:
        api.delete("v1", "Pod", made["metadata"]["name"], "kube-system")


def test_kinds_of_kubernetes_are_all_tried_here():
    assert {*CONTROLLED, "DaemonSet", "CronJob", "Pod"} == API_VERSIONS.keys() - {"PodTemplate"}
