"""JSON text as nodes with positions (RFC 8259); YAML parsers refuse some of it, such as surrogate pairs."""

import json
import re

from webhook.offline.text.lines import Lines
from webhook.offline.text.node import Entry, Mapping, Node, Scalar, Sequence, TextError

MAX_DEPTH = 200

_SPACE = re.compile(r"[ \t\r\n]*")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"')
_WORD = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|true|false|null")


def parse(text: str) -> list[Node]:
    """Return the values of a JSON text, one after the other as in `kubectl apply -f`.

    Raises TextError with the line where the text stops being JSON.
    """
    reader = _Reader(text)
    values: list[Node] = []
    position = reader.skip(0)
    while position < len(text):
        values.append(reader.value(position, 0))
        position = reader.skip(values[-1].end)
    return values


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text

    def skip(self, position: int) -> int:
        found = _SPACE.match(self.text, position)
        return found.end() if found else position

    def bad(self, position: int, expected: str) -> TextError:
        found = self.text[position : position + 1]
        what = f"not JSON: {found!r}" if found else "not JSON: the text ends"
        return TextError(Lines(self.text).number(position), what, expected)

    def value(self, position: int, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise self.bad(position, f"at most {MAX_DEPTH} levels")
        first = self.text[position : position + 1]
        if first == "{":
            return self.mapping(position, depth)
        if first == "[":
            return self.sequence(position, depth)
        if first == '"':
            return self.string(position)
        word = _WORD.match(self.text, position)
        if not word:
            raise self.bad(position, "a value")
        return Scalar(position, word.end(), json.loads(word.group()), word.group())

    def string(self, position: int) -> Scalar:
        found = _STRING.match(self.text, position)
        if not found:
            raise self.bad(position, "a string in double quotes")
        value = found.group()[1:-1]
        if "\\" in value:
            value = json.loads(found.group())
        return Scalar(position, found.end(), value, value, '"')

    def mapping(self, start: int, depth: int) -> Mapping:
        node = Mapping(start, start, flow=True, inside=start + 1)
        position = self.skip(start + 1)
        while self.text[position : position + 1] != "}" or node.entries:
            key = self.string(position)
            position = self.skip(key.end)
            if self.text[position : position + 1] != ":":
                raise self.bad(position, "a colon")
            value = self.value(self.skip(position + 1), depth + 1)
            node.entries.append(Entry(key.start, key, value))
            position = self.skip(value.end)
            if self.text[position : position + 1] != ",":
                break
            position = self.skip(position + 1)
        if self.text[position : position + 1] != "}":
            raise self.bad(position, "a comma or a closing brace")
        node.end = position + 1
        return node

    def sequence(self, start: int, depth: int) -> Sequence:
        node = Sequence(start, start, flow=True, inside=start + 1)
        position = self.skip(start + 1)
        while self.text[position : position + 1] != "]" or node.items:
            node.items.append(self.value(position, depth + 1))
            position = self.skip(node.items[-1].end)
            if self.text[position : position + 1] != ",":
                break
            position = self.skip(position + 1)
        if self.text[position : position + 1] != "]":
            raise self.bad(position, "a comma or a closing bracket")
        node.end = position + 1
        return node
