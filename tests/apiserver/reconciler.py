"""The reconciler as operators deploy it: `python -m webhook reconcile`, with its own service account."""

import base64
import contextlib
import http.client
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import yaml

from tests.apiserver.client import Client, Object
from tests.apiserver.controlplane import ControlPlane
from tests.apiserver.injector import PREFIX, ROOT, total
from tests.apiserver.processes import Child
from tests.apiserver.waiting import eventually
from webhook import names

RECONCILE = ("-m", "webhook", "reconcile")
LEASE = "coordination.k8s.io/v1", "Lease", names.RECONCILER, names.OWN_NAMESPACE
ACCOUNT = f"system:serviceaccount:{names.OWN_NAMESPACE}:{names.RECONCILER}"
WRITING = frozenset({"create", "update", "patch", "delete", "deletecollection"})


class Way(Protocol):
    """Something between the reconciler and the API server, such as a Proxy or a Gateway."""

    def redirect(self, cluster: Object) -> None:
        """Have a kubeconfig's cluster lead here."""


class Reconciler:
    """The reconciler; use as a context manager: its probes answer inside, and it is gone afterwards.

    Keyword arguments are its own settings, `resync_seconds=1`; `cluster` holds those of all processes.
    It has a token of its own, so that the audit log tells its requests from those of another replica.
    """

    def __init__(
        self,
        control_plane: ControlPlane,
        *,
        through: Way | None = None,
        cluster: Mapping[str, object] | None = None,
        program: Sequence[str] = RECONCILE,
        **settings: object,
    ) -> None:
        self._control_plane = control_plane
        self._through = through
        self._program = program
        self._settings: dict[str, object] = {
            "address": "127.0.0.1",
            "probe_port": 0,
            "log_level": "DEBUG",
            # The configuration of the tests leads to an endpoint of theirs, whose authority they know.
            "certificates": "false",
            **settings,
        }
        self._cluster = dict(cluster or {})

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reconciler-")))
            environment = {
                f"{PREFIX}RECONCILE_{key.upper()}": str(value) for key, value in self._settings.items()
            }
            environment |= {PREFIX + key.upper(): str(value) for key, value in self._cluster.items()}
            environment |= {
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT),
                "KUBECONFIG": str(self._kubeconfig(folder)),
            }
            self.process = Child("reconciler", [sys.executable, *self._program], folder / "log", environment)
            stack.callback(self._end)
            listening = eventually("the reconciler's probes", self._listening, deadline=60)
            assert listening is not None
            self.probe_port = listening["probe_port"]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _end(self) -> None:
        # One that a test had stopped would not hear that it shall end.
        with contextlib.suppress(ProcessLookupError):
            if self.process.exit_code is None:
                os.kill(self.process.pid, signal.SIGCONT)
        self.process.stop()

    def _kubeconfig(self, folder: Path) -> Path:
        written = self._control_plane.service_account_kubeconfig(names.OWN_NAMESPACE, names.RECONCILER)
        config = yaml.safe_load(written.read_text())
        # What the audit log says beside the user's name: the token's id.
        claims = config["users"][0]["user"]["token"].split(".")[1]
        self._credential = f"JTI={json.loads(base64.urlsafe_b64decode(claims + '=='))['jti']}"
        if self._through is not None:
            self._through.redirect(config["clusters"][0]["cluster"])
        path = folder / "kubeconfig"
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(config))
        return path

    def _listening(self) -> dict[str, Any] | None:
        if self.process.exit_code is not None:
            raise RuntimeError(f"the reconciler ended: {self.process.exit_code}\n{self.process.log_tail()}")
        return next(iter(self.said("probes: listening")), None)

    # --- what it says of itself --------------------------------------------------------------------------

    def lines(self) -> list[dict[str, Any]]:
        """Return its log; all of it is JSON."""
        text = self.process.log.read_text().splitlines(keepends=True)
        # A line without its end is still being written.
        return [json.loads(line) for line in text if line.endswith("\n")]

    def said(self, message: str) -> list[dict[str, Any]]:
        """Return the lines with this message, or this beginning of one."""
        return [line for line in self.lines() if line["message"].startswith(message)]

    def complaints(self) -> list[dict[str, Any]]:
        """Return the lines about something that went wrong."""
        return [line for line in self.lines() if line["level"] not in ("debug", "info")]

    def crashes(self) -> list[dict[str, Any]]:
        """Return the lines about something that nobody had foreseen."""
        return [line for line in self.lines() if "exception" in line]

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of a probe or of the metrics."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.probe_port, timeout=5)) as probe:
            probe.request("GET", path)
            response = probe.getresponse()
            return response.status, response.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of `metrics_sidecar_reconciler_<name>` that have these labels."""
        return total(self.get("/metrics")[1], f"metrics_sidecar_reconciler_{name}", **labels)

    @property
    def leads(self) -> bool:
        return self.metric("leader") == 1

    def wait_until_leading(self, deadline: float = 30.0) -> None:
        eventually("the reconciler to lead", lambda: self.leads, deadline=deadline, tolerate=(OSError,))

    # --- what the API server says of it ------------------------------------------------------------------

    def requests(self) -> list[Object]:
        """Return its requests, in order, as the audit log has them."""
        key = "authentication.kubernetes.io/credential-id"
        return [
            event
            for event in self._control_plane.audit_events(ACCOUNT)
            if event["user"].get("extra", {}).get(key) == [self._credential]
        ]

    def writes(self, namespace: str | None = None) -> list[str]:
        """Return what it wrote, in order, such as `patch services ns/web`; its Lease and Events aside."""
        return [
            described(event)
            for event in self.requests()
            if event["verb"] in WRITING
            and event["objectRef"]["resource"] not in ("leases", "events")
            and namespace in (None, event["objectRef"].get("namespace"))
        ]

    @contextlib.contextmanager
    def writing_nothing(self, namespace: str | None = None) -> Iterator[None]:
        """Check that it writes nothing meanwhile, its Lease and Events aside."""
        before = len(self.writes(namespace))
        yield
        assert self.writes(namespace)[before:] == []


def described(event: Object) -> str:
    """Return a line of the audit log as people read it: `patch services ns/web`."""
    ref = event["objectRef"]
    resource = "/".join(filter(None, (ref["resource"], ref.get("subresource"))))
    name = "/".join(filter(None, (ref.get("namespace"), ref.get("name"))))
    return f"{event['verb']} {resource} {name}"


@contextlib.contextmanager
def reconciling(control_plane: ControlPlane, api: Client, **options: Any) -> Iterator[Reconciler]:
    """Run the reconciler, and leave no Lease behind that the next one would have to wait for."""
    try:
        with Reconciler(control_plane, **options) as reconciler:
            yield reconciler
    finally:
        control_plane.start_api_server()
        if api.find(*LEASE):
            api.delete(*LEASE)
