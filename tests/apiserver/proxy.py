"""A TCP proxy before the API server, which fails as networks do: connections cut, refused, or silent.

TLS passes through, and the certificate is that of 127.0.0.1, where both listen.
"""

import contextlib
import selectors
import socket
import struct
import threading
from typing import Self
from urllib.parse import urlsplit

from tests.apiserver.client import Object

PERIOD = 0.02
# A close with this is a reset, as from a machine that was restarted and knows of no connection.
_RESET = struct.pack("ii", 1, 0)


class _Pair:
    """A connection of a client, and ours to the server for it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.sockets = (client, server)
        self.frozen = False

    def other(self, one: socket.socket) -> socket.socket:
        client, server = self.sockets
        return server if one is client else client


class Proxy:
    """Use as a context manager: it forwards inside. Everything may be called from any thread."""

    def __init__(self, url: str, host: str = "127.0.0.1") -> None:
        address = urlsplit(url)
        self._target = address.hostname, address.port
        self._listener = socket.create_server((host, 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"https://{host}:{self.port}"
        self._pairs: list[_Pair] = []
        self._lock = threading.Lock()
        self._refusing = self._freezing = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._listener.close()

    def redirect(self, cluster: Object) -> None:
        """Have a kubeconfig's cluster lead here."""
        cluster["server"] = self.url

    @property
    def connections(self) -> int:
        with self._lock:
            return len(self._pairs)

    def cut(self) -> None:
        """Reset the connections there are; new ones are made as ever."""
        with self._lock:
            for pair in self._pairs:
                for each in pair.sockets:
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                self._close(pair)
            self._pairs.clear()

    def refuse(self) -> None:
        """Reset the connections there are, and all that are made from now on."""
        self._refusing = True
        self.cut()

    def freeze(self, *, new: bool = False) -> None:
        """Let the connections there are pass nothing any more, without an end: half open; `new` ones too."""
        self._freezing = new
        with self._lock:
            for pair in self._pairs:
                pair.frozen = True

    def mend(self) -> None:
        """Forward everything again, also what was held back."""
        self._refusing = self._freezing = False
        with self._lock:
            for pair in self._pairs:
                pair.frozen = False

    # --- inside ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._end.is_set():
            # Made anew each time: a frozen connection that is readable would wake a selector without end.
            with selectors.DefaultSelector() as selector:
                selector.register(self._listener, selectors.EVENT_READ)
                with self._lock:
                    for pair in self._pairs:
                        for each in () if pair.frozen else pair.sockets:
                            selector.register(each, selectors.EVENT_READ, pair)
                    # Held, so that nobody closes a socket between the look and the read.
                    for key, _ in selector.select(0):
                        self._serve(key.fileobj, key.data)
                    idle = not selector.select(0)
            if idle:
                self._end.wait(PERIOD)
        self.cut()

    def _serve(self, ready: object, pair: _Pair | None) -> None:
        if pair is None:
            self._accept()
        elif isinstance(ready, socket.socket) and pair in self._pairs and not self._forward(ready, pair):
            self._close(pair)
            self._pairs.remove(pair)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        client.settimeout(5)
        try:
            if self._refusing:
                raise ConnectionRefusedError
            server = socket.create_connection(self._target, timeout=5)
        except OSError:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            client.close()
            return
        pair = _Pair(client, server)
        pair.frozen = self._freezing
        self._pairs.append(pair)

    @staticmethod
    def _forward(source: socket.socket, pair: _Pair) -> bool:
        """Pass on what is there; tell whether the connection still is."""
        with contextlib.suppress(OSError):
            data = source.recv(1 << 18)
            pair.other(source).sendall(data)
            return bool(data)
        return False

    @staticmethod
    def _close(pair: _Pair) -> None:
        for each in pair.sockets:
            each.close()
