"""An HTTP gateway before the API server, which answers for it where a test says so: 429, 500, or late."""

import base64
import contextlib
import http
import http.client
import http.server
import json
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import yaml

from tests.apiserver.certificates import Authority
from tests.apiserver.client import Object

# Takes method and path with query; returns a status to answer with, or None to forward. It may take its time.
Fault = Callable[[str, str], int | None]
_PASSED_ON = ("Authorization", "Accept", "Content-Type", "User-Agent")


def status_object(code: int) -> bytes:
    """Return what the API server would say with this code."""
    reason = {410: "Expired", 429: "TooManyRequests", 500: "InternalError"}.get(code, "Unknown")
    message = f"planted: {http.client.responses[code]}"
    status = {"status": "Failure", "code": code, "reason": reason, "message": message}
    return json.dumps({"apiVersion": "v1", "kind": "Status", "metadata": {}, **status}).encode()


class Gateway:
    """Use as a context manager; set `fault` to have it answer instead of the API server."""

    def __init__(self, kubeconfig: Path) -> None:
        cluster = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]
        address = urlsplit(cluster["server"])
        self.target = address.hostname or "", address.port or 443
        self.trust = ssl.create_default_context(
            cadata=base64.b64decode(cluster["certificate-authority-data"]).decode()
        )
        self.fault: Fault = lambda *_: None
        self.answered = 0
        """How many requests it answered itself."""
        self._authority = Authority("gateway")
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        with tempfile.TemporaryDirectory() as folder:
            identity = self._authority.server("127.0.0.1")
            tls.load_cert_chain(*identity.write(Path(folder), "gateway"))
        self._server = _Server(("127.0.0.1", 0), tls, self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="gateway")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.end()

    def hang_up(self) -> None:
        """End all connections there are, so that what streams has to be asked for again."""
        self._server.hang_up()

    def redirect(self, cluster: Object) -> None:
        """Have a kubeconfig's cluster lead here."""
        cluster["server"] = f"https://127.0.0.1:{self._server.server_port}"
        cluster["certificate-authority-data"] = base64.b64encode(self._authority.certificate).decode()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], tls: ssl.SSLContext, gateway: Gateway) -> None:
        super().__init__(address, _Handler)
        # The handshake is left to the connection's own thread.
        self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.gateway = gateway
        self.lock = threading.Lock()
        self.open: set[Any] = set()

    def hang_up(self) -> None:
        with self.lock:
            for each in self.open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """End what still streams, then wait for its threads."""
        self.hang_up()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Leave the client with a closed connection."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 300.0

    def handle(self) -> None:
        with self.server.lock:
            self.server.open.add(self.connection)
        try:
            with contextlib.suppress(OSError):
                super().handle()
        finally:
            with self.server.lock:
                self.server.open.discard(self.connection)

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        gateway = self.server.gateway
        code = gateway.fault(self.command, self.path)
        if code is not None:
            gateway.answered += 1
            if code == http.HTTPStatus.GONE and "watch=" in self.path:
                # The API server accepts such a watch, and says so in its only event.
                self._answer(200, "application/json", b'{"type":"ERROR","object":%s}\n' % status_object(code))
            else:
                self._answer(code, "application/json", status_object(code))
            return
        headers = {key: self.headers[key] for key in _PASSED_ON if key in self.headers}
        upstream = http.client.HTTPSConnection(*gateway.target, timeout=300, context=gateway.trust)
        with contextlib.closing(upstream):
            upstream.connect()
            # Ends with the client's, else a watch would outlive the test.
            with self.server.lock:
                self.server.open.add(upstream.sock)
            try:
                upstream.request(self.command, self.path, body or None, headers)
                self._pass_on(upstream.getresponse())
            finally:
                with self.server.lock:
                    self.server.open.discard(upstream.sock)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any  # noqa: N815 (the library's names)

    def _pass_on(self, response: http.client.HTTPResponse) -> None:
        kind = response.headers.get("Content-Type", "application/json")
        if "watch=" not in self.path:
            self._answer(response.status, kind, response.read())
            return
        self.send_response(response.status)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while data := response.read1(65536):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def _answer(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: the reconciler's log and the audit log tell enough."""


def late(seconds: float, fault: Fault) -> Fault:
    """Return a fault that holds back, for some seconds, each request for which `fault` has an answer."""

    def wait(method: str, path: str) -> int | None:
        if fault(method, path) is not None:
            time.sleep(seconds)
        return None

    return wait
