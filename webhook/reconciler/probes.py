"""Plain HTTP for the kubelet's probes and for Prometheus."""

import contextlib
import logging
from collections.abc import AsyncIterator, Callable

from aiohttp import web

from webhook.config import Reconciling
from webhook.reconciler.telemetry import Telemetry

logger = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def serving(
    reconciling: Reconciling, telemetry: Telemetry, trouble: Callable[[], str | None]
) -> AsyncIterator[None]:
    """Serve /livez, /readyz and /metrics inside the context.

    Args:
        reconciling: where to listen.
        telemetry: what /metrics shows.
        trouble: returns what only a restart would mend, None if there is nothing of the kind.
    """

    async def livez(_request: web.Request) -> web.Response:
        said = trouble()
        return web.Response(text=f"{said or 'ok'}\n", status=503 if said else 200)

    async def readyz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def metrics(_request: web.Request) -> web.Response:
        body, content_type = telemetry.exposition()
        return web.Response(body=body, headers={"Content-Type": content_type})

    app = web.Application()
    app.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, reconciling.address, reconciling.probe_port, reuse_address=True)
        await site.start()
        port = runner.addresses[0][1]
        logger.info("probes: listening", extra={"probe_port": port})
        yield
    finally:
        await runner.cleanup()
