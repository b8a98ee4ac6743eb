"""In namespaces with rules, an injected pod is treated as any other pod with one more container.

The injector cannot see these rules: it has no access to the cluster. Its container keeps the common ones by
itself; where a rule leaves no room for it, the API server refuses the pod with its own message, and an
annotation of the workload makes room.
"""

import pytest

from tests.apiserver.client import ApiError
from tests.apiserver.objects import container, containers, is_injected, metadata, pod, workload
from tests.apiserver.waiting import eventually
from webhook import names

LEVELS = ("enforce", "warn", "audit")
RESTRICTED = {f"pod-security.kubernetes.io/{level}": "restricted" for level in LEVELS}
# All that "restricted" asks of an application.
HARDENED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
REQUESTS = {"requests": {"cpu": "100m", "memory": "100Mi"}, "limits": {"cpu": "200m", "memory": "100Mi"}}


# --- Pod Security ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("restart", ["Always", "Never"])
def test_an_injected_pod_is_admitted_where_restricted_is_enforced(api, make_namespace, injector, restart):
    """The application says nothing for the pod as a whole that ours could lean on."""
    namespace = make_namespace(RESTRICTED)
    hardened = [container(securityContext=HARDENED)]
    created = api.create(pod(namespace, inject="true", containers=hardened, restartPolicy=restart))
    assert is_injected(created)
    assert api.warnings == []


def test_a_pod_that_restricted_refuses_is_refused_for_its_own_container_only(api, make_namespace, injector):
    namespace = make_namespace(RESTRICTED)
    with pytest.raises(ApiError, match='violates PodSecurity "restricted:latest"') as refusal:
        api.create(pod(namespace, inject="true"))
    assert 'container "app"' in refusal.value.message
    assert "metrics" not in refusal.value.message


def test_pods_of_a_labelled_workload_are_admitted_where_restricted_is_enforced(
    api, controllers, make_namespace, injector
):
    namespace = make_namespace(RESTRICTED)
    spec = {"containers": [container(securityContext=HARDENED)]}
    api.create(workload("Deployment", namespace, inject="true", pod_spec=spec))
    assert api.warnings == []
    eventually("its pod", lambda: [is_injected(item) for item in api.items("v1", "Pod", namespace)] == [True])


def test_an_unlabelled_pod_is_not_even_sent_where_rules_are(api, make_namespace, injector):
    namespace = make_namespace(RESTRICTED)
    with injector.unasked(namespace):
        api.create(pod(namespace, containers=[container(securityContext=HARDENED)]))


# --- quality of service ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resources", "before", "after"),
    [
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed", "Guaranteed"),
        (REQUESTS, "Burstable", "Burstable"),
        # Ours has limits, as it must not grow at the application's cost, so nothing is best effort beside it.
        ({}, "BestEffort", "Burstable"),
    ],
)
def test_the_quality_of_service_that_an_application_paid_for_stays(
    api, namespace, injector, resources, before, after
):
    plain = api.create(pod(namespace, "plain", containers=[container(resources=resources)]))
    injected = api.create(pod(namespace, inject="true", containers=[container(resources=resources)]))
    assert is_injected(injected)
    assert (plain["status"]["qosClass"], injected["status"]["qosClass"]) == (before, after)


# --- quotas ----------------------------------------------------------------------------------------------


def hard(cpu, memory):
    return {
        "requests.cpu": cpu,
        "requests.memory": memory,
        "limits.cpu": "10",
        "limits.memory": "10Gi",
    }


def set_quota(api, namespace, limits):
    """Create a quota, and wait until it refuses what is beyond it."""
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": metadata(namespace, "quota"),
        "spec": {"hard": limits},
    }
    api.create(quota)
    vast = {"cpu": "1000", "memory": "1000Gi"}
    probe = pod(namespace, containers=[container(resources={"requests": vast, "limits": vast})])

    def refuses():
        try:
            api.create(probe, dry_run=True)
        except ApiError as error:
            # Before its controller has counted for the first time, its status is unknown.
            return "exceeded quota" in error.message
        return False

    eventually("the quota to count", refuses)


def test_a_quota_that_demands_requests_and_limits_gets_them_from_ours(api, controllers, namespace, injector):
    """Such a quota refuses a pod if any of its containers goes without."""
    set_quota(api, namespace, hard("1", "1Gi"))
    created = api.create(pod(namespace, inject="true", containers=[container(resources=REQUESTS)]))
    assert is_injected(created)
    used = api.get("v1", "ResourceQuota", "quota", namespace)["status"]["used"]
    assert (used["requests.cpu"], used["requests.memory"]) == ("150m", "150Mi")
    assert used["limits.cpu"] == "250m"


