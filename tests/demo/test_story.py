"""The first act: it says that it went as told only if it did."""

import errno

import pytest

from demo.story import play, sample_lines
from tests.demo.fakes import DESTINATIONS, FakeStage, pipe


def test_as_told():
    moment = play(FakeStage(), pipe())
    assert moment.as_told
    assert (moment.error, moment.before, moment.share) == (errno.EADDRNOTAVAIL, 0.995, 1.0)


@pytest.mark.parametrize(
    ("stage", "why"),
    [
        (FakeStage(told=0.9), "the exporter says less than what is"),
        (FakeStage(told=1.2), "the exporter says full before it is"),
        (FakeStage(kernel_ports=190), "connect() fails before the exporter says full"),
        (FakeStage(kernel_ports=10_000), "connect() never fails"),
        (FakeStage(broken=DESTINATIONS[2:]), "another destination fails too"),
        (FakeStage(error=errno.ECONNREFUSED), "connect() fails for another reason"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_not_as_told(stage, why):
    moment = play(stage, pipe())
    assert not moment.as_told, why
    assert "share" in moment.summary


def test_it_gives_up_soon_if_connect_never_fails():
    stage = FakeStage(kernel_ports=10_000)
    play(stage, pipe())
    assert max(stage.connections.values()) < 220


def test_the_applications_own_ports_stand_in_for_the_range():
    stage = FakeStage(own_ports=200, told=0.007)
    assert play(stage, pipe()).as_told


def test_an_old_kernel_is_filled_up_to_the_bound_only():
    stage = FakeStage(kernel_ports=28_232, own_ports=200, can_fill=False)
    moment = play(stage, pipe())
    assert (moment.error, moment.as_told) == (0, False)
    assert stage.connections[DESTINATIONS[0]] == 200


def test_sample_lines_are_lines_of_the_scrape():
    reading = FakeStage().scrape()
    assert sample_lines(reading, DESTINATIONS) == [
        'port_exhaustion_ratio{pod_name="shop-x2x9p",protocol="tcp"} 0.0'
    ]
