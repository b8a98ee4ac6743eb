"""The reconciler's queue: each key is looked after, by one at a time, and again where that failed."""

import asyncio
import itertools
import time

import pytest

from webhook.cluster import ClusterError
from webhook.reconciler import queue as queues
from webhook.reconciler.queue import WorkQueue


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(queues, "FIRST_RETRY", 0.01)
    monkeypatch.setattr(queues, "LAST_RETRY", 0.05)


async def until(condition, deadline=10.0):
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        await asyncio.sleep(0.005)


def working(handle, workers=4, failed=lambda: None):
    """Run a queue; `async with working(handle) as queue`."""

    class _Working:
        async def __aenter__(self):
            queue = WorkQueue(handle, failed)
            self._task = asyncio.create_task(queue.run(workers))
            return queue

        async def __aexit__(self, *_):
            self._task.cancel()
            await asyncio.wait({self._task})

    return _Working()


def test_a_burst_of_one_key_is_looked_after_once():
    async def main():
        seen = []

        async def handle(key):
            seen.append(key)

        async with working(handle) as queue:
            for _ in range(100):
                queue.add("a", 0.02)
            queue.add("b", 0.02)
            assert len(queue) == 2
            await until(lambda: len(seen) == 2)
            await asyncio.sleep(0.05)
            assert sorted(seen) == ["a", "b"]
            assert len(queue) == 0

    asyncio.run(main())


def test_an_earlier_time_counts_and_a_later_one_does_not():
    async def main():
        seen = []

        async def handle(key):
            seen.append(key)

        async with working(handle) as queue:
            queue.add("a", 60)
            queue.add("a", 0)
            queue.add("a", 60)
            await until(lambda: seen == ["a"])

    asyncio.run(main())


def test_a_key_that_is_added_while_it_is_looked_after_is_looked_after_again_and_never_twice_at_a_time():
    async def main():
        seen, at_once = [], 0

        async def handle(key):
            nonlocal at_once
            at_once += 1
            assert at_once == 1
            seen.append(key)
            if len(seen) == 1:
                queue.add(key, 0)
                queue.add(key, 0)
            await asyncio.sleep(0.02)
            at_once -= 1

        async with working(handle) as queue:
            queue.add("a", 0)
            await until(lambda: len(seen) == 2 and len(queue) == 0)

    asyncio.run(main())


@pytest.mark.parametrize("error", [ClusterError("no answer"), RuntimeError("a fault of ours")])
def test_what_failed_is_tried_again_until_it_works_and_holds_up_no_other(error, caplog):
    async def main():
        tries, others, failures = [], [], []

        async def handle(key):
            if key == "other":
                others.append(key)
                return
            tries.append(time.monotonic())
            if len(tries) < 4:
                raise error

        async with working(handle, 1, lambda: failures.append(1)) as queue:
            queue.add("a", 0)
            queue.add("other", 0)
            await until(lambda: len(tries) == 4 and len(queue) == 0)
        assert others == ["other"]
        assert len(failures) == 3
        gaps = [later - sooner for sooner, later in itertools.pairwise(tries)]
        assert gaps[2] > gaps[0]

    asyncio.run(main())
    # It is said once, not at each try.
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(error) in caplog.text


def test_events_about_a_key_that_fails_do_not_bring_its_next_try_forward(monkeypatch):
    monkeypatch.setattr(queues, "FIRST_RETRY", 0.5)
    monkeypatch.setattr(queues, "LAST_RETRY", 0.5)

    async def main():
        tries = []

        async def handle(key):
            tries.append(key)
            raise ClusterError("no answer")

        async with working(handle) as queue:
            queue.add("a", 0)
            await until(lambda: len(tries) == 1)
            for _ in range(20):
                queue.add("a", 0)
                await asyncio.sleep(0.005)
            assert len(tries) == 1

    asyncio.run(main())


def test_a_key_is_looked_after_again_when_its_handler_says_so():
    async def main():
        seen = []

        async def handle(key):
            seen.append(key)
            return 0.01 if len(seen) < 3 else None

        async with working(handle) as queue:
            queue.add("a", 0)
            await until(lambda: len(seen) == 3 and len(queue) == 0)

    asyncio.run(main())


def test_no_more_are_looked_after_at_a_time_than_there_are_workers():
    async def main():
        running, most, done = 0, 0, 0

        async def handle(_key):
            nonlocal running, most, done
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.005)
            running -= 1
            done += 1

        async with working(handle, workers=3) as queue:
            for key in range(30):
                queue.add(key, 0)
            await until(lambda: done == 30)
        assert most == 3

    asyncio.run(main())
