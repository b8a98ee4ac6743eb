"""Editing text by its positions: what is said changes, everything else stays, and there is a way back."""

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from webhook.offline.text import stream
from webhook.offline.text.edit import change
from webhook.offline.text.node import TextError, plain
from webhook.offline.text.style import Raw


def document(text, *, is_json=False):
    found = stream.read(text, json=is_json)
    assert found is not None
    return found


def says(text, *, is_json=False):
    return plain(document(text, is_json=is_json).root)


def check(before, new, expected=None, *, is_json=False):
    """The text becomes the expected one, says what it should, and becomes what it was again."""
    doc = document(before, is_json=is_json)
    after = change(doc, new, reversible=True).text
    assert says(after, is_json=is_json) == new
    assert change(document(after, is_json=is_json), plain(doc.root)).text == before
    if expected is not None:
        assert after == expected


CASES = {
    "the end of a block mapping": ("a: 1 # one\n", {"a": 1, "b": 2}, "a: 1 # one\nb: 2\n"),
    "no final newline": ("a: 1", {"a": 1, "b": 2}, "a: 1\nb: 2"),
    "CRLF": (
        "a:\r\n  b: 1\r\nc: 2\r\n",
        {"a": {"b": 1, "x": "z"}, "c": 2},
        "a:\r\n  b: 1\r\n  x: z\r\nc: 2\r\n",
    ),
    "CRLF without the last": ("a:\r\n  b: 1", {"a": {"b": 1, "x": "z"}}, "a:\r\n  b: 1\r\n  x: z"),
    "bare CR": ("a:\r  b: 1\r", {"a": {"b": 1, "x": "z"}}, "a:\r  b: 1\r  x: z\r"),
    "two depths end at one place": (
        "a:\n  b:\n    c: 1\n",
        {"a": {"b": {"c": 1, "d": 2}, "e": 3}, "f": 4},
        "a:\n  b:\n    c: 1\n    d: 2\n  e: 3\nf: 4\n",
    ),
    "two depths end at the end": (
        "a:\n  b:\n    c: 1",
        {"a": {"b": {"c": 1, "d": 2}, "e": 3}, "f": 4},
        "a:\n  b:\n    c: 1\n    d: 2\n  e: 3\nf: 4",
    ),
    "a new mapping takes the width of the others": (
        "a:\n    b: 1\n",
        {"a": {"b": 1}, "c": {"d": {"e": 2}}},
        "a:\n    b: 1\nc:\n    d:\n        e: 2\n",
    ),
    "a new list hangs as the others do": (
        "a:\n  -   b: 1\n",
        {"a": [{"b": 1}, {"c": [2], "d": 3}]},
        "a:\n  -   b: 1\n  -   c:\n        -   2\n      d: 3\n",
    ),
    "a list at the column of its key": (
        "a:\n- b: 1\nc: 2\n",
        {"a": [{"b": 1}, {"b": 3}], "c": 2},
        "a:\n- b: 1\n- b: 3\nc: 2\n",
    ),
    "comments at the depth of the list stay above": (
        "a:\n  - b: 1\n    # more of b\n  # next\nc: 2\n",
        {"a": [{"b": 1}, {"b": 3}], "c": 2},
        "a:\n  - b: 1\n    # more of b\n  - b: 3\n  # next\nc: 2\n",
    ),
    "a comment that belongs to the next key stays with it": (
        "a:\n- b: 1\n# about c\nc: 2\n",
        {"a": [{"b": 1}, {"b": 3}], "c": 2},
        "a:\n- b: 1\n- b: 3\n# about c\nc: 2\n",
    ),
    "before the first": ("# top\nb: 1\n", {"a": {"x": "z"}, "b": 1}, "# top\na:\n  x: z\nb: 1\n"),
    "between": ("a: 1\n\n# about c\nc: 3\n", {"a": 1, "b": 2, "c": 3}, "a: 1\nb: 2\n\n# about c\nc: 3\n"),
    "empty lines of a block scalar that ends a list item": (
        "a:\n- b: |\n    x\n\n\nc: 1\n",
        {"a": [{"b": "x\n"}, 2], "c": 1},
        "a:\n- b: |\n    x\n- 2\n\n\nc: 1\n",
    ),
    "empty lines that a block scalar keeps": (
        "a:\n- b: |+\n    x\n\n\nc: 1\n",
        {"a": [{"b": "x\n\n\n"}, 2], "c": 1},
        "a:\n- b: |+\n    x\n\n\n- 2\nc: 1\n",
    ),
    "a block scalar that ends the text without a newline": (
        "a:\n- b: >+ # why\n    x",
        {"a": [{"b": "x"}, 2]},
        "a:\n- b: >- # >+ # why\n    x\n- 2",
    ),
    "an omitted null": ("a: # why\nb: 1\n", {"a": {"x": "z"}, "b": 1}, "a: # why\n  x: z\nb: 1\n"),
    "a written null": ("a: ~\n", {"a": {"x": "z"}}, "a: # ~\n  x: z\n"),
    "a written null, with a comment": ("a: null # why\n", {"a": [1]}, "a: # null # why\n- 1\n"),
    "an omitted null, with a comment that looks like one of ours": (
        "a: # ~\n",
        {"a": {"x": "z"}},
        "a: # # ~\n  x: z\n",
    ),
    "an empty mapping": ("a: {} # why\n", {"a": {"x": "z"}}, "a: # why\n  x: z\n"),
    "an empty list": ("k:\n  a: []\n", {"k": {"a": [{"x": "z"}]}}, "k:\n  a:\n  - x: z\n"),
    "an empty mapping in another spelling": ("a:  { }\n", {"a": {"x": "z"}}, "a:  # { }\n  x: z\n"),
    "an empty mapping over two lines": ("a: {\n  }\n", {"a": {"x": "z"}}, "a: {x: z\n  }\n"),
    "flow": ("a: {b: 1, c: [2]}\n", {"a": {"b": 1, "c": [2, 3], "d": "e"}}, "a: {b: 1, c: [2, 3], d: e}\n"),
    "flow, with a comma at the end": ("a: [1, 2, ]\n", {"a": [1, 2, 3]}, "a: [1, 2, 3, ]\n"),
    "flow, a line each": (
        "a: {\n  b: 1,\n  c: 2 # two\n}\n",
        {"a": {"b": 1, "c": 2, "d": {"e": "f"}}},
        "a: {\n  b: 1,\n  c: 2,\n  d: {e: f} # two\n}\n",
    ),
    "flow, empty": ("a: {b: {}, c: []}\n", {"a": {"b": {"x": "z"}, "c": [1]}}, "a: {b: {x: z}, c: [1]}\n"),
    "flow, null": ("a: {b: null}\n", {"a": {"b": {"x": "z"}}}, "a: {b: {x: z}}\n"),
    "JSON in YAML, with tabs": (
        '--- {\n\t"a": {\n\t\t"b": "c"\n\t}\n}\n',
        {"a": {"b": "c", "d": {"e": "f"}}},
        '--- {\n\t"a": {\n\t\t"b": "c",\n\t\t"d": {\n\t\t\t"e": "f"\n\t\t}\n\t}\n}\n',
    ),
    "an alias": (
        "a: &x\n  k: v\nb: *x # same\n",
        {"a": {"k": "v"}, "b": {"k": "v", "l": "w"}},
        "a: &x\n  k: v\nb: # *x # same\n  <<: *x\n  l: w\n",
    ),
    "an alias of a list": (
        "a: &x [1]\nb: *x\n",
        {"a": [1], "b": [1, 2]},
        "a: &x [1]\nb: # *x\n- 1\n- 2\n",
    ),
    "inside an alias": (
        "a: &x\n  k: {l: [1]}\nb: *x\n",
        {"a": {"k": {"l": [1]}}, "b": {"k": {"l": [1, 2]}}},
        "a: &x\n  k: {l: [1]}\nb: # *x\n  k:\n    l:\n    - 1\n    - 2\n",
    ),
    "an anchor whose alias stays": (
        "a: &x # this\n  # k\n  k: |\n    v\n\nb: *x\n",
        {"a": {"k": "v\n", "l": "w"}, "b": {"k": "v\n"}},
        "a:\n  <<: &x # this\n    # k\n    k: |\n      v\n  l: w\n\nb: *x\n",
    ),
    "an anchor in flow style whose alias stays": (
        "a: &x {k: v}\nb: *x\n",
        {"a": {"k": "v", "l": "w"}, "b": {"k": "v"}},
        "a: {<<: &x {k: v}, l: w}\nb: *x\n",
    ),
    "an anchor whose alias changes too": (
        "a: &x\n  k: v\nb: *x\n",
        {"a": {"k": "v", "l": "w"}, "b": {"k": "v", "l": "w"}},
        "a: &x\n  k: v\n  l: w\nb: *x\n",
    ),
    "beside a merge": (
        "a: &x {k: v}\nb:\n  <<: *x\n",
        {"a": {"k": "v"}, "b": {"k": "v", "l": "w"}},
        "a: &x {k: v}\nb:\n  <<: *x\n  l: w\n",
    ),
    "inside a merge": (
        "a: &x {k: [1], m: o}\nb:\n  <<: *x\n  l: w\n",
        {"a": {"k": [1], "m": "o"}, "b": {"k": [1, 2], "m": "o", "l": "w"}},
        "a: &x {k: [1], m: o}\nb:\n  <<: *x\n  l: w\n  k:\n  - 1\n  - 2\n",
    ),
    "a merge of what changes alike": (
        "a: &x\n  k: [1]\nb:\n  <<: *x\n  m: o\n",
        {"a": {"k": [1, 2]}, "b": {"k": [1, 2], "m": "o"}},
        "a: &x\n  k: [1, 2]\nb:\n  <<: *x\n  m: o\n",
    ),
    "document markers and directives": (
        "%YAML 1.2\n---  # start\na: 1\n# tail\n...\n# after\n",
        {"a": 1, "b": 2},
        "%YAML 1.2\n---  # start\na: 1\n# tail\nb: 2\n...\n# after\n",
    ),
    "lists in lists": (
        "a:\n- - 1\n  - 2\n- - 3\n",
        {"a": [[1, 2, 4], [3, 5]]},
        "a:\n- - 1\n  - 2\n  - 4\n- - 3\n  - 5\n",
    ),
    "a dash on a line of its own": ("a:\n-\n  b: 1\n", {"a": [{"b": 1}, 2]}, "a:\n-\n  b: 1\n- 2\n"),
    "characters outside the basic plane": ("a: 😀 # 😀\nb: é\n", {"a": "😀", "b": "é", "c": "ü"}, None),
    "lines that end as YAML 1.1 has it": (
        "a: 1\u2028b: 2\x85c: 3\u2029",
        {"a": 1, "b": 2, "c": 3, "d": 4},
        None,
    ),
    "keys after question marks": (
        "? a\n: b: 1\n? c # null\n",
        {"a": {"b": 1, "d": 2}, "c": None, "e": 3},
        "? a\n: b: 1\n  d: 2\n? c # null\ne: 3\n",
    ),
    "an anchor and aliases that change in different ways": (
        "a: &x\n  k: v\nb: *x\n",
        {"a": {"k": "v", "l": "w"}, "b": {"k": "v", "m": "o"}},
        "a: &x\n  k: v\n  l: w\nb: # *x\n  k: v\n  m: o\n",
    ),
    "tabs between tokens": ("a:\t1\t# one\n", {"a": 1, "b": 2}, "a:\t1\t# one\nb: 2\n"),
    "tagged and anchored": (
        "a: !!map &x\n  b: !!str 1\n",
        {"a": {"b": "1", "c": "d"}},
        "a: !!map &x\n  b: !!str 1\n  c: d\n",
    ),
}


