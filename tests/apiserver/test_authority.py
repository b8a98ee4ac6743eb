"""Certificates keep themselves: pods are injected from the first start on, and whatever becomes of them."""

import asyncio
import base64
import contextlib
import datetime as dt
import logging
import threading

import pytest
import yaml
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import load_kube_config

from tests.apiserver.admission import CONFIGURATION, admission_barrier
from tests.apiserver.controlplane import free_port
from tests.apiserver.injector import Injector
from tests.apiserver.mount import SECRET, Mount, configured, in_cluster, routed
from tests.apiserver.objects import is_injected, pod
from tests.apiserver.test_never_in_the_way import Load
from tests.apiserver.waiting import eventually
from webhook import certificates, names, rotation
from webhook.cluster import Cluster, ClusterError
from webhook.config import Reconciling
from webhook.reconciler.authority import Authority, Expiry

SETTLE = 3
PERIOD = 0.3
DAY = dt.timedelta(days=1)
FOREIGN = base64.b64encode(
    certificates.certificates_pem([certificates.new_authority(dt.datetime.now(dt.UTC), DAY).certificate])
).decode()


class Keeper:
    """What keeps the certificates: looks without a pause; use as a context manager."""

    def __init__(self, kubeconfig, namespace, **settings):
        self._kubeconfig = kubeconfig
        settings = {"namespace": namespace, "settle_seconds": SETTLE, **settings}
        self.reconciling = Reconciling(**settings)
        self.looks = 0
        self.errors = []
        self.expiry = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()

    async def _run(self):
        async with await connect(self._kubeconfig) as cluster:
            authority = Authority(cluster, self.reconciling)
            while not self._end.is_set():
                try:
                    self.expiry = await authority.ensure()
                except ClusterError as error:
                    self.errors.append(str(error))
                self.looks += 1
                await asyncio.sleep(PERIOD)

    def more(self, looks=3):
        """Wait until it has looked some more times."""
        enough = self.looks + looks
        eventually(f"{looks} more looks", lambda: self.looks >= enough)


async def connect(kubeconfig):
    configuration = Configuration()
    await load_kube_config(str(kubeconfig), client_configuration=configuration, persist_config=False)
    return Cluster(configuration)


def look(kubeconfig, *reconcilings):
    """Look once, several at the same time; return what each found, or its error."""

    async def run():
        async with contextlib.AsyncExitStack() as stack:
            clusters = [await stack.enter_async_context(await connect(kubeconfig)) for _ in reconcilings]
            authorities = map(Authority, clusters, reconcilings)
            looking = (authority.ensure() for authority in authorities)
            return await asyncio.gather(*looking, return_exceptions=True)

    return asyncio.run(run())


@pytest.fixture
def keep(control_plane, namespace):
    """Return a function that keeps the certificates of the test's namespace, until the test ends."""
    with contextlib.ExitStack() as stack:
        yield lambda **settings: stack.enter_context(
            Keeper(control_plane.admin_kubeconfig, namespace, **settings)
        )


@contextlib.contextmanager
def serving(api, namespace):
    """Run the admission process behind its Service, with a kubelet that takes its time."""
    with (
        Mount(api, namespace, late=SETTLE / 2) as mount,
        routed(api, namespace, mount.port),
        configured(api, namespace),
        # An empty address is every one of this machine, each with a port of its own where any will do.
        Injector(mount, settings={"SERVE_ADDRESS": "", "SERVE_PROBE_PORT": free_port()}) as injector,
    ):
        yield injector


@pytest.fixture
def served(api, namespace):
    with serving(api, namespace) as injector:
        yield injector


