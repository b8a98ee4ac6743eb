"""The reconciler process: stands by, leads when the Lease is its own, and stops at once when asked."""

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import signal
import socket
from typing import Final

from webhook import names
from webhook.cluster import Cluster, ClusterError
from webhook.config import Reconciling, Settings
from webhook.reconciler.authority import Authority
from webhook.reconciler.election import Lock, campaign
from webhook.reconciler.leader import LeaderCluster
from webhook.reconciler.probes import serving
from webhook.reconciler.reconciler import Reconciler
from webhook.reconciler.telemetry import Telemetry

logger = logging.getLogger(__name__)

_CERTIFICATES_PERIOD: Final = 10.0
_BROKEN: Final = 5.0
# The thousands of tasks and pods of a list are no garbage. Looking through them after every 700 new objects,
# as Python does by itself, takes a third of the processor time until all is in step.
_COLLECT_EVERY: Final = 20_000


class Process:
    """One replica."""

    def __init__(self, cluster: Cluster, settings: Settings, reconciling: Reconciling) -> None:
        self._settings = settings
        self._reconciling = reconciling
        self._telemetry = Telemetry()
        self._identity = f"{os.environ.get('HOSTNAME') or socket.gethostname()}_{secrets.token_hex(4)}"
        self._lock = Lock(cluster, reconciling.namespace, names.RECONCILER, self._identity)
        self._cluster = LeaderCluster(cluster.configuration, lambda: self._lock.held, self._telemetry.wrote)
        self._reconciler: Reconciler | None = None
        self._said: str | None = None

    async def run(self) -> None:
        """Reconcile until SIGTERM or SIGINT."""
        gc.set_threshold(_COLLECT_EVERY)
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        async with self._cluster, serving(self._reconciling, self._telemetry, self._trouble):
            work = asyncio.create_task(self._work())
            await stop.wait()
            logger.info("stopping")
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work

    async def _work(self) -> None:
        while True:
            try:
                await campaign(self._lock, self._lead, self._standing)
            # A fault of ours must not end the process, which would come back with the same fault, later and
            # later; the next time of leading begins from what the API server says.
            except Exception:
                self._telemetry.failed()
                logger.exception("leading: failed; beginning anew")
            await asyncio.sleep(_BROKEN)

    async def _lead(self) -> None:
        reconciler = Reconciler(self._cluster, self._settings, self._reconciling, self._telemetry)
        self._reconciler = reconciler
        self._telemetry.leading(
            services=lambda: len(reconciler.inventory.services),
            pods=lambda: len(reconciler.inventory.pods),
            foreign=lambda: len(reconciler.services.foreign),
            uninjected=lambda: reconciler.audit.uninjected,
            depth=lambda: len(reconciler.queue),
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                if self._reconciling.certificates:
                    tasks.create_task(self._keep_certificates())
                tasks.create_task(reconciler.run())
        finally:
            self._reconciler = None
            self._telemetry.standing_by()
            gc.collect()

    async def _keep_certificates(self) -> None:
        authority = Authority(self._cluster, self._reconciling)
        said = None
        while True:
            try:
                expiry = await authority.ensure()
                self._telemetry.expiry(expiry.ca, expiry.serving)
                said = None
            except ClusterError as error:
                self._telemetry.failed()
                if str(error) != said:
                    logger.warning("certificates: %s; trying again", error)
                said = str(error)
            await asyncio.sleep(_CERTIFICATES_PERIOD)

    def _standing(self, leading: bool) -> None:
        message = "election: leading" if leading else "election: standing by"
        if message != self._said:
            self._said = message
            logger.info(message, extra={"identity": self._identity})
        if not leading:
            self._telemetry.standing_by()

    def _trouble(self) -> str | None:
        reconciler = self._reconciler
        if reconciler is None:
            return None
        if reconciler.watch.fails:
            return "the watches end again and again"
        return "a watch is dead" if reconciler.watch_is_dead else None
