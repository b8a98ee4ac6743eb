"""kopf's operator: watches injected pods and our Services, and hands each change over."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import kopf

from webhook import names
from webhook.cluster import PAGE, Cluster
from webhook.shape import Json

logger = logging.getLogger(__name__)

Deliver = Callable[[str, bool, Json], None]
"""Is called with the kind, whether it is gone, and the object."""

PODS: Final = ("", "v1", "pods")
SERVICES: Final = ("", "v1", "services")

# Label selectors, for the API server to filter by.
INJECTED: Final = f"{names.INJECTED_LABEL}={names.TRUE}"
OURS: Final = f"{names.MANAGED_BY_LABEL}={names.MANAGED_BY}"

# A watch that brings nothing, not even the bookmarks of each minute, is begun anew by kopf after this.
_INACTIVITY: Final = 70.0
_RESTART: Final = 5.0
_STOP: Final = 10.0


class Watch:
    """Watches until cancelled, and begins anew should kopf end.

    kopf gets a thread and a loop of its own: on its way out it cancels what it finds in its loop.

    Args:
        cluster: whose connection settings are used.
        deliver: is called in the loop of `run`, with each change.
    """

    def __init__(self, cluster: Cluster, deliver: Deliver) -> None:
        self._cluster = cluster
        self._deliver = deliver
        self._heard = {"Pod": time.monotonic(), "Service": time.monotonic()}
        self._restart = asyncio.Event()
        self._down_since: float | None = None

    def silent_seconds(self, kind: str) -> float:
        """Return for how long the watch of a kind has brought no change."""
        return time.monotonic() - self._heard[kind]

    def down_seconds(self) -> float:
        """Return for how long kopf has not been running, 0 if it is."""
        return 0.0 if self._down_since is None else time.monotonic() - self._down_since

    def restart(self) -> None:
        """Have all watches begun anew."""
        self._restart.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._restart.clear()
            stop = threading.Event()
            ended = asyncio.Event()
            thread = threading.Thread(
                target=self._operate, args=(loop, stop, ended), name="kopf", daemon=True
            )
            thread.start()
            self._down_since = None
            try:
                async with asyncio.TaskGroup() as either:
                    waits = [either.create_task(event.wait()) for event in (ended, self._restart)]
                    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                    for wait in waits:
                        wait.cancel()
            finally:
                stop.set()
                # What it still delivers goes to a loop that runs.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_STOP):
                        await ended.wait()
            self._down_since = time.monotonic()
            await asyncio.sleep(_RESTART)

    def _operate(self, loop: asyncio.AbstractEventLoop, stop: threading.Event, ended: asyncio.Event) -> None:
        try:
            asyncio.run(
                kopf.operator(
                    registry=self._registry(loop),
                    settings=_settings(),
                    clusterwide=True,
                    standalone=True,
                    stop_flag=stop,
                )
            )
        # Whatever kopf fails at, the watches are begun anew; until then the resync finds what they would have.
        except Exception:
            logger.exception("watch: kopf failed; beginning anew")
        finally:
            with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits
                loop.call_soon_threadsafe(ended.set)

    def _registry(self, loop: asyncio.AbstractEventLoop) -> kopf.OperatorRegistry:
        handlers = kopf.OperatorRegistry()
        # The configuration knows how to renew a token; kopf asks again when one is refused.
        kopf.on.login(registry=handlers)(self._login)

        def hand_over(kind: str, event: Any) -> None:  # noqa: ANN401 (kopf's, and JSON)
            self._heard[kind] = time.monotonic()
            loop.call_soon_threadsafe(self._deliver, kind, event["type"] == "DELETED", event["object"])

        # They return nothing: kopf writes on the object what a handler returns.
        @kopf.on.event(*PODS, registry=handlers)
        async def pod(event: Any, **_: object) -> None:  # noqa: ANN401
            hand_over("Pod", event)

        @kopf.on.event(*SERVICES, registry=handlers)
        async def service(event: Any, **_: object) -> None:  # noqa: ANN401
            hand_over("Service", event)

        return handlers

    async def _login(self, **_: object) -> kopf.ConnectionInfo:
        configuration = self._cluster.configuration
        token = await configuration.get_api_key_with_prefix("BearerToken") or ""
        scheme, _space, secret = token.rpartition(" ")
        return kopf.ConnectionInfo(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            insecure=not configuration.verify_ssl,
            scheme=(scheme or "Bearer").capitalize() if secret else None,
            token=secret or None,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
        )


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    # The API server filters, or a large cluster's pods would all pass through here.
    settings.watching.label_selectors[PODS] = INJECTED
    settings.watching.label_selectors[SERVICES] = OURS
    settings.watching.chunk_size = PAGE
    settings.watching.inactivity_timeout = _INACTIVITY
    # The groups and versions are spelled out above, so there is nothing to look for.
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.admission.managed = None
    return settings
