"""A webhook server in a few lines, in a thread: somebody else's webhook, before or after ours."""

import base64
import http.server
import json
import ssl
import threading
from collections.abc import Callable, Iterable
from typing import Any, Self

from tests.apiserver.admission import Endpoint

Review = dict[str, Any]
# Takes the request of a review; returns the response, without its uid.
Handler = Callable[[Review], dict[str, Any]]


def allowed(*patch: dict[str, Any], warnings: Iterable[str] = ()) -> dict[str, Any]:
    """Return a response that allows the request, changed by the operations of a JSON Patch."""
    response: dict[str, Any] = {"allowed": True, "warnings": list(warnings)}
    if patch:
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(patch).encode()).decode()}
    return response


class StubWebhook:
    """Answers each AdmissionReview with what `handler` returns; `requests` holds what was asked, in order."""

    def __init__(self, endpoint: Endpoint, handler: Handler) -> None:
        self.requests: list[Review] = []
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(endpoint.certificate, endpoint.key)
        self._server = _Server(("127.0.0.1", endpoint.port), tls, self._answer)
        self._handler = handler
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="stub-webhook")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, review: Review) -> Review:
        request = review["request"]
        self.requests.append(request)
        response = {**self._handler(request), "uid": request["uid"]}
        return {"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": response}


class _Server(http.server.ThreadingHTTPServer):
    # Not daemons: closing waits for them, so no socket outlives the test. One request each, so none lingers.
    daemon_threads = False

    def __init__(
        self, address: tuple[str, int], tls: ssl.SSLContext, answer: Callable[[Review], Review]
    ) -> None:
        super().__init__(address, _Handler)
        # The handshake is left to the request's own thread: a slow client must not hold up the others.
        self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.answer = answer

    def handle_error(self, request: object, client_address: object) -> None:
        """Leave the client with a closed connection: to the API server that is a failing webhook."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    timeout = 10.0

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps(self.server.answer(review)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing on stderr."""
