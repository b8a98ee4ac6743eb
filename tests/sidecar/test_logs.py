"""Log lines can be read by a machine, and there are no more of them than somebody would read."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.logs import REPEAT_INTERVAL, JsonFormatter, RateLimit
from tests.sidecar.properties import examples

ROOT = Path(__file__).parents[2]
log = logging.getLogger("sidecar.tests")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def limited(clock, caplog):
    caplog.set_level(logging.INFO)
    return RateLimit(log, clock)


def record(message, *args, level=logging.WARNING, created=1700000000.0125, exc_info=None):
    made = logging.LogRecord("sidecar.x", level, __file__, 1, message, args, exc_info)
    made.created = created
    made.msecs = int((created - int(created)) * 1000) + 0.0
    return made


def test_a_json_line_says_when_how_bad_where_and_what():
    assert json.loads(JsonFormatter().format(record("%d of %s", 3, "x"))) == {
        "time": "2023-11-14T22:13:20.012Z",
        "level": "warning",
        "logger": "sidecar.x",
        "message": "3 of x",
    }


@pytest.mark.parametrize(("fraction", "text"), [(0.0, "000"), (0.0009, "000"), (0.5, "500"), (0.9996, "999")])
def test_milliseconds_never_become_a_thousand(fraction, text):
    line = JsonFormatter().format(record("x", created=1700000000 + fraction))
    assert json.loads(line)["time"] == f"2023-11-14T22:13:20.{text}Z"


def test_a_json_line_has_the_traceback_of_an_exception():
    try:
        raise ValueError("no")
    except ValueError:
        line = JsonFormatter().format(record("failed", exc_info=sys.exc_info()))
    exception = json.loads(line)["exception"]
    assert exception.startswith("Traceback (most recent call last):\n")
    assert exception.endswith("\nValueError: no")


@examples(100)
@given(st.text())
def test_a_json_line_is_one_line_whatever_it_says(message):
    line = JsonFormatter().format(record("%s", message))
    assert "\n" not in line
    assert json.loads(line)["message"] == message


def run(level, log_format):
    program = (
        "import logging; from sidecar import logs;"
        f"logging.basicConfig(); logs.set_up({level!r}, {log_format!r});"
        "log = logging.getLogger('sidecar.x'); log.info('quiet'); log.error('loud \\udcff %s', 'é')"
    )
    process = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", program],
        capture_output=True,
        check=True,
        cwd=ROOT,
        timeout=30,
        encoding="utf-8",
    )
    assert process.stdout == ""
    return process.stderr.splitlines()


def test_json_goes_to_stderr_one_object_a_line():
    quiet, loud = map(json.loads, run("INFO", "json"))
    assert (quiet["level"], quiet["message"]) == ("info", "quiet")
    assert (loud["level"], loud["logger"]) == ("error", "sidecar.x")


def test_text_goes_to_stderr_and_levels_below_are_left_out():
    (line,) = run("WARNING", "text")
    assert line.endswith(" ERROR sidecar.x: loud \\udcff é")


def test_the_first_error_of_a_kind_is_logged_and_its_repetitions_are_not(limited, clock, caplog):
    for _ in range(10):
        limited.error("collect", "broken: %s", "x")
        clock.now += 1
    assert caplog.messages == ["broken: x"]
    assert caplog.records[0].levelno == logging.ERROR


def test_after_a_while_the_error_is_logged_again_with_how_often_it_came(limited, clock, caplog):
    for _ in range(10):
        limited.error("collect", "broken: %s", "x")
    clock.now = REPEAT_INTERVAL - 0.001
    limited.error("collect", "broken: %s", "y")
    clock.now = REPEAT_INTERVAL
    limited.error("collect", "broken: %s", "z")
    assert caplog.messages == ["broken: x", "broken: z (and 10 times since the last line)"]
    clock.now = 2 * REPEAT_INTERVAL
    limited.error("collect", "broken")
    assert caplog.messages[-1] == "broken"  # nothing was left out since


def test_errors_of_different_kinds_do_not_hide_each_other(limited, caplog):
    limited.error("tcp", "one")
    limited.error("udp", "two")
    assert caplog.messages == ["one", "two"]


def test_the_end_of_errors_is_told_once_and_only_where_there_were_any(limited, caplog):
    limited.over("collect", "well again")
    assert caplog.messages == []
    limited.error("collect", "broken")
    limited.over("collect", "well again")
    limited.over("collect", "well again")
    assert caplog.messages == ["broken", "well again"]
    assert caplog.records[-1].levelno == logging.INFO


def test_errors_that_come_and_go_are_logged_no_more_often(limited, clock, caplog):
    for _ in range(5):
        limited.error("collect", "broken")
        limited.over("collect", "well again")
        clock.now += 10
    assert caplog.messages == ["broken", "well again"]

    clock.now += REPEAT_INTERVAL
    limited.error("collect", "broken anew")
    limited.over("collect", "well again")
    assert caplog.messages[2:] == ["broken anew (and 4 times since the last line)", "well again"]
