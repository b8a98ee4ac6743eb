"""`reconcile`: the command that runs the reconciler."""

import argparse
import asyncio
import logging
import os

import prometheus_client

from webhook import config, logs
from webhook.cluster import Cluster, NoClusterError

logger = logging.getLogger(__name__)


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `reconcile` to the commands."""
    command = subparsers.add_parser(
        "reconcile",
        help="apply the Services, keep the certificates, report what is missing",
        description="Apply the Services, keep the certificates, report what is missing."
        " Settings come from the environment; the cluster from KUBECONFIG or the pod's service account.",
    )
    command.set_defaults(run=_run)


def _run(_arguments: argparse.Namespace) -> int:
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    settings, messages = config.settings(os.environ)
    reconciling, more = config.reconciling(os.environ)
    # What its watches fail at is said once, by ours; it says so each second, and then with several traces.
    logs.configure(reconciling.log_level, kopf=logging.CRITICAL)
    for message in (*messages, *more):
        logger.warning(message)
    return asyncio.run(_reconcile(settings, reconciling))


async def _reconcile(settings: config.Settings, reconciling: config.Reconciling) -> int:
    from webhook.reconciler.process import Process

    try:
        cluster = await Cluster.connect()
    except NoClusterError as error:
        logger.error("reconcile: %s", error)  # noqa: TRY400 (a sentence, for people)
        return 1
    async with cluster:
        await Process(cluster, settings, reconciling).run()
    return 0
