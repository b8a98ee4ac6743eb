"""A bound on the answers that wait for clients which do not read: a hundred would fill the pod's 50 MiB."""

from __future__ import annotations

import threading
import weakref
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import WSGIEnvironment


class UnsentAnswers:
    """Counts the bytes of answers from when they are handed to the server until it lets go of them.

    Args:
        limit: how many bytes may wait. One answer may always, however large it is.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._bytes = 0

    def admit(self, environ: WSGIEnvironment, body: bytes) -> Iterable[bytes] | None:
        """Return the body in a form that the server does not copy, or None if too much waits already."""
        with self._lock:
            if self._bytes and self._bytes + len(body) > self._limit:
                return None
            self._bytes += len(body)
        waiting = _Waiting(body)
        # Sent or cut off, the server closes it; forgotten, it goes away. Whatever comes first counts.
        waiting.release = weakref.finalize(waiting, self._release, len(body))
        waiting.release.atexit = False
        # PEP 3333: the server's own way to send a file. From a list it would copy each body into a buffer.
        wrapped: Iterable[bytes] = environ.get("wsgi.file_wrapper", _chunks)(waiting)
        return wrapped

    def _release(self, size: int) -> None:
        with self._lock:
            self._bytes -= size


class _Waiting(BytesIO):  # shares the bytes that it is made of
    release: Callable[[], object]

    def close(self) -> None:
        """Let go of the bytes."""
        super().close()
        self.release()


def _chunks(file: BytesIO) -> Iterable[bytes]:
    yield file.read()
