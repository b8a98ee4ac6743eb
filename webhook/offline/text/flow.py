"""Additions to and removals from flow collections: `{a: 1}`, `[a]`, and all of JSON."""

from webhook.offline.text.node import Entry, Mapping, Node, Scalar, Sequence, TextError
from webhook.offline.text.splice import Splices
from webhook.offline.text.style import Style


def spans(node: Mapping | Sequence) -> list[Entry] | list[Node]:
    """Return the entries of a mapping or the items of a sequence."""
    return node.entries if isinstance(node, Mapping) else node.items


class FlowEditor:
    """Edits flow collections of one document."""

    def __init__(self, style: Style, splices: Splices) -> None:
        self.style = style
        self.lines = style.lines
        self.splices = splices

    def insert(self, node: Mapping | Sequence, after: int, new: dict[str, object] | list[object]) -> None:
        """Add entries or items behind the one of an index, before the first for -1."""
        parts = spans(node)
        neighbour = parts[max(after, 0)]
        spread = self.lines.leads(neighbour.start) and self.lines.number(neighbour.start) > 1
        lead = self.lines.lead(neighbour.start)
        comma = "," + self.style.eol + lead if spread else self.style.comma
        added = self._render(new, lead if spread and self.style.json else None)
        if after < 0:
            self.splices.put(neighbour.start, neighbour.start, "".join(text + comma for text in added))
        else:
            self.splices.put(neighbour.end, neighbour.end, "".join(comma + text for text in added))

    def drop(self, node: Mapping | Sequence, indexes: set[int]) -> None:
        """Take out some entries or items, but not all."""
        parts = spans(node)
        first = next(index for index in range(len(parts)) if index not in indexes)
        if first:
            self.splices.put(parts[0].start, parts[first].start, "")
        for index in indexes:
            if index > first:
                self.splices.put(parts[index - 1].end, parts[index].end, "")

    def fill(
        self, node: Scalar | Mapping | Sequence, new: dict[str, object] | list[object], *, inline: bool
    ) -> None:
        """Write the first content of an empty collection, or a collection for a null."""
        text = self.style.text[node.start : node.end]
        spread = self._spread_out() and not inline
        if isinstance(node, Scalar):
            if text not in {"", "null"}:
                raise TextError(self.lines.number(node.start), f"{text!r} in flow style", "null, or {} or []")
            whole = self.style.spread(new, self.lines.lead(node.start)) if spread else self.style.inline(new)
            self.splices.put(node.start, node.end, whole if text else " " + whole)
        elif spread and text in {"{}", "[]"}:
            self.splices.put(node.start, node.end, self.style.spread(new, self.lines.lead(node.start)))
        else:
            self.splices.put(node.inside, node.inside, self.style.inline(new)[1:-1])

    def clear(self, node: Mapping | Sequence, new: object) -> None:
        """Take out everything, and leave null or an empty collection."""
        if new is None:
            self.splices.put(node.start, node.end, "null")
            return
        parts = spans(node)
        spread = self.lines.leads(parts[0].start)
        self.splices.put(node.inside, node.end - 1 if spread else parts[-1].end, "")

    def _spread_out(self) -> bool:
        return self.style.json and self.style.multiline

    def _render(self, new: dict[str, object] | list[object], lead: str | None) -> list[str]:
        def value(child: object) -> str:
            return self.style.inline(child) if lead is None else self.style.spread(child, lead)

        if isinstance(new, list):
            return [value(child) for child in new]
        return [
            self.style.scalar(name, flow=True) + self.style.colon + value(child)
            for name, child in new.items()
        ]
