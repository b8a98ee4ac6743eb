"""Whatever becomes of the injector, pods are created; while it is looked after, all of them are injected."""

import base64
import contextlib
import http.client
import os
import signal
import ssl
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.apiserver.admission import CONFIGURATION, admission_barrier
from tests.apiserver.balancer import Balancer, Replica
from tests.apiserver.certificates import DAY, Authority
from tests.apiserver.client import ApiError
from tests.apiserver.injector import Injector, configuration, total
from tests.apiserver.objects import container, is_injected, pod, stamp, workload
from tests.apiserver.waiting import eventually
from webhook import names
from webhook.names import Reason

UNCHANGED = "metrics-sidecar: the injector failed, so nothing was changed; its log says why"
# Of the webhook configuration, and what a busy machine may add.
TIME_LIMIT, SLACK = 5.0, 1.5
PROMPT = 2.0
CLIENTS = 6

# From outside: the product has no switch for this.
CRASHING = """
import sys
import webhook.admission.answer
from webhook.__main__ import main

def crash(*_):
    raise {error}

webhook.admission.answer.decide = webhook.admission.answer.stamp = crash
sys.exit(main(["serve"]))
"""


def failed_open(api):
    """Return how many calls of our webhooks the API server has given up, by its own count."""
    name = "apiserver_admission_webhook_fail_open_count"
    lines = api.request("GET", "/metrics").splitlines(keepends=True)
    ours = [line for line in lines if line.startswith(f"{name}{{") and ".metrics-sidecar.io" in line]
    return total("".join(ours), name)


def timed_create(api, obj):
    start = time.monotonic()
    return api.create(obj), time.monotonic() - start


# --- failing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", ["RuntimeError('no')", "MemoryError()", "SystemError()"])
def test_an_injector_that_crashes_inside_lets_everything_through(
    api, namespace, endpoint, make_injector, error
):
    injector = make_injector(endpoint, program=("-c", CRASHING.format(error=error)))
    assert not is_injected(api.create(pod(namespace, inject="true")))
    assert api.warnings == [UNCHANGED]
    created = api.create(workload("Deployment", namespace, inject="true", replicas=0))
    assert stamp(created) == (None, None)
    assert api.warnings == [UNCHANGED]
    assert injector.failed() >= 2
    assert any("exception" in line for line in injector.complaints())


def test_who_does_not_ask_does_not_notice_that_it_crashes(api, namespace, endpoint, make_injector):
    injector = make_injector(endpoint, program=("-c", CRASHING.format(error="RuntimeError()")))
    before = injector.reviewed()
    api.create(pod(namespace))
    api.create(workload("Deployment", namespace, replicas=0))
    assert api.warnings == []
    assert injector.reviewed() == before


def test_without_the_injector_pods_are_created_at_once(api, namespace, endpoint, make_injector):
    injector = make_injector(endpoint)
    assert is_injected(api.create(pod(namespace, "before", inject="true")))
    injector.process.kill()
    before = failed_open(api)
    for number in range(5):
        created, seconds = timed_create(api, pod(namespace, f"web-{number}", inject="true"))
        assert not is_injected(created)
        assert seconds < PROMPT
    created, seconds = timed_create(api, workload("Deployment", namespace, inject="true", replicas=0))
    assert stamp(created) == (None, None)
    assert seconds < PROMPT
    assert failed_open(api) == before + 6

    # Back again, it is used again.
    with Injector(endpoint):
        assert is_injected(api.create(pod(namespace, "after", inject="true")))
        assert failed_open(api) == before + 6


@contextlib.contextmanager
def stopped(process):
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


def test_an_injector_that_hangs_costs_five_seconds_and_no_pod(api, namespace, endpoint, make_injector):
    injector = make_injector(endpoint)
    with stopped(injector.process), ThreadPoolExecutor(4) as threads:
        asked = [pod(namespace, f"web-{number}", inject="true") for number in range(3)]
        asked.append(workload("Deployment", namespace, inject="true", replicas=0))
        waiting = [threads.submit(timed_create, api, obj) for obj in asked]
        # Who does not ask does not wait.
        assert timed_create(api, pod(namespace, "bare"))[1] < PROMPT
        for each in waiting:
            created, seconds = each.result()
            assert seconds < TIME_LIMIT + SLACK
            assert names.INJECTED_LABEL not in created["metadata"]["labels"]
    assert is_injected(api.create(pod(namespace, "after", inject="true")))


def other_authority(endpoint):
    endpoint.authority = Authority("another")


def expired(endpoint):
    endpoint.renew(endpoint.authority.server(*endpoint.hosts, lifetime=-DAY / 2))