class State:
    """The Secret and the webhook configuration of a test, as they are."""

    def __init__(self, api, namespace):
        self.api, self.namespace = api, namespace

    @property
    def secret(self):
        return self.api.find(*SECRET, self.namespace)

    @property
    def data(self):
        return self.secret["data"]

    @property
    def bundles(self):
        found = self.api.get(*CONFIGURATION, names.WEBHOOK)
        return [webhook["clientConfig"].get("caBundle") for webhook in found["webhooks"]]

    @property
    def versions(self):
        """Change whenever anything is written."""
        found = self.secret, self.api.get(*CONFIGURATION, names.WEBHOOK)
        return [each["metadata"]["resourceVersion"] for each in found]

    def authorities(self):
        return certificates.read_certificates(rotation.decode(self.data[names.CA_CERTIFICATES]))

    def certificate(self):
        [found] = certificates.read_certificates(rotation.decode(self.data[names.SERVING_CERTIFICATE]))
        return found

    def is_at_rest(self):
        """Tell whether one authority is left, has signed what is served, and is what API servers trust."""
        [authority] = self.authorities()
        assert certificates.issuer(self.certificate(), [authority])
        assert set(self.bundles) == {self.data[names.CA_CERTIFICATES]}
        return authority

    def set_data(self, **files):
        """Change files of the Secret; without a value they become empty, as it must have them."""
        data = {name.replace("_", "."): value or "" for name, value in files.items()}
        self.api.patch(*SECRET, {"data": data}, self.namespace)

    def set_bundles(self, *bundles):
        operations = [
            {"op": "replace", "path": f"/webhooks/{index}/clientConfig/caBundle", "value": bundle}
            for index, bundle in enumerate(bundles)
        ]
        self.api.patch(*CONFIGURATION, names.WEBHOOK, operations, type_="json")

    def plant(self, age, lifetime, serving_age, serving_lifetime, trusted=True):
        """Have certificates of another age, made by us long ago, in the Secret and in effect."""
        now = dt.datetime.now(dt.UTC)
        authority = certificates.new_authority(now - age, lifetime)
        hosts = certificates.hosts(self.namespace)
        serving = certificates.new_certificate(authority, hosts, now - serving_age, serving_lifetime)
        pem = base64.b64encode(certificates.certificates_pem([authority.certificate])).decode()
        content = {
            "tls_crt": certificates.certificates_pem([serving.certificate]),
            "tls_key": certificates.key_pem(serving.key),
            "ca_crt": base64.b64decode(pem),
            "ca_key": certificates.key_pem(authority.key),
        }
        self.set_data(**{name: base64.b64encode(value).decode() for name, value in content.items()})
        if trusted:
            self.set_bundles(*[pem] * len(self.bundles))
        return authority.certificate, serving.certificate


@pytest.fixture
def state(api, namespace):
    return State(api, namespace)


def wait_until_injected(api, namespace):
    def injects():
        return is_injected(api.create(pod(namespace, "dry", inject="true"), dry_run=True))

    eventually("pods to be injected", injects)


def wait_until_at_rest(state, but_not=None):
    def rests():
        authority = state.is_at_rest()
        return authority != but_not and authority

    return eventually("one authority", rests, tolerate=(ValueError, TypeError, KeyError))


# --- from the first start on -----------------------------------------------------------------------------


def test_from_nothing_pods_are_injected_soon(api, namespace, served, keep, state, caplog):
    assert not is_injected(api.create(pod(namespace, "before", inject="true")))
    assert served.get("/readyz")[0] == 503
    with caplog.at_level(logging.DEBUG, "webhook"):
        keeper = keep()
        wait_until_injected(api, namespace)
        keeper.more()
    assert state.secret["type"] == "kubernetes.io/tls"
    assert state.secret["metadata"]["labels"] == {names.MANAGED_BY_LABEL: names.MANAGED_BY}
    assert set(state.data) == {"tls.crt", "tls.key", "ca.crt", "ca.key"}
    authority = state.is_at_rest()
    expected = authority.not_valid_after_utc, state.certificate().not_valid_after_utc
    assert keeper.expiry == Expiry(*(each.timestamp() for each in expected))
    assert keeper.errors == []
    # What is written is what changed, and nothing of what is secret.
    assert [record.getMessage().split(" ")[1] for record in caplog.records] == ["CA", "new", "new", "Secret"]
    assert "PRIVATE" not in caplog.text
    assert state.data["ca.key"][60:120] not in caplog.text


