"""What the reconciler costs in a large cluster, and how soon it mends things there, at a real API server.

One run: a fleet of workloads is created; simpler watchers look at it, for a yardstick; then the reconciler
starts, brings everything in step, has nothing to do, sees a tenth of the workloads restart, and has Services
of its own taken away. It runs as deployed: with its service account, its permissions, and its own settings.

etcd, the API server, this program and the reconciler share the machine: the times include it, the processor
time is each process's own.
"""

from __future__ import annotations

import functools
import os
import random
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from bench import machine, process
from bench.fleet import Fleet, Object, Size, Workload
from bench.report import say, table
from bench.trail import LEASES, Request, Trail, described, short
from bench.watcher import ALL_SEEN
from tests.apiserver import binaries, permissions
from tests.apiserver.controlplane import ControlPlane
from tests.apiserver.injector import ROOT, configuration
from tests.apiserver.processes import Child
from tests.apiserver.reconciler import ACCOUNT, Reconciler
from tests.apiserver.waiting import eventually
from webhook import names
from webhook.identity import service_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.apiserver.client import Client

OURS = f"{names.MANAGED_BY_LABEL}={names.MANAGED_BY}"
INJECTED = f"{names.INJECTED_LABEL}={names.TRUE}"

RSS_BAR = 256  # MiB
CPU_BAR = 60  # seconds
HEAL_BAR = 5  # seconds

_IN_STEP_DEADLINE = 600.0
_CLIENTS = 8
_SAMPLE = 2.0


class Plan(NamedTuple):
    """How large, and how long."""

    size: Size = Size()
    resync: int = 60
    """Seconds between two resyncs. By default it is five times as many; here they are to be seen."""
    rest: int = 180
    """Seconds of having nothing to do."""
    rollouts: int = 100
    rollout: int = 60
    """Seconds in which all of them are restarted."""
    healings: int = 20


FULL = Plan()
QUICK = Plan(
    Size(workloads=100, plain=200, namespaces=10), resync=10, rest=30, rollouts=10, rollout=15, healings=6
)


class Phase(NamedTuple):
    """What was used while something went on."""

    seconds: float
    cpu: float
    api_server_cpu: float
    requests: list[Request]

    @property
    def minutes(self) -> float:
        """How long it took."""
        return self.seconds / 60

    @property
    def reads(self) -> list[Request]:
        """What was asked for."""
        return [request for request in self.requests if not request.writes]

    @property
    def writes(self) -> list[Request]:
        """What was changed, the Lease aside."""
        return [request for request in self.requests if request.writes and request.resource != LEASES]

    @property
    def renewals(self) -> list[Request]:
        """How the Lease was kept."""
        return [request for request in self.requests if request.writes and request.resource == LEASES]


class Yardstick(NamedTuple):
    """What a simpler watcher took to see all injected pods once."""

    name: str
    seconds: float
    cpu: float
    peak: int
    """Bytes."""
    api_server_cpu: float


def run(plan: Plan = FULL) -> None:
    """Print the tables; say why where this machine cannot run it."""
    try:
        programs = binaries.find("etcd", "kube-apiserver", "kubectl", say=say)
        control_plane = ControlPlane(say=say)
        with control_plane, control_plane.client() as api:
            permissions.plant(api)
            api.create(_idle_configuration())
            _Run(control_plane, api, plan, programs["kubectl"]).all()
    except binaries.UnavailableError as reason:
        say(f"reconciler: cannot run: {reason}")


def _idle_configuration() -> Object:
    """Return our webhook configuration, whose certificates are kept, for no namespace: pods come injected."""
    written = configuration()
    for webhook in written["webhooks"]:
        webhook["namespaceSelector"] = {"matchLabels": {"kubernetes.io/metadata.name": "nowhere"}}
    return written


