"""Callers that come while a call is under way share its result."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Wraps a function so that it never runs twice at the same time."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._flight: Future[T] | None = None

    def __call__(self) -> T:
        """Return the function's result, or raise its exception: of the call under way, or of a new one."""
        with self._lock:
            flight = self._flight
            ours = flight is None
            if flight is None:
                flight = self._flight = Future()
        if ours:
            try:
                flight.set_result(self._function())
            except BaseException as error:  # noqa: BLE001 - handed on, here and to those who wait
                flight.set_exception(error)
            finally:
                with self._lock:
                    self._flight = None
        return flight.result()
