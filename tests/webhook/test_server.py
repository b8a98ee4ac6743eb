"""The admission process as the API server meets it: over TLS, on a bad day."""

import asyncio
import contextlib
import itertools
import json
import random
import signal
import socket
import ssl
import threading
import time

import aiohttp
import pytest

from tests.webhook.running import Running, eventually, expiry_of, make_pair, review, trusting, write_pair
from webhook import names

POD = {
    "kind": "Pod",
    "metadata": {"name": "web", "labels": {names.INJECT_LABEL: "true"}},
    "spec": {"containers": [{"name": "app"}]},
}
CRASHING = """
import webhook.admission.handlers as a, webhook.__main__ as m
def crash(*_): raise {error}
a.answer_pod = crash
m.main(["serve"])
"""
KOPF_CRASHING = """
import kopf._core.engines.admission as k, webhook.__main__ as m
def crash(**_): raise RuntimeError("no")
k.find_resource = crash
m.main(["serve"])
"""


@pytest.fixture(scope="module")
def running():
    with Running() as it:
        yield it


def answer(response):
    status, body = response
    assert status == 200, body
    return json.loads(body)["response"]


class Load:
    """Clients that send reviews without a pause, each over one connection after another, until `stop`."""

    def __init__(self, choose, clients=4, per_connection=10):
        """`choose` returns the process to send the next review to."""
        self.choose, self.clients, self.per_connection = choose, clients, per_connection
        self.allowed, self.failed, self.closing = 0, [], 0
        self._stop = False
        self._trust = trusting()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop = True
        self._thread.join(30)
        assert not self._thread.is_alive()

    async def _run(self):
        await asyncio.gather(*(self._client() for _ in range(self.clients)))

    async def _client(self):
        message = json.dumps(review(POD)).encode()
        while not self._stop:
            try:
                connector = aiohttp.TCPConnector(ssl=self._trust, limit_per_host=1)
                async with aiohttp.ClientSession(connector=connector) as session:
                    for _ in itertools.takewhile(lambda _: not self._stop, range(self.per_connection)):
                        async with session.post(self.choose().url + "/pod", data=message) as response:
                            content = await response.json()
                            assert content["response"]["allowed"] is True
                            assert "patch" in content["response"]
                            self.closing += response.headers.get("Connection") == "close"
                            self.allowed += 1
            except (aiohttp.ClientError, AssertionError, OSError) as error:
                self.failed.append((time.monotonic(), error))
                await asyncio.sleep(0.05)


def test_it_injects(running):
    response = answer(running.post("/pod", review(POD, uid="some-uid")))
    assert response["uid"] == "some-uid"
    assert response["allowed"] is True
    assert response["patchType"] == "JSONPatch"


@pytest.mark.parametrize("path", ["/", "/pods", "/pod/", "/mutate", "/metrics", "/namespace/x"])
def test_an_unknown_path_is_not_found(running, path):
    """kopf would allow without a patch: a typing error in the configuration, and nobody notices."""
    status, _ = running.post(path, review(POD))
    assert status in (404, 405)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "review: JSONDecodeError; expected JSON\n"),
        (b"{", "review: JSONDecodeError; expected JSON\n"),
        (b"\xff\xfe\xfd", "review: UnicodeDecodeError; expected JSON\n"),
        (b"[" * 200_000, "review: RecursionError; expected JSON\n"),
        (b"[]", "review: no request in it; expected an AdmissionReview\n"),
        (b'{"request": null}', "review: no request in it; expected an AdmissionReview\n"),
        (b'{"request": {}}', "review: request.uid; expected a string\n"),
    ],
)
def test_what_is_no_review_is_a_bad_request(running, body, message):
    assert running.post("/pod", body) == (400, message.encode())


def test_depth_is_no_matter(running):
    deep = json.loads('{"a":' * 900 + "1" + "}" * 900)
    response = answer(running.post("/pod", review({**POD, "spec": {**POD["spec"], "deep": deep}})))
    assert (response["allowed"], "patch" in response) == (True, True)
    response = answer(running.post("/workload", review(deep, operation="UPDATE", old=deep)))
    assert (response["allowed"], "patch" in response) == (True, False)


def test_what_is_too_large_is_said_so(running):
    refused = running.metric("metrics_sidecar_webhook_refused_total", code="413") or 0
    large = {"kind": "Pod", "metadata": {"annotations": {"a": "x" * 7_000_000}}, "spec": POD["spec"]}
    assert answer(running.post("/pod", review(large)))["allowed"] is True
    large["metadata"]["annotations"]["b"] = "x" * 2_000_000
    status, body = running.post("/pod", review(large))
    assert (status, body) == (413, b"review: too large; expected at most 8388608 bytes\n")
    assert running.metric("metrics_sidecar_webhook_refused_total", code="413") == refused + 1


