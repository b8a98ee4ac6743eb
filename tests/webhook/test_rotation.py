"""Whatever became of the certificates, the next state is sound; and on the way to it no review fails."""

import base64
import datetime as dt
import functools
import itertools

import pytest
from cryptography import x509
from cryptography.x509 import verification
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from webhook import certificates, rotation
from webhook.rotation import Lifetimes, desired

HOSTS = certificates.hosts("metrics-sidecar")
START = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
SECOND = dt.timedelta(seconds=1)
USUAL = Lifetimes(ca=3650 * DAY, certificate=90 * DAY, settle=120 * SECOND)
KEYS = ("tls.crt", "tls.key", "ca.crt", "ca.key")


@functools.cache
def authority(name, age=30 * DAY, lifetime=USUAL.ca):
    """An authority that was made some time ago; the same one for the same name."""
    return certificates.new_authority(START - age, lifetime)


@functools.cache
def serving(signer, age=DAY, lifetime=USUAL.certificate, hosts=HOSTS):
    return certificates.new_certificate(signer, hosts, START - age, lifetime)


def base64_of(content):
    return base64.b64encode(content).decode()


def bundle(*authorities):
    return base64_of(certificates.certificates_pem(each.certificate for each in authorities))


def secret(served, key, *trusted):
    return {
        "tls.crt": base64_of(certificates.certificates_pem([served.certificate])),
        "tls.key": base64_of(certificates.key_pem(served.key)),
        "ca.crt": bundle(*trusted),
        "ca.key": base64_of(certificates.key_pem(key.key)),
    }


def certificates_of(text):
    return certificates.read_certificates(base64.b64decode(text))


def chain(data, bundle, now):
    """Verify the pair of a Secret as a strict client would that trusts the bundle; raise if it would not."""
    pair = certificates.read_pair(*(base64.b64decode(data[key]) for key in ("tls.crt", "tls.key")))
    builder = verification.PolicyBuilder().store(verification.Store(certificates_of(bundle))).time(now)
    return builder.build_server_verifier(x509.DNSName(HOSTS[0])).verify(pair.certificate, [])


A, B = authority("A"), authority("B", age=DAY)
PENDING, SETTLED = authority("P", age=119 * SECOND), authority("S", age=120 * SECOND)
OLD = authority("O", age=3000 * DAY)
GONE = authority("G", age=3651 * DAY)
STRANGER = base64_of(certificates.certificates_pem([serving(A).certificate]))
OTHER_HOSTS = certificates.hosts("elsewhere")
FRESH = serving(SETTLED, age=119 * SECOND)
HEALTHY = secret(serving(A), A, A)