def test_when_nothing_is_due_nothing_is_written(api, namespace, keep, state):
    with configured(api, namespace):
        keeper = keep(settle_seconds=0)
        wait_until_at_rest(state)
        before = state.versions
        keeper.more(10)
        assert state.versions == before


def test_without_a_webhook_configuration_it_says_so_once_and_goes_on(api, namespace, keep, state, caplog):
    with caplog.at_level(logging.WARNING, "webhook"):
        keeper = keep()
        eventually("the Secret", lambda: state.secret)
        keeper.more()
    [line] = caplog.messages
    expected = "no MutatingWebhookConfiguration metrics-sidecar-webhook; expected that of the manifests"
    assert line == f"certificates: {expected}"
    with configured(api, namespace):
        wait_until_at_rest(state)
    assert keeper.errors == []


def test_several_that_begin_at_once_agree_on_one_authority(control_plane, api, namespace, state):
    """As two leaders would, for a moment."""
    reconciling = Reconciling(namespace=namespace, settle_seconds=0)
    with configured(api, namespace):
        found = look(control_plane.admin_kubeconfig, *[reconciling] * 6)
        errors = [each for each in found if isinstance(each, BaseException)]
        assert all(isinstance(error, ClusterError) and error.code == 409 for error in errors)

        def agreed():
            [found] = look(control_plane.admin_kubeconfig, reconciling)
            return isinstance(found, Expiry) and state.is_at_rest()

        # What the others had begun is trusted until it counts as settled.
        eventually("one authority", agreed, tolerate=(ValueError,))
        before = state.versions
        look(control_plane.admin_kubeconfig, reconciling)
        assert state.versions == before


# --- as time passes --------------------------------------------------------------------------------------


def test_a_rotation_is_noticed_by_no_review(api, namespace, served, keep, state):
    """Ten years and 90 days, each two thirds over; then the certificate alone."""
    keeper = keep(settle_seconds=2 * SETTLE)
    wait_until_injected(api, namespace)
    old, _ = state.plant(7 * 365 * DAY, 3650 * DAY, 40 * DAY, 90 * DAY)
    admission_barrier(api)
    eventually("the old certificate to be served", lambda: serves(served, 50 * DAY))
    with Load(api, namespace, clients=2) as load:
        load.more(10)
        new = wait_until_at_rest(state, but_not=old)
        load.more(10)
        # A certificate that is due is renewed at once, for everybody trusts who signs it.
        eventually("the new certificate to be served", lambda: serves(served, 90 * DAY))
        load.more(30)
    load.assert_none_was_missed()
    assert served.failed() == 0
    assert state.is_at_rest() == new
    assert keeper.errors == []


def serves(injector, left):
    """Tell whether the certificate that is served has this much time left, to the hour."""
    expiry = injector.metric("metrics_sidecar_webhook_certificate_expiry_timestamp_seconds")
    expected = dt.datetime.now(dt.UTC) + left
    return abs(expiry - expected.timestamp()) < 3600


LOSSES = {
    "the CA key": lambda state: state.set_data(ca_key=None),
    "the CA certificate": lambda state: state.set_data(ca_crt=base64.b64encode(b"garbage").decode()),
    "the serving key": lambda state: state.set_data(tls_key=None),
    "the serving certificate": lambda state: state.set_data(tls_crt=base64.b64encode(b"garbage").decode()),
    "the whole Secret": lambda state: state.api.delete(*SECRET, state.namespace),
}


@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES)
def test_a_loss_is_noticed_by_no_review_either(api, namespace, served, keep, state, lose):
    """What is served stays trusted until something else is."""
    keep()
    wait_until_injected(api, namespace)
    wait_until_at_rest(state)
    before = state.data
    with Load(api, namespace, clients=2) as load:
        load.more(10)
        lose(state)

        def healed():
            after = state.data
            return all(after.values()) and state.is_at_rest() and after != before

        if lose is LOSSES["the CA certificate"]:
            eventually("it to be back", lambda: state.data == before)
        else:
            eventually("it to be whole", healed, tolerate=(TypeError, ValueError))
        load.more(60)
    load.assert_none_was_missed()


