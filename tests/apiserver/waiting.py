"""Waiting for a condition with a deadline: the only way in which this tier waits for anything."""

import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

POLL = 0.05


def eventually(
    what: str,
    condition: Callable[[], Result],
    *,
    deadline: float = 30.0,
    tolerate: tuple[type[Exception], ...] = (),
) -> Result:
    """Return the condition's first truthy result.

    `tolerate` names exceptions that mean "not yet". AssertionError is always one of them, so that a condition
    may itself consist of asserts; when the time is up, the last one tells what was still wrong.

    Raises:
        AssertionError: the deadline passed; the message says what was awaited and what was seen last.
    """
    end = time.monotonic() + deadline
    not_yet: tuple[type[Exception], ...] = (AssertionError, *tolerate)
    while True:
        problem: Exception | None = None
        result = None
        try:
            result = condition()
        except not_yet as error:
            problem = error
        if result and problem is None:
            return result
        if time.monotonic() > end:
            seen = repr(result) if problem is None else f"{type(problem).__name__}: {problem}"
            raise AssertionError(f"waited {deadline:g} s for {what}; last seen: {seen}") from problem
        time.sleep(POLL)
