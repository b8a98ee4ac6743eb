"""Network namespaces that leave nothing behind: each lives as long as a file descriptor of this process.

::

    with pod_and_world() as (pod, world), Server(world, [443]):
        pod.sysctl("ipv4.ip_local_port_range", "20000 20099")
        with pod.entered():
            connection = socket.create_connection(("10.77.0.1", 443))

Needs root, or a user namespace where unprivileged users may have one: see `become_root` and `why_not`.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lab import rtnetlink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

POD, WORLD = "10.76.0.2", "10.76.0.1"
POD6, WORLD6 = "fd76::2", "fd76::1"
WORLD_NETWORK, WORLD_NETWORK6 = "10.77.0.0/16", "fd77::/64"
"""Every address of these answers in the world of `pod_and_world`."""
VOID, VOID6 = "10.78.0.1", "fd78::1"
"""What is sent there vanishes without an answer, as behind a firewall that drops."""

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_OUR_NAMESPACE = "/proc/thread-self/ns/net"
_GRACE = 5.0


class UnavailableError(Exception):
    """This machine does not let us have network namespaces; the message says why."""


class Namespace:
    """A network namespace with ``lo`` up, for a ``with`` statement, at whose end its programs are ended.

    Raises:
        UnavailableError: on entering, if this machine does not allow it.
    """

    def __init__(self) -> None:
        self._file = -1
        self._programs: list[subprocess.Popen[Any]] = []

    def __enter__(self) -> Self:
        """Make the namespace; the calling thread stays where it is."""
        try:
            with _coming_back(leave=lambda: _call("unshare", _CLONE_NEWNET)):
                self._file = os.open(_OUR_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
                rtnetlink.set_up("lo")
        except (OSError, AttributeError) as error:
            self.close()
            raise UnavailableError(f"network namespace: {error}; expected root on Linux") from error
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the programs started here, and let the namespace go."""
        end_all(self._programs)
        self._programs.clear()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Move the calling thread into the namespace, and back: sockets opened meanwhile belong to it.

        ``/proc/net`` shows the namespace of the main thread, ``/proc/sys/net`` that of the calling thread.
        """
        with _coming_back(leave=lambda: _call("setns", self._file, _CLONE_NEWNET)):
            yield

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:  # noqa: ANN401
        """Start a program in the namespace; takes what `subprocess.Popen` takes.

        The kernel kills it when the calling *thread* ends (PR_SET_PDEATHSIG), so that it survives no crash of
        ours; a thread that starts programs should live as long as they.
        """
        setpriv = shutil.which("setpriv")
        guard = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
        with self.entered():
            program = subprocess.Popen([*guard, *command], **options)  # noqa: S603 - the caller's own command
        self._programs.append(program)
        return program

    def sysctl(self, name: str, value: object) -> None:
        """Set ``net.<name>``, for example ``ipv4.ip_local_port_range`` to ``"20000 20099"``."""
        with self.entered():
            self._setting(name).write_text(f"{value}\n")

    def read_sysctl(self, name: str) -> str:
        """Return ``net.<name>`` without its line end."""
        with self.entered():
            return self._setting(name).read_text().rstrip("\n")

    def add_address(self, address: str, interface: str = "lo") -> None:
        """Give an interface an address with its prefix, for example ``10.76.0.3/24``."""
        with self.entered():
            rtnetlink.add_address(interface, address)

    def add_route(self, network: str, gateway: str) -> None:
        """Reach a network, for example ``0.0.0.0/0``, through a gateway."""
        with self.entered():
            rtnetlink.add_route(network, gateway)

    def add_local(self, network: str) -> None:
        """Make every address of a network one of this namespace (AnyIP)."""
        with self.entered():
            rtnetlink.add_local(network)

    def join(self, other: Namespace, interface: str = "eth0", other_interface: str = "eth0") -> None:
        """Lay a cable to another namespace: an interface here and one there, both up."""
        with self.entered():
            rtnetlink.add_veth(interface, other_interface, other._file)
            rtnetlink.set_up(interface)
        with other.entered():
            rtnetlink.set_up(other_interface)

    def cut(self, interface: str = "eth0") -> None:
        """Cut the cable: connections stay open, and nothing of theirs arrives any more."""
        with self.entered():
            rtnetlink.set_down(interface)

    @staticmethod
    def _setting(name: str) -> Path:
        return Path("/proc/sys/net", name.replace(".", "/"))


@contextmanager
def pod_and_world() -> Iterator[tuple[Namespace, Namespace]]:
    """Yield two joined namespaces: a pod, and a world in which tens of thousands of hosts answer.

    The pod is `POD` and `POD6`. Every address of `WORLD_NETWORK` and `WORLD_NETWORK6` is the world's; what
    the pod sends anywhere else, `VOID` for example, vanishes. So the pod's namespace holds only one side of
    each connection to the world.
    """
    with Namespace() as pod, Namespace() as world:
        pod.join(world)
        for namespace, address, address6 in ((pod, POD, POD6), (world, WORLD, WORLD6)):
            namespace.add_address(f"{address}/24", "eth0")
            if has_ipv6():
                namespace.add_address(f"{address6}/64", "eth0")
        pod.add_route("0.0.0.0/0", WORLD)
        world.add_local(WORLD_NETWORK)
        if has_ipv6():
            pod.add_route("::/0", WORLD6)
            world.add_local(WORLD_NETWORK6)
        yield pod, world


def has_ipv6() -> bool:
    """Tell whether the kernel has IPv6."""
    return Path("/proc/net/if_inet6").exists()


def why_not() -> str | None:
    """Return why this process cannot have namespaces as above, or None if it can: it tries."""
    if not sys.platform.startswith("linux"):
        return f"platform {sys.platform}; expected linux"
    try:
        with pod_and_world() as (pod, _):
            pod.sysctl("ipv4.ip_local_port_range", "20000 20099")
    except (UnavailableError, OSError) as error:
        return str(error)
    return None


def become_root() -> None:
    """Move this process into a user namespace of its own if it needs one to make network namespaces.

    To be called early: the kernel refuses it to a process with more than one thread. There the process is
    root, over what it makes there; outside it stays the user it was. It gets a network namespace too, for a
    thread may come back only to one that its user namespace owns; sockets opened before stay where they are.

    Raises:
        UnavailableError: neither works.
    """
    try:
        with Namespace():
            return
    except UnavailableError:
        pass
    uid, gid = os.geteuid(), os.getegid()
    try:
        _call("unshare", _CLONE_NEWUSER | _CLONE_NEWNET)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    except (OSError, AttributeError) as error:
        raise UnavailableError(
            f"user namespace: {error}; expected root, or user namespaces for everyone"
        ) from error


def end_all(programs: Sequence[subprocess.Popen[Any]]) -> None:
    """Ask programs to end, insist after 5 s, and close their pipes."""
    with ExitStack() as stack:
        for program in programs:
            stack.enter_context(program)  # closes the pipes and waits
        for program in programs:
            with suppress(OSError):
                program.terminate()
        deadline = time.monotonic() + _GRACE
        for program in programs:
            try:
                program.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                program.kill()


@contextmanager
def _coming_back(leave: Callable[[], None]) -> Iterator[None]:
    home = os.open(_OUR_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        leave()
        try:
            yield
        finally:
            _call("setns", home, _CLONE_NEWNET)
    finally:
        os.close(home)


def _call(function: str, *arguments: int) -> None:
    # os.unshare and os.setns came with Python 3.12.
    if getattr(ctypes.CDLL(None, use_errno=True), function)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")
