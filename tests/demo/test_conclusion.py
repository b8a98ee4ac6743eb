"""The exit status says the same as the last sentence."""

from io import StringIO

import pytest

from demo.__main__ import AS_TOLD, NOT_AS_TOLD, NOT_HERE, conclude
from demo.screen import Screen
from demo.story import play
from tests.demo.fakes import FakeStage


@pytest.mark.parametrize(
    ("stage", "status", "sentence"),
    [
        (FakeStage(), AS_TOLD, "failed with EADDRNOTAVAIL when port_exhaustion_ratio was 1.000"),
        (FakeStage(own_ports=200, told=0.007), AS_TOLD, "counted all 200 ports of the application as used"),
        (FakeStage(own_ports=200, can_fill=False), NOT_HERE, "was not made to fail"),
        (FakeStage(told=0.9), NOT_AS_TOLD, "errno EADDRNOTAVAIL, a share of 0.895 and then 0.900"),
        (FakeStage(kernel_ports=10_000), NOT_AS_TOLD, "did not go as told: errno 0"),
    ],
)
def test_conclusion(stage, status, sentence):
    out = StringIO()
    screen = Screen(out, {})
    moment = play(stage, screen)
    assert conclude(stage, screen, moment) == status
    assert sentence in " ".join(out.getvalue().split())
