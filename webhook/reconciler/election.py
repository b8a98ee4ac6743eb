"""Agree with the other replicas on which of them acts, by a Lease."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

import aiohttp
from kubernetes.aio.client import ApiClient, ApiException
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

logger = logging.getLogger(__name__)

# A dead leader is replaced within LEASE + RETRY seconds. One that cannot renew gives up after RENEW, before
# anyone else may take over.
LEASE: Final = 12.0
RENEW: Final = 8.0
RETRY: Final = 2.0

_ANSWER: Final = 3.0
_UNREACHABLE = (aiohttp.ClientError, TimeoutError, OSError)


class Lock(LeaseLock):
    """The Lease.

    The library's own lets errors of the connection through, which end the election, and waits five minutes
    for an answer.
    """

    def __init__(self, name: str, namespace: str, identity: str, api: ApiClient) -> None:
        super().__init__(name, namespace, identity, api)
        self._renewed: float | None = None

    @property
    def held(self) -> bool:
        """Whether the Lease is ours for certain: a process that was frozen wakes up when it no longer is."""
        return self._renewed is not None and time.monotonic() - self._renewed < LEASE

    async def get(self, name: str, namespace: str) -> Any:  # noqa: ANN401 (the library's)
        """Return the Lease as it is."""
        try:
            async with asyncio.timeout(_ANSWER):
                return await super().get(name, namespace)
        except _UNREACHABLE as error:
            return False, ApiException(status=0, reason=str(error) or type(error).__name__)

    async def create(self, name: str, namespace: str, election_record: Any) -> bool:  # noqa: ANN401
        """Make the Lease, ours from the start; return whether that was possible."""
        return await self._renewing(super().create(name, namespace, election_record))

    async def update(self, name: str, namespace: str, updated_record: Any) -> bool:  # noqa: ANN401
        """Renew the Lease, or take it over; return whether that was possible."""
        return await self._renewing(super().update(name, namespace, updated_record))

    async def release(self) -> None:
        """Let go of the Lease, if it is ours, so that another replica need not wait for its end."""
        if not self.held or self.lease_reference is None:
            return
        self._renewed = None
        with contextlib.suppress(ApiException, *_UNREACHABLE):
            async with asyncio.timeout(_ANSWER):
                await super().get(self.name, self.namespace)
                spec = self.lease_reference.spec
                if spec is not None and spec.holder_identity == self.identity:
                    spec.holder_identity = None
                    await self.api_instance.replace_namespaced_lease(
                        self.name, self.namespace, self.lease_reference
                    )

    def forget(self) -> None:
        """Know that the Lease is no longer ours."""
        self._renewed = None

    async def _renewing(self, request: Coroutine[Any, Any, bool]) -> bool:
        # It counts from before the request: that is when the API server may have stored it.
        start = time.monotonic()
        try:
            async with asyncio.timeout(_ANSWER):
                done = await request
        except _UNREACHABLE:
            return False
        if done:
            self._renewed = start
        return done


async def campaign(
    lock: Lock, lead: Callable[[], Coroutine[Any, Any, None]], standing: Callable[[bool], None]
) -> None:
    """Act while we hold the Lease, wait for it while we do not, until cancelled; then let go of it.

    Args:
        lock: the Lease.
        lead: what to do while it is ours; cancelled when it no longer is.
        standing: is told each time that we begin to lead (True) or to stand by (False).
    """
    # The library's exit is its `run` returning, which it does when the Lease is lost.
    leading: list[asyncio.Task[None]] = []

    async def begin() -> None:
        standing(True)
        leading.append(asyncio.create_task(lead()))

    async def end() -> None:
        lock.forget()

    try:
        while True:
            standing(False)
            election = LeaderElection(Config(lock, LEASE, RENEW, RETRY, begin, end))
            run = asyncio.create_task(election.run())
            try:
                await _until_over(run, leading)
            finally:
                await _cancelled(run, *leading)
                leading.clear()
    finally:
        await lock.release()


async def _until_over(run: asyncio.Task[None], leading: list[asyncio.Task[None]]) -> None:
    """Wait until the Lease is lost, or what leads has ended, which it does only when it is broken."""
    while not run.done() and not any(task.done() for task in leading):
        await asyncio.wait({run, *leading}, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
    for task in (run, *leading):
        if task.done() and not task.cancelled() and (error := task.exception()):
            raise error


async def _cancelled(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
