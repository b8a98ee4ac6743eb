"""What kopf's handlers answer through: HTTPS for the API server, plain HTTP for probes and Prometheus.

kopf's own restarts its listener for a new certificate, denies what its handlers fail at, and allows without a
word what is sent to a path that it does not know.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import kopf
from aiohttp import web

from webhook import names
from webhook.admission import handlers
from webhook.admission.review import NotAReviewError, Review
from webhook.admission.telemetry import Telemetry
from webhook.admission.tls import Certificate
from webhook.config import Serving
from webhook.shape import Json

logger = logging.getLogger(__name__)

_FAILED = "metrics-sidecar: the injector failed, so nothing was changed; its log says why"
_CERTIFICATE_PERIOD = 1.0
_BODY_TIMEOUT = 10.0
_HANDSHAKE_TIMEOUT = 5.0
_SHUTDOWN_TIMEOUT = 5.0


class AdmissionServer:
    """Serves admission reviews; `settings.admission.server` of a kopf operator.

    Args:
        serving: where and how to listen.
        telemetry: what is counted.
        listening: called once the ports are open, with those of the webhooks and of the probes.
    """

    def __init__(
        self,
        serving: Serving,
        telemetry: Telemetry,
        listening: Callable[[int, int], None] = lambda _port, _probe_port: None,
    ) -> None:
        self._serving = serving
        self._telemetry = telemetry
        self._listening = listening
        self._certificate = Certificate(Path(serving.certificate), Path(serving.key), telemetry.certificate)
        self._answer: kopf.WebhookFn | None = None
        self._draining = False
        self._listeners: list[asyncio.Server] = []

    async def __call__(self, fn: kopf.WebhookFn) -> AsyncIterator[kopf.WebhookClientConfig]:
        """Serve until cancelled; kopf calls this once."""
        self._answer = fn
        self._certificate.refresh()
        webhooks = web.AppRunner(
            self._application(names.HANDLERS), access_log=None, shutdown_timeout=_SHUTDOWN_TIMEOUT
        )
        probes = web.AppRunner(self._application(()), access_log=None)
        renewal = asyncio.create_task(self._renew())
        try:
            port = await self._listen(webhooks, self._serving.port, tls=True)
            probe_port = await self._listen(probes, self._serving.probe_port, tls=False)
            logger.info("server: listening", extra={"port": port, "probe_port": probe_port})
            self._listening(port, probe_port)
            yield kopf.WebhookClientConfig(url=f"https://localhost:{port}")
            await asyncio.Event().wait()
        finally:
            renewal.cancel()
            for listener in self._listeners:
                listener.close()
            for runner in (webhooks, probes):
                await runner.cleanup()

    async def drain(self) -> None:
        """Stop being ready, let the API server notice and finish, then close the port.

        Until a removed endpoint has reached every API server, new requests arrive and are answered.
        """
        self._draining = True
        await asyncio.sleep(self._serving.drain_seconds)
        if self._listeners:
            self._listeners[0].close()

    @property
    def ready(self) -> bool:
        """Whether the API server should send reviews here."""
        return bool(self._listeners) and self._certificate.loaded and not self._draining

    def _application(self, handlers: tuple[str, ...]) -> web.Application:
        app = web.Application(client_max_size=self._serving.max_bytes)
        app.add_routes(web.post(f"/{handler}", self._route(handler)) for handler in handlers)
        app.add_routes(
            [
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
            ]
        )
        return app

    async def _listen(self, runner: web.AppRunner, port: int, *, tls: bool) -> int:
        await runner.setup()
        assert runner.server is not None
        listener = await asyncio.get_running_loop().create_server(
            runner.server,
            self._serving.address,
            port,
            backlog=512,
            reuse_address=True,
            ssl=self._certificate.listening if tls else None,
            ssl_handshake_timeout=_HANDSHAKE_TIMEOUT if tls else None,
        )
        self._listeners.append(listener)
        return int(listener.sockets[0].getsockname()[1])

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(_CERTIFICATE_PERIOD)
            self._certificate.refresh()

    def _route(self, handler: str) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def respond(request: web.Request) -> web.Response:
            response = await self._respond(handler, request)
            if self._draining:
                # The API server keeps connections for later. There is no later here.
                response.force_close()
            return response

        return respond

    async def _respond(self, handler: str, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(_BODY_TIMEOUT):
                raw = await request.read()
            with self._telemetry.timed(handler):
                review = Review.parse(raw)
                return _json(await self._review(handler, review))
        except NotAReviewError as error:
            self._telemetry.refused(400)
            return web.Response(status=400, text=f"{error}\n")
        except web.HTTPRequestEntityTooLarge:
            self._telemetry.refused(413)
            limit = self._serving.max_bytes
            return web.Response(status=413, text=f"review: too large; expected at most {limit} bytes\n")
        except (TimeoutError, ConnectionError):  # the latter hears no answer, and is no failure of ours
            self._telemetry.refused(408)
            return web.Response(status=408, text="review: its end did not arrive\n")

    async def _review(self, handler: str, review: Review) -> Json:
        assert self._answer is not None
        try:
            handlers.under_review.set(review)
            verdict = await self._answer(cast("Any", review.for_kopf(handler)), webhook=handler)
            if answer := review.conclude(cast("Json", verdict)):
                return answer
            # A handler raised. kopf has logged it, and would deny the object.
        # The promise of the webhook: it never blocks a pod. `failurePolicy: Ignore` covers calls that fail,
        # not answers that deny, so whatever goes wrong in here ends in an answer that allows.
        except Exception:
            logger.exception("review: failed", extra={"uid": review.uid, "webhook": handler})
        self._telemetry.failed_open(handler)
        return review.allow(_FAILED)

    async def _livez(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        if self.ready:
            return web.Response(text="ok\n")
        why = "draining" if self._draining else "no certificate"
        return web.Response(status=503, text=f"{why}\n")

    async def _metrics(self, _request: web.Request) -> web.Response:
        body, content_type = self._telemetry.exposition()
        return web.Response(body=body, headers={"Content-Type": content_type})


def _json(content: Json) -> web.Response:
    return web.Response(body=json.dumps(content).encode(), content_type="application/json")
