"""New YAML and JSON text in the style of the text around it."""

import json
import re
from collections import Counter
from typing import Any

from webhook.offline.text.lines import Lines
from webhook.offline.text.node import Mapping, Node, Sequence
from webhook.offline.text.stream import Document
from webhook.offline.text.yaml_source import resolve

# What needs no quotes in any dialect of YAML, in any place; and where braces and commas cannot follow.
_PLAIN_BLOCK = re.compile(r"[A-Za-z/][A-Za-z0-9_./@+-]*(?::[A-Za-z0-9_./@+-]+)*|[0-9]+[A-Za-z]+")
_PLAIN_FLOW = re.compile(r"[A-Za-z/][A-Za-z0-9_./@+-]*|[0-9]+[A-Za-z]+")
# What JSON leaves as it is and YAML reads as a line break, or not at all.
_SPECIAL = re.compile(r"[\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff\ufffe\uffff]")
_CONTROL = re.compile(r"[\x00-\x1f]")


class Raw(str):
    """Text that goes into the result as it stands: an alias, or the key of a merge."""

    __slots__ = ()


class Style:
    """How a document is written: widths of its indentation, its line ends, its colons and commas."""

    def __init__(self, document: Document) -> None:
        self.text = document.text
        self.lines = Lines(document.text)
        self.eol = self.lines.eol
        steps: Counter[int] = Counter()
        dashes: Counter[int] = Counter()
        pads: Counter[int] = Counter()
        _measure(document.root, self.lines, steps, dashes, pads)
        self.step = _commonest(steps, 2)
        self.dash = _commonest(dashes, 0)
        self.pad = _commonest(pads, 2)
        root = document.root
        first = root.entries[0] if isinstance(root, Mapping) and root.flow and root.entries else None
        self.json = document.json or (first is not None and first.key.style == '"')
        self.colon, self.comma, self.unit = ": ", ", ", "  "
        if first is not None:
            self.colon = self.text[first.key.end : first.value.start]
            if self.colon.strip() != ":" or self.colon.strip(" :"):
                self.colon = ": "
            self.comma = ", " if self.colon.endswith(" ") else ","
            self.unit = self.lines.lead(first.start) or self.unit
        self.multiline = first is not None and self.lines.number(first.start) > self.lines.number(root.start)

    def scalar(self, value: object, *, flow: bool = False) -> str:
        """Return one value as a scalar."""
        if isinstance(value, Raw):
            return str(value)
        if isinstance(value, str) and not self.json:
            pattern = _PLAIN_FLOW if flow else _PLAIN_BLOCK
            if pattern.fullmatch(value) and isinstance(resolve(value), str):
                return value
            if '"' in value and "'" not in value and not (_CONTROL.search(value) or _SPECIAL.search(value)):
                return f"'{value}'"
        return _dumps(value)

    def scalar_like(self, value: object, quote: str) -> str:
        """Return one value as a scalar in the quotes that another one has."""
        if isinstance(value, str) and quote == '"':
            return _dumps(value)
        if isinstance(value, str) and quote == "'" and not (_CONTROL.search(value) or _SPECIAL.search(value)):
            return "'" + value.replace("'", "''") + "'"
        return self.scalar(value, flow=True)

    def entry(self, name: str, value: object, column: int) -> list[str]:
        """Return the lines of `name: value` as an entry of a block mapping."""
        key = " " * column + self.scalar(name) + ":"
        if isinstance(value, dict) and value:
            return [key, *self.entries(value, column + self.step)]
        if isinstance(value, list) and value:
            return [key, *self.items(value, column + self.dash, self.pad)]
        return [f"{key} {self.alone(value)}"]

    def entries(self, value: dict[str, Any], column: int) -> list[str]:
        """Return the lines of the entries of a block mapping."""
        return [line for name, child in value.items() for line in self.entry(name, child, column)]

    def items(self, value: list[Any], column: int, pad: int) -> list[str]:
        """Return the lines of the items of a block sequence; `pad` is the width of a dash and its spaces."""
        found: list[str] = []
        for item in value:
            dash = " " * column + "-".ljust(pad)
            if isinstance(item, dict) and item:
                first, *rest = self.entries(item, column + pad)
                found += [dash + first.lstrip(" "), *rest]
            elif isinstance(item, list) and item:
                first, *rest = self.items(item, column + pad, pad)
                found += [dash + first.lstrip(" "), *rest]
            else:
                found.append(dash + self.alone(item))
        return found

    def alone(self, value: object) -> str:
        """Return a scalar or an empty collection that has the rest of its line to itself."""
        return self.inline(value) if isinstance(value, dict | list) else self.scalar(value)

    def inline(self, value: object) -> str:
        """Return a value on one line, as part of a flow collection."""
        if isinstance(value, dict):
            pairs = (
                f"{self.scalar(name, flow=True)}{self.colon}{self.inline(child)}"
                for name, child in value.items()
            )
            return "{" + self.comma.join(pairs) + "}"
        if isinstance(value, list):
            return "[" + self.comma.join(map(self.inline, value)) + "]"
        return self.scalar(value, flow=True)

    def spread(self, value: object, lead: str) -> str:
        """Return JSON on as many lines as it takes, all but the first indented by `lead` or more."""
        lines = _dumps(value, indent=self.unit, separators=(",", self.colon)).split("\n")
        return (self.eol + lead).join(lines)


def _dumps(value: object, **layout: Any) -> str:  # noqa: ANN401
    """Return JSON that YAML reads alike: what is a line break to one of them only is escaped."""
    text = json.dumps(value, ensure_ascii=False, **layout)
    return _SPECIAL.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def _commonest(widths: Counter[int], default: int) -> int:
    return widths.most_common(1)[0][0] if widths else default


def _measure(node: Node, lines: Lines, steps: Counter[int], dashes: Counter[int], pads: Counter[int]) -> None:
    if isinstance(node, Mapping) and not node.flow:
        column = lines.column(node.entries[0].start)
        for entry in node.entries:
            value = entry.value
            if isinstance(value, Mapping) and not value.flow:
                steps[lines.column(value.entries[0].start) - column] += 1
            elif isinstance(value, Sequence) and not value.flow and lines.text[value.start] == "-":
                # Where no anchor and no tag stands before it, a block sequence starts at its first dash.
                dashes[lines.column(value.start) - column] += 1
            _measure(value, lines, steps, dashes, pads)
    elif isinstance(node, Sequence) and not node.flow:
        for item in node.items:
            block = isinstance(item, Mapping) and not item.flow and lines.text[item.start] not in "&!"
            if block and lines.text[node.start] == "-":
                pads[lines.column(item.start) - lines.column(node.start)] += 1
            _measure(item, lines, steps, dashes, pads)
