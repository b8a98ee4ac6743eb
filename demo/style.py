"""How text may look on this terminal: colours or none, lines or plain characters, how wide. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

_SAMPLE = re.compile(r"(\w+)(\{.*\}) (\S+)")


def visible(text: str) -> int:
    """Return how many columns a text takes."""
    return len(_ESCAPE.sub("", text))


@dataclass(frozen=True)
class Style:
    """What may be used; the least of everything by default."""

    colour: bool = False
    unicode: bool = False
    width: int = 80

    def bold(self, text: str) -> str:
        """For headings, and the words that matter."""
        return self._wrap("1", text)

    def dim(self, text: str) -> str:
        """For what is beside the point."""
        return self._wrap("2", text)

    def red(self, text: str) -> str:
        """For what fails, and for what a diff takes away."""
        return self._wrap("31", text)

    def yellow(self, text: str) -> str:
        """For what is about to fail."""
        return self._wrap("33", text)

    def green(self, text: str) -> str:
        """For what works, and for what a diff adds."""
        return self._wrap("32", text)

    def cyan(self, text: str) -> str:
        """For places: URLs, and the line numbers of a diff."""
        return self._wrap("36", text)

    @property
    def yes(self) -> str:
        """Mark what works."""
        return self.green("✓" if self.unicode else "ok")

    @property
    def no(self) -> str:
        """Mark what fails."""
        return self.red("✗" if self.unicode else "!!")

    def rule(self, title: str) -> str:
        """Return a title with a line behind it, to the right edge."""
        line = ("─" if self.unicode else "-") * max(self.width - len(title) - 1, 3)
        return f"{self.bold(title)} {self.dim(line)}"

    def bar(self, share: float, width: int) -> str:
        """Return a bar of so many columns, filled to a share of 0..1, in the colour of its urgency.

        It looks empty only at 0 and full only at 1.
        """
        share = min(max(share, 0.0), 1.0)
        halves = round(share * width * 2)
        if 0 < share < 1:
            halves = min(max(halves, 1), width * 2 - 1)
        full, half = divmod(halves, 2)
        filled = "━" * full + "╸" * half if self.unicode else "#" * full + "+" * half
        rest = ("─" if self.unicode else ".") * (width - full - half)
        return self.urgent(share, filled) + self.dim(rest)

    def urgent(self, share: float, text: str) -> str:
        """Return a text in green, yellow from 0.7, red from 0.9."""
        if share < 0.7:
            return self.green(text)
        return self.yellow(text) if share < 0.9 else self.red(text)

    def sample(self, line: str) -> str:
        """Return a line of the text format with its name and value standing out."""
        found = _SAMPLE.fullmatch(line)
        return f"{found[1]}{self.dim(found[2])} {self.bold(found[3])}" if found else line

    def _wrap(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and text else text
