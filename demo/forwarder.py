"""Makes a port of a namespace reachable at one of the host, as ``kubectl port-forward`` does for a pod."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

_AT_ONCE = 32
_IDLE = 60.0
_CHUNK = 1 << 16


class Forwarder:
    """Passes on what comes in at a listening socket, for a ``with`` statement, at whose end it is closed.

    Args:
        listener: where connections come in.
        dial: opens the connection that goes on from here; raises OSError.
    """

    def __init__(self, listener: socket.socket, dial: Callable[[], socket.socket]) -> None:
        self._listener = listener
        self._dial = dial
        self._places = threading.BoundedSemaphore(_AT_ONCE)

    def __enter__(self) -> Self:
        """Begin."""
        threading.Thread(target=self._accept, name="forwarder", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # Wakes accept(), which close() alone would not.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            self._places.acquire()
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with ExitStack() as stack:
            stack.callback(self._places.release)
            stack.enter_context(client)
            with suppress(OSError):
                relay(client, stack.enter_context(self._dial()))


def relay(one: socket.socket, other: socket.socket) -> None:
    """Pass bytes both ways until both sides have ended theirs, or nothing moves for a minute.

    Raises:
        OSError: a connection broke.
    """
    peers = {one: other, other: one}
    for end in peers:
        end.settimeout(_IDLE)
    talking = set(peers)
    while talking:
        ready, _, _ = select.select(list(talking), [], [], _IDLE)
        if not ready:
            return
        for end in ready:
            if chunk := end.recv(_CHUNK):
                peers[end].sendall(chunk)
            else:
                talking.discard(end)
                peers[end].shutdown(socket.SHUT_WR)