class _Run:
    def __init__(self, control_plane: ControlPlane, api: Client, plan: Plan, kubectl: Path) -> None:
        self._control_plane = control_plane
        self._api = api
        self._plan = plan
        self._kubectl = kubectl
        self._fleet = Fleet(api, plan.size)
        self._trail = Trail(control_plane.folder / "audit.log", ACCOUNT)
        self._requests: list[Request] = []
        self._mark = 0.0, 0.0, 0.0
        """When a phase began, and the CPU time of the reconciler and of the API server then."""

    def all(self) -> None:
        """Do everything, in order, and say what it took."""
        self._populate()
        yardsticks = self._yardsticks()
        self._mark = time.perf_counter(), 0.0, self._api_server_cpu()
        with Reconciler(
            self._control_plane, log_level="INFO", certificates="true", resync_seconds=self._plan.resync
        ) as self._reconciler:
            self._pid = self._reconciler.process.pid
            self._wait_until_in_step()
            started, peak = self._phase(), process.peak_rss(self._pid)
            self._check()
            _say_start(started, peak, yardsticks)
            eventually("the first resync to end", lambda: self._reconciler.said("resync: done"), deadline=120)
            rest, resyncs = self._rest()
            rolled_out, wrong_services, wrong_pods = self._roll_out()
            _say_phases(self._plan, rest, resyncs, rolled_out)
            say(
                f"Wrong at worst, looked at every {_SAMPLE:g} s meanwhile:"
                f" {wrong_services} Services, {wrong_pods} pods.\n"
            )
            _say_healing(self._heal())
            peak = process.peak_rss(self._pid)
            say(f"\nHighest resident memory of all phases: {peak / (1 << 20):.0f} MiB, bar <={RSS_BAR}.")
            complaints = self._reconciler.complaints()
            say(f"Warnings and errors in its log: {len(complaints)}.")
            for line in complaints[:5]:
                say(f"  {line['message']}")

    # --- the cluster -------------------------------------------------------------------------------------

    def _populate(self) -> None:
        size = self._plan.size
        start = time.perf_counter()
        self._fleet.populate()
        took = time.perf_counter() - start
        whole, seen = self._fleet.kilobytes()
        say(f"Machine: {machine.describe()}.")
        say(
            f"{size.workloads} workloads with {size.workloads * size.pods} injected pods, {size.bare} bare"
            f" injected pods, {size.plain} pods without the label, in {size.namespaces} namespaces. A pod has"
            f" {whole:.1f} KB, {seen:.1f} without its managed fields. Created in {took:.0f} s.\n"
        )

    def _expected(self) -> set[tuple[str, str]]:
        """Return the namespaces and names of the Services that there are to be."""
        found = set()
        for workload in self._fleet.workloads:
            obj = workload.obj
            name = service_name(obj["apiVersion"], obj["kind"], obj["metadata"]["name"])
            found.add((obj["metadata"]["namespace"], name))
        for pod in self._fleet.living():
            if not pod["ownerReferences"]:
                found.add((pod["namespace"], service_name("v1", "Pod", pod["name"])))
        return found

    def _services(self) -> dict[tuple[str, str], Object]:
        """Return the Services of ours, without what changes when nothing does."""
        return {
            (item["metadata"]["namespace"], item["metadata"]["name"]): {
                "uid": item["metadata"]["uid"],
                "owners": item["metadata"].get("ownerReferences"),
                "annotations": item["metadata"].get("annotations"),
                "spec": item["spec"],
            }
            for item in self._api.items("v1", "Service", labels=OURS)
        }

    def _pods_found_wrongly(self, services: dict[tuple[str, str], Object]) -> int:
        """Return how many injected pods are selected by no Service, or by more than one."""
        selectors: dict[str, list[dict[str, str]]] = {}
        for (namespace, _), service in services.items():
            selectors.setdefault(namespace, []).append(service["spec"]["selector"])
        return sum(
            sum(selector.items() <= pod["labels"].items() for selector in selectors.get(pod["namespace"], ()))
            != 1
            for pod in self._fleet.living()
        )

    def _check(self) -> None:
        services, expected = self._services(), self._expected()
        if services.keys() != expected:
            odd = sorted(services.keys() ^ expected)
            raise ValueError(f"reconciler: {len(odd)} Services missing or too many, such as {odd[0]}")
        if wrong := self._pods_found_wrongly(services):
            raise ValueError(f"reconciler: {wrong} pods are not in exactly one Service")

    # --- measuring ---------------------------------------------------------------------------------------

    def _api_server_cpu(self) -> float:
        return process.cpu_seconds(self._control_plane.api_server_pid)

    def _begin(self) -> None:
        self._trail.more()
        self._requests = []
        self._mark = time.perf_counter(), process.cpu_seconds(self._pid), self._api_server_cpu()

    def _phase(self) -> Phase:
        """Return what has been used since the beginning of it."""
        start, cpu, api_server_cpu = self._mark
        seconds = time.perf_counter() - start
        cpu, api_server_cpu = process.cpu_seconds(self._pid) - cpu, self._api_server_cpu() - api_server_cpu
        self._requests += self._trail.more()
        return Phase(seconds, cpu, api_server_cpu, self._requests)

    def _wait_until_in_step(self) -> None:
        """Wait until each Service has been applied; the audit log tells, without a request."""
        wanted = len(self._expected())

        def applied() -> bool:
            self._requests += self._trail.more()
            made = {
                request.name
                for request in self._requests
                if request.resource == "services" and request.writes
            }
            return len(made) >= wanted

        eventually("all Services", applied, deadline=_IN_STEP_DEADLINE)

    # --- what is measured --------------------------------------------------------------------------------

    def _watch(self, name: str, command: Sequence[str | Path], seen: Callable[[str], bool]) -> Yardstick:
        """Run a simpler watcher until its output says that it has seen all."""
        folder = self._control_plane.folder
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "KUBECONFIG": str(self._control_plane.admin_kubeconfig),
            "HOME": str(folder),  # kubectl keeps a cache there
        }
        log = folder / f"{name.replace(' ', '-')}.log"
        start, api_server_cpu = time.perf_counter(), self._api_server_cpu()
        child = Child(name, command, log, environment)
        try:
            eventually(name, lambda: seen(log.read_text()), deadline=_IN_STEP_DEADLINE)
            return Yardstick(
                name,
                time.perf_counter() - start,
                process.cpu_seconds(child.pid),
                process.peak_rss(child.pid),
                self._api_server_cpu() - api_server_cpu,
            )
        finally:
            child.stop()

    def _yardsticks(self) -> list[Yardstick]:
        pods = len(self._fleet.living())
        watcher = [sys.executable, "-m", "bench.watcher", str(pods)]
        selection = ["get", "pods", "--all-namespaces", f"--selector={INJECTED}", "--watch", "--no-headers"]
        return [
            self._watch(
                "kubectl get --watch", [self._kubectl, *selection], lambda out: out.count("\n") >= pods
            ),
            self._watch("kopf, one empty handler", watcher, lambda out: ALL_SEEN in out),
            self._watch("the same, set as ours is", [*watcher, "tuned"], lambda out: ALL_SEEN in out),
        ]

    def _rest(self) -> tuple[Phase, int]:
        """Return what was used while nothing happened, and the number of resyncs."""
        before = len(self._reconciler.said("resync: done"))
        self._begin()
        time.sleep(self._plan.rest)
        phase = self._phase()
        return phase, len(self._reconciler.said("resync: done")) - before

    def _roll_out(self) -> tuple[Phase, int, int]:
        """Restart workloads; return what was used, and at worst how many Services and pods were wrong."""
        before = self._services()
        deployments = [one for one in self._fleet.workloads if one.obj["kind"] == "Deployment"]
        chosen = random.Random(5).sample(deployments, self._plan.rollouts)  # noqa: S311
        wrong_services = wrong_pods = 0
        with ThreadPoolExecutor(_CLIENTS) as pool:
            self._begin()
            work = [
                pool.submit(self._restart, workload, self._plan.rollout * number / len(chosen))
                for number, workload in enumerate(chosen)
            ]
            while not all(future.done() for future in work):
                time.sleep(_SAMPLE)
                services = self._services()
                wrong_services = max(wrong_services, _differing(before, services))
                wrong_pods = max(wrong_pods, self._pods_found_wrongly(services))
            for future in work:
                future.result()
            phase = self._phase()
        return phase, wrong_services, wrong_pods

    def _restart(self, workload: Workload, after: float) -> None:
        """Some seconds after the mark, begin to replace the pods of a workload one by one."""
        time.sleep(max(0.0, self._mark[0] + after - time.perf_counter()))
        renewed = self._fleet.roll_out(workload)
        for uid in self._fleet.pods_of(workload):
            self._fleet.create_pod(renewed)
            self._fleet.delete_pod(uid)

    def _heal(self) -> dict[str, list[float]]:
        """Return the seconds that it took until a Service was back, deleted or edited."""
        took: dict[str, list[float]] = {"deleted": [], "edited": []}
        chosen = random.Random(5).sample(sorted(self._services()), self._plan.healings)  # noqa: S311
        for number, (namespace, name) in enumerate(chosen):
            service = self._api.get("v1", "Service", name, namespace)
            how = ("deleted", "edited")[number % 2]
            start = time.perf_counter()
            if how == "deleted":
                self._api.delete("v1", "Service", name, namespace)
            else:
                edit = {"spec": {"selector": {"app": "another"}}}
                self._api.patch("v1", "Service", name, edit, namespace)
            eventually("the Service to be back", functools.partial(self._is_like, service), deadline=60)
            took[how].append(time.perf_counter() - start)
        return took

    def _is_like(self, service: Object) -> bool:
        found = self._api.find("v1", "Service", service["metadata"]["name"], service["metadata"]["namespace"])
        return found is not None and found["spec"] == service["spec"]