@pytest.mark.parametrize(("before", "new", "expected"), CASES.values(), ids=CASES)
def test_yaml(before, new, expected):
    check(before, new, expected)


JSON_CASES = {
    "compact": ('{"a":{"b":1}}', {"a": {"b": 1, "c": [2, {"d": 3}]}}, '{"a":{"b":1,"c":[2,{"d":3}]}}'),
    "one line": ('{"a": [1, 2]}', {"a": [1, 2, {"b": 3}]}, '{"a": [1, 2, {"b": 3}]}'),
    "pretty": (
        '{\n  "a": {\n    "b": 1\n  }\n}',
        {"a": {"b": 1, "c": {"d": [2]}}},
        '{\n  "a": {\n    "b": 1,\n    "c": {\n      "d": [\n        2\n      ]\n    }\n  }\n}',
    ),
    "four spaces and an odd colon": (
        '{\r\n    "a" : {},\r\n    "b" : null,\r\n    "c" : []}',
        {"a": {"x": 1}, "b": {"y": 2}, "c": [3]},
        '{\r\n    "a" : {\r\n        "x" : 1\r\n    },\r\n    "b" : {\r\n        "y" : 2\r\n    },\r\n    "c" : [\r\n        3\r\n    ]}',  # noqa: E501
    ),
    "empty with a space": ('{\n  "a": { }\n}', {"a": {"x": 1}}, '{\n  "a": {"x": 1 }\n}'),
    "surrogates and slashes": ('{"a":"\\ud83d\\ude00\\/","b":1}', {"a": "😀/", "b": 1, "c": 2}, None),
    "first": ('{"b": 1}', {"a": 0, "b": 1}, '{"a": 0, "b": 1}'),
    "a string with everything in it": (
        '{"a": "{}[],:\\"\\\\ # \\n --- \u2028--- x"}',
        {"a": '{}[],:"\\ # \n --- \u2028--- x', "b": 'it\'s "b"'},
        None,
    ),
}


