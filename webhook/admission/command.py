"""`serve`: the command that runs the admission process."""

import argparse
import asyncio
import logging
import os
import sys

import prometheus_client

from webhook import config, logs

logger = logging.getLogger(__name__)


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `serve` to the commands."""
    command = subparsers.add_parser(
        "serve",
        help="answer the API server's admission reviews",
        description="Answer the API server's admission reviews. Settings come from the environment.",
    )
    command.set_defaults(run=_run)


def _run(_arguments: argparse.Namespace) -> int:
    # kopf imports the client library of Kubernetes if it is there, for 25 MiB that are never used here: this
    # process talks to no API server. With None in its place an import finds nothing.
    sys.modules.setdefault("kubernetes", None)  # type: ignore[arg-type]
    from webhook.admission.process import serve

    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    settings, messages = config.settings(os.environ)
    serving, more = config.serving(os.environ)
    logs.configure(serving.log_level)
    for message in (*messages, *more):
        logger.warning(message)
    asyncio.run(serve(settings, serving))
    return 0
