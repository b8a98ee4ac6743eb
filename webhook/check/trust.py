"""Faults of the certificate, and of the CA bundle by which API servers trust it. Pure."""

import base64
import binascii
import datetime as dt
from collections.abc import Iterator
from typing import Final

from cryptography import x509

from webhook import certificates, names, shape
from webhook.check import mending
from webhook.check.findings import Finding, Severity
from webhook.check.installation import configuration_ref, entries
from webhook.check.snapshot import Area, Snapshot
from webhook.identity import Reference
from webhook.names import Fault
from webhook.shape import Json

# Of its time, what is left of a certificate that is renewed in time: a third, and some patience.
_OVERDUE: Final = 1 / 4
_LONGEST_CHAIN: Final = 8


def faults(seen: Snapshot) -> Iterator[Finding]:
    """Yield what is wrong with the certificate, and else with the trust in it."""
    if not seen.webhook or not seen.saw(Area.WEBHOOK):
        return
    found = list(_certificate(seen)) if seen.saw(Area.SECRET) else []
    yield from found
    # A bundle that does not fit a certificate of no use is the least of the troubles.
    if all(item.severity is Severity.WARNING for item in found):
        yield from _bundles(seen)


def _certificate(seen: Snapshot) -> Iterator[Finding]:
    ref = secret_ref(seen)
    if seen.secret is None:
        reconciler = Reference(seen.own_namespace, "apps/v1", "Deployment", names.RECONCILER)
        evidence = (f"no Secret {ref.namespace}/{ref.name}",)
        yield Finding(Fault.CERTIFICATE_MISSING, ref, evidence, mending.restart(reconciler))
        return
    # Whoever keeps it, the reconciler or cert-manager, makes a new one.
    renew = mending.delete(ref)
    pair = certificates.read_pair(
        _decoded(seen.secret, names.SERVING_CERTIFICATE), _decoded(seen.secret, names.SERVING_KEY)
    )
    if pair is None:
        keys = f"{names.SERVING_CERTIFICATE} and {names.SERVING_KEY}"
        evidence = (f"{keys} of the Secret are no certificate and its key",)
        yield Finding(Fault.CERTIFICATE_INVALID, ref, evidence, renew)
        return
    own = pair.certificate
    host = certificates.hosts(seen.own_namespace)[0]
    if not certificates.is_for_server(own, [host]):
        yield Finding(Fault.CERTIFICATE_INVALID, ref, (f"it is not for a server called {host}",), renew)
        return
    begin, end = own.not_valid_before_utc, own.not_valid_after_utc
    if not certificates.is_valid(own, seen.now):
        clock = f"the API server's clock says {_day(seen.now)}"
        valid = f"valid from {_day(begin)} to {_day(end)}"
        yield Finding(Fault.CERTIFICATE_EXPIRED, ref, (valid, clock), renew)
    elif end - seen.now < (end - begin) * _OVERDUE:
        facts = (f"valid until {_day(end)}, renewed when a third of its time is left",)
        yield Finding(Fault.CERTIFICATE_EXPIRING, ref, facts, renew, Severity.WARNING)
    owner = shape.label(seen.secret, names.MANAGED_BY_LABEL)
    if seen.reconciling()[0].certificates and owner != names.MANAGED_BY:
        facts = (f"{names.MANAGED_BY_LABEL} of the Secret is {owner or 'not there'}",)
        yield Finding(Fault.CERTIFICATE_FOREIGN, ref, facts, renew, Severity.WARNING)


def _bundles(seen: Snapshot) -> Iterator[Finding]:
    chain = certificates.read_certificates(_decoded(seen.secret, names.SERVING_CERTIFICATE))
    offered = certificates.read_certificates(_decoded(seen.secret, names.CA_CERTIFICATES))
    wrong: dict[Fault, list[tuple[int, str]]] = {}
    for index, entry in entries(seen):
        bundle = shape.text(shape.mapping(entry.get("clientConfig")).get("caBundle"))
        trusted = certificates.read_certificates(_base64(bundle))
        if not bundle:
            fault, said = Fault.CA_BUNDLE_MISSING, "has no caBundle"
        elif not trusted:
            fault, said = Fault.CA_BUNDLE_INVALID, "has a caBundle without a certificate"
        elif chain and not _trusts(trusted, chain, seen.now):
            subjects = " and ".join(sorted({item.subject.rfc4514_string() for item in trusted}))
            fault, said = Fault.CA_BUNDLE_STALE, f"trusts {subjects}"
        else:
            continue
        wrong.setdefault(fault, []).append((index, f"{entry['name']} {said}"))
    for fault, items in wrong.items():
        facts = [said for _, said in items]
        if fault is Fault.CA_BUNDLE_STALE:
            facts.append(f"the certificate is signed by {chain[0].issuer.rfc4514_string()}")
        # A Secret that cannot vouch for its own certificate is made anew, and the bundle with it.
        mends = bool(offered) and (not chain or _trusts(offered, chain, seen.now))
        indexes = [index for index, _ in items]
        command = mending.trust(configuration_ref(), secret_ref(seen), indexes)
        yield Finding(
            fault, configuration_ref(), tuple(facts), command if mends else mending.delete(secret_ref(seen))
        )


def _trusts(trusted: list[x509.Certificate], chain: list[x509.Certificate], now: dt.datetime) -> bool:
    """Return whether who trusts these certificates trusts the first of a chain."""
    authorities = [item for item in trusted if certificates.is_valid(item, now)]
    current = chain[0]
    for _ in range(_LONGEST_CHAIN):
        if current in authorities or certificates.issuer(current, authorities):
            return True
        between = certificates.issuer(current, chain[1:])
        if between is None or between == current:
            return False
        current = between
    return False


def secret_ref(seen: Snapshot) -> Reference:
    """Return which Secret has the certificate."""
    return Reference(seen.own_namespace, "v1", "Secret", names.CERTIFICATE_SECRET)


def _decoded(secret: Json | None, key: str) -> bytes:
    return _base64(shape.text(shape.mapping(shape.mapping(secret).get("data")).get(key)))


def _base64(value: str) -> bytes:
    try:
        return base64.b64decode(value)
    except (binascii.Error, ValueError):
        return b""


def _day(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")