@pytest.mark.parametrize(("before", "new", "expected"), JSON_CASES.values(), ids=JSON_CASES)
def test_json(before, new, expected):
    check(before, new, expected, is_json=True)


REFUSED = {
    "an item that is an alias": (
        "a: &x {k: v}\nb:\n- *x\n",
        {"a": {"k": "v"}, "b": [{"k": "v", "l": "w"}]},
        3,
    ),
    "a shared list": ("a: &x [1]\nb: *x\n", {"a": [1, 2], "b": [1]}, 1),
    "two entries with one key": ("a:\n  k: 1\n  k: 2\n", {"a": {"k": 2, "l": 3}}, 2),
    "a null in flow style that could not come back": ("a: {b: ~}\n", {"a": {"b": {"x": "z"}}}, 1),
    "another kind": ("a: 1\n", {"a": {"b": 1}}, 1),
}


@pytest.mark.parametrize(("before", "new", "line"), REFUSED.values(), ids=REFUSED)
def test_what_would_change_more_than_it_should_is_an_error(before, new, line):
    with pytest.raises(TextError) as caught:
        change(document(before), new, reversible=True)
    assert caught.value.line == line
    assert "; expected " in str(caught.value)


def test_nothing_to_change_is_the_document_itself():
    doc = document("b: {x: &a 1} # c\na: *a\n")
    assert change(doc, {"a": 1, "b": {"x": 1}}) is doc


