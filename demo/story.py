"""The first act: an application fills the local ports towards one of its destinations, until connect() fails.

Everything shown is what the exporter says over HTTP, and what the kernel answered to the application.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from demo.picture import panel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from demo.application import Answer
    from demo.scrape import Reading
    from demo.screen import Screen
    from demo.stage import Destination

_ORDINARY = (70, 80, 75)
_FRAMES = 30
_LEAK = 4  # connections in a frame
_FRAME = 0.08
_LOOK, _GLANCE = 2.0, 0.8
_SPARE = 8  # connects after which a kernel that still has ports has more of them than it said


class Stage(Protocol):
    """What the story needs of `demo.stage.Stage`."""

    ports: int
    own_ports: int
    can_fill: bool

    @property
    def destinations(self) -> Sequence[Destination]:
        """The services; the first is the one that becomes full."""

    def scrape(self) -> Reading:
        """Return what the exporter says now."""

    def open(self, destination: Destination, count: int) -> Answer:
        """Open connections."""


@dataclass(frozen=True)
class Moment:
    """What was found when connect() failed.

    Attributes:
        error: the errno of the connect() that failed; 0 if none did.
        before: the share of the fullest destination one connection before it was full.
        share: the same when connect() failed: 1 if the exporter told the truth.
        others_work: whether all other destinations took a connection right after.
        reading: the scrape after all that.
    """

    error: int
    before: float
    share: float
    others_work: bool
    reading: Reading

    @property
    def as_told(self) -> bool:
        """Whether it is the story that is told."""
        return self.error == errno.EADDRNOTAVAIL and self.before < 1 and self.share == 1 and self.others_work

    @property
    def summary(self) -> str:
        """The figures on one line, for when it is not."""
        name = errno.errorcode.get(self.error, str(self.error))
        shares = f"{self.before:.3f} and then {self.share:.3f}"
        return f"errno {name}, a share of {shares}, others work: {self.others_work}"


def play(stage: Stage, screen: Screen) -> Moment:
    """Show the first act, and return what happened."""
    story = _Story(stage, screen)
    story.before()
    story.ordinary_hour()
    story.leak()
    return story.moment()


def sample_lines(reading: Reading, destinations: Sequence[Destination]) -> list[str]:
    """Return lines of a scrape, as they are: the three families that everybody knows, and those that tell."""
    return [
        *(line for item in destinations for line in reading.lines("port_used{", item.remote)),
        *reading.lines("port_total{"),
        *reading.lines("port_usage{"),
        *(line for item in destinations for line in reading.lines("port_destination_ratio{", item.remote)),
        *reading.lines("port_exhaustion_ratio{", 'protocol="tcp"'),
        *reading.lines("port_exhaustion_free{", 'protocol="tcp"'),
        *reading.lines("port_connections_opened_total{"),
    ]


class _Story:
    def __init__(self, stage: Stage, screen: Screen) -> None:
        self._stage = stage
        self._screen = screen
        self._full, *self._others = stage.destinations
        self._opened = 0  # towards the one that becomes full
        self._failure: Answer | None = None
        self._shares: dict[int, float] = {}  # of that one, by how many were open
        self._reading = self._scrape()

    def before(self) -> None:
        self._title("Before")
        self._screen.say("The application has just started: no connection yet.")
        self._settle(_GLANCE)

    def ordinary_hour(self) -> None:
        self._title("An ordinary hour")
        self._screen.say("The application talks to three services.")
        frames = _FRAMES if self._screen.moves else 1
        for frame in range(frames):
            for destination, most in zip(self._stage.destinations, _ORDINARY, strict=True):
                self._connect(destination, most * (frame + 1) // frames - most * frame // frames)
            self._next_frame()
        self._settle(0)
        if self._reading.usage > 100:
            self._screen.write("")
            self._screen.say(
                "port_usage is past 100 %, and yet every connect() succeeds: the kernel lends one local port"
                " to many destinations. What counts is the fullest of them."
            )
        self._screen.pause(_LOOK)

    def leak(self) -> None:
        self._title(f"A leak towards {self._full.name}")
        self._screen.say(f"Connections to {self._full} are opened and never closed.")
        last = self._stage.ports - 1
        step = _LEAK if self._screen.moves else last
        while self._opened < last and not self._failure:
            self._connect(self._full, min(step, last - self._opened))
            self._next_frame()
        self._settle(_LOOK)

    def moment(self) -> Moment:
        self._title("The moment")
        self._screen.say("Each line is a connect() and the kernel's answer.")
        self._screen.write("")
        most = self._stage.ports + (_SPARE if self._stage.can_fill else 0)
        while self._opened < most and not self._failure:
            self._connect(self._full, 1)
            self._reading = self._scrape()
            if not self._failure:
                self._event(True, self._full, f"connection {self._opened}, the last port")
        if self._failure:
            number = self._failure.errno
            name = errno.errorcode.get(number, "")
            self._event(False, self._full, f"{name}: [Errno {number}] {self._failure.error}")
        others_work = self._others_work()
        self._reading = self._scrape()
        self._settle(_LOOK)
        return Moment(
            error=self._failure.errno if self._failure else 0,
            before=self._shares.get(self._opened - 1, 1.0),
            share=self._shares[self._opened],
            others_work=others_work,
            reading=self._reading,
        )

    def _others_work(self) -> bool:
        answers = [(destination, self._stage.open(destination, 1)) for destination in self._others]
        for destination, answer in answers:
            works = not answer.errno
            self._event(works, destination, "works at this same moment" if works else answer.error)
        return not any(answer.errno for _, answer in answers)

    def _event(self, works: bool, destination: Destination, text: str) -> None:
        style = self._screen.style
        mark, colour = (style.yes, style.green) if works else (style.no, style.red)
        self._screen.write(f"  {mark} {destination!s:15}  {colour(text)}")
        self._screen.pause(_GLANCE)

    def _connect(self, destination: Destination, count: int) -> None:
        answer = self._stage.open(destination, count)
        if destination is self._full:
            self._opened += answer.opened
        if answer.errno and not self._failure:
            self._failure = answer

    def _scrape(self) -> Reading:
        reading = self._stage.scrape()
        own_ports = self._stage.own_ports
        self._shares[self._opened] = (
            reading.connections.get(self._full.remote, 0) / own_ports if own_ports else reading.ratio
        )
        return reading

    def _next_frame(self) -> None:
        self._reading = self._scrape()
        self._screen.draw(self._panel())
        self._screen.pause(_FRAME)

    def _settle(self, seconds: float) -> None:
        self._screen.write(*self._panel())
        self._screen.pause(seconds)

    def _title(self, title: str) -> None:
        self._screen.write("", self._screen.style.rule(title))

    def _panel(self) -> list[str]:
        remotes = [item.remote for item in self._stage.destinations]
        return panel(self._reading, remotes, self._screen.style, self._stage.own_ports)
