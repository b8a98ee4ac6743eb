"""Whatever happens between the reconciler and the API server, it goes on where it was, by itself."""

import time

import pytest

from tests.apiserver.gateway import Gateway, late
from tests.apiserver.objects import pod
from tests.apiserver.proxy import Proxy
from tests.apiserver.targets import injected_pods, never_double, services
from tests.apiserver.waiting import eventually

pytestmark = pytest.mark.usefixtures("injector")

SERVICE = "v1", "Service", "web-metrics-sidecar-pod"


@pytest.fixture
def proxy(controllers):
    with Proxy(controllers.url) as proxy:
        yield proxy


@pytest.fixture
def gateway(controllers):
    with Gateway(controllers.admin_kubeconfig) as gateway:
        yield gateway


def deploy(api, namespace, name="web"):
    """Create a pod, and no more: controllers need a minute to come back to an API server that was away."""
    api.create(pod(namespace, name, inject="true", labels={"app": name}))
    wanted = f"{name}-metrics-sidecar-pod"
    eventually("the Service", lambda: api.find("v1", "Service", wanted, namespace))
    never_double(api, namespace)


def heals(api, namespace, what, say, deadline=60.0):
    start = time.monotonic()
    api.delete(*SERVICE, namespace)
    eventually("the Service to be back", lambda: api.find(*SERVICE, namespace), deadline=deadline)
    say(f"{what}: a deleted Service is back after {time.monotonic() - start:.1f} s")


def is_quiet(reconciler, most):
    """Check that an outage is told, not counted: few lines, all of them sentences."""
    assert reconciler.crashes() == []
    complaints = [line["message"] for line in reconciler.complaints()]
    assert len(complaints) <= most, complaints


# --- the API server --------------------------------------------------------------------------------------


def test_a_restart_of_the_api_server_is_survived(api, control_plane, namespace, make_reconciler, say):
    reconciler = make_reconciler()
    reconciler.wait_until_leading()
    deploy(api, namespace)
    control_plane.restart_api_server()
    heals(api, namespace, "API server restarted", say)
    never_double(api, namespace)
    assert reconciler.process.exit_code is None
    is_quiet(reconciler, 10)


def test_an_api_server_that_is_away_for_twenty_seconds_is_waited_for(
    api, control_plane, namespace, make_reconciler, say
):
    reconciler = make_reconciler()
    reconciler.wait_until_leading()
    deploy(api, namespace)
    control_plane.kill_api_server()
    away = time.monotonic() + 20
    eventually("20 s", lambda: time.monotonic() > away)
    assert reconciler.process.exit_code is None
    control_plane.start_api_server()
    heals(api, namespace, "API server away for 20 s", say)
    deploy(api, namespace, "later")
    is_quiet(reconciler, 12)
    eventually("to lead again", lambda: reconciler.leads, deadline=30)
    eventually("to be alive", lambda: reconciler.get("/livez")[0] == 200)


def test_what_was_deleted_and_made_while_it_could_not_see_is_noticed(
    api, control_plane, namespace, proxy, make_reconciler, say
):
    """The API server was away as well, and has forgotten all that was before."""
    reconciler = make_reconciler(through=proxy)
    reconciler.wait_until_leading()
    deploy(api, namespace)
    deploy(api, namespace, "other")
    proxy.refuse()
    api.delete("v1", "Service", SERVICE[2], namespace)
    api.delete("v1", "Pod", "other", namespace)
    api.create(pod(namespace, "new", inject="true", labels={"app": "new"}))
    assert len(injected_pods(api, namespace)) == 2
    # Its history begins anew with each start, and after what happened.
    control_plane.kill_api_server()
    control_plane.start_api_server()
    proxy.mend()
    start = time.monotonic()

    def in_step():
        found = {item["metadata"]["name"] for item in services(api, namespace)}
        return found == {"web-metrics-sidecar-pod", "new-metrics-sidecar-pod"}

    eventually("all to be in step", in_step, deadline=60)
    say(f"after an outage: in step {time.monotonic() - start:.1f} s later")
    never_double(api, namespace)
    assert reconciler.crashes() == []
    eventually("the gauge", lambda: reconciler.metric("injected_pods") >= 2)


# --- the network -----------------------------------------------------------------------------------------


def test_connections_that_are_cut_are_made_again(api, namespace, proxy, make_reconciler, say):
    reconciler = make_reconciler(through=proxy)
    reconciler.wait_until_leading()
    deploy(api, namespace)
    for _ in range(3):
        proxy.cut()
        heals(api, namespace, "connections cut", say)
    never_double(api, namespace)
    assert reconciler.leads
    is_quiet(reconciler, 12)


