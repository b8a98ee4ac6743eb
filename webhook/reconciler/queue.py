"""A queue of keys to look after: each once at a time, soon after it was added, and again if that failed."""

import asyncio
import contextlib
import dataclasses
import heapq
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

from webhook.cluster import ClusterError

logger = logging.getLogger(__name__)

# Events come in bursts: a rollout has several for each pod. One look a little later covers them all.
DEBOUNCE: Final = 0.3
FIRST_RETRY: Final = 0.5
LAST_RETRY: Final = 15.0

Key = TypeVar("Key", bound=Hashable)


@dataclasses.dataclass(slots=True)
class _Entry:
    due: float
    running: bool = False
    again: float | None = None
    """When to look again, for a key that was added while it was looked after."""
    failures: int = 0


class WorkQueue(Generic[Key]):
    """Calls a function for each key that is added.

    Args:
        handle: is called with a key. What it returns is after how many seconds to call it again, None for not
            at all. A ClusterError is tried again, later and later; any other error likewise, with its trace.
        failed: is told of each error.
    """

    def __init__(
        self, handle: Callable[[Key], Awaitable[float | None]], failed: Callable[[], None] = lambda: None
    ) -> None:
        self._handle = handle
        self._failed = failed
        self._entries: dict[Key, _Entry] = {}
        # When to look at which key; of several entries for one key, that with its `due` counts.
        self._schedule: list[tuple[float, int, Key]] = []
        self._number = itertools.count()
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        """Return how many keys are being looked after, or are to be now; those set for later do not count."""
        soon = time.monotonic() + DEBOUNCE
        return sum(entry.running or entry.due <= soon for entry in self._entries.values())

    def add(self, key: Key, delay: float = DEBOUNCE) -> None:
        """Have a key looked after in some seconds, or earlier if it was to be so already.

        A key that failed keeps waiting for its next try: an event is no reason to hammer a server in trouble.
        """
        due = time.monotonic() + delay
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(due)
            self._put(key, entry)
        elif entry.running:
            entry.again = due if entry.again is None else min(entry.again, due)
        elif not entry.failures and due < entry.due:
            entry.due = due
            self._put(key, entry)

    async def run(self, workers: int) -> None:
        """Work until cancelled, on so many keys at a time."""
        free = asyncio.Semaphore(workers)
        async with asyncio.TaskGroup() as tasks:
            while True:
                await free.acquire()
                key = await self._next()
                tasks.create_task(self._work(key, free))

    def _put(self, key: Key, entry: _Entry) -> None:
        heapq.heappush(self._schedule, (entry.due, next(self._number), key))
        self._wake.set()

    async def _next(self) -> Key:
        while True:
            self._wake.clear()
            pause = None
            while self._schedule:
                due, _, key = self._schedule[0]
                entry = self._entries.get(key)
                stale = entry is None or entry.running or entry.due != due
                pause = due - time.monotonic()
                if not stale and pause > 0:
                    break
                heapq.heappop(self._schedule)
                if entry is not None and not stale:
                    entry.running = True
                    return key
                pause = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    async def _work(self, key: Key, free: asyncio.Semaphore) -> None:
        entry = self._entries[key]
        try:
            later = await self._handle(key)
            entry.failures = 0
        # Whatever it was, the other keys are to be looked after, and this one again.
        except Exception as error:  # noqa: BLE001
            self._failed()
            later = self._retry(key, entry, error)
        finally:
            entry.running = False
            free.release()
        times = [entry.again] if entry.again is not None and not entry.failures else []
        entry.again = None
        if later is not None:
            times.append(time.monotonic() + later)
        if times:
            entry.due = min(times)
            self._put(key, entry)
        else:
            del self._entries[key]

    def _retry(self, key: Key, entry: _Entry, error: Exception) -> float:
        entry.failures += 1
        delay = min(LAST_RETRY, FIRST_RETRY * 2.0 ** min(entry.failures - 1, 10))
        # Said once; while it goes on like that it is for the metrics to tell.
        level = logging.WARNING if entry.failures == 1 else logging.DEBUG
        expected = isinstance(error, ClusterError)
        logger.log(
            level,
            "queue: %s: %s; trying again",
            key,
            error if expected else f"{type(error).__name__}: {error}",
            exc_info=None if expected else error,
        )
        return delay * random.uniform(0.8, 1.2)  # noqa: S311 (no secret)
