"""The Service of a workload."""

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.webhook import strategies
from webhook import identity, names
from webhook.config import Settings
from webhook.injection import inject
from webhook.service import NoServiceError, build_service, selector

SETTINGS = Settings()
DNS_LABEL = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")


def workload(kind="Deployment", name="web", api_version="apps/v1", **spec):
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web"}]}}
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": "shop", "uid": "0b1c"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template, **spec},
    }


def test_it_selects_the_injected_pods_of_the_workload_and_nothing_else():
    assert build_service(workload(), SETTINGS)["spec"]["selector"] == {
        "app": "web",
        "metrics-sidecar.io/injected": "true",
    }


def test_it_follows_the_port_of_the_workload():
    changed = workload()
    changed["spec"]["template"]["metadata"]["annotations"] = {names.PORT_ANNOTATION: "9100"}
    for obj in (changed, {**changed, "spec": {"template": inject(changed["spec"]["template"], SETTINGS)}}):
        service = build_service(obj, Settings(port=1234))
        port = {"name": "metrics", "port": 9100, "targetPort": 9100, "protocol": "TCP"}
        assert service["spec"]["ports"] == [port]
        assert service["metadata"]["annotations"]["prometheus.io/port"] == "9100"


def test_the_workload_owns_it_so_that_it_goes_when_the_workload_goes():
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "0b1c"}
    assert build_service(workload(), SETTINGS)["metadata"]["ownerReferences"] == [owner]
    offline = workload()
    del offline["metadata"]["uid"]
    assert "ownerReferences" not in build_service(offline, SETTINGS)["metadata"]


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        (workload("ReplicationController", selector={"app": "web"}), {"app": "web"}),
        (
            workload(selector={"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "a"}]}),
            {"app": "web", names.WORKLOAD_LABEL: "deployment.web"},
        ),
        (workload("Job", api_version="batch/v1", selector=None), {names.WORKLOAD_LABEL: "job.web"}),
        (
            {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "web"}, "spec": {}},
            {names.WORKLOAD_LABEL: "pod.web"},
        ),
    ],
)
def test_where_a_selector_cannot_tell_the_label_of_the_workload_does(obj, expected):
    assert selector(obj) == {**expected, names.INJECTED_LABEL: "true"}


def test_overlapping_selectors_can_be_told_apart():
    assert selector(workload("StatefulSet"), distinct=True)[names.WORKLOAD_LABEL] == "statefulset.web"


@pytest.mark.parametrize(
    ("api_version", "kind", "name", "expected"),
    [
        ("apps/v1", "Deployment", "web", "web-metrics-sidecar"),
        ("apps/v1", "StatefulSet", "web", "web-metrics-sidecar-statefulset"),
        ("batch/v1", "CronJob", "web", "web-metrics-sidecar-cronjob"),
        ("v1", "Pod", "web", "web-metrics-sidecar-pod"),
    ],
)
def test_a_name_that_can_be_read(api_version, kind, name, expected):
    assert identity.service_name(api_version, kind, name) == expected


KINDS = st.sampled_from(
    [
        ("apps/v1", "Deployment"),
        ("apps/v1", "StatefulSet"),
        ("apps.kruise.io/v1beta1", "StatefulSet"),
        ("argoproj.io/v1alpha1", "Rollout"),
        ("v1", "Pod"),
    ]
)
SUBDOMAINS = st.from_regex(r"[a-z0-9]([-.a-z0-9]{0,80}[a-z0-9])?", fullmatch=True).flatmap(
    lambda name: st.sampled_from(
        [name, f"{name}-metrics-sidecar", f"{name}-statefulset", name.replace(".", "-")]
    )
)


@given(KINDS, SUBDOMAINS, KINDS, SUBDOMAINS)
def test_every_workload_has_a_name_of_its_own(kind, name, other_kind, other_name):
    one = identity.service_name(*kind, name)
    assert DNS_LABEL.fullmatch(one)
    if (kind, name) != (other_kind, other_name):
        assert one != identity.service_name(*other_kind, other_name)


@given(strategies.hostile)
def test_what_is_no_workload_is_said_so(seen):
    with contextlib.suppress(NoServiceError):
        build_service(seen if isinstance(seen, dict) else {}, SETTINGS)


def test_what_is_missing_is_said():
    with pytest.raises(
        NoServiceError, match="service: Deployment ''; expected a named object with a pod template"
    ):
        build_service({"kind": "Deployment"}, SETTINGS)