def test_connections_that_are_half_open_are_noticed(api, namespace, proxy, make_reconciler, say):
    """A firewall that has forgotten them: nothing comes any more, and no end either."""
    reconciler = make_reconciler(through=proxy, resync_seconds=300)
    reconciler.wait_until_leading()
    deploy(api, namespace)
    # Only the watch tells it of this; all that it does at its beginning is over then.
    for _ in range(3):
        heals(api, namespace, "before", lambda _: None, deadline=20)
    proxy.freeze()
    start = time.monotonic()
    api.delete(*SERVICE, namespace)

    def recovers_or_asks_for_a_restart():
        return api.find(*SERVICE, namespace) or reconciler.get("/livez")[0] == 503

    eventually("it to notice", recovers_or_asks_for_a_restart, deadline=120)
    healed = bool(api.find(*SERVICE, namespace))
    what = "recovered by itself" if healed else "/livez says 503"
    say(f"half-open connections: {what} after {time.monotonic() - start:.1f} s")
    if healed:
        eventually("to be alive", lambda: reconciler.get("/livez")[0] == 200, deadline=30)
    is_quiet(reconciler, 12)


def test_a_network_that_is_silent_for_long_makes_it_step_down_and_come_back(
    api, namespace, proxy, make_reconciler, say
):
    reconciler = make_reconciler(through=proxy)
    reconciler.wait_until_leading()
    deploy(api, namespace)
    proxy.freeze(new=True)
    start = time.monotonic()
    eventually("it to step down", lambda: not reconciler.leads, deadline=30)
    say(f"silent network: steps down after {time.monotonic() - start:.1f} s")
    # Before anyone else may lead: the Lease has 12 s.
    proxy.mend()
    reconciler.wait_until_leading(60)
    heals(api, namespace, "silent network, mended", say)
    is_quiet(reconciler, 12)


# --- answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [429, 500, 503])
def test_an_api_server_in_trouble_is_asked_again_later_and_not_hammered(
    api, namespace, gateway, make_reconciler, code, say
):
    reconciler = make_reconciler(through=gateway)
    reconciler.wait_until_leading()
    deploy(api, namespace)

    def fault(method, path):
        return code if "/services/" in path and method in ("PATCH", "POST") else None

    gateway.fault = fault
    before = gateway.answered
    api.delete(*SERVICE, namespace)
    start = time.monotonic()
    eventually("some tries", lambda: gateway.answered >= before + 3, deadline=30)
    tries, seconds = gateway.answered - before, time.monotonic() - start
    eventually("errors to be counted", lambda: reconciler.metric("errors_total") >= 3)
    assert seconds > 1, f"{tries} tries in {seconds:.1f} s"
    # Others are looked after meanwhile: one that fails does not stop the queue.
    assert reconciler.leads
    gateway.fault = lambda *_: None
    eventually("the Service to be back", lambda: api.find(*SERVICE, namespace), deadline=30)
    say(f"{code}: {tries} tries in {seconds:.1f} s")
    eventually("an empty queue", lambda: reconciler.metric("queue_depth") == 0)
    is_quiet(reconciler, 3)


def test_watches_that_end_with_410_begin_anew_and_nothing_is_missed(
    api, namespace, gateway, make_reconciler, say
):
    """What was deleted meanwhile is in no list, and no event tells of it."""
    reconciler = make_reconciler(through=gateway)
    reconciler.wait_until_leading()
    deploy(api, namespace)
    # All that it does at its beginning is over then.
    for _ in range(3):
        heals(api, namespace, "before", lambda _: None, deadline=20)
    gateway.fault = lambda _, path: 500 if "watch=" in path else None
    gateway.hang_up()
    api.delete(*SERVICE, namespace)
    kinds = {"/api/v1/pods", "/api/v1/services"}
    gone = set()

    def fault(_, path):
        kind = path.partition("?")[0]
        if "watch=" in path and kind not in gone:
            gone.add(kind)
            return 410
        return None

    gateway.fault = fault
    start = time.monotonic()
    eventually("both watches to be told", lambda: gone == kinds, deadline=30)
    eventually("the Service to be back", lambda: api.find(*SERVICE, namespace), deadline=30)
    say(f"410 Gone: what was deleted meanwhile is back after {time.monotonic() - start:.1f} s")
    heals(api, namespace, "410 Gone", say)
    is_quiet(reconciler, 3)


def test_watches_that_are_refused_for_good_are_a_fault_that_livez_tells(
    api, namespace, gateway, make_reconciler, say
):
    reconciler = make_reconciler(through=gateway)
    reconciler.wait_until_leading()
    deploy(api, namespace)
    assert reconciler.get("/livez")[0] == 200
    gateway.fault = lambda _, path: 500 if "watch=" in path else None
    gateway.hang_up()
    start = time.monotonic()
    eventually("/livez to notice", lambda: reconciler.get("/livez")[0] == 503, deadline=180)
    say(f"no watch any more: /livez says so after {time.monotonic() - start:.1f} s")
    gateway.fault = lambda *_: None
    heals(api, namespace, "watches back", say)
    is_quiet(reconciler, 12)


def test_an_api_server_that_is_slow_is_waited_for(api, namespace, gateway, make_reconciler, say):
    """Three seconds for each answer about Services: under load, the API server's own limits do as much."""
    reconciler = make_reconciler(through=gateway)
    reconciler.wait_until_leading()
    deploy(api, namespace)
    gateway.fault = late(3, lambda _, path: 0 if "/services" in path and "watch=" not in path else None)
    heals(api, namespace, "3 s for each answer", say)
    assert reconciler.leads
    is_quiet(reconciler, 0)
