"""The second act: a labelled Deployment before and after, and the Service that belongs to it.

By the injector's own command line, which decides and changes with the same functions as its webhook.
"""

from __future__ import annotations

import difflib
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from demo.screen import Screen
    from demo.style import Style

MANIFEST = Path(__file__).with_name("deployment.yaml")
_ROOT = MANIFEST.parent.parent
_INJECT = ("inject", "--with-service", "-f")
_BETWEEN = "\n---\n"
_TIMEOUT = 30.0


class InjectionError(Exception):
    """The command line did not do what is to be shown; the message says what it did."""


def show(screen: Screen) -> None:
    """Show what one label brings.

    Raises:
        InjectionError: something else came.
    """
    before = MANIFEST.read_text()
    after = _webhook(*_INJECT, str(MANIFEST))
    deployment, between, service = after.partition(_BETWEEN)
    if not between or "\nkind: Service\n" not in service:
        raise InjectionError("inject: there is no Service in what it wrote")
    if _webhook("uninject", "-f", "-", stdin=after) != before:
        raise InjectionError("uninject: it does not give back what inject was given")

    style = screen.style
    width = style.width if screen.moves else None
    screen.write("", style.rule("How it gets there: one label on a Deployment"))
    screen.say(
        "The webhook does this when pods are created; without a cluster the command line does the same:"
    )
    screen.write(style.dim(f"  python -m webhook {' '.join(_INJECT)} demo/{MANIFEST.name}"), "")
    screen.write(*diff(before, deployment + "\n", style, width))
    screen.write("", style.rule("And the Service by which Prometheus finds its pods"))
    screen.write(*(style.green(line) for line in service.splitlines()), "")
    screen.write(f"{style.yes} uninject gives the file back, byte for byte")


def diff(before: str, after: str, style: Style, width: int | None) -> Iterator[str]:
    """Yield the whole of a text with what has come and gone marked, lines cut at a width if there is one."""
    lines = before.splitlines(), after.splitlines()
    for line in difflib.ndiff(*lines):
        mark, text = line[0], line[2:]
        if mark == "?":  # ndiff's hints at what differs within a line
            continue
        shown = cut(f"{mark} {text}".rstrip(), style, width)
        yield {"+": style.green, "-": style.red}.get(mark, str)(shown)


def cut(line: str, style: Style, width: int | None) -> str:
    """Return a line, or what of it fits into a width."""
    end = "…" if style.unicode else "..."
    return line if width is None or len(line) <= width else line[: width - len(end)] + end


def _webhook(*arguments: str, stdin: str = "") -> str:
    try:
        done = subprocess.run(  # noqa: S603 - our own command, and a manifest of ours
            [sys.executable, "-m", "webhook", *arguments],
            cwd=_ROOT,
            input=stdin,
            capture_output=True,
            text=True,
            check=True,
            timeout=_TIMEOUT,
        )
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip() or "it says nothing").splitlines()[-1]
        raise InjectionError(f"{arguments[0]}: status {error.returncode}: {last}") from error
    except subprocess.TimeoutExpired as error:
        raise InjectionError(f"{arguments[0]}: not done within {_TIMEOUT:g} s") from error
    return done.stdout
