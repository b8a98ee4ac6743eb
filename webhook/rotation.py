"""Compute what the Secret and the webhooks' caBundle hold next, so that no review ever meets a stranger.

A new authority is trusted first, serves when that has reached every API server, and the old one is forgotten
when the new certificate has reached every admission pod:

    Secret: ca.key   ca.crt, caBundle   tls.crt signed by   until
            A        A                  A                   a third of A's time is left
            B        B A                A                   B has been trusted for the settling time
            B        B A                B                   tls.crt has been there for the settling time
            B        B                  B

What holds now follows from the certificates alone, whoever wrote them and when, so every look at them starts
afresh. A part that is lost or broken is one that has yet to be made; those that are still good stay in use.
"""

import base64
import binascii
import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509

from webhook import certificates, names, shape
from webhook.certificates import Pair

# However short lifetimes are set, there is time for a rotation before the end of what it replaces.
_LEAST_LIVES: Final = 10


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long certificates live, and how long a change may take to reach everyone.

    Args:
        ca: of the certificate authority.
        certificate: of the serving certificate.
        settle: until the kubelets have shown a changed Secret to the admission pods, or all API servers use
            a changed caBundle.
    """

    ca: dt.timedelta
    certificate: dt.timedelta
    settle: dt.timedelta

    @property
    def settling(self) -> dt.timedelta:
        """How long to wait in fact."""
        return min(self.settle, self.ca / _LEAST_LIVES, self.certificate / _LEAST_LIVES)


@dataclass(frozen=True, slots=True)
class Desired:
    """What shall be there.

    Args:
        data: of the Secret: what it has, with our keys as they shall be; base64.
        bundle: the caBundle of every webhook; base64.
        ca_expiry: when the authority that signed the serving certificate expires.
        serving_expiry: when the serving certificate expires.
        changes: a sentence for each certificate that is new, or no longer trusted.
    """

    data: dict[str, Any]
    bundle: str
    ca_expiry: dt.datetime
    serving_expiry: dt.datetime
    changes: tuple[str, ...]


def desired(
    data: Mapping[str, Any],
    bundles: Iterable[object],
    hosts: Sequence[str],
    lifetimes: Lifetimes,
    now: dt.datetime,
) -> Desired:
    """Return what the Secret and the webhooks shall hold now.

    The caBundle is to be written first: an authority is trusted before it can serve.

    Args:
        data: of the Secret, empty if there is none. Whatever cannot be read counts as missing.
        bundles: the caBundle of each webhook, as base64.
        hosts: the names by which the webhook is called.
        lifetimes: of what is made new.
        now: an aware time.
    """
    trusting = [_authorities(decode(bundle)) for bundle in bundles]
    stored = _authorities(decode(data.get(names.CA_CERTIFICATES)))
    # What the API servers trust may be what serves, even if the Secret has lost it.
    known = dict.fromkeys(each for group in (stored, *trusting) for each in group)
    trusted = [each for each in known if certificates.is_valid(each, now)]
    changes: list[str] = []

    authority = _signer(data, trusted)
    why = _why_new_authority(authority, now)
    if authority is None or why:
        authority = certificates.new_authority(now, lifetimes.ca)
        trusted.append(authority.certificate)
        changes.append(f"new CA {_label(authority.certificate)}: {why}")
    signer = authority.certificate

    def is_young(each: x509.Certificate) -> bool:
        return now - certificates.created(each) < lifetimes.settling

    serving = _serving(data)
    why = _why_useless(serving, trusted, hosts, now)
    if serving is not None and not why:
        issuer = certificates.issuer(serving.certificate, trusted)
        others = {each for each in trusted if not is_young(each)} - {signer, issuer}
        if _is_exchanged(issuer, stored, trusting, others):
            # Dated anew, what may be served is trusted until this one has reached everyone.
            why = "API servers trust another CA, which may have signed what is served"
        # Not while an API server may trust only the authority before it.
        elif not is_young(signer) and all(signer in group for group in trusting):
            why = _why_renewed(serving.certificate, signer, now)
    if serving is None or why:
        serving = certificates.new_certificate(authority, hosts, now, lifetimes.certificate)
        changes.append(f"new serving certificate, signed by CA {_label(signer)}: {why}")

    issuer = certificates.issuer(serving.certificate, trusted)
    assert issuer is not None
    # Another's certificate may still be served for a while; and one that is young is perhaps about to serve.
    changing = is_young(serving.certificate)
    kept = [each for each in trusted if changing or each in (signer, issuer) or is_young(each)]
    kept.sort(key=lambda each: (each != signer, *_age(each)))
    changes += [f"CA {_label(each)}: no longer trusted" for each in known if each not in kept]
    bundle = _encode(certificates.certificates_pem(kept))
    ours = {
        names.SERVING_CERTIFICATE: _encode(certificates.certificates_pem([serving.certificate])),
        names.SERVING_KEY: _encode(certificates.key_pem(serving.key)),
        names.CA_CERTIFICATES: bundle,
        names.CA_KEY: _encode(certificates.key_pem(authority.key)),
    }
    return Desired(
        {**data, **ours},
        bundle,
        issuer.not_valid_after_utc,
        serving.certificate.not_valid_after_utc,
        tuple(changes),
    )


# --- what is there ---------------------------------------------------------------------------------------


def decode(value: object) -> bytes:
    """Return what a Secret's data or a caBundle holds, empty if it is nothing or garbage."""
    try:
        return base64.b64decode(shape.text(value))
    except (binascii.Error, ValueError):
        return b""


