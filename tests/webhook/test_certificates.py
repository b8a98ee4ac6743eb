"""What we sign is accepted by the strictest of those who verify, and what cannot be read is nothing."""

import datetime as dt
import shutil
import socket
import ssl
import subprocess
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import verification
from hypothesis import given
from hypothesis import strategies as st

from webhook import certificates

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)
HOSTS = certificates.hosts("metrics-sidecar")
AUTHORITY = certificates.new_authority(NOW, 3650 * DAY)
SERVING = certificates.new_certificate(AUTHORITY, HOSTS, NOW, 90 * DAY)
PEM = certificates.certificates_pem([SERVING.certificate])
KEY_PEM = certificates.key_pem(SERVING.key)


@pytest.fixture
def files(tmp_path):
    content = {
        "ca.crt": certificates.certificates_pem([AUTHORITY.certificate]),
        "tls.crt": PEM,
        "tls.key": KEY_PEM,
    }
    for name, pem in content.items():
        (tmp_path / name).write_bytes(pem)
    return {name: str(tmp_path / name) for name in content}


def test_the_api_server_calls_by_the_first_name():
    assert HOSTS == (
        "metrics-sidecar-webhook.metrics-sidecar.svc",
        "metrics-sidecar-webhook.metrics-sidecar.svc.cluster.local",
        "metrics-sidecar-webhook.metrics-sidecar",
        "metrics-sidecar-webhook",
    )


# --- making ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
def test_the_rules_of_the_web_accept_it_for_each_name(host):
    store = verification.Store([AUTHORITY.certificate])
    verifier = verification.PolicyBuilder().store(store).time(NOW).build_server_verifier(x509.DNSName(host))
    assert verifier.verify(SERVING.certificate, []) == [SERVING.certificate, AUTHORITY.certificate]


@pytest.mark.parametrize("host", HOSTS)
def test_a_strict_client_accepts_it_for_each_name(files, host):
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(files["tls.crt"], files["tls.key"])
    calling = ssl.create_default_context(cafile=files["ca.crt"])
    calling.verify_flags |= ssl.VERIFY_X509_STRICT
    ours, theirs = socket.socketpair()
    with ours, theirs:
        server = threading.Thread(target=lambda: serving.wrap_socket(theirs, server_side=True).close())
        server.start()
        with calling.wrap_socket(ours, server_hostname=host) as connection:
            assert ("DNS", host) in connection.getpeercert()["subjectAltName"]
        server.join()


@pytest.mark.tool
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_accepts_it_strictly(files):
    options = ["-x509_strict", "-purpose", "sslserver", "-policy_check", "-verify_hostname", HOSTS[0]]
    command = ["openssl", "verify", *options, "-CAfile", files["ca.crt"], files["tls.crt"]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == f"{files['tls.crt']}: OK\n", done.stderr


@pytest.mark.parametrize("certificate", [AUTHORITY.certificate, SERVING.certificate], ids=["ca", "serving"])
def test_certificates_say_who_they_are_and_who_signed_them(certificate):
    found = certificate.extensions
    constraints = found.get_extension_for_class(x509.BasicConstraints)
    usage = found.get_extension_for_class(x509.KeyUsage)
    authority = certificate is AUTHORITY.certificate
    assert constraints.critical
    assert usage.critical
    assert (constraints.value.ca, constraints.value.path_length) == (
        (True, 0) if authority else (False, None)
    )
    assert (usage.value.key_cert_sign, usage.value.digital_signature) == (authority, not authority)
    assert found.get_extension_for_class(x509.SubjectKeyIdentifier)
    ours = AUTHORITY.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    theirs = found.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert theirs.key_identifier == ours.digest
    assert isinstance(certificate.public_key().curve, ec.SECP256R1)
    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)
    assert certificate.version is x509.Version.v3


def test_certificates_are_valid_for_clocks_that_are_behind_and_for_their_whole_time():
    for certificate, lifetime in ((AUTHORITY.certificate, 3650 * DAY), (SERVING.certificate, 90 * DAY)):
        assert certificates.is_valid(certificate, NOW)
        assert certificates.is_valid(certificate, NOW - dt.timedelta(minutes=59))
        assert certificates.is_valid(certificate, NOW + lifetime - dt.timedelta(seconds=1))
        assert not certificates.is_valid(certificate, NOW + lifetime + dt.timedelta(seconds=1))
        assert certificates.created(certificate) >= NOW
        assert certificates.created(certificate) < NOW + dt.timedelta(seconds=1)


def test_a_serving_certificate_does_not_outlive_its_authority():
    serving = certificates.new_certificate(AUTHORITY, HOSTS, NOW + 3649 * DAY, 90 * DAY)
    assert serving.certificate.not_valid_after_utc == AUTHORITY.certificate.not_valid_after_utc


