"""Change what a YAML or JSON text says by touching only the characters that have to change.

`change(document, new)` returns the document, its text edited so that it reads as `new`. Everything
else stays byte for byte. What is added takes the style of what surrounds it; what is taken out
leaves no trace, so `change(change(document, new), old)` has the text of `document`. Where an addition
could not be told from what was there, what was there is kept in a comment:

    labels: ~          becomes    labels: # ~            an explicit null
                                    injected: "true"
    labels: *common    becomes    labels: # *common      an alias whose other uses must not change
                                    <<: *common
                                    injected: "true"
    labels: &common    becomes    labels:                an anchor whose aliases must not change
      app: web                      <<: &common
                                      app: web
                                    injected: "true"

Nothing here is trusted: every result is parsed and compared with `new`, and with `reversible=True`
changed back and compared with the text. What does not hold is an error, and the text stays.
"""

import enum
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from webhook.offline.text.align import align
from webhook.offline.text.block import BlockEditor, Place
from webhook.offline.text.flow import FlowEditor
from webhook.offline.text.node import (
    Alias,
    Entry,
    Mapping,
    Node,
    Scalar,
    Sequence,
    TextError,
    plain,
    reads_as,
    same,
)
from webhook.offline.text.shared import Shared
from webhook.offline.text.splice import Splices
from webhook.offline.text.stream import Document, read
from webhook.offline.text.style import Style


class _Fill(enum.Enum):
    """What becomes of an empty collection that gets its first content."""

    REPLACED = enum.auto()
    COMMENTED = enum.auto()
    INLINE = enum.auto()


def change(document: Document, new: object, *, reversible: bool = False) -> Document:
    """Return a document, its text changed so that it reads as `new`.

    Args:
        document: from `stream.read` or `split`.
        new: what the text is to say. Added keys go where `new` has them, behind the same key as there.
        reversible: insist that changing the result back gives the text of the document.

    Raises:
        TextError: it cannot be done, with the line of the document where.
    """
    old = plain(document.root)
    if same(old, new):
        return document
    problem: TextError | None = None
    for fill in _Fill:
        try:
            text = _Edit(document, new, fill).run()
            after = read(text, document.line, json=document.json)
            if after is None or not same(plain(after.root), new):
                raise TextError(1, "the edited text would not say what it should", "a simpler layout")
            if not reversible or _Edit(after, old, fill).run() == document.text:
                return after
            raise TextError(1, "the edit could not be undone exactly", "a simpler layout")
        except TextError as error:
            problem = problem or error
    assert problem is not None
    raise problem


