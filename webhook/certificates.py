"""The certificates of the webhook: make them, read what may be anything, tell what they are good for."""

import datetime as dt
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import exceptions, x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from webhook import identity, names

# For the clocks of API servers that are behind ours.
BACKDATE: Final = dt.timedelta(hours=1)

# Of its time, a certificate that nobody renewed has this much left at the least.
RESERVE: Final = 1 / 3

_SECOND: Final = dt.timedelta(seconds=1)
_BLOCK: Final = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")

# What `cryptography` raises, now or as late as a field is looked at, for what is no certificate or no key.
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    exceptions.InvalidSignature,
    exceptions.UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: PrivateKeyTypes


def hosts(namespace: str) -> tuple[str, ...]:
    """Return the names by which the webhook's Service is called; the API server's own comes first."""
    service = names.WEBHOOK
    ours = f"{service}.{namespace}"
    return f"{ours}.svc", f"{ours}.svc.cluster.local", ours, service


# --- making ----------------------------------------------------------------------------------------------


def new_authority(now: dt.datetime, lifetime: dt.timedelta) -> Pair:
    """Return a new certificate authority, which signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _authority_name(key.public_key())
    start = _whole(now)
    certificate = (
        _builder(name, name, key.public_key(), key.public_key(), start, start + lifetime)
        # Of length 0: what it signs cannot sign in turn.
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Pair(certificate, key)


def new_certificate(authority: Pair, hosts: Sequence[str], now: dt.datetime, lifetime: dt.timedelta) -> Pair:
    """Return a new serving certificate for host names; it does not outlive its authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    signing = authority.key
    assert isinstance(signing, ec.EllipticCurvePrivateKey)
    # Not the host: a common name ends at 64 characters, and nobody reads it any more.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names.WEBHOOK)])
    start = _whole(now)
    end = min(start + lifetime, authority.certificate.not_valid_after_utc)
    certificate = (
        _builder(subject, authority.certificate.subject, key.public_key(), signing.public_key(), start, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False)
        .sign(signing, hashes.SHA256())
    )
    return Pair(certificate, key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    start: dt.datetime,
    end: dt.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - BACKDATE)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _authority_name(key: ec.EllipticCurvePublicKey) -> x509.Name:
    """Return the name of the authority with this key: no two share one, so chains are unambiguous."""
    digest = identity.digest(x509.SubjectKeyIdentifier.from_public_key(key).digest.hex())
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, names.MANAGED_BY),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{names.WEBHOOK}-ca-{digest}"),
        ]
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _whole(now: dt.datetime) -> dt.datetime:
    """Return the next whole second, for certificates know no less, and none shall look older than it is."""
    whole = now.replace(microsecond=0)
    return whole if whole == now else whole + _SECOND


# --- reading ---------------------------------------------------------------------------------------------


def read_certificates(pem: bytes) -> list[x509.Certificate]:
    """Return the certificates in a PEM text, in order; whatever else it holds is left out."""
    found = []
    for block in _BLOCK.findall(pem):
        try:
            certificate = x509.load_pem_x509_certificate(block)
            # These are decoded when they are looked at, and may be what is broken.
            _ = (
                certificate.subject,
                certificate.issuer,
                certificate.extensions,
                certificate.public_key(),
                certificate.signature_algorithm_parameters,
                certificate.not_valid_before_utc,
                certificate.not_valid_after_utc,
            )
        except _UNREADABLE:
            continue
        found.append(certificate)
    return found


def read_key(pem: bytes) -> PrivateKeyTypes | None:
    """Return the private key in a PEM text, None if there is none that can be read."""
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except _UNREADABLE:
        return None


def read_pair(certificate: bytes, key: bytes) -> Pair | None:
    """Return a private key with its certificate, None if either is missing or they do not match."""
    private = read_key(key)
    if private is None:
        return None
    matching = (each for each in read_certificates(certificate) if each.public_key() == private.public_key())
    found = next(matching, None)
    return None if found is None else Pair(found, private)


def certificates_pem(certificates: Iterable[x509.Certificate]) -> bytes:
    """Return certificates as PEM."""
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)


def key_pem(key: PrivateKeyTypes) -> bytes:
    """Return a private key as PEM (PKCS #8), not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


# --- judging ---------------------------------------------------------------------------------------------


def is_ours(certificate: x509.Certificate) -> bool:
    """Tell whether this is a certificate authority as `new_authority` makes it."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or certificate.subject != _authority_name(key):
        return False
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return False
    allowed = constraints == x509.BasicConstraints(ca=True, path_length=0) and usage.key_cert_sign
    return allowed and issuer(certificate, [certificate]) is not None


def issuer(certificate: x509.Certificate, authorities: Iterable[x509.Certificate]) -> x509.Certificate | None:
    """Return that one of the authorities which signed the certificate, None if none did."""
    for authority in authorities:
        try:
            certificate.verify_directly_issued_by(authority)
        except _UNREADABLE:
            continue
        return authority
    return None


def is_for_server(certificate: x509.Certificate, hosts: Iterable[str]) -> bool:
    """Tell whether clients accept the certificate from a server of all these names."""
    extensions = certificate.extensions
    try:
        purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        alternatives = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    return ExtendedKeyUsageOID.SERVER_AUTH in purposes and set(hosts) <= set(
        alternatives.get_values_for_type(x509.DNSName)
    )


def is_valid(certificate: x509.Certificate, now: dt.datetime) -> bool:
    """Tell whether this is within the certificate's time."""
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc


def is_due(certificate: x509.Certificate, now: dt.datetime) -> bool:
    """Tell whether the certificate is to be renewed: a third of its time is left, or less."""
    end = certificate.not_valid_after_utc
    return end - now <= (end - created(certificate)) * RESERVE


def created(certificate: x509.Certificate) -> dt.datetime:
    """Return when one of our certificates was made; rather too late than too early."""
    return certificate.not_valid_before_utc + BACKDATE
