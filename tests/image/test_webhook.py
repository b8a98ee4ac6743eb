"""The injector's image, run as a cluster runs its admission process."""

import re
import signal
import ssl
import time
from http.client import HTTPSConnection

import pytest

from tests.apiserver.certificates import Authority
from tests.apiserver.waiting import eventually
from tests.image import contents
from tests.image.pod import MEBIBYTE, Limits
from webhook import names

PORT = 10250
PROBE_PORT = 8080
CERTIFICATES = "/etc/metrics-sidecar/tls"
LIMITS = Limits(cpu=0.2, memory=128 * MEBIBYTE)


@pytest.fixture
def authority():
    return Authority("admission")


@pytest.fixture
def certificates(tmp_path, pod, authority):
    """A folder like the mounted Secret: a certificate for the pod's address, readable to the image's user."""
    folder = tmp_path / "tls"
    folder.mkdir()
    for path in authority.server(pod.address).write(folder, "tls"):
        path.chmod(0o644)
    return folder


@pytest.fixture
def start(pod, webhook_image, certificates):
    """Return a function that starts the image's default command."""

    def start(*arguments, **options):
        settings = {"METRICS_SIDECAR_INJECTOR_SERVE_DRAIN_SECONDS": "0"}
        mounts = {certificates: CERTIFICATES}
        return pod.start(
            webhook_image, *arguments, environment=settings, limits=LIMITS, mounts=mounts, **options
        )

    return start


def await_ready(pod):
    """Wait until the probe of readiness succeeds."""

    def ready():
        return pod.get("/readyz", port=PROBE_PORT)[0] == 200

    eventually("/readyz", ready, tolerate=(OSError,), deadline=60)


def test_it_gets_ready_without_any_privilege_and_without_a_cluster(pod, start, authority):
    """uid 65532, no capability, read-only root, the default seccomp profile; a certificate, no kubeconfig."""
    container = start()
    await_ready(pod)
    status = container.status()
    assert status["Uid"].split() == ["65532"] * 4
    assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    connection = HTTPSConnection(pod.address, PORT, timeout=30, context=context)
    connection.request("GET", "/readyz")
    assert connection.getresponse().status == 200
    connection.close()


def test_sigterm_ends_it(pod, start):
    container = start()
    await_ready(pod)
    assert container.ends_within(10.0, signal.SIGTERM)
    assert container.wait() == 0


def test_help_names_the_commands(pod, webhook_image):
    container = pod.start(webhook_image, "--help")
    assert container.wait() == 0
    for command in ("serve", "inject", "uninject"):
        assert re.search(rf"^ +{command} ", container.output(), re.MULTILINE), container.output()


def test_version(pod, webhook_image):
    container = pod.start(webhook_image, "--version")
    assert container.wait() == 0
    assert container.output() == f"{names.VERSION}\n"


def test_nothing_is_compiled_at_start(pod, webhook_image, start):
    config = webhook_image.config
    container = start(command=[config["Entrypoint"][0], "-v", *config["Entrypoint"][1:], *config["Cmd"]])
    await_ready(pod)
    assert contents.compiled_at_start(container.output()) == []


class TestTheContents:
    def test_the_lock_file_is_what_is_installed(self, webhook_image):
        assert contents.installed(webhook_image) == contents.locked("webhook.txt")

    def test_neither_the_exporter_nor_an_installer_is_in_it(self, webhook_image):
        present = {path.name for path in (webhook_image.root / "app/lib").iterdir()}
        assert {"webhook", "kopf", "aiohttp"} <= present
        assert not present & {"sidecar", "tests", "bin", "pip", "setuptools", "wheel"}

    def test_its_user_can_read_everything_and_change_nothing(self, webhook_image):
        assert contents.of_others(webhook_image, webhook_image.config["User"]) == []

    def test_the_build_leaves_no_trace_of_the_machine_that_made_it(self, webhook_image):
        assert contents.traces_of_the_builder(webhook_image) == []

    def test_the_configuration(self, webhook_image):
        config = webhook_image.config
        assert config["User"] == "65532:65532"
        assert set(config["ExposedPorts"]) == {f"{PORT}/tcp", f"{PROBE_PORT}/tcp"}
        assert config["Cmd"] == ["serve"]
        labels = contents.labels(webhook_image)
        assert labels["title"] == "metrics-sidecar-webhook"
        assert labels["description"]
        assert labels["licenses"] == "MIT"
        assert labels["version"] == names.VERSION
        assert "source" in labels


def test_the_figures(pod, webhook_image, start, report):
    """Start-up and memory of the admission process: reported, not held against a bar."""
    container = start()
    container.process()
    began, used = time.monotonic(), container.cpu_seconds()
    await_ready(pod)
    wall, cpu = time.monotonic() - began, container.cpu_seconds() - used
    limits = container.why_unlimited or "under 200m CPU and 128Mi memory"
    report("webhook, ready", f"{wall:.2f} s after exec, {limits}")
    report("webhook, CPU until then", f"{cpu * 1000:.0f} ms")
    report("webhook, memory when ready", container.memory())
    size = webhook_image.size() / 1e6
    report("webhook, image", f"{size:.0f} MB, of these {webhook_image.size('app') / 1e6:.0f} MB on its base")
    report("webhook, build", f"{webhook_image.build_seconds:.1f} s, with base images at hand")
