"""What a change does to nodes that are used in several places: anchored once, aliased elsewhere."""

from collections.abc import Iterator
from typing import Any

from webhook.offline.text.align import align
from webhook.offline.text.node import Alias, Mapping, Node, Sequence, reads_as, same

_ABSENT: Any = object()


class Shared:
    """What a change makes of the anchors in a document."""

    def __init__(self, root: Node, new: object) -> None:
        self._wanted: dict[int, object] = {}
        self._used: set[int] = set()
        self._differs: set[int] = set()
        self._keeps: set[int] = set()
        self._visit(root, new)

    def wanted(self, node: Node) -> object:
        """Return what an anchored node is to be, where it stands."""
        return self._wanted.get(id(node), _ABSENT)

    def agrees(self, node: Node) -> bool:
        """Return whether all aliases of the node are to change as it does: one edit serves them all."""
        return id(node) in self._used and id(node) not in self._differs

    def torn(self, node: Node) -> bool:
        """Return whether an edit of the node would change what is to stay as it is elsewhere."""
        return id(node) in self._keeps

    def _visit(self, node: Node, new: object) -> None:
        if isinstance(node, Alias):
            agrees = same(self.wanted(node.target), new)
            self._use(node.target, agrees=agrees, keeps=not agrees and reads_as(node, new))
            return
        if node.anchor:
            self._wanted[id(node)] = new
        if isinstance(node, Mapping) and isinstance(new, dict):
            explicit = node.explicit()
            for name, entry in explicit.items():
                if name in new:
                    self._visit(entry.value, new[name])
            for target in _merged_aliases(node):
                wanted = self.wanted(target)
                agrees = isinstance(wanted, dict) and all(
                    same(wanted.get(name, _ABSENT), new.get(name, _ABSENT))
                    for name in target.view().keys() | wanted.keys()
                    if name not in explicit
                )
                self._use(target, agrees=agrees, keeps=not agrees)
        elif isinstance(node, Sequence) and isinstance(new, list):
            for index, other in align(node.items, new):
                if index is not None and other is not None:
                    self._visit(node.items[index], new[other])

    def _use(self, target: Node, *, agrees: bool, keeps: bool) -> None:
        self._used.add(id(target))
        if not agrees:
            self._differs.add(id(target))
        if keeps:
            self._keeps.add(id(target))


def _merged_aliases(node: Mapping) -> Iterator[Mapping]:
    for entry in node.entries:
        if entry.merge:
            for source in entry.value.items if isinstance(entry.value, Sequence) else [entry.value]:
                if isinstance(source, Alias) and isinstance(source.target, Mapping):
                    yield source.target
