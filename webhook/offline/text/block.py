"""Additions to and removals from block collections: entries and items that have lines of their own."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from webhook.offline.text.flow import spans
from webhook.offline.text.node import Alias, Entry, Mapping, Node, Scalar, Sequence, TextError, reads_as, same
from webhook.offline.text.splice import Splices
from webhook.offline.text.style import Raw, Style

# What may have stood in the place of a block, kept as the comment behind its key.
_KEPT = re.compile(
    r"[ \t]*(# )((?:# )*(?:\*[^\s,\[\]{}]+|~|null|Null|NULL|\{[ \t]*\}|\[[ \t]*\]))(?=[ \t\r\n]|$)"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands: behind the key of an entry of a block mapping."""

    column: int
    """That of the key."""
    colon: int
    """The position behind the colon."""


class BlockEditor:
    """Edits block collections of one document."""

    def __init__(self, style: Style, splices: Splices) -> None:
        self.style = style
        self.lines = style.lines
        self.text = style.text
        self.splices = splices

    def place(self, entry: Entry) -> Place:
        """Return where the value of an entry stands."""
        return Place(self.lines.column(entry.start), self.text.index(":", entry.key.end) + 1)

    def insert(self, node: Mapping | Sequence, after: int, new: dict[str, Any] | list[Any]) -> None:
        """Add entries or items behind the one of an index; before the first, where that can be, for -1."""
        column, pad = self._columns(node)
        if isinstance(new, dict):
            lines = self.style.entries(new, column)
        else:
            lines = self.style.items(new, column, pad)
        parts = spans(node)
        first = self._first(node, 0)
        if after < 0 and self.lines.leads(first):
            self.splices.put_lines(self.lines.start(first), lines)
            return
        position = self.lines.after(parts[max(after, 0)].end)
        if max(after, 0) == len(parts) - 1:
            # A comment at the depth of what the collection holds belongs to it.
            deep = column if isinstance(node, Mapping) else column + 1
            position = self._behind_comments(position, deep)
        self.splices.put_lines(position, lines)

    def drop(self, node: Mapping | Sequence, indexes: set[int]) -> None:
        """Take out the lines of some entries or items."""
        for index in indexes:
            first = self._first(node, index)
            if not self.lines.leads(first):
                raise TextError(self.lines.number(first), "not at the start of its line", "a line of its own")
            self.splices.put(self.lines.start(first), self.lines.after(spans(node)[index].end), "")

    def fill(self, place: Place, node: Scalar | Mapping | Sequence, new: Any, *, comment: bool) -> None:  # noqa: ANN401
        """Write the first content of an empty collection, or a collection for a null."""
        spelled = self.text[node.start : node.end]
        omitted = isinstance(node, Scalar) and node.name == "" and not node.style
        if not comment and self.text[place.colon : node.end] in {" {}", " []"}:
            self.splices.put(place.colon, node.end, "")
        elif not omitted:
            if self.lines.number(node.start) != self.lines.number(place.colon) or spelled.startswith(
                ("&", "!")
            ):
                raise TextError(self.lines.number(node.start), f"{spelled!r}", "null, or {} or []")
            self.splices.put(node.start, node.start, "# ")
        elif kept := _KEPT.match(self.text, place.colon):
            # Somebody's own comment, which must not be taken for what was here.
            self.splices.put(kept.start(1), kept.start(1), "# ")
        self._under(place, max(place.colon, node.end), new)

    def override(self, place: Place, node: Alias, new: Any, *, merge: bool) -> None:  # noqa: ANN401
        """Write a value of its own in the place of an alias, merged from it with `merge` where possible."""
        target = node.target
        if merge and isinstance(target, Mapping) and isinstance(new, dict):
            view = target.view()
            if all(name in new and reads_as(child, new[name]) for name, child in view.items()):
                alias = Raw(self.text[node.start : node.end])
                new = {Raw("<<"): alias, **{name: value for name, value in new.items() if name not in view}}
        if self.lines.number(node.start) != self.lines.number(place.colon):
            raise TextError(self.lines.number(node.start), "an alias on a line of its own", "`key: *alias`")
        self.splices.put(node.start, node.start, "# ")
        self._under(place, node.end, new)

    def clear(self, place: Place, node: Mapping | Sequence, new: object) -> None:
        """Take out everything, and leave nothing or an empty collection behind the key."""
        self.drop(node, set(range(len(spans(node)))))
        if new is not None:
            self.splices.put(place.colon, place.colon, " []" if isinstance(new, list) else " {}")

    def restore(
        self,
        place: Place,
        node: Mapping | Sequence,
        new: object,
        anchors: Callable[[], list[tuple[Node, object]]],
    ) -> bool:
        """Bring back what `fill` or `override` kept in a comment, if that is what the value is to be.

        Args:
            place: where the node stands.
            node: what stands there.
            new: what the value is to be.
            anchors: says which nodes have anchors, and what they are to be.
        """
        kept = _KEPT.match(self.text, place.colon)
        if not kept:
            return False
        spelled = kept[2]
        if spelled.startswith("*"):
            found = [
                wanted
                for anchor, wanted in anchors()
                if anchor.anchor == spelled[1:] and anchor.start < place.colon
            ]
            fits = bool(found) and same(found[-1], new)
        else:
            fits = new == {"{": {}, "[": []}.get(spelled[0])
        if fits:
            self.splices.put(kept.start(1), kept.end(1), "")
            self.drop(node, set(range(len(spans(node)))))
        return fits

    def wrap(self, place: Place, node: Mapping, added: dict[str, Any]) -> None:
        """Let an anchored mapping be merged into a new one around it, which holds what is added."""
        column, _ = self._columns(node)
        if self.lines.number(node.start) != self.lines.number(place.colon):
            raise TextError(self.lines.number(node.start), "an anchor on a line of its own", "`key: &anchor`")
        self.splices.put(place.colon, place.colon, self.style.eol + " " * column + "<<:")
        for start in self._block_lines(node):
            self.splices.put(start, start, " " * self.style.step)
        self.splices.put_lines(self.lines.after(node.end), self.style.entries(added, column))

    def unwrap(self, place: Place, node: Mapping) -> None:
        """Undo `wrap`."""
        inner = node.entries[0].value
        assert isinstance(inner, Mapping)
        outer_place = self.place(node.entries[0])
        self.splices.put(place.colon, outer_place.colon, "")
        width = self.lines.column(inner.entries[0].start) - self.lines.column(node.entries[0].start)
        for start in self._block_lines(inner):
            if self.text[start : start + width].strip(" "):
                raise TextError(self.lines.number(start), "less indented than the rest", "one indentation")
            self.splices.put(start, start + width, "")
        self.drop(node, set(range(1, len(node.entries))))

    def _block_lines(self, node: Mapping) -> list[int]:
        """The starts of the lines of a block mapping whose key has a line of its own, but the empty ones."""
        end = self.lines.after(node.end)
        begin = self.lines.after(node.start + 1)
        return [
            start for start in self.lines.starts if begin <= start < end and self.lines.line(start).strip()
        ]

    def _under(self, place: Place, behind: int, new: Any) -> None:  # noqa: ANN401
        column = place.column + (self.style.step if isinstance(new, dict) else self.style.dash)
        if isinstance(new, dict):
            lines = self.style.entries(new, column)
        else:
            lines = self.style.items(new, column, self.style.pad)
        position = self._behind_comments(self.lines.after(behind), max(column, place.column + 1))
        self.splices.put_lines(position, lines)

    def _behind_comments(self, position: int, column: int) -> int:
        while position < len(self.text):
            line = self.lines.line(position)
            comment = line.lstrip(" ")
            if not comment.startswith("#") or len(line) - len(comment) < column:
                break
            position = self.lines.after(position + 1)
        return position

    def _columns(self, node: Mapping | Sequence) -> tuple[int, int]:
        """The column of keys or dashes, and the width of a dash and the spaces behind it."""
        column = self.lines.column(self._first(node, 0))
        pad = self.style.pad
        if isinstance(node, Sequence):
            last = node.items[-1]
            if isinstance(last, Mapping) and not last.flow and self.text[last.start] not in "&!":
                pad = self.lines.column(last.start) - column
        return column, pad

    def _first(self, node: Mapping | Sequence, index: int) -> int:
        """Where an entry begins, or the dash of an item."""
        if isinstance(node, Mapping):
            return node.entries[index].start
        start = node.items[index].start
        line = self.lines.start(start)
        before = self.text[line:start]
        while not re.search(r"(?:^|[ \t])-[ \t]*(?:#.*)?$", before.rstrip("\r\n")) or before.lstrip(
            " "
        ).startswith("#"):
            if line == 0:
                raise TextError(self.lines.number(start), "an item without a dash", "`- item`")
            line = self.lines.start(line - 1)
            before = self.lines.line(line)
        return line + before.split("#")[0].rindex("-")
