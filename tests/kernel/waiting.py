"""Waiting for a condition with a deadline: the only way in which this tier waits for anything."""

import time

POLL = 0.02


def eventually(what, condition, *, deadline=10.0, tolerate=()):
    """Return the condition's first truthy result.

    An AssertionError inside the condition means "not yet", as do the exceptions of `tolerate`; when the time
    is up, the last one tells what was still wrong.
    """
    end = time.monotonic() + deadline
    while True:
        seen, problem = None, None
        try:
            seen = condition()
        except (AssertionError, *tolerate) as error:
            problem = error
        if seen:
            return seen
        if time.monotonic() > end:
            raise AssertionError(
                f"waited {deadline:g} s for {what}; last seen: {problem or seen!r}"
            ) from problem
        time.sleep(POLL)
