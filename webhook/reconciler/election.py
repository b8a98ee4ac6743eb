"""Agree with the other replicas on which of them acts, by a Lease.

The `kubernetes` package has an election too. Its Lease cannot be created (37.0: the request fails the
library's own validation), a refused connection ends it, an answer that never comes holds it up past the
Lease's end, and it goes by the wall clock. The rules here are those of client-go.
"""

import asyncio
import contextlib
import datetime as dt
import logging
import time
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, Final

from webhook import shape
from webhook.cluster import LEASES, Cluster, ClusterError
from webhook.shape import Json

logger = logging.getLogger(__name__)

# Seconds. A dead leader is replaced within LEASE + RETRY. One that cannot renew stops acting after RENEW,
# before anyone else may begin.
LEASE: Final = 12
RENEW: Final = 8
RETRY: Final = 2
_ANSWER: Final = 3.0


class Lock:
    """The Lease, and whether it is ours.

    The times in a Lease are of its holder's clock, so they are only compared with themselves: a Lease is over
    when it has not changed for as long as it says, by our own clock.

    Args:
        cluster: how to reach the API server.
        namespace: where the Lease is.
        name: its name.
        identity: who we are; no other replica may be the same.
    """

    def __init__(self, cluster: Cluster, namespace: str, name: str, identity: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._seen: tuple[float, object] = 0.0, None
        self._renewed: float | None = None
        self.trouble: str | None = None
        """What went wrong last, None since it no longer does."""

    @property
    def held(self) -> bool:
        """Whether the Lease is ours for certain. A process that was frozen finds that it no longer is."""
        return self._renewed is not None and time.monotonic() - self._renewed < RENEW

    async def acquire_or_renew(self) -> bool:
        """Make the Lease ours, or keep it so, if nobody else has it; return whether it is.

        Raises:
            ClusterError: the API server could not be asked. What was ours stays so until RENEW is over.
        """
        # From before the request: the API server may have stored it at any time since.
        start = time.monotonic()
        lease = await self._cluster.get(LEASES, self._name, self._namespace)
        if lease is None:
            await self._cluster.create(LEASES, self._lease({}))
        elif self._is_free(lease):
            # With its resourceVersion: of two that want it, one gets a conflict.
            await self._cluster.replace(LEASES, self._lease(lease))
        else:
            self._renewed = None
            return False
        self._renewed = start
        return True

    async def release(self) -> None:
        """Let go of the Lease if it is ours, so that another replica need not wait for its end."""
        if self._renewed is None:
            return
        self._renewed = None
        with contextlib.suppress(ClusterError, TimeoutError):
            async with asyncio.timeout(_ANSWER):
                lease = await self._cluster.get(LEASES, self._name, self._namespace)
                if lease and _holder(lease) == self._identity:
                    spec = {key: value for key, value in lease["spec"].items() if key != "holderIdentity"}
                    await self._cluster.replace(LEASES, {**lease, "spec": spec})

    def _is_free(self, lease: Json) -> bool:
        holder = _holder(lease)
        if holder in ("", self._identity):
            return True
        version = shape.metadata(lease).get("resourceVersion")
        now = time.monotonic()
        if self._seen[1] != version:
            self._seen = now, version
        seconds = shape.mapping(lease.get("spec")).get("leaseDurationSeconds")
        # Another holder may have another duration; one that nobody can have meant is not waited for.
        duration = seconds if isinstance(seconds, int) and 0 < seconds <= 10 * LEASE else LEASE
        return now - self._seen[0] >= duration

    def _lease(self, before: Json) -> Json:
        spec = shape.mapping(before.get("spec"))
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        renewed = {**spec, "leaseDurationSeconds": LEASE, "renewTime": now}
        if _holder(before) != self._identity:
            transitions = spec.get("leaseTransitions")
            renewed |= {
                "holderIdentity": self._identity,
                "acquireTime": now,
                "leaseTransitions": transitions + 1 if isinstance(transitions, int) else 0,
            }
        metadata = shape.metadata(before) or {"name": self._name, "namespace": self._namespace}
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": metadata,
            "spec": renewed,
        }


async def campaign(
    lock: Lock, lead: Callable[[], Coroutine[Any, Any, None]], standing: Callable[[bool], None]
) -> None:
    """Act while the Lease is ours, wait for it while it is not, until cancelled; then let go of it.

    Args:
        lock: the Lease.
        lead: what to do while it is ours; cancelled when it no longer is. That it ends by itself is a fault.
        standing: is told each time that we begin to lead (True) or to stand by (False).

    Raises:
        Exception: what `lead` raised.
    """
    try:
        while True:
            standing(False)
            while not await _try(lock):  # noqa: ASYNC110 (it asks the API server)
                await asyncio.sleep(RETRY)
            standing(True)
            leading = asyncio.create_task(lead())
            try:
                while lock.held and not leading.done():
                    await asyncio.wait({leading}, timeout=RETRY)
                    await _try(lock)
            finally:
                leading.cancel()
                await asyncio.wait({leading})
            if not leading.cancelled():
                leading.result()
            logger.warning("election: the Lease is lost")
    finally:
        await lock.release()


async def _try(lock: Lock) -> bool:
    try:
        async with asyncio.timeout(_ANSWER):
            ours = await lock.acquire_or_renew()
    except (ClusterError, TimeoutError) as error:
        said = str(error) or f"no answer of the API server in {_ANSWER:.0f} s"
        # Said once while it stays the same. A conflict is another replica that was quicker.
        quicker = isinstance(error, ClusterError) and error.code == HTTPStatus.CONFLICT
        news = said != lock.trouble and not quicker
        logger.log(logging.INFO if news else logging.DEBUG, "election: %s", said)
        lock.trouble = said
        return False
    lock.trouble = None
    return ours


def _holder(lease: Json) -> str:
    return shape.text(shape.mapping(lease.get("spec")).get("holderIdentity"))