@pytest.mark.parametrize(("days", "due"), [(0, False), (59.9, False), (60.1, True), (91, True)])
def test_a_certificate_is_due_when_a_third_of_its_time_is_left(days, due):
    assert certificates.is_due(SERVING.certificate, NOW + days * DAY) is due


def test_names_of_any_length_can_be_served():
    hosts = certificates.hosts("n" * 63)
    serving = certificates.new_certificate(AUTHORITY, hosts, NOW, DAY)
    assert certificates.is_for_server(serving.certificate, hosts)


def test_no_two_authorities_have_one_name():
    assert certificates.new_authority(NOW, DAY).certificate.subject != AUTHORITY.certificate.subject


# --- reading and judging ---------------------------------------------------------------------------------


def foreign(key=None, name="foreign", *, authority=True):
    """A certificate of somebody else, who signs himself."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = name if isinstance(name, x509.Name) else x509.Name.from_rfc4514_string(f"CN={name}")
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )


def test_an_authority_is_ours_only_as_we_make_it():
    assert certificates.is_ours(AUTHORITY.certificate)
    assert not certificates.is_ours(SERVING.certificate)
    assert not certificates.is_ours(foreign())
    assert not certificates.is_ours(foreign(name=AUTHORITY.certificate.subject))
    assert not certificates.is_ours(foreign(key=AUTHORITY.key, name=AUTHORITY.certificate.subject))
    assert not certificates.is_ours(foreign(key=rsa.generate_private_key(65537, 2048)))


def test_who_signed_is_told_by_the_signature_and_not_by_the_name():
    namesake = foreign(name=AUTHORITY.certificate.subject)
    other = certificates.new_authority(NOW, DAY).certificate
    assert certificates.issuer(SERVING.certificate, [namesake, other]) is None
    authorities = [namesake, other, AUTHORITY.certificate]
    assert certificates.issuer(SERVING.certificate, authorities) == AUTHORITY.certificate


def test_a_certificate_that_is_not_for_servers_or_not_for_the_name_is_told():
    assert certificates.is_for_server(SERVING.certificate, HOSTS[:1])
    assert not certificates.is_for_server(SERVING.certificate, ["another.test.invalid"])
    assert not certificates.is_for_server(AUTHORITY.certificate, [])
    assert not certificates.is_for_server(foreign(authority=False), [])


def test_certificates_are_found_among_garbage():
    broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    authority = certificates.certificates_pem([AUTHORITY.certificate])
    text = b"garbage\n" + PEM + broken + PEM[:-40] + b"\n" + authority + b"\xff"
    assert certificates.read_certificates(text) == [SERVING.certificate, AUTHORITY.certificate]


def test_a_pair_is_what_belongs_together():
    other = certificates.new_certificate(AUTHORITY, HOSTS, NOW, DAY)
    both = PEM + certificates.certificates_pem([other.certificate])
    assert certificates.read_pair(PEM, KEY_PEM).certificate == SERVING.certificate
    assert certificates.read_pair(both, certificates.key_pem(other.key)).certificate == other.certificate
    assert certificates.read_pair(PEM, certificates.key_pem(other.key)) is None
    assert certificates.read_pair(PEM, b"") is None
    assert certificates.read_pair(b"", KEY_PEM) is None


def test_a_key_that_is_encrypted_is_no_key():
    form = serialization.PrivateFormat.PKCS8
    encrypted = SERVING.key.private_bytes(
        serialization.Encoding.PEM, form, serialization.BestAvailableEncryption(b"secret")
    )
    assert certificates.read_key(encrypted) is None


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@given(st.data())
def test_whatever_is_changed_in_a_certificate_is_read_as_another_or_as_none(data):
    """Broken DER inside of sound PEM, which decoders notice as late as they look at a field."""
    source = data.draw(st.sampled_from([AUTHORITY.certificate, SERVING.certificate]))
    der = bytearray(source.public_bytes(serialization.Encoding.DER))
    for _ in range(data.draw(st.integers(1, 3))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    read = certificates.read_certificates(ssl.DER_cert_to_PEM_cert(bytes(der)).encode())
    for each in read:
        assert certificates.is_ours(each) is (each == AUTHORITY.certificate)
        trusted = certificates.issuer(each, [AUTHORITY.certificate]) is not None
        assert trusted is (each in (AUTHORITY.certificate, SERVING.certificate))
        certificates.is_for_server(each, HOSTS)
        certificates.is_valid(each, NOW)
        certificates.is_due(each, NOW)


@given(st.binary(max_size=60), st.integers(0, len(KEY_PEM)))
def test_whatever_is_changed_in_a_key_is_none_or_a_key(garbage, position):
    certificates.read_key(garbage)
    key = certificates.read_key(KEY_PEM[:position] + garbage + KEY_PEM[position + 1 :])
    if key is not None:
        certificates.read_pair(PEM, certificates.key_pem(key))
