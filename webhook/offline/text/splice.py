"""Edits of one text, collected by position and applied at once."""

import re

from webhook.offline.text.lines import Lines, chomp
from webhook.offline.text.node import Alias, Mapping, Node, Scalar, Sequence, TextError

# `|+ # mine`, kept behind the header that took its place: `|- # |+ # mine`.
_HEADER = re.compile(r"([|>])([-+0-9]*)(.*)")
_KEPT_HEADER = re.compile(r"[|>][-+0-9]* # ([|>].*)")


class Splices:
    """What is put where. Text put at one position stays in the order in which it was put."""

    def __init__(self, text: str, root: Node) -> None:
        self.text = text
        self.lines = Lines(text)
        self._root = root
        self._splices: list[tuple[int, int, str]] = []
        self._reopened = False

    def put(self, start: int, end: int, text: str) -> None:
        """Replace what stands between two positions."""
        self._splices.append((start, end, text))

    def put_lines(self, position: int, lines: list[str]) -> None:
        """Insert whole lines at the start of a line, or behind the last one."""
        eol = self.lines.eol
        if position < len(self.text) or self.lines.ended:
            self.put(position, position, eol.join(lines) + eol)
            return
        if not self._reopened:
            self._reopened = True
            self._strip_last_scalar()
        self.put(position, position, eol + eol.join(lines))

    def apply(self) -> str:
        """Return the edited text; raises TextError where two edits overlap."""
        cut_at_end = not self.lines.ended and any(
            start < end == len(self.text) and not text for start, end, text in self._splices
        )
        if cut_at_end:
            self._restore_last_scalar()
        parts: list[str] = []
        done = 0
        for start, end, text in sorted(self._splices, key=lambda splice: splice[0]):
            if start < done:
                raise TextError(self.lines.number(start), "two edits in one place", "a simpler layout")
            parts += [self.text[done:start], text]
            done = end
        result = "".join([*parts, self.text[done:]])
        # The last line had no end, and the line that is the last now has to have none either.
        return chomp(result) if cut_at_end else result

    def _strip_last_scalar(self) -> None:
        """Keep a block scalar at the very end from gaining the line end that it is about to get."""
        last = _last(self._root)
        if (
            not isinstance(last, Scalar)
            or not last.style
            or last.style not in "|>"
            or last.end < len(self.text)
        ):
            return
        start = self.text.index(last.style, last.start)
        header = _HEADER.match(self.text, start)
        if header and "-" not in header[2]:
            indicators = header[2].replace("+", "")
            self.put(start, header.end(2), f"{last.style}{indicators}- # {last.style}{header[2]}")

    def _restore_last_scalar(self) -> None:
        edge = len(self.text)
        for start, end, text in sorted(self._splices, reverse=True):
            if end == edge and not text:
                edge = start
        for scalar in _block_scalars(self._root):
            start = self.text.index(scalar.style, scalar.start)
            kept = _KEPT_HEADER.match(self.text, start)
            if scalar.end == edge and kept:
                self.put(start, kept.end(), kept[1].rstrip("\r"))


def _last(node: Node) -> Node:
    while isinstance(node, Mapping | Sequence) and not node.flow:
        node = node.entries[-1].value if isinstance(node, Mapping) else node.items[-1]
    return node


def _block_scalars(node: Node) -> list[Scalar]:
    if isinstance(node, Mapping):
        return [found for entry in node.entries for found in _block_scalars(entry.value)]
    if isinstance(node, Sequence):
        return [found for item in node.items for found in _block_scalars(item)]
    return [node] if not isinstance(node, Alias) and node.style in {"|", ">"} else []
