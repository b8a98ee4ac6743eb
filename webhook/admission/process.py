"""The admission process: kopf's operator with our handlers and our server, and how it ends."""

import asyncio
import gc
import logging
import signal
from typing import Any, Final

import kopf

from webhook.admission import handlers
from webhook.admission.server import AdmissionServer
from webhook.admission.telemetry import Telemetry
from webhook.config import Serving, Settings

logger = logging.getLogger(__name__)

# For kopf's own use. Without one it would ask DNS for the name of this machine. Its type is not exported.
_IDENTITY: Final[Any] = "metrics-sidecar-webhook"

# Tasks of kopf that ask the API server what is in the cluster. They would wait for a login for ever (see
# `handlers.insights`), and the end of the process would wait for them.
_OBSERVERS: Final = frozenset({"resource observer", "namespace observer"})


async def serve(settings: Settings, serving: Serving) -> None:
    """Answer reviews until SIGTERM or SIGINT, then drain; a second signal ends at once."""
    loop = asyncio.get_running_loop()
    telemetry = Telemetry()
    stop = asyncio.Event()
    drains: list[asyncio.Task[None]] = []

    async def drain() -> None:
        logger.info("server: draining", extra={"seconds": serving.drain_seconds})
        await server.drain()
        stop.set()

    def on_signal() -> None:
        if drains:
            drains[0].cancel()
            stop.set()
        else:
            drains.append(asyncio.create_task(drain()))

    def listening(_port: int, _probe_port: int) -> None:
        # kopf has set handlers of its own by now, which would close the port at once.
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        # What is here now stays: no collection need look at it again.
        gc.collect()
        gc.freeze()

    server = AdmissionServer(serving, telemetry, listening)
    registry = handlers.registry(settings, telemetry)
    pruned = asyncio.Event()

    @kopf.on.startup(registry=registry)
    async def begin(**_: object) -> None:
        await pruned.wait()  # none of kopf's tasks begins before

    before = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(
        registry=registry,
        settings=_operator_settings(server),
        insights=handlers.insights(),
        identity=_IDENTITY,
        standalone=True,
        clusterwide=True,
        stop_flag=stop,
    )
    for task in tasks:
        if task.get_name() in _OBSERVERS:
            task.cancel()
    pruned.set()
    await kopf.run_tasks([task for task in tasks if task.get_name() not in _OBSERVERS], ignored=before)


def _operator_settings(server: AdmissionServer) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.admission.server = server
    # Managed by kopf, the webhook configuration would be erased by the first replica that ends.
    settings.admission.managed = None
    settings.scanning.disabled = True
    settings.posting.enabled = False
    return settings
