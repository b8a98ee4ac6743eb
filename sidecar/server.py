"""Serving over HTTP: routes, a listening socket that waits for its port, and limits on what clients may do.

waitress and not prometheus_client's own server, which has no read timeout and no limit on connections: 200
requests that are never finished hold 200 of its threads.
"""

from __future__ import annotations

import errno
import itertools
import logging
import resource
import socket
import time
from html import escape
from http import HTTPStatus
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NoReturn

import waitress.server
from prometheus_client import make_wsgi_app

from sidecar import __version__
from sidecar.unsent import UnsentAnswers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from prometheus_client import CollectorRegistry

    _Write = Callable[[bytes], object]
    _Answer = tuple[str, list[tuple[str, str]], bytes]

log = logging.getLogger(__name__)

_LIMITS: dict[str, Any] = {
    "threads": 4,  # scrapes share a collection, so that more of them would only wait
    "channel_timeout": 10,  # seconds after which a connection on which nothing moves is closed
    "cleanup_interval": 5,
    "asyncore_use_poll": True,  # select() ends at file descriptor 1024
    "max_request_header_size": 16 << 10,
    "max_request_body_size": 64 << 10,
    # Never a temporary file: the root file system is read-only.
    "inbuf_overflow": 1 << 20,
    "outbuf_overflow": 64 << 20,
    "ident": "",
}
_MAX_CONNECTIONS = 512
_OTHER_FILES = 32
_MAX_UNSENT = 8 << 20
_LISTEN_BACKLOG = 128
_RETRY_DELAYS = (1.0, 2.0, 4.0, 8.0, 15.0)

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>metrics-sidecar</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 40em; margin: 4em auto; padding: 0 1em }}
body {{ color: #222 }}
code {{ background: #f2f2f2; padding: .1em .3em }}
@media (prefers-color-scheme: dark) {{ body {{ background: #181818; color: #ddd }} code {{ background: #333 }}
  a {{ color: #8bf }} }}
</style>
<h1>metrics-sidecar</h1>
<p>The local ports of <strong>{pod_name}</strong>, for Prometheus: <a href="metrics">metrics</a>.</p>
<p><code>port_exhaustion_ratio</code> is the one to page on: at 1, <code>connect()</code> to the fullest
destination fails.</p>
<p>Version {version}</p>
</html>
"""


def make_app(registry: CollectorRegistry, pod_name: str) -> WSGIApplication:
    """Return the WSGI application: ``/metrics`` in the format the client asks for, a page at ``/``."""
    metrics = make_wsgi_app(registry)
    page = _PAGE.format(pod_name=escape(pod_name), version=__version__).encode()
    unsent = UnsentAnswers(_MAX_UNSENT)

    def answer(environ: WSGIEnvironment) -> _Answer:
        path = environ.get("PATH_INFO")
        if path not in ("/", "/metrics"):
            return _text(HTTPStatus.NOT_FOUND, "not found; the metrics are at /metrics")
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _text(HTTPStatus.METHOD_NOT_ALLOWED, "expected GET or HEAD", ("Allow", "GET, HEAD"))
        if path == "/":
            return "200 OK", [("Content-Type", "text/html; charset=utf-8")], page
        # The library knows no HEAD, and its filter by name needs names that are only known after a scrape.
        request = {**environ, "REQUEST_METHOD": "GET", "QUERY_STRING": ""}
        try:
            return _call(metrics, request)
        except (TypeError, ValueError):
            # The library trusts the versions in an Accept header to be numbers.
            return _call(metrics, {**request, "HTTP_ACCEPT": ""})

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        status, headers, body = answer(environ)
        waiting = unsent.admit(environ, body)
        if waiting is None:
            status, headers, body = _text(HTTPStatus.SERVICE_UNAVAILABLE, "other clients do not read answers")
            waiting = [body]
        # HEAD gets the headers of GET, Content-Length included (RFC 9110 9.3.2).
        start_response(status, [*headers, ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else waiting

    return app


def serve(app: WSGIApplication, address: str, port: int) -> NoReturn:
    """Serve for ever: wait for the port if it is taken, and start again if the server fails."""
    while True:
        listener = _listen_patiently(address, port)
        # The exporter never exits because something failed.
        try:
            with listener:
                waitress.server.create_server(
                    app, sockets=[listener], connection_limit=_max_connections(), **_LIMITS
                ).run()
        except Exception:
            log.exception("server failed; it is started again")
            time.sleep(_RETRY_DELAYS[0])


def listen(address: str, port: int) -> socket.socket:
    """Open a listening socket, on IPv6 and IPv4 if the address is empty.

    Raises:
        OSError: the port is taken, or there is no such address.
    """
    if address:
        family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
        return socket.create_server((address, port), family=family, backlog=_LISTEN_BACKLOG)
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_LISTEN_BACKLOG
            )
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise
            # IPv6 may be compiled in and yet be off in this network namespace.
    return socket.create_server(("", port), backlog=_LISTEN_BACKLOG)


def _listen_patiently(address: str, port: int, sleep: Callable[[float], None] = time.sleep) -> socket.socket:
    for delay in itertools.chain(_RETRY_DELAYS, itertools.repeat(_RETRY_DELAYS[-1])):
        try:
            listener = listen(address, port)
        except OSError as error:
            log.error("cannot listen on port %d: %s; next try in %g s", port, error, delay)  # noqa: TRY400
            sleep(delay)
        else:
            _drop_who_does_not_read(listener)
            log.info("serving on %s port %d", address or "all addresses,", port)
            return listener
    raise AssertionError  # the delays never end


def _drop_who_does_not_read(listener: socket.socket) -> None:
    # waitress closes idle connections, but waits to be able to write to them first, which is never where the
    # client does not read. The kernel does not wait. Connections have the option from their listener.
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _LIMITS["channel_timeout"] * 1000)


def _text(status: HTTPStatus, sentence: str, *headers: tuple[str, str]) -> _Answer:
    content_type = ("Content-Type", "text/plain; charset=utf-8")
    return f"{status.value} {status.phrase}", [content_type, *headers], f"{sentence}\n".encode()


def _call(app: WSGIApplication, environ: WSGIEnvironment) -> _Answer:
    status, headers = "", []

    def remember(its_status: str, its_headers: list[tuple[str, str]], *_: object) -> _Write:
        nonlocal status, headers
        status, headers = its_status, its_headers
        return lambda _: None

    body = b"".join(app(environ, remember))
    return status, headers, body


def _max_connections() -> int:
    """Return how many connections are taken: not so many that no file descriptor is left for a scrape."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = files == resource.RLIM_INFINITY
    return _MAX_CONNECTIONS if unlimited else max(8, min(_MAX_CONNECTIONS, files - _OTHER_FILES))
