"""What tests of this tier ask for: images, pods to run them in, and a place for what they measure."""

import sys

import pytest

from tests.image import building, cgroup, needs
from tests.image.pod import Pod

_FIGURES = pytest.StashKey[list[tuple[str, str]]]()


def pytest_collection_modifyitems(items):
    """Mark what builds, so that `-m 'not image'` leaves it out."""
    for item in items:
        if "store" in getattr(item, "fixturenames", ()):
            item.add_marker("image")


def pytest_configure(config):
    config.stash[_FIGURES] = []


def pytest_terminal_summary(terminalreporter, config):
    """Print the figures below the results: they are a report, not a bar to pass."""
    figures = config.stash.get(_FIGURES, [])
    if figures:
        terminalreporter.section("images, as measured")
        width = max(len(what) for what, _ in figures)
        for what, figure in figures:
            terminalreporter.write_line(f"{what:{width}}  {figure}")


@pytest.fixture
def report(pytestconfig, record_property):
    """Return a function that puts a figure into the report at the end of the run."""

    def report(what, figure):
        pytestconfig.stash[_FIGURES].append((what, figure))
        record_property(what, figure)

    return report


@pytest.fixture(scope="session")
def store(pytestconfig):
    """The images of this run."""
    if missing := needs.missing():
        pytest.skip(missing)
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def say(line):
        # Past pytest's capture: a first build takes minutes, and silence looks like a hang.
        with capture.global_and_fixture_disabled():
            print(f"\n{line}", file=sys.stderr, flush=True)

    with building.open_store(say) as store:
        cgroup.remove_leftovers()
        yield store
        cgroup.remove_leftovers()


@pytest.fixture(scope="session")
def sidecar_image(store):
    return store.build("Dockerfile.sidecar")


@pytest.fixture(scope="session")
def webhook_image(store):
    return store.build("Dockerfile.webhook")


@pytest.fixture
def pod(store, tmp_path):
    """A pod without containers; ended after the test with all that runs in it."""
    pod = Pod(tmp_path)
    yield pod
    pod.close()
