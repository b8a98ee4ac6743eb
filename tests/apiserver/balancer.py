"""A TCP load balancer in a few lines: what a Service is to the API server, without its latency.

Like a Service it sends new connections only to replicas that are ready, leaves the ones that exist alone, and
does not try again elsewhere when one is refused.
"""

import contextlib
import itertools
import selectors
import socket
import threading
from collections.abc import Callable
from typing import Self

PERIOD = 0.05


class Replica:
    """Where one replica listens, and how to ask it whether it is ready."""

    def __init__(self, port: int, is_ready: Callable[[], bool]) -> None:
        self.port = port
        self.is_ready = is_ready
        self.ready = False


class Balancer:
    """Listens on `port` of loopback; `replicas` may be changed at any time."""

    def __init__(self, port: int) -> None:
        self.replicas: list[Replica] = []
        self.refused = 0
        """Connections that found no replica, or one that did not listen."""
        self._listener = socket.create_server(("127.0.0.1", port), backlog=512)
        self._turn = itertools.count()
        self._end = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._threads = [
            threading.Thread(target=target, name="balancer") for target in (self._accept, self._probe)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _probe(self) -> None:
        """Note who is ready, as the kubelet does and the EndpointSlice then says."""
        while not self._end.wait(PERIOD):
            for replica in list(self.replicas):
                replica.ready = replica.is_ready()

    def _accept(self) -> None:
        """Forward everything in one thread: a test needs no more, and no thread can be left over."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._end.is_set():
                for key, _ in selector.select(PERIOD):
                    if key.fileobj is self._listener:
                        self._connect(selector)
                    elif key.fileobj in self._sockets:
                        self._forward(selector, key.fileobj, key.data)
            for each in list(self._sockets):
                self._close(selector, each)

    def _connect(self, selector: selectors.BaseSelector) -> None:
        client, _ = self._listener.accept()
        ready = [replica for replica in self.replicas if replica.ready]
        try:
            if not ready:
                raise ConnectionRefusedError
            replica = ready[next(self._turn) % len(ready)]
            server = socket.create_connection(("127.0.0.1", replica.port), timeout=5)
        except OSError:
            self.refused += 1
            client.close()
            return
        for one, other in ((client, server), (server, client)):
            self._sockets.add(one)
            selector.register(one, selectors.EVENT_READ, other)

    def _forward(self, selector: selectors.BaseSelector, source: socket.socket, sink: socket.socket) -> None:
        data = b""
        with contextlib.suppress(OSError):
            data = source.recv(65536)
            sink.sendall(data)
        if not data:
            self._close(selector, source, sink)

    def _close(self, selector: selectors.BaseSelector, *sockets: socket.socket) -> None:
        for each in self._sockets.intersection(sockets):
            selector.unregister(each)
            each.close()
        self._sockets.difference_update(sockets)
