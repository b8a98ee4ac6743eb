"""What it costs to count sockets, beside the kernel's own floor and what else there is.

Everything is measured in one run on the same sockets, in turns, so that a slow moment of the machine is
everybody's; what is compared are medians and ratios of one turn.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench import machine, process
from bench.contenders import (
    NODE_EXPORTER,
    Reader,
    Reading,
    Scraped,
    SsReader,
    start_exporter,
    start_node_exporter,
)
from bench.image import prepare
from bench.population import Population
from bench.report import say, table
from bench.scrape import PLAIN, PROMETHEUS
from lab.namespace import end_all, why_not

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.contenders import Contender
    from bench.image import Image
    from lab.namespace import Namespace

FLOOR = "kernel floor: the same dumps, not parsed"
FLOOR_CONNECTED = "the same without bound sockets"
COLLECTION = "our collection"
SCRAPE = "**our scrape**, as Prometheus asks"
SCRAPE_PLAIN = "our scrape, not compressed"
PROC = "our collection from `/proc`"
PSUTIL = "`psutil.net_connections`"
SS = "`ss -tan`"
NODE = "node_exporter, tcpstat only"
NAMES = (FLOOR, FLOOR_CONNECTED, COLLECTION, SCRAPE, SCRAPE_PLAIN, NODE, PROC, SS, PSUTIL)

FEW, MANY, WIDE = Population(100), Population(28_000), Population(65_000, remotes=28_000)
POPULATIONS = (FEW, Population(1000), MANY, Population(65_000), WIDE)
THOUSAND_SERIES = Population(1000, remotes=500)

_READING_SECONDS = 0.06  # of CPU, so that one reading is long enough to mean something
_MOST_READINGS = 40
_ROUNDS, _QUICK_ROUNDS = 9, 3
_MEASURING_SECONDS = 40.0  # the first TIME_WAIT ends 60 s after it began
_TOLERANCE = 0.01
_STARTS, _QUICK_STARTS = 7, 3
_MIB = 1 << 20
_MISSING = {
    NODE: f"not installed; Debian has it as {NODE_EXPORTER}",
    SS: "not installed; Debian has it in iproute2",
}


@dataclass
class Result:
    """What was measured over one population. Readings stand in the order of the rounds."""

    readings: dict[str, list[Reading]] = field(default_factory=lambda: defaultdict(list))
    peaks: dict[str, int] = field(default_factory=dict)
    sockets: tuple[int, int] = (0, 0)
    """Before and after."""

    def cpu(self, name: str) -> float:
        """Return the median CPU time of a contender, in seconds."""
        return statistics.median(reading.cpu for reading in self.readings[name])

    def wall(self, name: str) -> float:
        """Return the median wall time of a contender, in seconds."""
        return statistics.median(reading.wall for reading in self.readings[name])

    def ratio(self, name: str, other: str) -> float:
        """Return the median of what one cost, divided by what the other one cost in the same round."""
        pairs = zip(self.readings[name], self.readings[other], strict=True)
        return statistics.median(one.cpu / two.cpu for one, two in pairs)

    def difference(self, name: str, other: str) -> float:
        """Return the median of what one cost more than the other one in the same round, in seconds."""
        pairs = zip(self.readings[name], self.readings[other], strict=True)
        return statistics.median(one.cpu - two.cpu for one, two in pairs)


def run(*, quick: bool = False) -> None:
    """Print the tables."""
    reason = why_not()
    if reason:
        say(f"sockets: cannot run: {reason}")
        return
    image = prepare()
    results: dict[Population, Result] = {}
    for population in POPULATIONS:
        say(f"measuring: {population.name} sockets")
        results[population] = _measure(population, image, _QUICK_ROUNDS if quick else _ROUNDS)
    say("measuring: start and memory")
    starts = _cpu_of_starts(image, _QUICK_STARTS if quick else _STARTS)
    series, rss = _rss_of_a_thousand_series(image)
    say()
    say(f"Machine: {machine.describe()}.")
    say(f"Exporter: {image.description}.")
    say("Half of the sockets in TIME_WAIT. Medians of rounds, in turns, in one run.")
    say("Bound sockets, which take ports too, are a second walk of the kernel, and only we ask for them.\n")
    say(_table("CPU per reading, ms (× floor)", results, _cpu_cell) + "\n")
    say(_table("Wall time per reading, ms", results, lambda result, name: _number(result.wall(name) * 1e3)))
    say()
    say(_table("Peak RSS, MiB", results, lambda result, name: f"{result.peaks[name] / _MIB:.1f}"))
    say()
    for population, result in results.items():
        before, after = result.sockets
        drift = "" if abs(after - before) <= before * _TOLERANCE else ": they changed while being measured"
        rounds = len(result.readings[FLOOR])
        say(f"{population.name}: {rounds} rounds, {before:,} sockets before, {after:,} after{drift}")
    say()
    say(_bars(results, starts, series, rss))


def _measure(population: Population, image: Image, rounds: int) -> Result:
    with population.alive() as namespace:
        start = time.monotonic()
        contenders = _contenders(namespace, image)
        pid = contenders[FLOOR].pid
        # Once for warming up, which also tells how often makes a reading.
        times = {name: _times(contender.read(1)) for name, contender in contenders.items()}
        result = Result()
        before = process.tcp_sockets(pid)
        names = list(contenders)
        for number in range(rounds):
            if number and (time.monotonic() - start) * (number + 1) / number > _MEASURING_SECONDS:
                break
            names.append(names.pop(0))
            for name in names:
                result.readings[name].append(contenders[name].read(times[name]))
        result.sockets = before, process.tcp_sockets(pid)
        result.peaks = {name: contender.peak_rss() for name, contender in contenders.items()}
    return result


def _contenders(namespace: Namespace, image: Image) -> dict[str, Contender]:
    ours = start_exporter(namespace, image)
    result: dict[str, Contender] = {
        FLOOR: Reader(namespace, image, "floor"),
        FLOOR_CONNECTED: Reader(namespace, image, "floor_connected"),
        COLLECTION: Reader(namespace, image, "collection"),
        SCRAPE: Scraped(ours.program.pid, ours.scraper, PROMETHEUS),
        SCRAPE_PLAIN: Scraped(ours.program.pid, ours.scraper, PLAIN),
        PROC: Reader(namespace, image, "collection_proc"),
        PSUTIL: Reader(namespace, image, "psutil"),
    }
    if shutil.which(NODE_EXPORTER):
        result[NODE] = start_node_exporter(namespace)
    if shutil.which("ss"):
        result[SS] = SsReader(namespace, image)
    return result


def _times(reading: Reading) -> int:
    return max(1, min(_MOST_READINGS, round(_READING_SECONDS / reading.cpu)))


def _cpu_of_starts(image: Image, starts: int) -> float:
    """Return the median CPU seconds from exec to the first good answer."""
    with FEW.alive() as namespace:
        used = []
        for number in range(starts):
            started = start_exporter(namespace, image, port=19_000 + number)
            used.append(started.cpu)
            end_all([started.program])
    return statistics.median(used)


def _rss_of_a_thousand_series(image: Image) -> tuple[int, int]:
    """Return how many series of ``port_used`` there were, and the resident memory after some scrapes."""
    with THOUSAND_SERIES.alive() as namespace:
        started = start_exporter(namespace, image)
        for _ in range(_MOST_READINGS):
            answer = started.scraper.scrape(PROMETHEUS)
        series = sum(line.startswith("port_used{") for line in answer.splitlines())
        return series, process.rss(started.program.pid)


def _table(what: str, results: dict[Population, Result], cell: Callable[[Result, str], str]) -> str:
    rows = [
        [name, *(cell(result, name) if name in result.readings else "-" for result in results.values())]
        for name in NAMES
    ]
    for row, name in zip(rows, NAMES, strict=True):
        if set(row[1:]) == {"-"}:
            row[0] += f" ({_MISSING[name]})"
    return table([what, *(population.name for population in results)], rows)


def _cpu_cell(result: Result, name: str) -> str:
    return f"{_number(result.cpu(name) * 1e3)} ({result.ratio(name, FLOOR):.1f}×)"


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _bars(results: dict[Population, Result], start: float, series: int, rss: int) -> str:
    """Return the figures that the project promises, with what they are now."""
    many, few = results[MANY], results[FEW]
    rows = [
        _bar("CPU of a scrape ÷ kernel floor, 28,000 sockets", "≤", 1.9, many.ratio(SCRAPE, FLOOR), ""),
        _bar(
            "CPU of a scrape less kernel floor, 100 sockets",
            "≤",
            3.0,
            few.difference(SCRAPE, FLOOR) * 1e3,
            " ms",
        ),
        _bar(f"RSS, {series:,} series of `port_used`", "≤", 26.0, rss / _MIB, " MiB"),
        _bar(
            "peak RSS, 65,000 sockets to 28,000 remotes",
            "≤",
            38.0,
            results[WIDE].peaks[SCRAPE] / _MIB,
            " MiB",
        ),
        _bar("CPU from exec to the first good scrape", "≤", 0.25, start, " s"),
    ]
    name, least = "CPU of node_exporter ÷ CPU of a scrape, 28,000 sockets", 2.2
    if NODE in many.readings:
        rows.insert(1, _bar(name, "≥", least, many.ratio(NODE, SCRAPE), ""))
    else:
        rows.insert(1, [name, f"≥ {least:g}", "-", _MISSING[NODE]])
    return table(["figure", "bar", "measured", ""], rows)


def _bar(name: str, relation: str, bar: float, measured: float, unit: str) -> list[str]:
    met = measured <= bar if relation == "≤" else measured >= bar
    return [name, f"{relation} {bar:g}{unit}", f"{measured:.2f}{unit}", "met" if met else "**NOT met**"]
