"""Calls that come together are one call; the next one is its own."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sidecar.singleflight import SingleFlight

DEADLINE = 10  # seconds; reached only when a test fails
CALLERS = 5


class Slow:
    """A function that waits to be let go, and then returns how often it has been called, or raises."""

    def __init__(self):
        self.calls = 0
        self.error = None
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def __call__(self):
        self.calls += 1
        self.begun.set()
        assert self.go_on.wait(DEADLINE)
        if self.error:
            raise self.error
        return [self.calls]


def call_together(shared, slow):
    """Call from several threads at once, and return their futures when all wait for one call."""
    with ThreadPoolExecutor(CALLERS) as threads:
        first = threads.submit(shared)
        assert slow.begun.wait(DEADLINE)
        others = [threads.submit(shared) for _ in range(CALLERS - 1)]
        # The flight's own list of who waits for it: that a thread runs does not tell that it has come so far.
        deadline = time.monotonic() + DEADLINE
        while len(shared._flight._condition._waiters) < len(others):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        slow.go_on.set()
    return [first, *others]


def test_callers_that_come_together_share_one_call():
    slow = Slow()
    futures = call_together(SingleFlight(slow), slow)
    results = [future.result() for future in futures]
    assert slow.calls == 1
    assert all(result is results[0] for result in results)


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1)])
def test_callers_that_come_together_share_an_exception(error):
    slow = Slow()
    slow.error = error
    futures = call_together(SingleFlight(slow), slow)
    assert [future.exception() for future in futures] == [error] * CALLERS
    assert slow.calls == 1


def test_the_next_call_runs_anew():
    slow = Slow()
    slow.go_on.set()
    shared = SingleFlight(slow)
    assert [shared(), shared(), shared()] == [[1], [2], [3]]


def test_after_an_exception_the_next_call_runs_anew():
    slow = Slow()
    slow.go_on.set()
    slow.error = ValueError("no")
    shared = SingleFlight(slow)
    with pytest.raises(ValueError, match="no"):
        shared()
    slow.error = None
    assert shared() == [2]


def test_it_never_runs_twice_at_the_same_time():
    running = threading.Lock()

    def alone():
        assert running.acquire(blocking=False)
        time.sleep(0.0005)
        running.release()
        return True

    shared = SingleFlight(alone)
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(lambda _: shared(), range(200)))