# What is there: the Secret, and the caBundle of each webhook. Then what shall be there: the authority whose
# key is kept, further ones that are trusted, and who has signed what is served. "N" is new, and so is "+".
NEW = "N"
TABLE = {
    # A rotation, step by step.
    "all is well": (HEALTHY, [bundle(A)], (A, [], A)),
    "no webhook is known": (HEALTHY, [], (A, [], A)),
    "serving certificate due": (secret(serving(A, 60 * DAY), A, A), [bundle(A)], (A, [], "A+")),
    "serving certificate not due": (secret(serving(A, 59 * DAY), A, A), [bundle(A)], (A, [], A)),
    "CA due": (secret(serving(OLD), OLD, OLD), [bundle(OLD)], (NEW, [OLD], OLD)),
    "CA and serving certificate due": (
        secret(serving(OLD, 80 * DAY), OLD, OLD),
        [bundle(OLD)],
        (NEW, [OLD], OLD),
    ),
    "new CA not settled": (secret(serving(A), PENDING, PENDING, A), [bundle(PENDING, A)], (PENDING, [A], A)),
    "new CA not settled, certificate due": (
        secret(serving(A, 80 * DAY), PENDING, PENDING, A),
        [bundle(PENDING, A)],
        (PENDING, [A], A),
    ),
    "new CA settled": (secret(serving(A), SETTLED, SETTLED, A), [bundle(SETTLED, A)], (SETTLED, [A], "S+")),
    "new CA settled, but not everywhere": (
        secret(serving(A), SETTLED, SETTLED, A),
        [bundle(SETTLED, A), bundle(A)],
        (SETTLED, [A], A),
    ),
    "new certificate not settled": (
        secret(serving(B, 119 * SECOND), B, B, A),
        [bundle(B, A)],
        (B, [A], B),
    ),
    "new certificate settled": (secret(serving(B, 120 * SECOND), B, B, A), [bundle(B, A)], (B, [], B)),
    "old CA expired": (secret(serving(B, SECOND), B, B, GONE), [bundle(B, GONE)], (B, [], B)),
    # Parts are lost or broken: those that are good stay in use.
    "nothing yet": ({}, ["", ""], (NEW, [], "N+")),
    "nothing yet, no webhook either": ({}, [], (NEW, [], "N+")),
    "CA key lost": ({**HEALTHY, "ca.key": ""}, [bundle(A)], (NEW, [A], A)),
    "CA key of another": ({**HEALTHY, "ca.key": secret(serving(B), B)["ca.key"]}, [bundle(A)], (NEW, [A], A)),
    "CA key lost, nothing else trusts": ({**HEALTHY, "ca.key": ""}, [], (NEW, [A], A)),
    "CA certificate lost": ({**HEALTHY, "ca.crt": ""}, [bundle(A)], (A, [], A)),
    "CA certificate lost in a rotation": (
        {**secret(serving(A), PENDING, PENDING, A), "ca.crt": ""},
        [bundle(PENDING, A)],
        (PENDING, [A], A),
    ),
    "CA certificate of another": ({**HEALTHY, "ca.crt": bundle(B)}, [bundle(A)], (A, [], A)),
    "CA certificate lost everywhere": ({**HEALTHY, "ca.crt": ""}, [""], (NEW, [], "N+")),
    "serving key lost": ({**HEALTHY, "tls.key": ""}, [bundle(A)], (A, [], "A+")),
    "serving key of another": (
        {**HEALTHY, "tls.key": secret(serving(B), B)["tls.key"]},
        [bundle(A)],
        (A, [], "A+"),
    ),
    "serving certificate lost": ({**HEALTHY, "tls.crt": ""}, [bundle(A)], (A, [], "A+")),
    "serving pair lost in a rotation": (
        {**secret(serving(A), PENDING, PENDING, A), "tls.key": ""},
        [bundle(PENDING, A)],
        (PENDING, [A], "P+"),
    ),
    "serving certificate expired": (secret(serving(A, 91 * DAY), A, A), [bundle(A)], (A, [], "A+")),
    "serving certificate expired in a rotation": (
        secret(serving(A, 91 * DAY), PENDING, PENDING, A),
        [bundle(PENDING, A)],
        (PENDING, [A], "P+"),
    ),
    "serving certificate of another CA": (secret(serving(GONE), A, A), [bundle(A)], (A, [], "A+")),
    "serving certificate is the CA's": (secret(A, A, A), [bundle(A)], (A, [], "A+")),
    "serving certificate for other names": (
        secret(serving(A, hosts=OTHER_HOSTS), A, A),
        [bundle(A)],
        (A, [], "A+"),
    ),
    "everything expired": (secret(serving(GONE, 91 * DAY), GONE, GONE), [bundle(GONE)], (NEW, [], "N+")),
    "Secret lost": ({}, [bundle(A)], (NEW, [A], "N+")),
    "Secret lost in a rotation": ({}, [bundle(B, A)], (NEW, [B, A], "N+")),
    "Secret restored from before a rotation": (HEALTHY, [bundle(B)], (A, [B], "A+")),
    "Secret restored from amid a rotation": (
        secret(serving(A), A, A, B),
        [bundle(B)],
        (A, [B], "A+"),
    ),
    "base64 broken": (dict.fromkeys(KEYS, "%"), ["%"], (NEW, [], "N+")),
    "wrong types": (dict.fromkeys(KEYS, None), [None, 7, []], (NEW, [], "N+")),
    # Somebody has edited what the API servers trust.
    "CA bundle empty": (HEALTHY, [""], (A, [], A)),
    "CA bundle garbage": (HEALTHY, [base64_of(b"garbage")], (A, [], A)),
    "CA bundle of another": (HEALTHY, [bundle(GONE)], (A, [], A)),
    "CA bundle with others": (HEALTHY, [bundle(A, GONE) + STRANGER], (A, [], A)),
    "CA bundle of one webhook empty": (HEALTHY, [bundle(A), ""], (A, [], A)),
    "CA bundle with one that another leader just made": (HEALTHY, [bundle(A, PENDING)], (A, [PENDING], A)),
}
NAMES = {A: "A", B: "B", PENDING: "P", SETTLED: "S", OLD: "O", GONE: "G"}


