"""The serving certificate: read again when its files change, without dropping a connection."""

import contextlib
import dataclasses
import hashlib
import logging
import ssl
from collections.abc import Callable
from pathlib import Path

from cryptography import x509

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class _Pair:
    context: ssl.SSLContext
    expiry: float


class Certificate:
    """A certificate and its key in two files, as a mounted Secret has them.

    Args:
        certificate: the PEM file with the certificate, and those of intermediate authorities after it.
        key: the PEM file with the private key.
        note: is told whenever the files have changed: the time of expiry, None if the pair cannot be used.
    """

    def __init__(self, certificate: Path, key: Path, note: Callable[[float | None], None]) -> None:
        self._certificate = certificate
        self._key = key
        self._note = note
        self._pair: _Pair | None = None
        self._served: bytes | None = None
        self._refused: bytes | None = None
        # One context listens for ever, and hands each handshake to the one with the present pair. A pair that
        # is loaded into a context in use leaves it without any if the second of the two files is gone.
        self.listening = _context()
        self.listening.sni_callback = self._choose

    @property
    def loaded(self) -> bool:
        """Whether there is a pair to serve with."""
        return self._pair is not None

    @property
    def expiry(self) -> float | None:
        """When the certificate that is served expires, as a Unix time."""
        return None if self._pair is None else self._pair.expiry

    def refresh(self) -> bool:
        """Read the files if they have changed; return whether a new pair is served from now on.

        Never raises: a pair that is missing, broken, or halfway exchanged leaves the present one in use.
        """
        seen = self._digest()
        if seen == self._served:
            return False
        try:
            pair = self._load()
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            # It is tried again every time, for the fault may be ours, but said once.
            if seen != self._refused:
                self._refused = seen
                self._note(None)
                state = "still serving the previous pair" if self._pair else "not serving yet"
                logger.warning("tls: %s, %s: %s; %s", self._certificate, self._key, error, state)
            return False
        # Of before it was loaded: had the files changed meanwhile, they are to be read again.
        self._served, self._refused, self._pair = seen, None, pair
        self._note(pair.expiry)
        logger.info("tls: serving a certificate", extra={"expiry": pair.expiry})
        return True

    def _digest(self) -> bytes:
        content = hashlib.sha256()
        for path in (self._certificate, self._key):
            with contextlib.suppress(OSError):
                content.update(path.read_bytes())
            content.update(b"\0")
        return content.digest()

    def _load(self) -> _Pair:
        context = _context()
        context.load_cert_chain(self._certificate, self._key)  # raises if the two do not match
        [leaf, *_] = x509.load_pem_x509_certificates(self._certificate.read_bytes())
        return _Pair(context, leaf.not_valid_after_utc.timestamp())

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> int | None:
        if self._pair is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = self._pair.context
        return None


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # A resumed session would outlive the certificate that it began with.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    return context