def for_another_host(endpoint):
    endpoint.renew(endpoint.authority.server("another.test.invalid"))


def missing(endpoint):
    endpoint.certificate.unlink()
    endpoint.key.unlink()


@pytest.mark.parametrize("fault", [other_authority, expired, for_another_host, missing])
def test_a_certificate_that_the_api_server_does_not_trust_costs_no_pod(
    api, namespace, endpoint, make_injector, fault
):
    fault(endpoint)
    injector = make_injector(endpoint)
    created, seconds = timed_create(api, pod(namespace, inject="true"))
    assert not is_injected(created)
    assert seconds < PROMPT
    assert injector.reviewed() == 0

    # Mended, it is used without a restart of anything.
    endpoint.renew()
    ca = base64.b64encode(endpoint.authority.certificate).decode()
    set_ca_bundle(api, ca)

    def injects():
        return is_injected(api.create(pod(namespace, "after", inject="true"), dry_run=True))

    eventually("the new certificate to be trusted", injects)


# --- odd requests ----------------------------------------------------------------------------------------


def test_a_path_that_is_unknown_costs_no_pod(api, namespace, endpoint, install):
    mistaken = configuration()
    for webhook in mistaken["webhooks"]:
        webhook["clientConfig"]["service"]["path"] += "s"
    with Injector(endpoint) as injector:
        install(mistaken, endpoint)
        before = failed_open(api)
        assert not is_injected(api.create(pod(namespace, inject="true")))
        assert failed_open(api) == before + 1, "a typing error in the configuration shows"
        assert injector.reviewed() == 0


def test_a_review_that_is_too_large_costs_no_pod(api, namespace, endpoint, make_injector):
    injector = make_injector(endpoint, settings={"SERVE_MAX_BYTES": 20_000})
    large = [container(env=[{"name": "LARGE", "value": "x" * 20_000}])]
    assert not is_injected(api.create(pod(namespace, "large", inject="true", containers=large)))
    assert injector.metric("metrics_sidecar_webhook_refused_total", code="413") == 1
    assert is_injected(api.create(pod(namespace, "small", inject="true")))


def test_what_is_no_review_is_refused_and_the_next_pod_injected(api, namespace, endpoint, make_injector):
    injector = make_injector(endpoint)
    tls = ssl.create_default_context(cadata=endpoint.authority.certificate.decode())
    for body, expected in ((b"", 400), (b"{", 400), (b'{"request": {}}', 400)):
        connection = http.client.HTTPSConnection("127.0.0.1", injector.port, timeout=5, context=tls)
        with contextlib.closing(connection):
            connection.request("POST", "/pod", body)
            assert connection.getresponse().status == expected
    assert injector.metric("metrics_sidecar_webhook_refused_total", code="400") == 3
    assert is_injected(api.create(pod(namespace, inject="true")))


# The most that etcd takes is 1.5 MiB.
@pytest.mark.parametrize("kilobytes", [300, 1200])
def test_a_huge_object_is_treated_as_any_other(api, namespace, endpoint, make_injector, kilobytes):
    injector = make_injector(endpoint)
    env = [{"name": f"SETTING_{number}", "value": "x" * 1000} for number in range(kilobytes)]
    created = api.create(pod(namespace, inject="true", containers=[container(env=env)]))
    assert is_injected(created)
    assert created["spec"]["containers"][0]["env"] == env
    spec = {"containers": [container(env=env)]}
    huge = workload("StatefulSet", namespace, inject="true", replicas=0, pod_spec=spec)
    assert stamp(api.create(huge)) == ("true", "true")
    # An update carries the object twice.
    patch = {"metadata": {"labels": {names.INJECT_LABEL: None}}}
    assert stamp(api.patch("apps/v1", "StatefulSet", "web", patch, namespace)) == (None, None)
    assert injector.complaints() == []


def test_where_native_sidecars_are_unknown_a_pod_that_ends_is_left_alone(
    api, namespace, endpoint, make_injector
):
    """Beside an ordinary container that runs for ever, a Job would never complete."""
    make_injector(endpoint, settings={"NATIVE_SIDECARS": "false"})
    assert not is_injected(api.create(pod(namespace, "ends", inject="true", restartPolicy="Never")))
    assert api.warnings == [f"metrics-sidecar: not injected, {Reason.NO_NATIVE_SIDECARS.sentence}"]
    assert not is_injected(api.create(pod(namespace, "bare", restartPolicy="Never")))
    assert api.warnings == []
    assert is_injected(api.create(pod(namespace, "stays", inject="true")))


# --- under load ------------------------------------------------------------------------------------------