@pytest.mark.parametrize(("data", "bundles", "expected"), TABLE.values(), ids=TABLE.keys())
def test_what_shall_be_there(data, bundles, expected):
    key, others, signed = expected
    found = desired(data, bundles, HOSTS, USUAL, START)
    known = {pair.certificate: name for pair, name in NAMES.items()}
    trusted = certificates_of(found.bundle)
    assert [known.get(each, NEW) for each in trusted] == [NAMES.get(each, each) for each in (key, *others)]
    assert found.data["ca.crt"] == found.bundle
    # The first of the trusted is the one whose key there is.
    assert (
        certificates.read_key(base64.b64decode(found.data["ca.key"])).public_key() == trusted[0].public_key()
    )
    served, issuer = chain(found.data, found.bundle, START + SECOND)
    is_new = found.data["tls.crt"] != data.get("tls.crt")
    assert known.get(issuer, NEW) + "+" * is_new == NAMES.get(signed, signed)
    assert found.serving_expiry == served.not_valid_after_utc
    assert found.ca_expiry == issuer.not_valid_after_utc


def test_what_is_well_is_left_as_it_is():
    found = desired(HEALTHY, [bundle(A)], HOSTS, USUAL, START)
    assert (found.data, found.bundle, found.changes) == (HEALTHY, bundle(A), ())


def test_each_change_has_a_sentence_and_no_key_is_in_it():
    found = desired({}, [bundle(A, B)], HOSTS, USUAL, START)
    created, served = found.changes
    assert created.endswith("there is none that is valid and whose key is in ca.key")
    assert served.endswith("tls.crt and tls.key are missing, broken, or not of each other")
    later = desired(found.data, [found.bundle], HOSTS, USUAL, START + DAY)
    assert len(later.changes) == 2
    assert all(change.endswith("no longer trusted") for change in later.changes)
    assert "PRIVATE" not in repr(found.changes)


def test_text_beside_the_certificates_goes_and_they_stay():
    noisy = {key: base64_of(b"noise\n" + base64.b64decode(value)) for key, value in HEALTHY.items()}
    found = desired(noisy, [noisy["ca.crt"]], HOSTS, USUAL, START)
    assert (found.data, found.bundle, found.changes) == (HEALTHY, bundle(A), ())


def test_other_keys_of_the_secret_stay():
    found = desired({**HEALTHY, "note": "aGk="}, [bundle(A)], HOSTS, USUAL, START)
    assert found.data == {**HEALTHY, "note": "aGk="}


def test_a_bundle_may_have_line_breaks_inside_and_is_ours_again():
    broken = bundle(A)[:64] + "\n" + bundle(A)[64:]
    assert desired(HEALTHY, [broken], HOSTS, USUAL, START).bundle == bundle(A)


# --- over time -------------------------------------------------------------------------------------------


class World:
    """A Secret and a CA bundle, their history, and who reads them late."""

    def __init__(self, lifetimes):
        self.lifetimes = lifetimes
        self.now = START
        self.secrets = [(START - DAY, {})]
        self.bundles = [(START - DAY, "")]
        self.written = []
        self.look()

    def look(self, crashes=False):
        """What the reconciler does; between its two writes it may crash."""
        data, bundle = self.secrets[-1][1], self.bundles[-1][1]
        found = desired(data, [bundle], HOSTS, self.lifetimes, self.now)
        if found.bundle != bundle:
            self.bundles.append((self.now, found.bundle))
        if found.data != data and not crashes:
            self.written.append(found.data)
            self.secrets.append((self.now, found.data))
        return found

    def set_secret(self, data):
        self.secrets.append((self.now, data))

    def set_bundle(self, bundle):
        self.bundles.append((self.now, bundle))

    def assert_no_review_fails(self, seconds_late=None):
        """Check what any server may serve now against what any API server may trust now.

        Both may be late by the settling time, or the API servers by as many seconds as given.
        """
        late = self.lifetimes.settling
        trusted = seen(self.bundles, self.now, late if seconds_late is None else seconds_late * SECOND)
        for data in seen([each for each in self.secrets if self.is_served(each[1])], self.now, late):
            for each in trusted:
                chain(data, each, self.now)

    def is_served(self, data):
        """What cannot be loaded replaces nothing; what others planted is not ours to answer for."""
        pair = [base64.b64decode(data.get(key) or "") for key in ("tls.crt", "tls.key")]
        is_ours = any(data.get("tls.crt") == each["tls.crt"] for each in self.written)
        return is_ours and certificates.read_pair(*pair) is not None