# --- whatever others do ----------------------------------------------------------------------------------


def expire(state):
    state.plant(30 * DAY, 90 * DAY, 30 * DAY, 29 * DAY)


def exchange(state):
    """Put another's certificates in, whom nobody trusts."""
    state.plant(DAY, 90 * DAY, DAY, 30 * DAY, trusted=False)


def empty(state):
    state.set_bundles("", "", "")


def spoil(state):
    state.set_bundles(*[base64.b64encode(b"garbage").decode()] * 3)


def replace(state):
    state.set_bundles(FOREIGN, FOREIGN, FOREIGN)


def add(state):
    both = base64.b64encode(b"".join(map(base64.b64decode, (state.bundles[0], FOREIGN)))).decode()
    state.set_bundles(both, *state.bundles[1:])


@pytest.mark.parametrize("meddle", [expire, exchange, empty, spoil, replace, add])
def test_what_others_do_is_mended_and_pods_are_injected_again(api, namespace, served, keep, state, meddle):
    keeper = keep()
    wait_until_injected(api, namespace)
    meddle(state)
    keeper.more()
    wait_until_at_rest(state)
    wait_until_injected(api, namespace)
    assert keeper.errors == []


@pytest.mark.parametrize(
    ("verb", "kept"), [(["apply"], True), (["apply", "--server-side"], True), (["replace"], False)]
)
def test_the_manifest_can_be_applied_again(api, namespace, served, keep, state, kubectl, verb, kept):
    """It has no CA bundle: what is applied leaves it as it is, what is replaced has it put back."""
    written = yaml.safe_dump(in_cluster(namespace))
    api.delete(*CONFIGURATION, names.WEBHOOK)
    assert kubectl("apply", *verb[1:], "-f", "-", stdin=written).returncode == 0
    wait_until_injected_by(keep, api, namespace)
    bundles = wait_until_at_rest(state) and state.bundles
    with contextlib.ExitStack() as stack:
        if kept:
            load = stack.enter_context(Load(api, namespace, clients=2))
        done = kubectl(*verb, "-f", "-", stdin=written)
        assert done.returncode == 0, done.stderr
        if kept:
            assert state.bundles == bundles
            load.more(20)
    if kept:
        load.assert_none_was_missed()
    eventually("the CA bundle to be back", lambda: state.bundles == bundles)
    wait_until_injected(api, namespace)


def wait_until_injected_by(keep, api, namespace):
    keep()
    wait_until_injected(api, namespace)


@pytest.mark.parametrize("options", [[], ["--server-side"]])
def test_a_manifest_with_other_webhooks_can_be_applied(api, namespace, keep, state, kubectl, options):
    """Of a later version, say. Half of a webhook, kept alive by what we wrote, would be refused."""
    with configured(api, namespace):
        api.delete(*CONFIGURATION, names.WEBHOOK)
        written = in_cluster(namespace)
        assert kubectl("apply", *options, "-f", "-", stdin=yaml.safe_dump(written)).returncode == 0
        keep()
        wait_until_at_rest(state)
        later = in_cluster(namespace)
        later["webhooks"][0]["name"] = "other.metrics-sidecar.io"
        del later["webhooks"][1]
        done = kubectl("apply", *options, "-f", "-", stdin=yaml.safe_dump(later))
        assert done.returncode == 0, done.stderr
        wait_until_at_rest(state)
        found = api.get(*CONFIGURATION, names.WEBHOOK)["webhooks"]
        assert {each["name"] for each in found} == {each["name"] for each in later["webhooks"]}


# --- as it is deployed -----------------------------------------------------------------------------------