class Load:
    """Pods that are created without a pause by several clients, until the end of the `with` statement."""

    def __init__(self, api, namespace, clients=CLIENTS):
        self._api, self._namespace = api, namespace
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]
        self.results = Counter()

    def __enter__(self):
        self._before = failed_open(self._api)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        for thread in self._threads:
            thread.join()
        self.failed_open = failed_open(self._api) - self._before

    def _run(self):
        wanted = pod(self._namespace, None, inject="true")
        wanted["metadata"]["generateName"] = "web-"
        while not self._end.is_set():
            try:
                result = is_injected(self._api.create(wanted)), *self._api.warnings
            except (ApiError, AssertionError, OSError) as error:
                result = repr(error)
            self.results[result] += 1

    def more(self, count):
        """Wait for some more pods."""
        enough = self.results.total() + count
        eventually(f"{count} more pods", lambda: self.results.total() >= enough)

    def assert_none_was_missed(self):
        assert set(self.results) == {(True,)}, self.results
        assert self.failed_open == 0


def set_ca_bundle(api, *bundles):
    """Have the API server trust these authorities, and nobody else, from now on."""
    merged = base64.b64encode(b"".join(base64.b64decode(bundle) for bundle in bundles)).decode()
    webhooks = range(len(configuration()["webhooks"]))
    patch = [
        {"op": "replace", "path": f"/webhooks/{index}/clientConfig/caBundle", "value": merged}
        for index in webhooks
    ]
    api.patch(*CONFIGURATION, configuration()["metadata"]["name"], patch, type_="json")
    admission_barrier(api)


def test_certificate_and_authority_change_every_second_under_load_and_no_pod_is_missed(
    api, namespace, endpoint, make_injector
):
    """As in a rotation: first both authorities are trusted, then the new certificate is served."""
    injector = make_injector(endpoint)

    def reloads():
        return injector.metric("metrics_sidecar_webhook_certificate_reloads_total", outcome="success")

    with Load(api, namespace) as load:
        for _ in range(8):
            load.more(20)
            before, old = reloads(), endpoint.ca_bundle
            endpoint.authority = Authority("webhook")
            # A changed bundle also makes the API server connect anew.
            set_ca_bundle(api, old, endpoint.ca_bundle)
            endpoint.renew()
            eventually("the new certificate to be served", lambda before=before: reloads() > before)
        set_ca_bundle(api, endpoint.ca_bundle)
        load.more(100)
    load.assert_none_was_missed()
    served = ssl.get_server_certificate(("127.0.0.1", injector.port))
    assert ssl.PEM_cert_to_DER_cert(served) == ssl.PEM_cert_to_DER_cert(endpoint.certificate.read_text())
    assert injector.failed() == 0


def test_two_replicas_are_replaced_under_load_and_no_pod_is_missed(api, namespace, endpoint, install):
    """As a Deployment does it: one more first, then one less, and each drains before it ends."""
    drain = {"SERVE_DRAIN_SECONDS": 2}
    with contextlib.ExitStack() as stack:
        balancer = stack.enter_context(Balancer(endpoint.port))

        def start():
            injector = stack.enter_context(Injector(endpoint, port=0, settings=drain))

            def is_ready():
                try:
                    return injector.get("/readyz")[0] == http.client.OK
                except (OSError, http.client.HTTPException):
                    return False

            replica = Replica(injector.port, is_ready)
            balancer.replicas.append(replica)
            eventually("the replica to be ready", lambda: replica.ready)
            return injector, replica

        replicas = [start(), start()]
        install(configuration(), endpoint)
        with Load(api, namespace) as load:
            load.more(50)
            for old, replica in list(replicas):
                new, _ = start()
                os.kill(old.process.pid, signal.SIGTERM)
                eventually("the old one to end", lambda old=old: old.process.exit_code is not None)
                balancer.replicas.remove(replica)
                assert old.process.exit_code == 0
                assert old.complaints() == []
                load.more(50)
                eventually("the new one to be asked", lambda new=new: new.reviewed() > 0)
        load.assert_none_was_missed()
        assert balancer.refused == 0


def test_a_replica_that_is_killed_under_load_costs_its_own_reviews_and_no_pod(
    api, namespace, endpoint, install
):
    """Without a drain some pods go without, until its place is taken; none fails, and none is late."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(Injector(endpoint))
        install(configuration(), endpoint)
        with Load(api, namespace) as load:
            load.more(50)
            first.process.kill()
            load.more(50)
            second = stack.enter_context(Injector(endpoint))
            load.more(50)
            eventually("the new one to be asked", lambda: second.reviewed() > 0)
        assert set(load.results) == {(True,), (False,)}, load.results
        # A pod may have been injected when the API server asked again.
        assert 0 <= load.failed_open - load.results[(False,)] <= CLIENTS
