"""`check`: look at a live cluster, and say by symptom what is wrong and which command mends it."""

import argparse
import asyncio
import dataclasses
import logging
import os
import shutil
import sys
from typing import Final

from webhook import names
from webhook.check import mending, report
from webhook.check.examination import examine
from webhook.check.findings import Finding
from webhook.check.reading import look
from webhook.check.snapshot import Area, Snapshot
from webhook.cluster import Cluster, ClusterError, NoClusterError

_HEALTHY: Final = 0
_BROKEN: Final = 1
_BLIND: Final = 2
_WORTH_LOOKING: Final = (Area.WEBHOOK, Area.DEPLOYMENTS, Area.WORKLOADS, Area.PODS)
_EPILOG: Final = """\
Nothing is changed: check reads, asks what the reconciler may do, and creates one pod as a dry run, which is
not stored. What it may not look at it names as not checked.
Exit status: 0 without problems, with warnings or not; 1 with problems; 2 if it cannot look at all.
"""


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `check` to the commands."""
    command = subparsers.add_parser(
        "check",
        help="find out why a cluster does not do what it should",
        description="Look at a cluster, and say what is wrong, by which facts, and which command mends it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--context", metavar="NAME", help="of the kubeconfig; else its current one")
    command.add_argument(
        "-n",
        "--namespace",
        action="append",
        default=[],
        metavar="NAME",
        help="where to look at workloads, several times for several; else everywhere",
    )
    command.add_argument("-o", "--output", choices=("text", "json"), default="text")
    command.add_argument(
        "--own-namespace",
        default=names.OWN_NAMESPACE,
        metavar="NAME",
        help="where the injector is installed; else %(default)s",
    )
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    # The client library complains by itself of what is said here, as a sentence.
    logging.disable()
    try:
        seen = asyncio.run(_look(options))
    except NoClusterError as error:
        return _blind(str(error))
    except ClusterError as error:
        return _blind(f"cluster: {error}")
    if all(area in seen.unchecked for area in _WORTH_LOOKING):
        why = seen.unchecked[_WORTH_LOOKING[0]]
        return _blind(
            f"cluster: {why}; expected permission to read, see --namespace for a part of the cluster"
        )
    findings = [_in_context(finding, options.context) for finding in examine(seen)]
    text = report.as_json(findings, seen) if options.output == "json" else _text(findings, seen)
    try:
        print(text, flush=True)  # noqa: T201
    except BrokenPipeError:
        # Whoever reads has seen enough. Python would complain once more while it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _BROKEN if report.is_broken(findings) else _HEALTHY


async def _look(options: argparse.Namespace) -> Snapshot:
    async with await Cluster.connect(options.context) as cluster:
        return await look(cluster, options.own_namespace, options.namespace)


def _in_context(finding: Finding, context: str | None) -> Finding:
    return dataclasses.replace(finding, command=mending.in_context(finding.command, context))


def _text(findings: list[Finding], seen: Snapshot) -> str:
    terminal = sys.stdout.isatty()
    width = min(shutil.get_terminal_size((report.WIDTH, 24)).columns, report.WIDTH)
    return report.as_text(
        findings, seen, colour=terminal and "NO_COLOR" not in os.environ, width=max(width, 40)
    )


def _blind(why: str) -> int:
    print(f"check: {why}", file=sys.stderr)  # noqa: T201
    return _BLIND
