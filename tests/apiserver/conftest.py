"""What tests of this tier ask for: one control plane per run, a namespace per test, webhooks put to work."""

import contextlib
import re
import secrets
from pathlib import Path

import pytest

from tests.apiserver import binaries, customkinds, permissions
from tests.apiserver.admission import Endpoint, installed
from tests.apiserver.controlplane import ControlPlane
from tests.apiserver.injector import in_effect
from tests.apiserver.namespaces import create_namespace, delete_namespace
from tests.apiserver.reconciler import described, reconciling
from tests.apiserver.skipping import skipping_if_unavailable
from tests.apiserver.targets import Kubelet


def pytest_collection_modifyitems(items):
    """Mark the whole folder, so that `-m 'not apiserver'` leaves it out."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("apiserver")


@pytest.fixture(scope="session")
def control_plane(say):
    """An etcd and an API server, shared by all tests: each uses a namespace of its own."""
    with contextlib.ExitStack() as stack:
        with skipping_if_unavailable():
            control_plane = stack.enter_context(ControlPlane(say=say))
        yield control_plane


@pytest.fixture(scope="session")
def controllers(control_plane):
    """The control plane with the controller manager running, from here to the end of the run."""
    with skipping_if_unavailable():
        control_plane.start_controllers()
    return control_plane


@pytest.fixture(scope="session")
def kubectl(control_plane, say):
    """Run kubectl as administrator: `kubectl("get", "pods").stdout`."""
    with skipping_if_unavailable():
        binaries.find("kubectl", say=say)
    return control_plane.kubectl


@pytest.fixture(scope="session")
def admin(control_plane):
    """One client for the whole run."""
    with control_plane.client() as client:
        yield client


@pytest.fixture
def api(control_plane, admin):
    """The administrator's client, with the API server running even if the test before left it dead."""
    control_plane.start_api_server()
    return admin


@pytest.fixture
def make_namespace(control_plane, api, request):
    """Return a function that makes a namespace, with labels if given, and returns its name."""
    base = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:40].strip("-")
    made = []

    def make(labels=None):
        name = f"{base}-{secrets.token_hex(3)}"
        made.append(name)
        create_namespace(api, name, labels)
        return name

    yield make
    control_plane.start_api_server()
    for name in made:
        delete_namespace(api, name, by_hand=not control_plane.has_controllers)


@pytest.fixture
def namespace(make_namespace):
    """The name of a fresh namespace in which pods can be created."""
    return make_namespace()


@pytest.fixture
def make_endpoint():
    """Return a function that makes an Endpoint: a free port, and a certificate for it."""
    with contextlib.ExitStack() as stack:

        def make():
            endpoint = Endpoint()
            stack.callback(endpoint.close)
            return endpoint

        yield make


@pytest.fixture
def endpoint(make_endpoint):
    """Where the webhook server under test shall listen, and the certificate that it shall serve."""
    return make_endpoint()


@pytest.fixture
def install(api):
    """Return a function that installs a MutatingWebhookConfiguration and waits until it is in effect."""
    with contextlib.ExitStack() as stack:
        yield lambda configuration, endpoint: stack.enter_context(installed(api, configuration, endpoint))


@pytest.fixture(scope="module")
def injector_settings():
    """The environment of a module's injector, without its prefix; modules may have another."""
    return {}


@pytest.fixture(scope="module")
def injector(control_plane, admin, injector_settings):
    """The injector, at work for one module of tests; none of its reviews may have failed in the end.

    Tests that make it fail start one of their own, with `make_injector`.
    """
    control_plane.start_api_server()
    with (
        contextlib.closing(Endpoint()) as endpoint,
        in_effect(admin, endpoint, settings=injector_settings) as injector,
    ):
        yield injector
        assert injector.failed() == 0
        assert injector.complaints() == []


@pytest.fixture
def make_injector(api):
    """Return a function that puts an injector to work at an endpoint, until the test ends."""
    with contextlib.ExitStack() as stack:
        yield lambda endpoint, **options: stack.enter_context(in_effect(api, endpoint, **options))


@pytest.fixture(scope="session")
def accounts(control_plane, admin):
    """The service accounts of our processes, with the permissions that the manifests give them."""
    permissions.plant(admin)


@pytest.fixture(scope="module")
def kubelet(control_plane, admin):
    """Somebody who gives pods their addresses, so that they become endpoints."""
    with Kubelet(admin) as kubelet:
        yield kubelet


@pytest.fixture(scope="module")
def custom_kinds(control_plane, admin):
    """Workloads of other projects' kinds can be created."""
    control_plane.start_api_server()
    with customkinds.served(admin):
        yield


@pytest.fixture(scope="module")
def reconciler_settings():
    """What a module's reconciler is started with; modules may have another."""
    return {}


@pytest.fixture(scope="module")
def reconciler(controllers, admin, accounts, reconciler_settings):
    """The reconciler, leading, for one module of tests; nothing unforeseen may have happened to it.

    Tests that make it fail start one of their own, with `make_reconciler`.
    """
    controllers.start_api_server()
    with reconciling(controllers, admin, **reconciler_settings) as reconciler:
        reconciler.wait_until_leading()
        yield reconciler
        assert reconciler.crashes() == []
        refused = map(described, permissions.refused(reconciler.requests()))
        assert [line for line in refused if f" {customkinds.UNREADABLE} " not in line] == []


@pytest.fixture
def make_reconciler(controllers, api, accounts):
    """Return a function that starts a reconciler, which runs until the test ends."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(reconciling(controllers, api, **options))
