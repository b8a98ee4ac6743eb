"""The command ``metrics-sidecar``, and ``python -m sidecar``."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from sidecar.config import Settings


def main() -> int:
    """Run the exporter; return the exit status of ``--once``. Serving ends by a signal only."""
    # Before the imports, which take seconds under a pod's CPU limit: process 1 of a container has no default
    # handlers, so that until here SIGTERM does nothing.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    from sidecar import logs
    from sidecar.config import read_settings

    settings = read_settings(sys.argv[1:], os.environ)
    logs.set_up(settings.log_level, settings.log_format)
    return run(settings)


def run(settings: Settings) -> int:
    """Build what the settings say; serve it for ever, or print it once and return the exit status."""
    import logging
    import socket

    from prometheus_client import CollectorRegistry, generate_latest

    from sidecar import server
    from sidecar.collector import PortCollector
    from sidecar.sources import ProcSource, PsutilSource, SockDiagSource, Source

    log = logging.getLogger("sidecar")
    for error in settings.errors:
        log.error("%s", error)
    sources: list[Source] = [SockDiagSource(), ProcSource(), PsutilSource()]
    pod_name = settings.pod_name or socket.gethostname()
    collector = PortCollector(
        pod_name=pod_name,
        sources=[source for source in sources if settings.source in ("auto", source.name)],
        port_names=settings.port_names,
        max_remotes=settings.max_remotes,
        config_errors=len(settings.errors),
    )
    registry = CollectorRegistry()
    registry.register(collector)
    if not settings.once:
        server.serve(server.make_app(registry, pod_name), settings.address, settings.port)
    sys.stdout.buffer.write(generate_latest(registry))
    return 0 if collector.succeeded else 1


def _stop(_number: int, _frame: object) -> NoReturn:
    # At once, also while a scrape runs or the port is awaited: there is nothing to save, and a pod's end must
    # not wait for us.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
