"""``python -m bench``: all benchmarks, or those that are named.

It exits 0 whatever the figures are: it is no test.
"""

from __future__ import annotations

import argparse

from bench.report import say


def _sockets(*, quick: bool) -> None:
    from bench import sockets

    sockets.run(quick=quick)


def _reviews(*, quick: bool) -> None:
    from bench import reviews

    reviews.run(1.0 if quick else reviews.SECONDS)


def _creations(*, quick: bool) -> None:
    from bench import creations

    creations.run(60 if quick else creations.PAIRS)


def _reconciler(*, quick: bool) -> None:
    from bench import reconciler

    reconciler.run(reconciler.QUICK if quick else reconciler.FULL)


# Each imports what it needs itself: the exporter's figures do not depend on the injector's packages.
_SECTIONS = {"sockets": _sockets, "reviews": _reviews, "creations": _creations, "reconciler": _reconciler}


def main() -> None:
    """Run the sections asked for; one that cannot run says why."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Benchmarks, side by side in one run."
    )
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"{', '.join(_SECTIONS)}; default: all"
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, in less time")
    arguments = parser.parse_args()
    if unknown := set(arguments.sections) - _SECTIONS.keys():
        parser.error(f"{', '.join(sorted(unknown))}; expected some of {', '.join(_SECTIONS)}")
    for name in arguments.sections or _SECTIONS:
        say(f"\n## {name}\n")
        try:
            _SECTIONS[name](quick=arguments.quick)
        except Exception as error:  # noqa: BLE001 - the other sections can still run
            say(f"{name}: cannot run: {error or type(error).__name__}")


if __name__ == "__main__":
    main()
