"""A stream of documents, as in a file for `kubectl apply`, cut so that the parts joined are the file."""

import re
from dataclasses import dataclass

from webhook.offline.text import json_source, yaml_source
from webhook.offline.text.lines import Lines
from webhook.offline.text.node import Node, TextError

_MARKER = re.compile(r"(?:---|\.\.\.)(?=[ \t\r\n\x85\u2028\u2029]|$)")
_BOM = "\ufeff"


@dataclass(slots=True)
class Document:
    """One document: its text, what it says, and the line of its file at which it begins."""

    text: str
    root: Node
    line: int = 1
    json: bool = False


@dataclass(slots=True)
class Part:
    """A piece of a stream; without a document it is white space, comments, or what could not be read."""

    text: str
    document: Document | None = None
    error: TextError | None = None
    """Where the piece stops being readable; its line is one of the file."""


def read(text: str, line: int = 1, *, json: bool = False) -> Document | None:
    """Return the one document in a text, None when there is none; raises TextError."""
    if json:
        root: Node | None = next(iter(json_source.parse(text)), None)
    else:
        root = yaml_source.parse(text)
    return Document(text, root, line, json) if root is not None else None


def split(text: str) -> list[Part]:
    """Return the parts of a file, whose texts joined are the file, also where it cannot be read."""
    parts = [Part(_BOM)] if text.startswith(_BOM) else []
    text = text.removeprefix(_BOM)
    if looks_like_json(text):
        try:
            return parts + _json_parts(text)
        except TextError as error:
            if _MARKER.search(text) is None and re.match(r'\s*\{\s*"', text):
                # YAML includes most of JSON, so the parser of YAML has the last word.
                return [*parts, _yaml_part(text, 1, error)]
    lines = Lines(text)
    return [*parts, *(_yaml_part(text[start:end], lines.number(start)) for start, end in _cuts(lines))]


def ends_with_marker(text: str) -> bool:
    """Return whether the last line of a document is `...`, behind which the next needs no `---`."""
    lines = Lines(text)
    last = lines.starts[-2] if lines.ended and len(lines.starts) > 1 else lines.starts[-1]
    return text.startswith("...", last) and _MARKER.match(text, last) is not None


def separator(text: str) -> str:
    """Return what has to stand before a file so that it follows the end of another's last document."""
    for line in text.removeprefix("\ufeff").splitlines():
        if line.startswith("%"):
            return "...\n"
        if line.strip() and not line.lstrip().startswith("#"):
            return "" if line.startswith("---") and _MARKER.match(line) else "---\n"
    return "---\n"


def looks_like_json(text: str) -> bool:
    """Return whether a text begins as JSON does."""
    return text.lstrip()[:1] in {"{", "["}


def _json_parts(text: str) -> list[Part]:
    lines = Lines(text)
    parts: list[Part] = []
    done = 0
    for root in json_source.parse(text):
        if done < root.start:
            parts.append(Part(text[done : root.start]))
        own = text[root.start : root.end]
        line = lines.number(root.start)
        # Positions count from where the document begins.
        parts.append(Part(own, read(own, line, json=True) if root.start else Document(own, root, line, True)))
        done = root.end
    return [*parts, Part(text[done:])] if done < len(text) else parts


def _yaml_part(text: str, line: int, json_error: TextError | None = None) -> Part:
    try:
        return Part(text, read(text, line))
    except TextError as error:
        found = json_error or error
        found.line += line - 1
        return Part(text, None, found)


def _cuts(lines: Lines) -> list[tuple[int, int]]:
    """Where documents begin and end. A marker at the start of a line is one wherever it stands."""
    cuts: list[int] = []
    begin = 0
    for start in lines.starts:
        found = _MARKER.match(lines.text, start)
        if not found:
            continue
        if found.group() == "...":
            begin = lines.after(start + 1)
            cuts.append(begin)
        elif not _only_directives(lines.text[begin:start]):
            begin = start
            cuts.append(begin)
    ends = sorted({cut for cut in cuts if cut > 0} | {len(lines.text)})
    return [(start, end) for start, end in zip([0, *ends], ends, strict=False) if start < end]


def _only_directives(text: str) -> bool:
    """Whether a text is what may stand before the `---` of its own document."""
    found = [line.lstrip() for line in text.splitlines() if line.strip()]
    return all(line.startswith(("%", "#")) for line in found)