def test_probes_and_metrics_need_no_certificate_and_no_client(running):
    assert running.get("/livez") == (200, "ok\n")
    assert running.get("/readyz") == (200, "ok\n")
    assert running.get("/readyz", tls=True) == (200, "ok\n")
    injected = (
        running.metric("metrics_sidecar_webhook_decisions_total", action="inject", reason="pod_label") or 0
    )
    answer(running.post("/pod", review(POD)))
    answer(running.post("/namespace", review(POD | {"metadata": {}})))
    assert (
        running.metric("metrics_sidecar_webhook_decisions_total", action="inject", reason="pod_label")
        == injected + 1
    )
    assert running.metric("metrics_sidecar_webhook_review_seconds_count", webhook="namespace") >= 1


def test_what_was_done_is_logged_as_json(running):
    answer(running.post("/pod", review(POD, namespace="shop")))
    skipped = POD | {"spec": {**POD["spec"], "hostNetwork": True}}
    answer(running.post("/pod", review(skipped, namespace="agents")))
    line = eventually(
        "the line",
        lambda: next((line for line in running.lines() if line.get("namespace") == "agents"), None),
    )
    assert (line["action"], line["reason"], line["object"], line["kind"]) == (
        "skip",
        "host_network",
        "web",
        "Pod",
    )
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in running.lines())


@pytest.mark.parametrize("error", ["RuntimeError('no')", "MemoryError()", "RecursionError()", "KeyError(1)"])
def test_a_handler_that_crashes_lets_everything_through(error):
    program = ("-c", CRASHING.format(error=error))
    with Running(program=program) as running:
        response = answer(running.post("/pod", review(POD)))
        assert response["allowed"] is True
        assert "patch" not in response
        assert response["warnings"] == [
            "metrics-sidecar: the injector failed, so nothing was changed; its log says why"
        ]
        assert running.metric("metrics_sidecar_webhook_failed_open_total", webhook="pod") == 1
        assert eventually("a traceback", lambda: [line for line in running.lines() if "exception" in line])


def test_kopf_itself_crashing_lets_everything_through():
    with Running(program=("-c", KOPF_CRASHING)) as running:
        response = answer(running.post("/workload", review({"kind": "Deployment"})))
        assert response["allowed"] is True
        assert len(response["warnings"]) == 1


def test_certificates_change_under_load_and_no_review_fails(tmp_path):
    with Running(tmp_path) as running, Load(lambda: running) as load:
        for _ in range(5):
            pair = make_pair()
            before = load.allowed
            write_pair(tmp_path, *pair)
            eventually("the new certificate to be served", lambda pair=pair: served(running) == der(pair[0]))
            eventually("reviews with it", lambda before=before: load.allowed > before + 20)
        expiry = running.metric("metrics_sidecar_webhook_certificate_expiry_timestamp_seconds")
        assert expiry == expiry_of(pair[0])
        assert running.metric("metrics_sidecar_webhook_certificate_reload_success") == 1
    assert load.failed == []
    assert load.allowed > 100


def served(running):
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", running.port)))


def der(pem):
    return ssl.PEM_cert_to_DER_cert(pem.decode())


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(lambda: (make_pair()[0], make_pair()[1]), id="mismatched"),
        pytest.param(lambda: (b"nonsense", make_pair()[1]), id="nonsense"),
        pytest.param(lambda: (make_pair()[0], b""), id="empty"),
    ],
)
def test_a_pair_that_cannot_be_used_leaves_the_old_one_and_shows(tmp_path, broken):
    first = make_pair()
    with Running(tmp_path, pair=first) as running, Load(lambda: running) as load:
        write_pair(tmp_path, *broken())
        eventually(
            "the metric", lambda: running.metric("metrics_sidecar_webhook_certificate_reload_success") == 0
        )
        assert served(running) == der(first[0])
        expiry = running.metric("metrics_sidecar_webhook_certificate_expiry_timestamp_seconds")
        assert expiry == expiry_of(first[0])
        assert running.get("/readyz")[0] == 200
        good = make_pair()
        write_pair(tmp_path, *good)
        eventually("the good pair", lambda: served(running) == der(good[0]))
        assert running.metric("metrics_sidecar_webhook_certificate_reloads_total", outcome="failure") == 1
    assert load.failed == []


def test_it_waits_for_its_first_certificate(tmp_path):
    with Running(tmp_path, pair=False) as running:
        assert running.get("/livez")[0] == 200
        assert running.get("/readyz") == (503, "no certificate\n")
        with pytest.raises(ssl.SSLError):
            served(running)
        write_pair(tmp_path, *make_pair())
        eventually("readiness", lambda: running.get("/readyz")[0] == 200)
        assert answer(running.post("/pod", review(POD)))["allowed"] is True