class _Edit:
    def __init__(self, document: Document, new: object, fill: _Fill) -> None:
        self.root = document.root
        self.new = new
        self.fill_by = fill
        style = Style(document)
        self.lines = style.lines
        self.style = style
        self.splices = Splices(document.text, document.root)
        self.block = BlockEditor(style, self.splices)
        self.flow = FlowEditor(style, self.splices)
        self.shared = Shared(self.root, new)

    def run(self) -> str:
        self.value(None, self.root, self.new)
        return self.splices.apply()

    def value(self, entry: Entry | None, node: Node, new: Any) -> None:  # noqa: ANN401
        """Change one value: that of an entry of a block mapping, or another one, which has no place."""
        if reads_as(node, new):
            return
        place = self.block.place(entry) if entry else None
        if isinstance(node, Alias):
            if not self.shared.agrees(node.target):
                self.alias(place, node, new)
        elif self.shared.torn(node):
            self.torn(place, node, new)
        elif self.restored(place, node, new):
            pass
        elif isinstance(node, Scalar) and (node.value is not None or not isinstance(new, dict | list)):
            self.scalar(node, new)
        elif isinstance(node, Scalar) or not (node.entries if isinstance(node, Mapping) else node.items):
            self.fill(place, node, new)
        elif new is None or new in ({}, []):
            self.clear(place, node, new)
        elif isinstance(node, Mapping) and isinstance(new, dict):
            self.mapping(node, new)
        elif isinstance(node, Sequence) and isinstance(new, list):
            self.sequence(node, new)
        else:
            raise self.bad(node, "a value of another kind", f"one like {type(new).__name__}")

    def mapping(self, node: Mapping, new: dict[str, Any]) -> None:
        indexes = {entry.key.name: index for index, entry in enumerate(node.entries) if not entry.merge}
        if len(indexes) < sum(not entry.merge for entry in node.entries):
            raise self.bad(node, "two entries with one key", "each key once")
        inherited = self.inherited(node)
        dropped = {index for name, index in indexes.items() if name not in new}
        added: dict[int, dict[str, Any]] = defaultdict(dict)
        last = len(node.entries) - 1 if not indexes else -1
        for name, value in new.items():
            if name in indexes:
                last = indexes[name]
                entry = node.entries[last]
                source = inherited.get(name)
                if source and not reads_as(entry.value, value) and reads_as(source, value):
                    dropped.add(last)
                else:
                    self.value(None if node.flow else entry, entry.value, value)
            elif name not in inherited:
                added[last][name] = value
            elif not reads_as(inherited[name], value) and not self.arrives(node, name):
                # Behind the merge, for there are parsers that let the later of the two win.
                added[len(node.entries) - 1][name] = value
        if lost := [name for name in inherited if name not in new and name not in indexes]:
            raise self.bad(node, f"{lost[0]!r} comes from a merge", "a mapping of its own")
        editor = self.flow if node.flow else self.block
        if dropped:
            editor.drop(node, dropped)
        for after, pairs in added.items():
            editor.insert(node, after, pairs)

    def inherited(self, node: Mapping) -> dict[str, Node]:
        found: dict[str, Node] = {}
        for source in node.merged():
            for name, value in source.view().items():
                found.setdefault(name, value)
        return found

    def arrives(self, node: Mapping, name: str) -> bool:
        """Whether the edit of the mapping that a key is merged from brings the change here too."""
        source = next(mapping for mapping in node.merged() if name in mapping.view())
        return self.shared.agrees(source)

    def sequence(self, node: Sequence, new: list[Any]) -> None:
        editor = self.flow if node.flow else self.block
        dropped: set[int] = set()
        added: dict[int, list[Any]] = defaultdict(list)
        last = -1
        for index, other in align(node.items, new):
            if index is None:
                assert other is not None
                added[last].append(new[other])
                continue
            last = index
            if other is None:
                dropped.add(index)
            else:
                self.value(None, node.items[index], new[other])
        if dropped:
            editor.drop(node, dropped)
        for after, items in added.items():
            editor.insert(node, after, items)

    def scalar(self, node: Scalar, new: object) -> None:
        if node.anchor or node.style in {"|", ">"} or isinstance(new, dict | list):
            raise self.bad(node, "a scalar that cannot be replaced in place", "a plain or quoted one")
        self.splices.put(node.start, node.end, self.style.scalar_like(new, node.style))

    def fill(self, place: Place | None, node: Scalar | Mapping | Sequence, new: Any) -> None:  # noqa: ANN401
        if not isinstance(new, dict | list) or not new:
            raise self.bad(node, "an empty value", "a collection to fill it with")
        if isinstance(node, Mapping | Sequence) and isinstance(node, Mapping) != isinstance(new, dict):
            raise self.bad(node, "an empty collection of the other kind", "{} for entries, [] for items")
        inline = self.fill_by is _Fill.INLINE
        if place and (isinstance(node, Scalar) or not inline):
            self.block.fill(place, node, new, comment=self.fill_by is _Fill.COMMENTED)
        else:
            self.flow.fill(node, new, inline=inline or not self.style.json)

    def clear(self, place: Place | None, node: Mapping | Sequence, new: object) -> None:
        if node.flow:
            self.flow.clear(node, new)
        elif place:
            self.block.clear(place, node, new)
        else:
            raise self.bad(node, "an item that loses all it holds", "an item that keeps something")

    def alias(self, place: Place | None, node: Alias, new: Any) -> None:  # noqa: ANN401
        if not place or not isinstance(new, dict | list) or not new:
            what = f"an alias of what is defined in line {self.lines.number(node.target.start)}"
            raise self.bad(node, what, "a value of its own, for a change there would change others too")
        unchanged = reads_as(node.target, self.shared.wanted(node.target))
        self.block.override(place, node, new, merge=unchanged)

    def torn(self, place: Place | None, node: Node, new: Any) -> None:  # noqa: ANN401
        view = node.view() if isinstance(node, Mapping) else {}
        added = (
            {name: value for name, value in new.items() if name not in view} if isinstance(new, dict) else {}
        )
        kept = isinstance(new, dict) and all(name in new and reads_as(view[name], new[name]) for name in view)
        if not isinstance(node, Mapping) or not node.entries or not added or not kept:
            raise self.bad(
                node, f"&{node.anchor} has aliases that must not change with it", "a value of its own"
            )
        if node.flow:
            self.splices.put(node.start, node.start, "{<<" + self.style.colon)
            self.splices.put(node.end, node.end, self.style.comma + self.style.inline(added)[1:])
        elif place:
            self.block.wrap(place, node, added)
        else:
            raise self.bad(
                node, f"&{node.anchor} has aliases that must not change with it", "a value of its own"
            )

    def restored(self, place: Place | None, node: Scalar | Mapping | Sequence, new: object) -> bool:
        """Undo what `fill`, `alias` or `torn` did to make room, if that is all that there is to do."""
        if isinstance(node, Mapping) and len(node.entries) > 1 and node.entries[0].merge:
            inner = node.entries[0].value
            if (
                isinstance(inner, Mapping)
                and inner.anchor
                and reads_as(inner, new)
                and inner.flow >= node.flow
            ):
                if node.flow:
                    self.splices.put(node.start, inner.start, "")
                    self.splices.put(inner.end, node.end, "")
                    return True
                if place and not inner.flow:
                    self.block.unwrap(place, node)
                    return True
        if not place or isinstance(node, Scalar) or node.flow:
            return False
        return self.block.restore(place, node, new, self.anchors)

    def anchors(self) -> list[tuple[Node, object]]:
        return [(anchor, self.shared.wanted(anchor)) for anchor in _anchored(self.root)]

    def bad(self, node: Node, what: str, expected: str) -> TextError:
        return TextError(self.lines.number(node.start), what, expected)


def _anchored(node: Node) -> Iterator[Node]:
    if node.anchor:
        yield node
    if isinstance(node, Mapping):
        for entry in node.entries:
            yield from _anchored(entry.value)
    elif isinstance(node, Sequence):
        for item in node.items:
            yield from _anchored(item)
