"""On a terminal a panel moves; in a pipe it does not, and nothing but text is written."""

from io import BytesIO, StringIO, TextIOWrapper

from demo.screen import Screen
from tests.demo.fakes import Window


def test_a_pipe_gets_what_stays_and_no_escapes():
    out = StringIO()
    screen = Screen(out, {"TERM": "xterm"})
    with screen.animated():
        screen.draw(["moves"])
        screen.write(screen.style.red("stays"))
    assert (out.getvalue(), screen.moves) == ("stays\n", False)


def test_a_panel_is_redrawn_in_its_place_and_then_stays():
    out = Window()
    screen = Screen(out, {"TERM": "xterm"})
    with screen.animated():
        screen.draw(["one", "two"])
        screen.draw(["three", "four"])
        screen.write("five", "six")
        screen.write("seven")
    assert out.getvalue() == (
        "\x1b[?25lone\ntwo\n\x1b[2F\x1b[Jthree\nfour\n\x1b[2F\x1b[Jfive\nsix\nseven\n\x1b[?25h"
    )


def test_no_color_is_heard():
    assert Screen(Window(), {"TERM": "xterm"}).style.colour
    assert not Screen(Window(), {"TERM": "xterm", "NO_COLOR": "1"}).style.colour
    assert Screen(Window(), {"TERM": "xterm", "NO_COLOR": ""}).style.colour


def test_a_dumb_terminal_is_a_pipe():
    assert not Screen(Window(), {"TERM": "dumb"}).moves


def test_characters_that_cannot_be_shown_are_not_used():
    assert not Screen(TextIOWrapper(BytesIO(), encoding="latin-1"), {}).style.unicode
    assert Screen(TextIOWrapper(BytesIO(), encoding="utf-8"), {}).style.unicode