def test_a_client_needs_to_name_no_server(tmp_path):
    """The API server names it; others may call it by address."""
    pair = make_pair()
    with Running(tmp_path, pair=pair) as running:
        context = ssl.create_default_context(cafile=str(tmp_path / "tls.crt"))
        context.check_hostname = False
        with (
            socket.create_connection(("127.0.0.1", running.port)) as plain,
            context.wrap_socket(plain) as secured,
        ):
            assert secured.getpeercert(binary_form=True) == der(pair[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_drains(number):
    with Running(SERVE_DRAIN_SECONDS=2) as running:
        with Load(lambda: running, per_connection=10**9) as load:
            eventually("load", lambda: load.allowed > 10)
            start = time.monotonic()
            running.process.send_signal(number)
            eventually("unreadiness", lambda: running.get("/readyz") == (503, "draining\n"))
            before = load.allowed
            eventually("more reviews", lambda: load.allowed > before + 10)
            assert load.closing > 0, "answers while draining ask the client to go elsewhere"
            assert running.process.wait(20) == 0
            assert time.monotonic() - start >= 2
        # What was refused was refused at the very end, when the port was closed.
        assert not [moment for moment, _ in load.failed if moment < start + 2]


def test_two_replicas_restart_in_turn_and_no_review_fails():
    """As in a Deployment: one goes only when its successor is ready, and traffic follows readiness late."""
    with contextlib.ExitStack() as stack:
        replicas = [stack.enter_context(Running(SERVE_DRAIN_SECONDS=2)) for _ in range(2)]
        endpoints = list(replicas)
        with Load(lambda: random.choice(endpoints), per_connection=10**9) as load:
            for old in replicas:
                new = stack.enter_context(Running(SERVE_DRAIN_SECONDS=2))
                eventually("the successor", lambda new=new: new.get("/readyz")[0] == 200)
                endpoints.append(new)
                old.process.terminate()
                eventually("unreadiness", lambda old=old: old.get("/readyz")[0] == 503)
                before = load.allowed
                eventually("reviews meanwhile", lambda before=before: load.allowed > before + 50)
                endpoints.remove(old)
                assert old.process.wait(20) == 0
        assert load.failed == []
        assert load.allowed > 200


def test_a_second_signal_ends_it_at_once():
    with Running(SERVE_DRAIN_SECONDS=60) as running:
        running.process.terminate()
        eventually("draining", lambda: running.get("/readyz")[0] == 503)
        running.process.terminate()
        assert running.process.wait(20) == 0


def test_it_talks_to_no_cluster_and_imports_no_client(tmp_path):
    """Even where it could: an address, a token and a kubeconfig are all at hand."""
    with socket.create_server(("127.0.0.1", 0)) as cluster, contextlib.ExitStack() as stack:
        cluster.setblocking(False)
        port = cluster.getsockname()[1]
        kubeconfig = tmp_path / "kubeconfig"
        content = {
            "current-context": "it",
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
            "clusters": [{"name": "it", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "users": [{"name": "it", "user": {"token": "t"}}],
        }
        kubeconfig.write_text(json.dumps(content))
        program = (
            "import os, sys, json\n"
            f"os.environ.update(KUBECONFIG={str(kubeconfig)!r}, KUBERNETES_SERVICE_HOST='127.0.0.1',"
            f" KUBERNETES_SERVICE_PORT='{port}')\n"
            "import webhook.__main__ as m\n"
            "m.main(['serve'])\n"
            "found = [name for name, module in sys.modules.items() if module and (name == 'webhook.offline'"
            " or name.split('.')[0] in ('kubernetes', 'kubernetes_asyncio', 'pykube', 'ruamel'))]\n"
            "print(json.dumps({'message': 'imported', 'found': found}), file=sys.stderr)\n"
        )
        running = stack.enter_context(Running(program=("-c", program)))
        for _ in range(20):
            answer(running.post("/pod", review(POD)))
        running.process.terminate()
        assert running.process.wait(20) == 0
        imported = eventually(
            "the list", lambda: [line for line in running.lines() if line["message"] == "imported"]
        )
        assert imported[0]["found"] == []
        assert {line.get("level") for line in running.lines()} == {"info", None}
        with pytest.raises(BlockingIOError):
            cluster.accept()


def test_memory_stays_flat():
    """Every review has a uid of its own, and every object: nothing may be kept by them."""

    async def send(running, start, count):
        async with running.session(limit=8) as session:

            async def one(number):
                obj = {
                    **POD,
                    "metadata": {**POD["metadata"], "uid": f"object-{number}", "name": f"web-{number}"},
                }
                path, operation = [("/pod", "CREATE"), ("/workload", "UPDATE")][number % 2]
                message = review(obj, uid=f"review-{number}", operation=operation, old=obj)
                async with session.post(running.url + path, json=message) as response:
                    assert (await response.json())["response"]["allowed"] is True

            for first in range(start, start + count, 50):
                await asyncio.gather(*(one(number) for number in range(first, first + 50)))

    with Running() as running:
        asyncio.run(send(running, 0, 1500))
        before = running.rss()
        asyncio.run(send(running, 1500, 3000))
        after = running.rss()
    assert after <= 80
    # A memo per object, as kopf keeps for updates, would take 3 MiB.
    assert after - before < 1.5


def test_bad_settings_are_said_and_not_in_the_way():
    with Running(PORT="99999") as running:
        [warning] = [line for line in running.lines() if line["level"] == "warning"]
        assert warning["message"] == "config: METRICS_SIDECAR_INJECTOR_PORT='99999'; expected 1..65535"