def seen(versions, now, late):
    """Return the versions that a reader may still have who is late."""
    ends = [start for start, _ in versions[1:]] + [now + SECOND]
    return [version for (_, version), end in zip(versions, ends, strict=True) if end > now - late]


SETTLE = 100
seconds = st.integers(1, 25)
# In settling times: the shortest lifetimes that are honoured, and longer ones.
lives = st.integers(10, 40)
simulated = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def lifetimes(ca, certificate):
    return Lifetimes(ca * SETTLE * SECOND, certificate * SETTLE * SECOND, SETTLE * SECOND)


@simulated
@given(lives, lives, st.lists(st.tuples(seconds, st.booleans()), min_size=80, max_size=120))
def test_as_time_passes_no_review_ever_fails(ca, certificate, looks):
    """However late Secret and bundle are seen, and wherever the reconciler crashes."""
    world = World(lifetimes(ca, certificate))
    # Until the very first bundle has arrived nothing works, of course.
    world.now += SETTLE * SECOND
    crashed = False
    for step, crashes in looks:
        world.now += step * SECOND
        world.assert_no_review_fails()
        crashed = crashes and not crashed
        world.look(crashes=crashed)
        world.assert_no_review_fails()
        assert len(certificates_of(world.bundles[-1][1])) <= 4


def test_over_the_years_everything_is_renewed_and_nothing_is_left_behind():
    world = World(USUAL)
    authorities, served = set(), set()
    for _ in range(8 * 26):
        world.now += 14 * DAY
        for wait in (130, 130, 130):
            world.assert_no_review_fails()
            world.look()
            world.now += wait * SECOND
        assert world.look().changes == ()
        assert len(certificates_of(world.bundles[-1][1])) == 1
        authorities.add(certificates_of(world.bundles[-1][1])[0])
        served.add(world.secrets[-1][1]["tls.crt"])
    # An authority for two thirds of ten years, a certificate for two thirds of 90 days and up to 14 more.
    assert len(authorities) == 2
    assert 39 <= len(served) <= 49


def forged(now):
    """A Secret of somebody else."""
    other = certificates.new_authority(now, DAY)
    return secret(certificates.new_certificate(other, HOSTS, now, DAY), other, other)


