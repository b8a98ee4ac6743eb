"""The best source that works is asked, and a better one again when it may work again."""

import logging
from collections import Counter

import pytest

from sidecar.fallback import PROBE_INTERVAL, Fallback
from sidecar.model import SourceError


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Readers:
    """Three readers, a, b and c, that answer with their names unless they are broken; notes who is asked."""

    def __init__(self):
        self.broken = {}
        self.asked = []
        self.errors = Counter(a=0, b=0, c=0)
        self.clock = Clock()
        self.fallback = Fallback(
            "numbers", {name: self.reader(name) for name in "abc"}, self.errors, self.clock
        )

    def reader(self, name):
        def read(suffix=""):
            self.asked.append(name)
            if name in self.broken:
                raise self.broken[name]
            return name + suffix

        return read

    def breaks(self, names, error=None):
        self.broken = {name: error or SourceError(f"{name} is broken") for name in names}

    def read(self, *args):
        self.asked.clear()
        return self.fallback.read(*args), "".join(self.asked)


@pytest.fixture
def readers(caplog):
    caplog.set_level(logging.INFO)
    return Readers()


def test_the_first_that_works_answers_and_no_other_is_asked(readers, caplog):
    assert readers.read() == ("a", "a")
    assert readers.fallback.active == "a"
    assert readers.errors == {"a": 0, "b": 0, "c": 0}
    assert caplog.messages == []


def test_arguments_are_handed_on(readers):
    readers.breaks("a")
    assert readers.read("!") == ("b!", "ab")


def test_before_the_first_reading_none_is_active(readers):
    assert readers.fallback.active is None


def test_the_next_one_answers_where_one_fails_and_it_is_said_once(readers, caplog):
    readers.breaks("ab")
    assert readers.read() == ("c", "abc")
    assert readers.fallback.active == "c"
    assert caplog.messages == ["numbers: read from c; a: a is broken; b: b is broken"]
    assert caplog.records[0].levelno == logging.WARNING
    assert readers.read() == ("c", "c")
    assert len(caplog.messages) == 1


def test_the_one_that_answered_is_asked_first_until_the_interval_is_over(readers):
    readers.breaks("a")
    readers.read()
    readers.breaks("")
    readers.clock.now += PROBE_INTERVAL - 0.001
    assert readers.read() == ("b", "b")
    readers.clock.now += 0.001
    assert readers.read() == ("a", "a")


def test_a_better_one_that_works_again_is_taken_and_said(readers, caplog):
    readers.breaks("a")
    readers.read()
    readers.breaks("")
    readers.clock.now += PROBE_INTERVAL
    caplog.clear()
    assert readers.read() == ("a", "a")
    assert readers.fallback.active == "a"
    assert caplog.messages == ["numbers: read from a again"]
    assert caplog.records[0].levelno == logging.INFO


def test_a_better_one_that_still_fails_is_left_alone_for_another_interval_without_a_word(readers, caplog):
    readers.breaks("a")
    readers.read()
    caplog.clear()
    readers.clock.now += PROBE_INTERVAL
    assert readers.read() == ("b", "ab")
    assert readers.read() == ("b", "b")
    readers.clock.now += PROBE_INTERVAL
    assert readers.read() == ("b", "ab")
    assert readers.errors["a"] == 3
    assert caplog.messages == []


def test_a_second_best_that_comes_back_is_taken_too(readers, caplog):
    readers.breaks("ab")
    readers.read()
    readers.breaks("a")
    readers.clock.now += PROBE_INTERVAL
    caplog.clear()
    assert readers.read() == ("b", "ab")
    assert caplog.messages == ["numbers: read from b; a: a is broken"]


def test_where_the_one_in_use_fails_a_better_one_is_tried_before_its_time(readers):
    readers.breaks("a")
    readers.read()
    readers.breaks("b")
    assert readers.read() == ("a", "ba")
    assert readers.read() == ("a", "a")


def test_no_source_is_left_untried(readers):
    readers.breaks("ab")
    readers.read()
    readers.breaks("c")
    assert readers.read() == ("a", "ca")
    readers.breaks("abc")
    with pytest.raises(SourceError):
        readers.read()
    assert sorted(readers.asked) == ["a", "b", "c"]


def test_where_all_fail_the_error_has_each_ones_reason_and_none_is_active(readers):
    readers.read()
    assert readers.fallback.active == "a"
    readers.breaks("abc")
    with pytest.raises(SourceError) as caught:
        readers.read()
    assert str(caught.value) == ("numbers: no source works: a: a is broken; b: b is broken; c: c is broken")
    assert readers.fallback.active is None
    assert readers.errors == {"a": 1, "b": 1, "c": 1}


def test_after_all_failed_the_best_is_asked_first_again(readers):
    readers.breaks("ab")
    readers.read()
    readers.breaks("abc")
    with pytest.raises(SourceError):
        readers.read()
    readers.breaks("")
    assert readers.read() == ("a", "a")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(13, "Permission denied"), "[Errno 13] Permission denied"),
        (TimeoutError(), "TimeoutError"),
        (ZeroDivisionError("division by zero"), "division by zero"),
        (MemoryError(), "MemoryError"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_any_exception_makes_the_next_one_be_asked_and_is_named(readers, caplog, error, reason):
    readers.breaks("a", error)
    assert readers.read() == ("b", "ab")
    assert caplog.messages == [f"numbers: read from b; a: {reason}"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_stops_a_program_stops_it(readers, error):
    readers.breaks("a", error())
    with pytest.raises(error):
        readers.read()


def test_a_single_source_has_nothing_to_fall_back_to():
    def fail():
        raise SourceError("broken")

    errors = Counter()
    fallback = Fallback("numbers", {"only": fail}, errors)
    for _ in range(2):
        with pytest.raises(SourceError, match=r"^numbers: no source works: only: broken$"):
            fallback.read()
    assert errors == {"only": 2}


def test_without_sources_there_is_an_error_and_no_answer():
    with pytest.raises(SourceError, match="no source works"):
        Fallback("numbers", {}, Counter()).read()
