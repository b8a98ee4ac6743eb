"""Serving over HTTP: routes, a listening socket that waits for its port, and limits on what clients may do.

waitress and not prometheus_client's own server, which has no read timeout and no limit on connections: 200
requests that are never finished hold 200 of its threads.
"""

from __future__ import annotations

import errno
import itertools
import logging
import socket
import time
from html import escape
from http import HTTPStatus
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NoReturn

import waitress.server
from prometheus_client import make_wsgi_app

from sidecar import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from prometheus_client import CollectorRegistry

log = logging.getLogger(__name__)

_LIMITS: dict[str, Any] = {
    "threads": 4,  # scrapes share a collection, so that more of them would only wait
    "connection_limit": 512,
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

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if path not in ("/", "/metrics"):
            return _text(start_response, HTTPStatus.NOT_FOUND, b"not found; the metrics are at /metrics\n")
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _text(
                start_response,
                HTTPStatus.METHOD_NOT_ALLOWED,
                b"expected GET or HEAD\n",
                ("Allow", "GET, HEAD"),
            )
        if path == "/":
            start_response("200 OK", [("Content-Type", "text/html; charset=utf-8")])
            return [page]
        # The library knows no HEAD, and its filter by name needs names that are only known after a scrape.
        body: Iterable[bytes] = metrics(
            {**environ, "REQUEST_METHOD": "GET", "QUERY_STRING": ""}, start_response
        )
        return body

    return _answers_head(answer)


def serve(app: WSGIApplication, address: str, port: int) -> NoReturn:
    """Serve for ever: wait for the port if it is taken, and start again if the server fails."""
    while True:
        listener = _listen_patiently(address, port)
        # The exporter never exits because something failed.
        try:
            with listener:
                waitress.server.create_server(app, sockets=[listener], **_LIMITS).run()
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
            log.info("serving on %s port %d", address or "all addresses,", port)
            return listener
    raise AssertionError  # the delays never end


def _text(
    start_response: StartResponse, status: HTTPStatus, body: bytes, *headers: tuple[str, str]
) -> Iterable[bytes]:
    start_response(
        f"{status.value} {status.phrase}", [("Content-Type", "text/plain; charset=utf-8"), *headers]
    )
    return [body]


def _answers_head(app: WSGIApplication) -> WSGIApplication:
    """Answer HEAD with the headers of GET, Content-Length included (RFC 9110 9.3.2)."""

    def wrapped(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        status, headers = "", []

        def remember(
            new_status: str, new_headers: list[tuple[str, str]], *_: object
        ) -> Callable[[bytes], object]:
            nonlocal status, headers
            status, headers = new_status, new_headers
            return lambda _: None

        body = b"".join(app(environ, remember))
        start_response(status, [*headers, ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    return wrapped
