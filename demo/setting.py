"""Where the demonstration plays.

In network namespaces of its own, a pod and its surroundings, where this machine allows that: then the range
of local ports is set to 200, for all that runs there. Else on the host's loopback, where the range is
everybody's and stays as it is: there the application keeps its own sockets to 200 ports.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Self

from demo.forwarder import Forwarder
from demo.localports import can_confine, free_window, host_range
from demo.programs import POD_NAME, deaf_to_interrupts, start_application, start_exporter
from demo.scrape import Scraper
from demo.stage import Destination, Stage, StageError
from lab.connections import Server
from lab.namespace import POD, Namespace, UnavailableError, become_root, pod_and_world, why_not

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

PORT = 9999
PORTS = 200
_LOW = 40000
_NETWORK = "10.20.0.0/16"
_DIAL_TIMEOUT = 5.0
_LOCALHOST = "127.0.0.1"


@contextmanager
def open_stage(*, loopback: bool = False) -> Iterator[Stage]:
    """Yield the stage; all that runs on it ends with the block.

    Args:
        loopback: do not even try to have namespaces.

    Raises:
        StageError: it could not be set up.
    """
    if not sys.platform.startswith("linux"):
        raise StageError(f"platform {sys.platform}; expected linux, whose ports these are")
    # Before anything else: from a namespace of our own, the host's loopback is out of reach.
    with _listen_on_loopback() as listener, _setting(listener, loopback=loopback) as stage:
        stage.wait()
        yield stage


def _setting(listener: socket.socket, *, loopback: bool) -> AbstractContextManager[Stage]:
    if loopback:
        return _on_loopback(listener, "as --loopback says")
    if refused := namespaces_refused():
        return _on_loopback(listener, f"for it allows no network namespaces ({refused})")
    return _in_namespaces(listener)


def namespaces_refused() -> str | None:
    """Return why we cannot have network namespaces, None if we can: a child tries.

    A child, because what it enters while trying cannot be left again.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        reason = "interrupted"
        try:
            become_root()
            reason = why_not() or ""
        except (UnavailableError, OSError) as error:
            reason = str(error)
        finally:
            os.write(writing, reason.encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        reason = answer.read()
    os.waitpid(child, 0)
    return reason or None


@contextmanager
def _in_namespaces(listener: socket.socket) -> Iterator[Stage]:
    outside = _user_namespace()
    destinations = (
        Destination("10.20.0.5", 5432, "postgres"),
        Destination("10.20.0.6", 6379, "redis"),
        Destination("10.20.0.7", 443, "https"),
    )
    become_root()
    rights = "as root" if _user_namespace() == outside else "without root"
    with pod_and_world() as (pod, world), ExitStack() as stack:
        world.add_local(_NETWORK)
        pod.sysctl("ipv4.ip_local_port_range", f"{_LOW} {_LOW + PORTS - 1}")

        def dial() -> socket.socket:
            with world.entered():
                connection = socket.socket()
            try:
                connection.settimeout(_DIAL_TIMEOUT)
                connection.connect((POD, PORT))
            except OSError:
                connection.close()
                raise
            return connection

        with deaf_to_interrupts():
            exporter, log = start_exporter(stack, pod, PORT)
            stack.enter_context(Server(world, [item.port for item in destinations]))
            application = start_application(pod, 0)
        url = _url(listener)
        stack.enter_context(Forwarder(listener, dial))
        yield Stage(
            where=f"In network namespaces of its own, {rights}:"
            f" a pod with {PORTS} local ports, {_LOW} to {_LOW + PORTS - 1}.",
            url=url,
            destinations=destinations,
            ports=PORTS,
            own_ports=0,
            can_fill=True,
            exporter=exporter,
            exporter_log=log,
            application=application,
            scraper=stack.enter_context(closing(Scraper(dial, POD_NAME))),
        )


@contextmanager
def _on_loopback(listener: socket.socket, why: str) -> Iterator[Stage]:
    # Ports that need no root, at addresses that nobody else listens on.
    destinations = (
        Destination("127.20.0.5", 5432, "postgres"),
        Destination("127.20.0.6", 6379, "redis"),
        Destination("127.20.0.7", 8080, "http-proxy"),
    )
    low, high = host_range()
    own = free_window(low, high, PORTS)
    ports = own[1] - own[0] + 1
    confined = own[1] << 16 | own[0]
    can_fill = can_confine(confined)
    with _Host() as host, ExitStack() as stack:
        url, port = _url(listener), listener.getsockname()[1]
        listener.close()
        with deaf_to_interrupts():
            exporter, log = start_exporter(stack, host, port, _LOCALHOST)
            for item in destinations:
                stack.enter_context(Server(host, [item.port], address=item.address))
            application = start_application(host, confined if can_fill else 0)
        yield Stage(
            where=f"On the loopback of this machine, {why}."
            f" Its range of {high - low + 1} local ports is everybody's and is left alone: the application"
            f" keeps itself to {ports} of them, {own[0]} to {own[1]}.",
            url=url,
            destinations=destinations,
            ports=ports,
            own_ports=ports,
            can_fill=can_fill,
            exporter=exporter,
            exporter_log=log,
            application=application,
            scraper=stack.enter_context(
                closing(
                    Scraper(
                        lambda: socket.create_connection((_LOCALHOST, port), timeout=_DIAL_TIMEOUT), POD_NAME
                    )
                )
            ),
        )


class _Host(Namespace):
    """The namespace that we are in anyway."""

    def __enter__(self) -> Self:
        """Make nothing."""
        return self

    def entered(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """Go nowhere."""
        return nullcontext()


def _user_namespace() -> str:
    return str(Path("/proc/self/ns/user").readlink())


def _listen_on_loopback() -> socket.socket:
    """Return a socket that listens on the exporter's usual port, or on any free one."""
    try:
        return socket.create_server((_LOCALHOST, PORT))
    except OSError:
        return socket.create_server((_LOCALHOST, 0))


def _url(listener: socket.socket) -> str:
    address, port = listener.getsockname()
    return f"http://{address}:{port}/metrics"
