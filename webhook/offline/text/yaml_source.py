"""YAML text as nodes with positions, read the way kubectl reads it.

kubectl's parser is a port of libyaml, so libyaml's own events say where everything stands; what its
pure Python twin refuses (tabs between tokens) is fine here as it is there. Plain scalars mean what
YAML 1.1 says: `yes` is true and `0644` is 420.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

from webhook.offline.text.lines import Lines
from webhook.offline.text.node import Alias, Entry, Mapping, Node, Scalar, Sequence, TextError

MAX_DEPTH = 200

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_BOOLEANS = {
    spelled: value
    for value, words in ((True, ("y", "yes", "true", "on")), (False, ("n", "no", "false", "off")))
    for word in words
    for spelled in (word, word.capitalize(), word.upper())
}
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_INTEGER = re.compile(r"[-+]?(?:0[bB][01]+|0[oO]?[0-7]+|0[xX][0-9a-fA-F]+|0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"([-+]?)\.(?:inf|Inf|INF)")
_STANDARD = "tag:yaml.org,2002:"


def resolve(text: str) -> object:
    """Return what a plain scalar means: None, a boolean, a number, or the text itself."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    digits = text.replace("_", "")
    if _INTEGER.fullmatch(digits):
        sign, rest = (digits[0], digits[1:]) if digits[0] in "-+" else ("", digits)
        if re.fullmatch(r"0[0-7]+", rest):
            rest = "0o" + rest[1:]
        return int(sign + rest, 0)
    if _FLOAT.fullmatch(digits) and text[0] != "_":
        return float(digits)
    if infinite := _INFINITE.fullmatch(text):
        return -math.inf if infinite.group(1) == "-" else math.inf
    return math.nan if text in {".nan", ".NaN", ".NAN"} else text


def parse(text: str) -> Node | None:
    """Return the root of a text that holds one YAML document, None when it holds only comments.

    Raises TextError with the line where the text stops being YAML.
    """
    try:
        return _Composer(text).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if error.context_mark and "unexpected end" in (error.problem or ""):
            mark = error.context_mark  # where it was opened, not where it was missed at last
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise TextError(mark.line + 1 if mark else 1, f"not YAML: {what}", "a Kubernetes object") from None
    except yaml.reader.ReaderError as error:
        line = Lines(text).number(max(0, error.position))
        raise TextError(line, f"not YAML: {error.reason}", "text without control characters") from None
    except UnicodeEncodeError as error:
        line = Lines(text).number(error.start)
        raise TextError(line, "bytes that are not UTF-8", "UTF-8, or UTF-16 with a byte order mark") from None


class _Composer:
    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = Lines(text)
        self.anchors: dict[str, Scalar | Mapping | Sequence] = {}
        self.open: set[int] = set()

    def document(self) -> Node | None:
        events = yaml.parse(self.text, Loader=LOADER)
        root: Node | None = None
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    line = _mark(event.start_mark).line + 1
                    raise TextError(line, "not YAML: a second document", "`---` on a line before it")
                root = self.node(next(events), events, 0)
        if isinstance(root, Scalar) and root.value is None and root.start == root.end:
            return None
        return root

    def node(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Node:
        start, end = _mark(event.start_mark).index, _mark(event.end_mark).index
        if depth > MAX_DEPTH:
            raise self.bad(event, "deep nesting", f"at most {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            target = self.anchors.get(event.anchor or "")
            if target is None:
                raise self.bad(event, f"the alias *{event.anchor} without an anchor", "an anchor before it")
            if id(target) in self.open:
                raise self.bad(event, f"the alias *{event.anchor} inside its own anchor", "no recursion")
            return Alias(start, end, target)
        node: Scalar | Mapping | Sequence
        if isinstance(event, yaml.ScalarEvent):
            node = self.scalar(event, start, end)
            self.anchor(node)
        elif isinstance(event, yaml.MappingStartEvent):
            node = Mapping(start, end, bool(event.flow_style), end, event.anchor)
            self.anchor(node)
            self.open.add(id(node))
            while not isinstance(event := next(events), yaml.MappingEndEvent):
                self.entry(node, event, events, depth)
            self.close(node, event, [entry.end for entry in node.entries])
        elif isinstance(event, yaml.SequenceStartEvent):
            node = Sequence(start, end, bool(event.flow_style), end, event.anchor)
            self.anchor(node)
            self.open.add(id(node))
            while not isinstance(event := next(events), yaml.SequenceEndEvent):
                node.items.append(self.node(event, events, depth + 1))
            self.close(node, event, [item.end for item in node.items])
        else:
            raise self.bad(event, "an unexpected part", "a value")
        return node

    def anchor(self, node: Scalar | Mapping | Sequence) -> None:
        if node.anchor:
            self.anchors[node.anchor] = node

    def close(self, node: Mapping | Sequence, event: yaml.Event, ends: list[int]) -> None:
        self.open.discard(id(node))
        # The end of a block collection is reported where the next token is, behind comments.
        node.end = _mark(event.end_mark).index if node.flow else max(ends)

    def entry(self, node: Mapping, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> None:
        key = self.node(event, events, depth + 1)
        if not isinstance(key, Scalar):
            raise self.bad(event, "a key that is not a scalar", "a string")
        value = self.node(next(events), events, depth + 1)
        merge = key.name == "<<" and not key.style
        if merge:
            sources = value.items if isinstance(value, Sequence) else [value]
            if not all(isinstance(_target(source), Mapping) for source in sources):
                raise self.bad(event, "a merge of what is not a mapping", "`<<: *name` of a mapping")
        start = key.start
        before = self.text[self.lines.start(start) : start].rstrip(" ")
        if before.endswith("?") and not node.flow:
            start = self.lines.start(start) + len(before) - 1
        node.entries.append(Entry(start, key, value, merge))

    def scalar(self, event: yaml.ScalarEvent, start: int, end: int) -> Scalar:
        style = event.style or ""
        value: object = event.value
        tag = event.tag
        if tag and tag.startswith(_STANDARD):
            kind = tag.removeprefix(_STANDARD)
            value = event.value if kind in {"str", "binary", "timestamp"} else resolve(event.value)
        elif not tag and event.implicit[0]:
            value = resolve(event.value)
        if style in {"|", ">"}:
            end = self.block_end(style, start, end)
        return Scalar(start, end, value, event.value, style, event.anchor)

    def block_end(self, style: str, start: int, end: int) -> int:
        """Leave out the empty lines behind a block scalar, where they are not part of its value."""
        indicator = self.text.index(style, start)
        header = self.text[indicator : self.lines.after(indicator)].split("#")[0]
        if "+" in header:
            return end
        number = self.lines.number(end) - 1
        if self.lines.starts[number] == end:
            while number > 1 and not self.text[self.lines.starts[number - 1] : end].strip(
                "\r\n\x85\u2028\u2029"
            ):
                number -= 1
                end = self.lines.starts[number]
        return end

    def bad(self, event: yaml.Event, what: str, expected: str) -> TextError:
        return TextError(_mark(event.start_mark).line + 1, what, expected)


def _target(node: Node) -> Node:
    return node.target if isinstance(node, Alias) else node


def _mark(mark: Any) -> Any:  # noqa: ANN401 (libyaml's marks and PyYAML's have no type in common)
    """Return the mark that every event of a parser has, though the type allows for none."""
    return mark
