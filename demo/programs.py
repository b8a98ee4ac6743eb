"""The programs on the stage: the exporter, as a pod runs it, and the application."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.namespace import Namespace

POD_NAME = "shop-x2x9p"
_ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Start programs that do not hear Ctrl-C: it is for us, and we end them in order.

    Blocked signals stay so across fork and exec; ours comes through when the block ends.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_exporter(
    stack: ExitStack, namespace: Namespace, port: int, address: str = ""
) -> tuple[subprocess.Popen[Any], IO[bytes]]:
    """Start the exporter; return it, and the file that its log goes to."""
    log = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - it is one
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("METRICS_SIDECAR_")
    }
    environment |= {
        "POD_NAME": POD_NAME,
        "METRICS_SIDECAR_PORT": str(port),
        "METRICS_SIDECAR_ADDRESS": address,
    }
    program = namespace.popen(
        [sys.executable, "-m", "sidecar"],
        cwd=_ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )
    return program, log


def start_application(namespace: Namespace, local_ports: int) -> subprocess.Popen[Any]:
    """Start the application, see `demo.application`; ``local_ports`` is 0, or the range it keeps to."""
    return namespace.popen(
        [sys.executable, "-m", "demo.application", str(local_ports)],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    )
