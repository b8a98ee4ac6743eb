"""kopf's operator: watches injected pods and our Services, and hands each change over."""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import kopf

from webhook import names
from webhook.cluster import Cluster
from webhook.shape import Json

logger = logging.getLogger(__name__)

Change = TypeVar("Change")

PODS: Final = ("", "v1", "pods")
SERVICES: Final = ("", "v1", "services")

# Label selectors, for the API server to filter by.
INJECTED: Final = f"{names.INJECTED_LABEL}={names.TRUE}"
OURS: Final = f"{names.MANAGED_BY_LABEL}={names.MANAGED_BY}"

# A watch that brings nothing, not even the bookmarks of each minute, is begun anew by kopf after this.
_INACTIVITY: Final = 70.0
# Objects of a page are all held at once, by kopf.
_PAGE: Final = 100
# Each object has a task in kopf, which holds its last event until it has been idle for so long. The next
# event begins another.
_IDLE: Final = 0.01
_RESTART: Final = 5.0
_STOP: Final = 10.0
# What kopf waits between the tries of a request. Those of its own, up to 21 seconds, would miss the end of an
# outage for long; when all are used up, the watches are begun anew.
_BACKOFFS: Final = (1, 1, 2, 3, 5, 5)
_STEADY: Final = 60.0


class Watch(Generic[Change]):
    """Watches until cancelled, and begins anew should kopf end.

    kopf gets a thread and a loop of its own: on its way out it cancels what it finds in its loop.

    Args:
        cluster: whose connection settings are used.
        project: is called in kopf's thread with the kind, whether it is gone, and the object; what it returns
            should be small, for a large cluster's worth of it may have to wait.
        deliver: is called in the loop of `run`, with what that returned, in order.
    """

    def __init__(
        self,
        cluster: Cluster,
        project: Callable[[str, bool, Json], Change],
        deliver: Callable[[Change], None],
    ) -> None:
        self._cluster = cluster
        self._project = project
        self._deliver = deliver
        self._arrived: deque[Change] = deque()
        self._heard = {"Pod": time.monotonic(), "Service": time.monotonic()}
        self.listed = 0.0
        """When a list last brought something, on the monotonic clock: a list does not tell what is gone."""
        self._restart = asyncio.Event()
        self._failures = 0
        self._begun = 0.0

    def silent_seconds(self, kind: str) -> float:
        """Return for how long the watch of a kind has brought no change."""
        return time.monotonic() - self._heard[kind]

    @property
    def fails(self) -> bool:
        """Whether they have ended again and again, none of them having lasted."""
        return self._failures > 1 and time.monotonic() - self._begun < _STEADY

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
            begun = time.monotonic()
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
            self._failures = self._failures + 1 if time.monotonic() - begun < _STEADY else 1
            self._begun = time.monotonic() + _RESTART
            await asyncio.sleep(_RESTART)

    def _operate(self, loop: asyncio.AbstractEventLoop, stop: threading.Event, ended: asyncio.Event) -> None:
        # Not asyncio.run, which waits for each task and each thread: kopf may leave some that do not end.
        own = asyncio.new_event_loop()
        # One error is raised here; of its other tasks' nobody wants to know.
        own.set_exception_handler(_ignore)
        try:
            own.run_until_complete(self._run_kopf(loop, stop))
        # Whatever kopf fails at, the watches are begun anew; until then the resync finds what they would.
        except Exception as error:  # noqa: BLE001
            logger.warning("watch: kopf: %s: %s; beginning anew", type(error).__name__, error)
        finally:
            stop.set()
            own.close()
            with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits
                loop.call_soon_threadsafe(ended.set)

    async def _run_kopf(self, loop: asyncio.AbstractEventLoop, stop: threading.Event) -> None:
        operator = asyncio.create_task(
            kopf.operator(
                registry=self._registry(loop),
                settings=operator_settings(),
                clusterwide=True,
                standalone=True,
                stop_flag=stop,
            )
        )
        # Once a watch has failed, kopf ends, or hangs because another watch does not.
        watches: set[asyncio.Task[Any]] = set()
        while not operator.done() and not any(watch.done() for watch in watches):
            await asyncio.wait({operator, *watches}, timeout=1, return_when=asyncio.FIRST_COMPLETED)
            watches |= {task for task in asyncio.all_tasks() if task.get_name().startswith("watcher for ")}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP):
                await asyncio.wait({operator})
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1)
        for task in (operator, *watches):
            if task.done() and not task.cancelled() and (error := task.exception()):
                raise error

    def _registry(self, loop: asyncio.AbstractEventLoop) -> kopf.OperatorRegistry:
        handlers = kopf.OperatorRegistry()
        # The configuration knows how to renew a token; kopf asks again when one is refused.
        kopf.on.login(registry=handlers)(self._login)

        def hand_over(kind: str, event: Any) -> None:  # noqa: ANN401 (kopf's, and JSON)
            self._heard[kind] = time.monotonic()
            if event["type"] is None:
                self.listed = self._heard[kind]
            self._arrived.append(self._project(kind, event["type"] == "DELETED", event["object"]))
            # Waking up the other loop costs more than all the rest: the first that arrives does it for those
            # that follow.
            if len(self._arrived) == 1:
                loop.call_soon_threadsafe(self._take_in)

        # They return nothing: kopf writes on the object what a handler returns.
        @kopf.on.event(*PODS, registry=handlers)
        async def pod(event: Any, **_: object) -> None:  # noqa: ANN401
            hand_over("Pod", event)

        @kopf.on.event(*SERVICES, registry=handlers)
        async def service(event: Any, **_: object) -> None:  # noqa: ANN401
            hand_over("Service", event)

        return handlers

    def _take_in(self) -> None:
        try:
            while self._arrived:
                self._deliver(self._arrived.popleft())
        finally:
            if self._arrived:
                asyncio.get_running_loop().call_soon(self._take_in)

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


def operator_settings() -> kopf.OperatorSettings:
    """Return how kopf is to watch."""
    settings = kopf.OperatorSettings()
    # The API server filters, or a large cluster's pods would all pass through here.
    settings.watching.label_selectors[PODS] = INJECTED
    settings.watching.label_selectors[SERVICES] = OURS
    settings.watching.chunk_size = _PAGE
    settings.watching.inactivity_timeout = _INACTIVITY
    settings.networking.error_backoffs = _BACKOFFS
    # The groups and versions are spelled out above, so there is nothing to look for.
    settings.scanning.disabled = True
    settings.queueing.idle_timeout = _IDLE
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.persistence.progress_storage = _NoProgress()
    settings.posting.enabled = False
    settings.admission.managed = None
    return settings


class _NoDiffBase(kopf.DiffBaseStorage):
    """Saves the copying of each object for a comparison that no handler here asks for."""

    def build(self, **_: object) -> Any:  # noqa: ANN401 (a type that kopf does not export)
        return {}

    def fetch(self, **_: object) -> None:
        return None

    def store(self, **_: object) -> None:
        pass


class _NoProgress(kopf.ProgressStorage):
    """Likewise: handlers of events make no progress that would have to be kept."""

    def fetch(self, **_: object) -> None:
        return None

    def store(self, **_: object) -> None:
        pass

    def purge(self, **_: object) -> None:
        pass

    def touch(self, **_: object) -> None:
        pass

    def clear(self, *, essence: Any) -> Any:  # noqa: ANN401
        return essence


def _ignore(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    logger.debug("watch: %s", context.get("message"))