def test_the_reconciler_process_does_all_this(api, namespace, make_reconciler):
    """With its own permissions and period: from nothing, and when the Secret is lost."""
    state = State(api, names.OWN_NAMESPACE)
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: state.secret and api.delete(*SECRET, names.OWN_NAMESPACE))
        stack.enter_context(serving(api, names.OWN_NAMESPACE))
        reconciler = make_reconciler(certificates="true", settle_seconds=SETTLE)
        wait_until_injected(api, namespace)
        for authority, certificate in (("ca", state.is_at_rest()), ("serving", state.certificate())):
            expiry = certificate.not_valid_after_utc.timestamp()
            name = "certificate_expiry_timestamp_seconds"
            eventually(
                "the expiry as a metric",
                lambda: reconciler.metric(name, certificate=authority) == expiry,  # noqa: B023
            )
        with Load(api, namespace, clients=1) as load:
            load.more(10)
            api.delete(*SECRET, names.OWN_NAMESPACE)
            eventually("the Secret", lambda: state.secret)
            wait_until_at_rest(state)
            load.more(10)
        load.assert_none_was_missed()
        assert reconciler.complaints() == []


# --- what it cannot do -----------------------------------------------------------------------------------


def test_a_secret_of_somebody_else_is_left_alone(control_plane, api, namespace, state):
    theirs = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": names.CERTIFICATE_SECRET, "namespace": namespace},
        "stringData": {"tls.crt": "theirs", "tls.key": "theirs"},
        "type": "kubernetes.io/tls",
    }
    with configured(api, namespace):
        created = api.create(theirs)
        [error] = look(control_plane.admin_kubeconfig, Reconciling(namespace=namespace))
        assert str(error) == (
            f"secret {namespace}/metrics-sidecar-webhook-tls: it is somebody else's, and left alone;"
            " expected the label app.kubernetes.io/managed-by=metrics-sidecar, or"
            " METRICS_SIDECAR_INJECTOR_RECONCILE_CERTIFICATES=false"
        )
        assert state.secret == created
        assert state.bundles == [None, None, None]


def role(namespace, *rules):
    kinds = {"namespace": namespace, "name": "keeper"}
    rbac = "rbac.authorization.k8s.io"
    subject = {"kind": "User", "name": namespace, "apiGroup": rbac}
    return [
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": kinds, "rules": list(rules)},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": kinds,
            "subjects": [subject],
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "keeper"},
        },
    ]


def test_a_secret_that_cannot_be_written_is_not_answered_with_ever_new_authorities(
    control_plane, api, namespace, state
):
    """It would be one more at each look, and all of them trusted."""
    cluster_role, binding = role(
        namespace,
        {
            "apiGroups": ["admissionregistration.k8s.io"],
            "resources": ["mutatingwebhookconfigurations"],
            "verbs": ["get", "patch"],
        },
    )
    cluster_role |= {"kind": "ClusterRole", "metadata": {"name": namespace}}
    binding |= {"kind": "ClusterRoleBinding", "metadata": {"name": namespace}}
    binding["roleRef"] |= {"kind": "ClusterRole", "name": namespace}
    reading, bound = role(namespace, {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]})
    with contextlib.ExitStack() as stack, configured(api, namespace):
        for each in (cluster_role, binding, reading, bound):
            api.create(each)
        for each in (cluster_role, binding):
            stack.callback(api.delete, each["apiVersion"], each["kind"], namespace)
        kubeconfig = control_plane.user_kubeconfig(namespace)
        keeper = stack.enter_context(Keeper(kubeconfig, namespace, settle_seconds=0))
        eventually("the CA bundle", lambda: all(state.bundles))
        before = state.bundles
        keeper.more(10)
        assert state.bundles == before
        # All it complains about is that.
        assert {error.split(":")[0] for error in keeper.errors} == {
            f"POST /api/v1/namespaces/{namespace}/secrets"
        }

        reading["rules"][0]["verbs"] += ["create", "update"]
        api.update(reading)
        wait_until_at_rest(state)
        assert state.bundles == before
