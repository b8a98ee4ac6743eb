"""Where the lines of a text begin and end, the way YAML counts them."""

import re
from bisect import bisect_right

# What YAML 1.1 calls a line break, and libyaml with it; str.splitlines knows more of them.
BREAK = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")
_LAST_BREAK = re.compile(r"(?:\r\n|[\n\r\x85\u2028\u2029])\Z")


def chomp(text: str) -> str:
    """Return a text without the end of its last line."""
    return _LAST_BREAK.sub("", text)


class Lines:
    """The lines of one text; `eol` is how its first line ends, `ended` whether its last line does."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.starts = [0, *(found.end() for found in BREAK.finditer(text))]
        first = BREAK.search(text)
        self.eol = first.group() if first else "\n"
        self.ended = self.starts[-1] == len(text)

    def number(self, position: int) -> int:
        """Return the line of a position, counted from 1."""
        return bisect_right(self.starts, position)

    def start(self, position: int) -> int:
        """Return where the line of a position begins."""
        return self.starts[bisect_right(self.starts, position) - 1]

    def after(self, position: int) -> int:
        """Return the first start of a line at or behind a position, the end of the text without one."""
        line = bisect_right(self.starts, position)
        if self.starts[line - 1] == position:
            return position
        return self.starts[line] if line < len(self.starts) else len(self.text)

    def column(self, position: int) -> int:
        """Return how many characters of its line stand before a position."""
        return position - self.start(position)

    def line(self, position: int) -> str:
        """Return the line that begins at a position, with its end."""
        return self.text[position : self.after(position + 1)]

    def lead(self, position: int) -> str:
        """Return the white space that the line of a position begins with."""
        line = self.line(self.start(position))
        return line[: len(line) - len(line.lstrip(" \t"))]

    def leads(self, position: int) -> bool:
        """Return whether only spaces stand before a position on its line."""
        return not self.text[self.start(position) : position].strip(" \t")
