"""What the webhook adds to the creation of a pod, at a real API server.

Pods with the label and without take turns, one at a time, in one run, so whatever else the machine does
befalls both. Without the label the API server does not call the injector, so the difference of a pair is what
injection costs. Pods of before there was a webhook configuration show what it costs those that do not ask.

The client, etcd and the API server run on the same machine: the times include their share of it.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from bench import machine
from bench.report import say, table

if TYPE_CHECKING:
    from tests.apiserver.client import Client
    from tests.apiserver.injector import Injector

PAIRS = 300
WARM_UP = 20
NAMESPACE = "creations"

PLAIN = "no webhook installed"
UNLABELLED = "not labelled"
LABELLED = "labelled"


class Times(NamedTuple):
    """How long creations took, in milliseconds, pair by pair."""

    before: list[float]
    """Of pods without the label, while no webhook configuration is installed."""
    unlabelled: list[float]
    labelled: list[float]
    reviews: float
    """How often the API server asked the injector for each labelled pod."""
    inside: float
    """Milliseconds of one review inside the injector, on average, by its own metric."""


def run(pairs: int = PAIRS) -> Times | None:
    """Print the table and return what was measured, None if this machine cannot run it."""
    # The harness of the tests: these are needed only here.
    from tests.apiserver.binaries import UnavailableError
    from tests.apiserver.controlplane import ControlPlane

    try:
        with ControlPlane(say=say) as control_plane, control_plane.client() as api:
            times = _measure(api, pairs)
    except UnavailableError as reason:
        say(f"creations: cannot run: {reason}")
        return None
    say(f"Machine: {machine.describe()}.")
    say(f"{pairs} pairs of pods, one at a time; etcd and API server on the same machine.\n")
    say(_table(times))
    say(f"\nReviews per labelled pod: {times.reviews:.1f}, each {times.inside:.2f} ms inside the injector.")
    return times


def _measure(api: Client, pairs: int) -> Times:
    from tests.apiserver.admission import Endpoint
    from tests.apiserver.injector import in_effect
    from tests.apiserver.namespaces import create_namespace

    create_namespace(api, NAMESPACE)
    for number in range(WARM_UP):
        _create(api, f"warm-{number}", labelled=False)
    before = [_create(api, f"before-{number}", labelled=False) for number in range(pairs)]
    with (
        contextlib.closing(Endpoint()) as endpoint,
        in_effect(api, endpoint, settings={"SERVE_LOG_LEVEL": "INFO"}) as injector,
    ):
        for number in range(WARM_UP):
            _create(api, f"warm-labelled-{number}", labelled=True)
        asked, spent = _reviews(injector)
        unlabelled, labelled = list[float](), list[float]()
        for number in range(pairs):
            # Who goes first takes turns too.
            for is_labelled in (number % 2 == 0, number % 2 == 1):
                took = _create(api, f"pod-{number}-{is_labelled}".lower(), labelled=is_labelled)
                (labelled if is_labelled else unlabelled).append(took)
        more, total = _reviews(injector)
    reviews = more - asked
    return Times(before, unlabelled, labelled, reviews / pairs, (total - spent) / reviews * 1000)


def _create(api: Client, name: str, *, labelled: bool) -> float:
    """Create a pod, check that it is what it should be, and return the milliseconds that it took."""
    from tests.apiserver.objects import is_injected, pod

    wanted = pod(NAMESPACE, name, inject="true" if labelled else None)
    start = time.perf_counter()
    created: dict[str, Any] = api.create(wanted)
    took = (time.perf_counter() - start) * 1000
    if is_injected(created) is not labelled:
        raise ValueError(f"creations: {name} is injected: {not labelled}; expected {labelled}")
    return took


def _reviews(injector: Injector) -> tuple[float, float]:
    name = "metrics_sidecar_webhook_review_seconds"
    return injector.metric(f"{name}_count"), injector.metric(f"{name}_sum")


def _table(times: Times) -> str:
    rows = [
        _row(PLAIN, times.before),
        _row(UNLABELLED, times.unlabelled),
        _row(LABELLED, times.labelled),
        _row(
            "labelled less not labelled, by pairs",
            [one - other for one, other in zip(times.labelled, times.unlabelled, strict=True)],
        ),
    ]
    p50, p99 = (
        _quantile(times.labelled, percent) - _quantile(times.unlabelled, percent) for percent in (50, 99)
    )
    rows.append(["labelled less not labelled, by quantile", f"{p50:.2f}", f"{p99:.2f}"])
    return table(["creation of a pod, ms", "p50", "p99"], rows)


def _row(name: str, values: list[float]) -> list[str]:
    return [name, *(f"{_quantile(values, percent):.2f}" for percent in (50, 99))]


def _quantile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS)