def _encode(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _authorities(pem: bytes) -> list[x509.Certificate]:
    """Return our own authorities among the certificates: those of others would be trusted for nothing."""
    return [each for each in certificates.read_certificates(pem) if certificates.is_ours(each)]


def _signer(data: Mapping[str, Any], trusted: Iterable[x509.Certificate]) -> Pair | None:
    """Return the authority whose key there is."""
    return certificates.read_pair(certificates.certificates_pem(trusted), decode(data.get(names.CA_KEY)))


def _serving(data: Mapping[str, Any]) -> Pair | None:
    return certificates.read_pair(
        decode(data.get(names.SERVING_CERTIFICATE)), decode(data.get(names.SERVING_KEY))
    )


# --- what is wrong with it -------------------------------------------------------------------------------


def _why_new_authority(authority: Pair | None, now: dt.datetime) -> str:
    if authority is None:
        return f"there is none that is valid and whose key is in {names.CA_KEY}"
    return "two thirds of its time are over" if certificates.is_due(authority.certificate, now) else ""


def _why_useless(
    serving: Pair | None, trusted: Iterable[x509.Certificate], hosts: Iterable[str], now: dt.datetime
) -> str:
    """Return why nobody would accept what is served, empty if they would."""
    if serving is None:
        return (
            f"{names.SERVING_CERTIFICATE} and {names.SERVING_KEY} are missing, broken, or not of each other"
        )
    if not certificates.is_valid(serving.certificate, now):
        return "it is not valid today"
    if not certificates.is_for_server(serving.certificate, hosts):
        return "it is not for these host names"
    if certificates.issuer(serving.certificate, trusted) is None:
        return "no CA that is trusted has signed it"
    return ""


def _why_renewed(certificate: x509.Certificate, signer: x509.Certificate, now: dt.datetime) -> str:
    """Return why what is served shall be replaced, empty if it shall not."""
    if certificates.issuer(certificate, [signer]) is None:
        return "the previous CA has signed it"
    return "two thirds of its time are over" if certificates.is_due(certificate, now) else ""


def _is_exchanged(
    issuer: x509.Certificate | None,
    stored: Sequence[x509.Certificate],
    trusting: Sequence[Sequence[x509.Certificate]],
    others: set[x509.Certificate],
) -> bool:
    """Tell whether the Secret seems to be another than before, such as one from a backup.

    Then API servers trust an authority that the Secret knows nothing of, or not the one that it is served by.
    """
    others = others.intersection(each for group in trusting for each in group)
    unknown = others.difference(stored)
    return bool(unknown) or (bool(others) and not all(issuer in group for group in trusting))


def _age(certificate: x509.Certificate) -> tuple[float, int]:
    """Return a key that sorts the newest first, and always in the same order."""
    return -certificates.created(certificate).timestamp(), certificate.serial_number


def _label(certificate: x509.Certificate) -> str:
    """Return a short name for a certificate, for logs."""
    return f"{certificate.serial_number:x}"[:8]