def test_a_quota_without_room_for_ours_refuses_the_pod_until_an_annotation_makes_room(
    api, controllers, namespace, injector
):
    """As with any other container. Only who asked for it is affected, and the message has the numbers."""
    set_quota(api, namespace, hard("120m", "1Gi"))
    asked = [container(resources=REQUESTS)]
    with pytest.raises(ApiError, match=r"exceeded quota: quota, requested: requests.cpu=150m") as refusal:
        api.create(pod(namespace, inject="true", containers=asked))
    assert refusal.value.code == 403
    less = {names.CPU_ANNOTATION: "20m"}
    assert is_injected(api.create(pod(namespace, inject="true", annotations=less, containers=asked)))
    api.delete_all("v1", "Pod", namespace)
    bare = pod(namespace, "bare", containers=asked)
    # The quota has room again when its controller has counted.
    assert containers(eventually("room", lambda: api.create(bare), tolerate=(ApiError,))) == ["app"]


# --- limit ranges ----------------------------------------------------------------------------------------


@pytest.fixture
def limit(api, namespace):
    """Return a function that sets a limit range and waits until it is in effect."""

    def limit(probe, type_="Container", **rules):
        """`probe` is a pod that is stored otherwise than before as soon as the range is in effect."""
        api.create(
            {
                "apiVersion": "v1",
                "kind": "LimitRange",
                "metadata": metadata(namespace, "range"),
                "spec": {"limits": [{"type": type_, **rules}]},
            }
        )

        def in_effect():
            try:
                shown = api.create(probe, dry_run=True)
            except ApiError:
                return True
            return bool(shown["spec"]["containers"][0].get("resources"))

        eventually("the limit range", in_effect)

    return limit


def test_defaults_of_a_limit_range_are_for_the_application_alone(api, namespace, injector, limit):
    default = {"cpu": "500m", "memory": "500Mi"}
    limit(pod(namespace), default=default, defaultRequest=default)
    created = api.create(pod(namespace, inject="true"))
    app, ours = created["spec"]["containers"]
    assert app["resources"]["limits"] == default
    assert ours["resources"]["limits"] == {"cpu": "50m", "memory": "50Mi"}


def test_a_limit_on_the_ratio_of_limit_to_request_is_no_matter_to_ours(api, namespace, injector, limit):
    twice = {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}
    limit(pod(namespace, containers=[container(resources=twice)]), maxLimitRequestRatio={"cpu": "1"})
    even = [container(resources={"requests": {"cpu": "1"}, "limits": {"cpu": "1"}})]
    assert is_injected(api.create(pod(namespace, inject="true", containers=even)))


def test_a_maximum_for_containers_is_no_matter_to_ours(api, namespace, injector, limit):
    limit(pod(namespace), max={"cpu": "200m", "memory": "100Mi"})
    created = api.create(pod(namespace, inject="true", containers=[container(resources=REQUESTS)]))
    assert is_injected(created)


def test_a_minimum_above_ours_refuses_the_pod_until_an_annotation_meets_it(api, namespace, injector, limit):
    """The operator of such a cluster sets METRICS_SIDECAR_INJECTOR_CPU once, for all."""
    small = {"requests": {"cpu": "10m"}, "limits": {"cpu": "10m"}}
    limit(pod(namespace, containers=[container(resources=small)]), min={"cpu": "100m"})
    asked = [container(resources=REQUESTS)]
    with pytest.raises(ApiError, match="minimum cpu usage per Container is 100m, but request is 50m"):
        api.create(pod(namespace, inject="true", containers=asked))
    more = {names.CPU_ANNOTATION: "100m"}
    created = api.create(pod(namespace, inject="true", annotations=more, containers=asked))
    assert is_injected(created)
    # Who did not ask is not affected.
    assert containers(api.create(pod(namespace, "bare", containers=asked))) == ["app"]


def test_a_maximum_for_pods_counts_ours(api, namespace, injector, limit):
    large = {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}
    limit(pod(namespace, containers=[container(resources=large)]), "Pod", max={"cpu": "200m"})
    asked = [container(resources=REQUESTS)]
    with pytest.raises(ApiError, match="maximum cpu usage per Pod is 200m, but limit is 250m"):
        api.create(pod(namespace, inject="true", containers=asked))
    assert containers(api.create(pod(namespace, "bare", containers=asked))) == ["app"]


# --- resources of the pod as a whole ---------------------------------------------------------------------


def test_resources_of_the_pod_as_a_whole_make_room_or_ours_stays_out(api, namespace, injector):
    """Above them the API server would refuse the pod: here the injector sees the rule, and stays out."""
    asked = {"containers": [container(resources=REQUESTS)]}
    roomy = {"requests": {"cpu": "150m", "memory": "150Mi"}, "limits": {"cpu": "250m", "memory": "200Mi"}}
    assert is_injected(api.create(pod(namespace, "roomy", inject="true", resources=roomy, **asked)))
    assert api.warnings == []
    tight = {"requests": {"cpu": "100m", "memory": "100Mi"}, "limits": {"cpu": "200m", "memory": "100Mi"}}
    assert not is_injected(api.create(pod(namespace, "tight", inject="true", resources=tight, **asked)))
    assert len(api.warnings) == 1
