"""The command of `make demo`: ``python -m demo``."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from demo import injection
from demo.injection import InjectionError
from demo.screen import Screen
from demo.setting import open_stage
from demo.stage import Stage, StageError
from demo.story import Moment, play, sample_lines
from lab.namespace import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

AS_TOLD, NOT_AS_TOLD, NOT_HERE = 0, 1, 3
_LOOK = 2.0


class _Stopped(BaseException):
    """A signal asks us to end; `number` is which."""

    def __init__(self, number: int) -> None:
        self.number = number


def main(arguments: Sequence[str] | None = None) -> int:
    """Show the demonstration; return 0 if it went as told, 3 if this machine cannot show it all, else 1."""
    parser = argparse.ArgumentParser(
        prog="demo", description="Watch a pod run out of local ports, and see it coming. Needs no cluster."
    )
    parser.add_argument("--hold", action="store_true", help="stay, to be looked at, until Ctrl-C")
    parser.add_argument("--loopback", action="store_true", help="use no network namespaces even if allowed")
    options = parser.parse_args(arguments)
    screen = Screen(sys.stdout, os.environ)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        return run(screen, hold=options.hold, loopback=options.loopback)
    except _Stopped as stopped:
        return 128 + stopped.number
    except (StageError, InjectionError, UnavailableError, RuntimeError, OSError) as error:
        with suppress(OSError):  # a pipe that nobody reads any more may be the error
            screen.write("", f"{screen.style.no} {error}")
        return NOT_AS_TOLD


def run(screen: Screen, *, hold: bool, loopback: bool) -> int:
    """Show all there is."""
    started = time.monotonic()
    screen.write("", screen.style.bold("A pod runs out of local ports, and one sees it coming"), "")
    # In this order: a terminal that takes no more text must not keep the stage from being cleared.
    with screen.animated(), open_stage(loopback=loopback) as stage:
        screen.say(stage.where)
        screen.write(f"Look at it meanwhile: {screen.style.cyan(stage.url)}")
        moment = play(stage, screen)
        screen.write("", screen.style.rule("What Prometheus scrapes"))
        screen.write(*map(screen.style.sample, sample_lines(moment.reading, stage.destinations)))
        screen.pause(_LOOK)
        injection.show(screen)
        screen.write("", screen.style.rule("In short"))
        status = conclude(stage, screen, moment)
        hint = "" if hold else "; --hold keeps it open, to be looked at"
        screen.write(screen.style.dim(f"{time.monotonic() - started:.1f} s{hint}"))
        if hold:
            wait_for_signal(stage, screen)
    return status


def conclude(stage: Stage, screen: Screen, moment: Moment) -> int:
    """Say whether it went as told, and return the exit status that says the same."""
    style = screen.style
    full = stage.destinations[0]
    if moment.as_told:
        failed = f"connect() to {full} failed with {errno.errorcode[moment.error]} when"
        if stage.own_ports:
            screen.say(
                f"{failed} the exporter counted all {stage.own_ports} ports of the application as used, and"
                f" not before. Its port_exhaustion_ratio was {moment.reading.ratio:.3f}, for it is that of"
                " the whole machine."
            )
        else:
            screen.say(
                f"{failed} port_exhaustion_ratio was {moment.share:.3f}. One connection before, when"
                f" connect() still worked, it was {moment.before:.3f}."
            )
        return AS_TOLD
    if not stage.can_fill:
        screen.say(
            "connect() was not made to fail: a program can keep itself to some ports since Linux 6.3, and"
            " using up everybody's would hurt others on this machine. As root, or where users may have"
            " network namespaces, there is more to see."
        )
        return NOT_HERE
    screen.write(f"{style.no} connect() did not go as told: {moment.summary}")
    return NOT_AS_TOLD


def wait_for_signal(stage: Stage, screen: Screen) -> None:
    """Stay until a signal comes.

    Raises:
        StageError: something on the stage has died meanwhile.
    """
    screen.write("", f"All of it stays open: {screen.style.cyan(stage.url)}   Ctrl-C ends it.")
    try:
        while True:
            stage.check()
            time.sleep(0.2)
    except _Stopped:
        screen.write("")


def _stop(number: int, _frame: object) -> NoReturn:
    # Once: what follows is tidying up, which a second Ctrl-C must not cut short.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise _Stopped(number)


if __name__ == "__main__":
    sys.exit(main())
