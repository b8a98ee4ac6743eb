"""What a YAML or JSON text says and where: nodes that know the positions of their text.

Positions are character offsets into the text of one document. `start` includes a node's anchor and
tag; `end` is where its content ends: behind the last character, or, after a block scalar, at the
start of the line that follows it.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_NODES = 2_000_000  # aliases of aliases grow without bound; no manifest comes near this


class TextError(Exception):
    """A text that cannot be read or edited: at which line of it, what is wrong and what was expected."""

    def __init__(self, line: int, what: str, expected: str) -> None:
        super().__init__(f"{what}; expected {expected}")
        self.line = line


@dataclass(slots=True, eq=False)
class Scalar:
    """One value; `style` is its quote, `|` or `>`, or empty when it is plain."""

    start: int
    end: int
    value: object
    name: str
    style: str = ""
    anchor: str | None = None


@dataclass(slots=True, eq=False)
class Alias:
    """A reference (`*name`) to a node that stands earlier in the document."""

    start: int
    end: int
    target: "Scalar | Mapping | Sequence"
    anchor: None = None


@dataclass(slots=True, eq=False)
class Entry:
    """One `key: value` of a mapping; `merge` when the key is `<<`. It starts with its key, or with `?`."""

    start: int
    key: Scalar
    value: "Node"
    merge: bool = False

    @property
    def end(self) -> int:
        """Where the value's content ends."""
        return max(self.key.end, self.value.end)


@dataclass(slots=True, eq=False)
class Mapping:
    """A mapping; `inside` is the position behind its `{` when it is written in flow style."""

    start: int
    end: int
    flow: bool
    inside: int
    anchor: str | None = None
    entries: list[Entry] = field(default_factory=list)
    _view: "dict[str, Node] | None" = None

    def merged(self) -> "Iterator[Mapping]":
        """The mappings that `<<` brings in, the strongest first."""
        for entry in self.entries:
            if entry.merge:
                sources = entry.value.items if isinstance(entry.value, Sequence) else [entry.value]
                for source in sources:
                    mapping = source.target if isinstance(source, Alias) else source
                    if isinstance(mapping, Mapping):
                        yield mapping

    def explicit(self) -> dict[str, Entry]:
        """The entries written here, by key; of two with one key, the last."""
        return {entry.key.name: entry for entry in self.entries if not entry.merge}

    def view(self) -> "dict[str, Node]":
        """Every key that counts, with its value: the explicit ones, then what is merged in."""
        if self._view is None:
            view: dict[str, Node] = {name: entry.value for name, entry in self.explicit().items()}
            for source in self.merged():
                for name, value in source.view().items():
                    view.setdefault(name, value)
            self._view = view
        return self._view


@dataclass(slots=True, eq=False)
class Sequence:
    """A sequence; `inside` is the position behind its `[` when it is written in flow style."""

    start: int
    end: int
    flow: bool
    inside: int
    anchor: str | None = None
    items: "list[Node]" = field(default_factory=list)


Node: TypeAlias = Scalar | Alias | Mapping | Sequence


def plain(node: Node) -> object:
    """The value as dicts, lists and scalars; nothing in it is shared, whatever the text aliases."""
    return _plain(node, [MAX_NODES])


def _plain(node: Node, budget: list[int]) -> object:
    budget[0] -= 1
    if budget[0] < 0:
        raise TextError(1, "aliases that expand without bound", f"at most {MAX_NODES} values")
    if isinstance(node, Alias):
        return _plain(node.target, budget)
    if isinstance(node, Mapping):
        return {name: _plain(value, budget) for name, value in node.view().items()}
    if isinstance(node, Sequence):
        return [_plain(item, budget) for item in node.items]
    return node.value


def same(one: object, other: object) -> bool:
    """Equality that tells `1` from `true` and from `1.0`, and ignores the order of keys."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and (one == other or (one != one and other != other))  # or not a number


def reads_as(node: Node, value: object) -> bool:
    """Whether the node's text means this value."""
    if isinstance(node, Alias):
        return reads_as(node.target, value)
    if isinstance(node, Mapping):
        view = node.view()
        return (
            isinstance(value, dict)
            and view.keys() == value.keys()
            and all(reads_as(child, value[name]) for name, child in view.items())
        )
    if isinstance(node, Sequence):
        return (
            isinstance(value, list)
            and len(node.items) == len(value)
            and all(map(reads_as, node.items, value))
        )
    return same(node.value, value)
