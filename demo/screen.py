"""The terminal, or the pipe, that the demonstration is shown on. I/O.

On a terminal a panel is redrawn in its place while it moves, and then stays; in a pipe only what stays is
written, and no escape codes.
"""

from __future__ import annotations

import os
import shutil
import textwrap
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from demo.style import Style

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import TextIO

_NARROWEST, _WIDEST = 40, 96
_PIPE_WIDTH = 80
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


class Screen:
    """Where the demonstration is shown."""

    def __init__(self, stream: TextIO, environment: Mapping[str, str]) -> None:
        self._stream = stream
        self.moves = stream.isatty() and environment.get("TERM", "dumb") != "dumb"
        """Whether panels are redrawn in place, and there is somebody to wait for."""
        # https://no-color.org: set and not empty.
        self._colour = self.moves and not environment.get("NO_COLOR")
        self._unicode = _can_show(stream, "━╸─✓✗")
        self._drawn = 0

    @property
    def style(self) -> Style:
        """How to write now; the width follows the window."""
        width = _PIPE_WIDTH
        if self.moves:
            width = max(_NARROWEST, min(_terminal_width(self._stream) - 1, _WIDEST))
        return Style(self._colour, self._unicode, width)

    def write(self, *lines: str) -> None:
        """Write lines that stay."""
        self._replace(lines)
        self._drawn = 0

    def say(self, text: str, indent: str = "") -> None:
        """Write a paragraph, broken at the width."""
        self.write(*textwrap.wrap(text, self.style.width, initial_indent=indent, subsequent_indent=indent))

    def draw(self, lines: Sequence[str]) -> None:
        """Draw a panel that the next call of any method replaces; nothing in a pipe."""
        if self.moves:
            self._replace(lines)
            self._drawn = len(lines)

    def pause(self, seconds: float) -> None:
        """Give the onlooker time; none in a pipe, which has no onlooker."""
        if self.moves:
            time.sleep(seconds)

    @contextmanager
    def animated(self) -> Iterator[None]:
        """Hide the cursor meanwhile."""
        if not self.moves:
            yield
            return
        self._write(_HIDE_CURSOR)
        try:
            yield
        finally:
            self._write(_SHOW_CURSOR)

    def _replace(self, lines: Sequence[str]) -> None:
        # One write for a whole panel, so that it does not flicker.
        up = f"\x1b[{self._drawn}F\x1b[J" if self._drawn else ""
        self._write(up + "".join(f"{line}\n" for line in lines))

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _can_show(stream: TextIO, characters: str) -> bool:
    try:
        characters.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _terminal_width(stream: TextIO) -> int:
    try:
        # The window of this stream, which need not be that of stdin.
        return os.get_terminal_size(stream.fileno()).columns or _PIPE_WIDTH
    except OSError:
        return shutil.get_terminal_size((_PIPE_WIDTH, 24)).columns
