"""The picture fits the window, and does not lie at its ends."""

import pytest

from demo.picture import bars, figures, panel
from demo.style import Style, visible
from tests.demo.fakes import DESTINATIONS, FakeStage

REMOTES = [item.remote for item in DESTINATIONS]


def reading(*counts):
    stage = FakeStage()
    for destination, count in zip(DESTINATIONS, counts, strict=True):
        stage.open(destination, count)
    return stage.scrape()


def test_the_whole_picture():
    assert panel(reading(200, 100, 1), REMOTES, Style(width=72)) == [
        "",
        "  port_destination_ratio",
        "  10.20.0.5 [5432:postgres]  ##############################  1.000  full",
        "  10.20.0.6 [6379:redis]     ###############...............  0.500",
        "  10.20.0.7 [443:https]      +.............................  0.005",
        "",
        "  port_exhaustion_ratio 1.000",
        "  port_exhaustion_free 0",
        "  port_usage 150.5 %",
    ]


@pytest.mark.parametrize("width", range(44, 110))
@pytest.mark.parametrize("unicode", [False, True])
def test_every_line_fits_the_width(width, unicode):
    lines = panel(reading(200, 199, 0), REMOTES, Style(colour=True, unicode=unicode, width=width))
    assert max(map(visible, lines)) <= width


@pytest.mark.parametrize("unicode", [False, True])
@pytest.mark.parametrize("width", [6, 7, 40])
def test_a_bar_is_empty_at_0_and_full_at_1_and_neither_between(unicode, width):
    style = Style(unicode=unicode)
    pictures = [style.bar(share, width) for share in (0.0, 0.0001, 0.9999, 1.0)]
    assert len(set(pictures)) == 4
    assert {len(picture) for picture in pictures} == {width}
    assert style.bar(1.5, width) == pictures[-1]


def test_without_colour_there_is_no_escape():
    assert "\x1b" not in "".join(panel(reading(200, 150, 3), REMOTES, Style(unicode=True)))


def test_colours_tell_how_urgent_it_is():
    style = Style(colour=True)
    assert [style.urgent(share, "x")[2:4] for share in (0.69, 0.7, 0.9)] == ["32", "33", "31"]
    assert "\x1b[31m" in "".join(figures(reading(200, 0, 0), style))


def test_own_ports_are_what_the_bars_are_shares_of():
    assert [bar.share for bar in bars(reading(50, 0, 0), REMOTES, 100)] == [0.5, 0, 0]


def test_a_sample_keeps_its_text_whatever_its_colours():
    line = 'port_used{remote_addr="10.20.0.5 [5432:postgres]"} 200.0'
    coloured = Style(colour=True).sample(line)
    assert coloured != line
    assert Style().sample(line) == line
    assert visible(coloured) == len(line)