def _differing(before: dict[tuple[str, str], Object], after: dict[tuple[str, str], Object]) -> int:
    return sum(before.get(key) != after.get(key) for key in before.keys() | after.keys())


# --- what is said ----------------------------------------------------------------------------------------


def _say_start(phase: Phase, peak: int, yardsticks: list[Yardstick]) -> None:
    ours = Yardstick("the reconciler, until in step", phase.seconds, phase.cpu, peak, phase.api_server_cpu)
    rows = [_yardstick_row(ours, ours), *(_yardstick_row(one, ours) for one in yardsticks)]
    rows.insert(1, ["bar", "", f"<={CPU_BAR}", "", f"<={RSS_BAR}", "", ""])
    head = ["", "wall s", "CPU s", "ours to it", "peak MiB", "ours to it", "API server's CPU s"]
    say(table(head, rows))
    say(f"\nUntil in step: {len(phase.reads)} reads and {len(phase.writes)} writes:")
    say(f"{described(phase.requests, 1)}.\n")


def _yardstick_row(one: Yardstick, ours: Yardstick) -> list[str]:
    cpu, peak = ("", "") if one is ours else (f"{ours.cpu / one.cpu:.1f}x", f"{ours.peak / one.peak:.1f}x")
    return [
        one.name,
        f"{one.seconds:.1f}",
        f"{one.cpu:.1f}",
        cpu,
        f"{one.peak / (1 << 20):.0f}",
        peak,
        f"{one.api_server_cpu:.1f}",
    ]


