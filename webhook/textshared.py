"""Which anchored nodes may be edited where they stand, because all their aliases are to change alike."""

from collections.abc import Iterator
from typing import Any

from webhook.textalign import align
from webhook.textnode import Alias, Mapping, Node, Sequence, same

_ABSENT: Any = object()


class Shared:
    """What a change makes of the anchors in a document."""

    def __init__(self, root: Node, new: object) -> None:
        self._wanted: dict[int, object] = {}
        self._used: set[int] = set()
        self._torn: set[int] = set()
        self._visit(root, new)

    def agrees(self, node: Node) -> bool:
        """Return whether the node has aliases, and an edit of it is what they all want."""
        return id(node) in self._used and id(node) not in self._torn

    def torn(self, node: Node) -> bool:
        """Return whether the node has aliases, and an edit of it is not what they all want."""
        return id(node) in self._torn

    def _visit(self, node: Node, new: object) -> None:
        if isinstance(node, Alias):
            wanted = self._wanted.get(id(node.target), _ABSENT)
            self._use(node.target, agrees=same(wanted, new))
            return
        if node.anchor:
            self._wanted[id(node)] = new
        if isinstance(node, Mapping) and isinstance(new, dict):
            explicit = node.explicit()
            for name, entry in explicit.items():
                if name in new:
                    self._visit(entry.value, new[name])
            for target in _merged_aliases(node):
                wanted = self._wanted.get(id(target), _ABSENT)
                agrees = isinstance(wanted, dict) and all(
                    same(wanted.get(name, _ABSENT), new.get(name, _ABSENT))
                    for name in target.view().keys() | wanted.keys()
                    if name not in explicit
                )
                self._use(target, agrees=agrees)
        elif isinstance(node, Sequence) and isinstance(new, list):
            for index, other in align(node.items, new):
                if index is not None and other is not None:
                    self._visit(node.items[index], new[other])

    def _use(self, target: Node, *, agrees: bool) -> None:
        self._used.add(id(target))
        if not agrees:
            self._torn.add(id(target))


def _merged_aliases(node: Mapping) -> Iterator[Mapping]:
    for entry in node.entries:
        if entry.merge:
            for source in entry.value.items if isinstance(entry.value, Sequence) else [entry.value]:
                if isinstance(source, Alias) and isinstance(source.target, Mapping):
                    yield source.target
