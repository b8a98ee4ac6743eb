"""The commands of the injector: `python -m webhook <command>`."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Final

from webhook import names

# Each module has `add_commands(subparsers)`, which gives every command a default `run`: a function of the
# parsed arguments that returns the exit status. Only the module of the chosen command is imported: the
# admission process has no room for what the others need.
_MODULES: Final = {
    "serve": "webhook.admission.command",
    "check": "webhook.check.command",
    "reconcile": "webhook.reconciler.command",
    "inject": "webhook.offline.command",
    "uninject": "webhook.offline.command",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 2 for wrong arguments, or what the command says."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(
        prog="metrics-sidecar-webhook", description="Put the metrics-sidecar exporter into pods."
    )
    parser.add_argument("--version", action="version", version=names.VERSION)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    chosen = next((_MODULES[word] for word in given[:1] if word in _MODULES), None)
    for module in [chosen] if chosen else dict.fromkeys(_MODULES.values()):
        importlib.import_module(module).add_commands(subparsers)
    options = parser.parse_args(given)
    status: int = options.run(options)
    return status


if __name__ == "__main__":
    sys.exit(main())