def with_fault(fault, data, now):
    """Return what somebody makes of the Secret."""
    if fault == "deleted":
        return {}
    if fault == "of another":
        return forged(now)
    if fault == "expired":
        return {**data, **{key: forged(now - 2 * DAY)[key] for key in ("tls.crt", "tls.key")}}
    key, _, how = fault.partition(" ")
    made = {
        "removed": None,
        "garbage": base64_of(b"garbage"),
        "cut": data[key][: len(data[key]) // 8 * 4],
        "of another": forged(now)[key],
    }
    return {**data, key: made[how]}


def bundle_with_fault(fault, versions, now):
    """Return what somebody makes of the CA bundle."""
    made = {
        "emptied": "",
        "garbage": base64_of(b"garbage"),
        "of another": bundle(certificates.new_authority(now, DAY)),
        "restored": versions[max(0, len(versions) - 3)][1],
    }
    return made[fault]


HOW = ["removed", "garbage", "cut", "of another"]
SECRET_FAULTS = ["restored", "deleted", "of another", "expired", *map(" ".join, itertools.product(KEYS, HOW))]
BUNDLE_FAULTS = ["emptied", "garbage", "of another", "restored"]


@simulated
@given(
    lives,
    lives,
    st.lists(
        st.tuples(
            st.tuples(st.just("Secret"), st.sampled_from(SECRET_FAULTS))
            | st.tuples(st.just("bundle"), st.sampled_from(BUNDLE_FAULTS)),
            st.integers(2 * SETTLE, 6 * SETTLE),
            st.integers(1, 10),
        ),
        min_size=1,
        max_size=5,
    ),
)
def test_whatever_others_do_the_next_look_heals_it_and_what_was_served_stays_trusted(ca, certificate, faults):
    """API servers see a bundle before anybody serves by it; kubelets may take their time."""
    world = World(lifetimes(ca, certificate))
    for (where, fault), after, back in faults:
        until = world.now + after * SECOND
        while world.now < until:
            world.now += 25 * SECOND
            world.look()
            world.assert_no_review_fails(seconds_late=0)
        if where == "bundle":
            world.set_bundle(bundle_with_fault(fault, world.bundles, world.now))
        elif fault == "restored":
            held = [data for data in world.written if lives_on(data, world)]
            world.set_secret(held[-min(back, len(held))] if held else {})
        else:
            world.set_secret(with_fault(fault, world.secrets[-1][1], world.now))
        world.now += 10 * SECOND
        found = world.look()
        chain(found.data, found.bundle, world.now)
        world.assert_no_review_fails(seconds_late=0)
    assert_settles(world)


def lives_on(data, world):
    """Tell whether a Secret that is restored can serve until it is looked at, and a while after."""
    [served] = certificates_of(data["tls.crt"])
    issuer = certificates.issuer(served, certificates_of(data["ca.crt"]))
    left = 2 * SETTLE * SECOND
    return all(certificates.is_valid(each, world.now + left) for each in (served, issuer))


def assert_settles(world):
    """Check that without further faults a rotation ends, and that then nothing is done."""
    for _ in range(20):
        world.now += 25 * SECOND
        found = world.look()
    # The next one is due some time; until then there is one authority, and everything is of it.
    if len(certificates_of(found.bundle)) > 1:
        for _ in range(16):
            world.now += 25 * SECOND
            found = world.look()
    assert len(certificates_of(found.bundle)) == 1
    assert world.look().changes == ()


# --- from anywhere ---------------------------------------------------------------------------------------

PAIRS = [A, B, PENDING, SETTLED, OLD, GONE]
SERVED = [
    *(serving(each) for each in PAIRS),
    serving(A, 80 * DAY),
    serving(A, 100 * DAY),
    serving(B, 100 * SECOND),
    serving(A, hosts=OTHER_HOSTS),
]
pems = st.one_of(
    st.lists(st.sampled_from([*PAIRS, *SERVED]), max_size=4).map(
        lambda pairs: certificates.certificates_pem(each.certificate for each in pairs)
    ),
    st.sampled_from([*PAIRS, *SERVED]).map(lambda pair: certificates.key_pem(pair.key)),
    st.binary(max_size=20),
)
mangled = st.builds(lambda pem, at: pem[:at] + pem[at + 1 :], pems, st.integers(0, 600)) | pems
values = mangled.map(base64_of) | st.text(max_size=8) | st.none() | st.integers()


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from([*KEYS, "note"]), values), st.lists(values, max_size=3))
def test_from_any_state_one_look_makes_a_sound_one_and_a_few_end(data, bundles):
    found = desired(data, bundles, HOSTS, USUAL, START)
    chain(found.data, found.bundle, START)
    assert found.data["ca.crt"] == found.bundle
    for _ in range(2):
        found = desired(found.data, [found.bundle] * 3, HOSTS, USUAL, START)
        chain(found.data, found.bundle, START)
    again = desired(found.data, [found.bundle] * 3, HOSTS, USUAL, START)
    assert (again, again.changes) == (found, ())


def test_the_settling_time_leaves_room_for_a_rotation_before_the_end():
    lengthy = Lifetimes(ca=DAY, certificate=DAY, settle=DAY)
    assert lengthy.settling == DAY / 10
    assert USUAL.settling == USUAL.settle


def test_nothing_that_is_no_text_is_decoded():
    assert [rotation.decode(value) for value in (None, 1, {}, "a", "é", "aGk=")] == [
        b"",
        b"",
        b"",
        b"",
        b"",
        b"hi",
    ]


def test_each_key_is_another():
    found = [desired({}, [], HOSTS, USUAL, START).data for _ in range(3)]
    keys = list(itertools.chain.from_iterable((each["ca.key"], each["tls.key"]) for each in found))
    assert len(set(keys)) == len(keys)
