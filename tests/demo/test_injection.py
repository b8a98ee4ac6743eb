"""The second act shows what the command line did, and nothing if it did something else."""

import subprocess

import pytest

from demo import injection
from demo.style import Style
from tests.demo.fakes import pipe


def test_diff_marks_what_came_and_went():
    lines = list(injection.diff("a\nb\nc\n", "a\nB\nc\nd\n", Style(), None))
    assert lines == ["  a", "- b", "+ B", "  c", "+ d"]


def test_long_lines_are_cut_for_a_terminal_only():
    assert list(injection.diff("", "x" * 30, Style(unicode=True), 10)) == ["+ " + "x" * 7 + "…"]
    assert list(injection.diff("", "x" * 30, Style(), None)) == ["+ " + "x" * 30]


@pytest.mark.parametrize("answer", ["", "kind: Deployment\n", "kind: Deployment\n---\nkind: Pod\n"])
def test_anything_else_is_not_shown(monkeypatch, answer):
    monkeypatch.setattr(injection, "_webhook", lambda *_, **__: answer)
    with pytest.raises(injection.InjectionError, match="no Service"):
        injection.show(pipe())


def test_a_failing_command_is_named_with_its_last_words(monkeypatch):
    def fail(command, **_):
        raise subprocess.CalledProcessError(2, command, stderr="oh\nno\n")

    monkeypatch.setattr(injection.subprocess, "run", fail)
    with pytest.raises(injection.InjectionError, match="inject: status 2: no"):
        injection.show(pipe())
