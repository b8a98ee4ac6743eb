"""What tests of the manifests ask for: kustomize, a cluster to apply them to, and what others define."""

import contextlib

import pytest

from tests.apiserver import binaries
from tests.apiserver.controlplane import ControlPlane
from tests.apiserver.skipping import skipping_if_unavailable
from tests.manifests import kustomize, modules


def pytest_collection_modifyitems(items):
    """Mark what needs a control plane, so that `-m 'not apiserver'` leaves it out."""
    for item in items:
        if "control_plane" in getattr(item, "fixturenames", ()):
            item.add_marker("apiserver")


@pytest.fixture(scope="session", autouse=True)
def kubectl(say):
    """The path of kubectl, built if need be, which kustomize is a part of."""
    with skipping_if_unavailable():
        return binaries.find("kubectl", say=say)["kubectl"]


@pytest.fixture(scope="session")
def base():
    """The objects of manifests/base, built."""
    return kustomize.objects(kustomize.build(kustomize.BASE))


@pytest.fixture(scope="session")
def control_plane(say):
    """A control plane of their own: the namespace that the manifests make, and delete, is the real one."""
    with contextlib.ExitStack() as stack:
        with skipping_if_unavailable():
            # Services of both families, so that one of IPv6 alone can be made.
            ranges = {"service-cluster-ip-range": "10.0.0.0/16,fd00:10::/112"}
            control_plane = stack.enter_context(ControlPlane(api_server_flags=ranges, say=say))
            control_plane.start_controllers()
        yield control_plane


@pytest.fixture(scope="session")
def api(control_plane):
    with control_plane.client() as client:
        yield client


@pytest.fixture(scope="session")
def definitions():
    """Return a function that returns the definitions a component needs, or skips."""

    def definitions(component):
        with skipping_if_unavailable():
            return modules.definitions(component)

    return definitions