def _phase_row(name: str, phase: Phase) -> list[str]:
    figures = phase.cpu, len(phase.reads), len(phase.writes), len(phase.renewals), phase.api_server_cpu
    return [name, *(short(figure / phase.minutes) for figure in figures)]


def _say_phases(plan: Plan, rest: Phase, resyncs: int, rolled_out: Phase) -> None:
    head = ["per minute", "CPU s", "reads", "writes", "Lease renewals", "API server's CPU s"]
    rows = [
        _phase_row(f"at rest, {rest.seconds:.0f} s, {resyncs} resyncs", rest),
        ["bar", "", "", "0", "", ""],
        _phase_row(f"{plan.rollouts} workloads restart in {rolled_out.seconds:.0f} s", rolled_out),
    ]
    say(table(head, rows))
    say(f"\nAt rest, per minute: {described(rest.requests, rest.minutes)}.")
    say(f"While they restart, per minute: {described(rolled_out.requests, rolled_out.minutes)}.")


def _say_healing(took: dict[str, list[float]]) -> None:
    rows = [
        [
            f"{how}, {len(times)} times",
            f"{statistics.median(times):.2f}",
            f"{max(times):.2f}",
            f"<={HEAL_BAR}",
        ]
        for how, times in took.items()
    ]
    say(table(["until a Service is back, s", "median", "max", "bar"], rows))


if __name__ == "__main__":
    run(QUICK if "--quick" in sys.argv[1:] else FULL)