STRINGS = (
    *(
        "true",
        "yes",
        "on",
        "n",
        "~",
        "null",
        "",
        "9999",
        "1e3",
        "0x1f",
        "1:20",
        "2020-01-01",
        "50m",
        ".inf",
        "1_000",
    ),
    *(
        "a: b",
        "a #b",
        "-",
        "- a",
        "&a",
        "*a",
        "!a",
        "{a}",
        "[a]",
        "'",
        '"',
        "'\"",
        "@a",
        "`a",
        "%a",
        "a,b",
        "a:",
        ":a",
    ),
    *(
        "#a",
        "?",
        "=",
        "<<",
        "a\nb",
        "tab\t",
        " lead",
        "trail ",
        "é😀",
        "\x07\x7f\x85",
        "\u2028",
        "\ufeff",
        "a" * 5000,
    ),
)


@pytest.mark.parametrize("value", STRINGS)
@pytest.mark.parametrize("before", ["a: b\n", "{a: b}\n", '{"a": "b"}'])
def test_every_string_survives(before, value):
    check(before, {"a": "b", "c": value, "d": [value], value[:1000] + "x": 1})


# A writer of YAML that is free in all that a person is free in. It returns the lines of a value.

scalars = st.one_of(
    st.sampled_from(
        [
            "",
            "true",
            "x y",
            "a: b",
            "# no",
            "- x",
            "{}",
            "é",
            "😀",
            "line\nline\n",
            "l\n\n",
            "end\nno",
            "'",
            '"',
            "~",
        ]
    ),
    st.integers(-5, 5),
    st.booleans(),
    st.none(),
)
keys = st.sampled_from(["a", "b", "metadata", "name", "x/y.z", "on", "8080"])
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
roots = st.dictionaries(keys, values, min_size=1, max_size=4)


PLAIN_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9./-]*")
BLOCK = re.compile(r"[!-~][ -~]*\n[ -~\n]*")


def quoted(value):
    text = json.dumps(value, ensure_ascii=False)
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in text)


class Writer:
    def __init__(self, draw):
        self.pick = lambda *options: draw(st.sampled_from(options))
        self.step = self.pick(1, 2, 4)
        self.dash = self.pick(0, 2)
        self.pad = self.pick(" ", "   ")

    def document(self, root):
        lines = [*self.pick([], ["---"], ["# top", "%YAML 1.1", "---"], ["", "# x", "--- # y"])]
        lines += self.entries(root, 0)
        lines += self.pick([], [""], ["# end"], ["  # end"], ["..."], ["", "", "...", "# x"])
        eol = self.pick("\n", "\n", "\r\n")
        return eol.join(lines) + self.pick(eol, eol, "")

    def comment(self):
        return self.pick("", "", "", " # c", "  #", " # ~", " # {}")

    def between(self, column):
        return self.pick(
            [], [], [], [""], [" " * column + "# here"], ["# left"], [" " * (column + 3) + "# right"]
        )

    def entries(self, pairs, column):
        lines = []
        for key, value in pairs.items():
            name = self.pick(key, quoted(key)) if PLAIN_KEY.fullmatch(key) else quoted(key)
            head = " " * column + name + ":"
            lines += self.between(column)
            lines += self.value(head, value, column, self.step, self.dash)
        return lines

    def value(self, head, value, column, step, dash):
        if isinstance(value, dict | list) and value and self.pick(True, True, True, False):
            head += self.comment()
            if isinstance(value, dict):
                return [head, *self.entries(value, column + step)]
            return [head, *self.items(value, column + dash)]
        if isinstance(value, str) and BLOCK.fullmatch(value):
            body = [" " * (column + step) + line if line else "" for line in value.split("\n")]
            if value.endswith("\n\n"):
                return [head + " |+" + self.comment(), *body[:-1]]
            if value.endswith("\n"):
                return [head + " |" + self.comment(), *body[:-1], *self.pick([], [""])]
            return [head + " |-" + self.comment(), *body]
        if value is None:
            return [head + self.pick("", " ~", " null") + self.comment()]
        return [f"{head} {self.flow(value)}{self.comment()}"]

    def items(self, items, column):
        lines = []
        for item in items:
            lines += self.between(column) if lines else []
            dash = " " * column + "-"
            width = column + 1 + len(self.pad)
            if isinstance(item, dict) and item and self.pick(True, True, False):
                first, *rest = self.plain_entries(item, width)
                lines += [dash + self.pad + first.lstrip(" "), *rest]
            else:
                lines += self.value(dash, item, width - 1, 1, 1)
        return lines

    def plain_entries(self, pairs, column):
        lines = self.entries(pairs, column)
        while not lines[0].strip() or lines[0].lstrip().startswith("#"):
            del lines[0]
        return lines

    def flow(self, value):
        comma = self.pick(", ", ",", " , ")
        if isinstance(value, dict):
            pairs = comma.join(f"{quoted(key)}: {self.flow(child)}" for key, child in value.items())
            return self.pick("{", "{ ") + pairs + self.pick("}", " }")
        if isinstance(value, list):
            return "[" + comma.join(map(self.flow, value)) + self.pick("]", " ]")
        if isinstance(value, str) and value.isprintable() and "'" not in value and self.pick(True, False):
            return f"'{value}'"
        return quoted(value)


@st.composite
def texts(draw):
    root = draw(roots)
    return Writer(draw).document(root)


@st.composite
def grown(draw, value, *, key=False):
    """A value with something added to it, here and there, as an injection adds."""
    if isinstance(value, dict) and (value or draw(st.booleans())):
        new = {name: draw(grown(child, key=True)) for name, child in value.items()}
        if draw(st.booleans()):
            extra = {"new/k": draw(scalars), "new-map": draw(values)}
            new = {**extra, **new} if draw(st.integers(0, 3)) == 0 else {**new, **extra}
        return new
    if isinstance(value, list) and (value or draw(st.booleans())):
        return [draw(grown(child)) for child in value] + draw(
            st.sampled_from([[], ["new"], [{"name": "n", "l": [1]}]])
        )
    if value is None and key and draw(st.integers(0, 3)) == 0:
        return draw(st.sampled_from([{"k": "v"}, ["v"], None]))
    return value


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_property_there_and_back(data):
    text = data.draw(texts())
    root = says(text)
    new = data.draw(grown(root))
    check(text, new)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), st.sampled_from([None, 1, 4, "\t"]), st.sampled_from([(",", ":"), (", ", ": ")]))
def test_property_there_and_back_in_json(data, indent, separators):
    root = data.draw(roots)
    separators = separators if indent is None else (separators[0].strip(), separators[1])
    check(json.dumps(root, indent=indent, separators=separators), data.draw(grown(root)), is_json=True)


REPLACED = [
    ("a: 'it''s'\n", {"a": "it's not"}, "a: 'it''s not'\n"),
    ('a: "b" # c\n', {"a": "true"}, 'a: "true" # c\n'),
    ("{a: 1}\n", {"a": 2}, "{a: 2}\n"),
    ("a: b\n", {"a": "c"}, "a: c\n"),
]


@pytest.mark.parametrize(("before", "new", "expected"), REPLACED)
def test_a_replaced_scalar_keeps_its_quotes(before, new, expected):
    check(before, new, expected)


def test_raw_text_is_a_string():
    assert Raw("*a") == "*a"
