"""A real Kubernetes control plane on loopback: etcd, the API server, and controllers on demand.

There is no node and no scheduler: pods are admitted and stored, and stay Pending. That is all that admission,
server-side apply, selectors, owners and permissions need.
"""

import base64
import contextlib
import http.client
import json
import random
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import yaml

from tests.apiserver import binaries
from tests.apiserver.certificates import Authority, Identity, signing_key
from tests.apiserver.client import ApiError, Client
from tests.apiserver.processes import Child
from tests.apiserver.waiting import POLL

START_DEADLINE = 60.0

# Who did what, for proofs about permissions: service accounts and users of tests, not the control plane.
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "userGroups": ["system:masters", "system:serviceaccounts:kube-system"]},
        {
            "level": "None",
            "users": ["system:apiserver", "system:anonymous", "system:kube-controller-manager"],
        },
        {"level": "Metadata"},
    ],
}


class StartError(Exception):
    """A program did not become ready; the message ends with the end of its log."""


class ControlPlane:
    """Use as a context manager: ready inside, all of it gone afterwards.

    `api_server_flags` are added to the API server's own and win over them, `{"event-ttl": "1m"}`; a value of
    None takes a flag away. They may be changed between `stop_api_server` and `start_api_server`.
    """

    def __init__(
        self, *, api_server_flags: Mapping[str, str | None] | None = None, say: binaries.Say = lambda _: None
    ) -> None:
        self.api_server_flags = dict(api_server_flags or {})
        self._say = say
        self._resources = contextlib.ExitStack()
        # Two threads may both find the API server stopped.
        self._lock = threading.Lock()
        self._api_server: Child | None = None
        self._controllers: Child | None = None

    def __enter__(self) -> Self:
        programs = binaries.find("etcd", "kube-apiserver", say=self._say)
        self._etcd_program, self._api_server_program = programs["etcd"], programs["kube-apiserver"]
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self._close)
            self._prepare()
            self._start_etcd()
            self.start_api_server()
            on_failure.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        # In this order: a client without its server waits and retries, and ends late.
        for child in (self._controllers, self._api_server):
            if child is not None:
                child.stop()
        self._resources.close()

    # --- what tests use ----------------------------------------------------------------------------------

    @property
    def has_controllers(self) -> bool:
        return self._controllers is not None

    @property
    def api_server_pid(self) -> int:
        assert self._api_server is not None, "inside of the context manager only"
        return self._api_server.pid

    def start_controllers(self, controllers: Iterable[str] = ("*",)) -> None:
        """Start the controller manager, unless it runs: Deployments make pods, orphans are collected."""
        if self._controllers is not None:
            return
        program = binaries.find("kube-controller-manager", say=self._say)["kube-controller-manager"]
        port = free_port()
        flags = {
            "kubeconfig": self.user_kubeconfig("system:kube-controller-manager"),
            "bind-address": "127.0.0.1",
            "secure-port": port,
            "tls-cert-file": self.folder / "server.crt",
            "tls-private-key-file": self.folder / "server.key",
            "leader-elect": "false",
            # Each controller with its own role: what it may not do in a real cluster, it cannot do here.
            "use-service-account-credentials": "true",
            "service-account-private-key-file": self.folder / "tokens.key",
            "root-ca-file": self.folder / "ca.crt",
            "controllers": ",".join(controllers),
            # The defaults (20 per second) are for clusters that share their API server with much else.
            "kube-api-qps": 1000,
            "kube-api-burst": 2000,
        }
        child = Child("kube-controller-manager", _command(program, flags), self.folder / "controllers.log")
        self._controllers = child
        with Client(f"https://127.0.0.1:{port}", self._authority.certificate, timeout=5) as client:
            self._wait_until_ready(child, lambda: client.request("GET", "/healthz"))

    def stop_controllers(self) -> None:
        if self._controllers is not None:
            self._controllers.stop()
            self._controllers = None

    def start_api_server(self) -> None:
        """Start the API server and wait until it is ready; after a stop it is back at the same URL."""
        with self._lock:
            if self._api_server is not None and self._api_server.exit_code is None:
                return
            command = _command(self._api_server_program, self._flags() | self.api_server_flags)
            self._api_server = Child("kube-apiserver", command, self.folder / "kube-apiserver.log")
        with self.client() as client:
            self._wait_until_ready(self._api_server, lambda: client.request("GET", "/readyz"))

    def stop_api_server(self) -> None:
        """Stop the API server alone, in order; etcd keeps the data."""
        if self._api_server is not None:
            self._api_server.stop()

    def kill_api_server(self) -> None:
        """End the API server as a crash would: no connection is closed in order."""
        if self._api_server is not None:
            self._api_server.kill()

    def restart_api_server(self) -> None:
        self.stop_api_server()
        self.start_api_server()

    def client(self, kubeconfig: Path | None = None) -> Client:
        """Return a new client, the administrator's by default; close it."""
        return Client.from_kubeconfig(kubeconfig or self.admin_kubeconfig)

    def user_kubeconfig(self, user: str, groups: Iterable[str] = ()) -> Path:
        """Write a kubeconfig for a user, who is known by a client certificate and needs no object."""
        identity = self._authority.client(user, groups)
        return self._write_kubeconfig(user, _certificate_user(identity))

    def service_account_kubeconfig(self, namespace: str, name: str, seconds: int = 24 * 3600) -> Path:
        """Write a kubeconfig for an existing service account, with a token as its pods would have."""
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        }
        with self.client() as admin:
            path = admin.path("v1", "ServiceAccount", name, namespace, "token")
            token = admin.request("POST", path, request)["status"]["token"]
        return self._write_kubeconfig(f"{namespace}-{name}", {"token": token}, namespace)

    def kubectl(
        self, *arguments: str, kubeconfig: Path | None = None, stdin: str | None = None, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl; whoever calls looks at the exit code."""
        program = binaries.find("kubectl", say=self._say)["kubectl"]
        flags = {"kubeconfig": kubeconfig or self.admin_kubeconfig, "cache-dir": self.folder / "kubectl"}
        return subprocess.run(
            [*_command(program, flags), *arguments],
            input=stdin or "",
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    def audit_events(self, user: str | None = None) -> list[dict[str, Any]]:
        """Return the finished requests of tests' users and service accounts, of one of them if named.

        A service account's user name is `system:serviceaccount:<namespace>:<name>`.
        """
        log = self.folder / "audit.log"
        # A line without its end is still being written.
        lines = log.read_text().splitlines(keepends=True) if log.exists() else []
        events = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in events if user in (None, event["user"].get("username"))]

    # --- inside ------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        # Not under pytest's own folders: a unix socket's path has 108 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="control-plane-"))
        self._resources.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.url = f"https://127.0.0.1:{free_port()}"
        self._authority = Authority("control-plane")
        (self.folder / "ca.crt").write_bytes(self._authority.certificate)
        self._authority.server("127.0.0.1", "localhost", "kubernetes.default.svc").write(
            self.folder, "server"
        )
        (self.folder / "tokens.key").write_bytes(signing_key())
        (self.folder / "audit-policy.yaml").write_text(yaml.safe_dump(AUDIT_POLICY))
        self.admin_kubeconfig = self.user_kubeconfig("admin", ["system:masters"])

    def _start_etcd(self) -> None:
        socket_path = self.folder / "etcd.sock"
        flags = {
            "data-dir": self.folder / "etcd",
            "listen-client-urls": f"unix://{socket_path}",
            # Only a name here: it must look like host and port, and nobody asks a single member for others.
            "advertise-client-urls": "http://localhost:2379",
            "listen-peer-urls": f"unix://{self.folder / 'peer.sock'}",
            "log-level": "warn",
            # The data need not survive a power cut.
            "unsafe-no-fsync": "true",
        }
        etcd = Child("etcd", _command(self._etcd_program, flags), self.folder / "etcd.log")
        self._resources.callback(etcd.stop)
        self._wait_until_ready(etcd, lambda: _answers(socket_path))

    def _flags(self) -> dict[str, object]:
        """Return the API server's flags; admission plugins are the default ones, as on a managed cluster."""
        return {
            "etcd-servers": f"unix://{self.folder / 'etcd.sock'}",
            "bind-address": "127.0.0.1",
            "advertise-address": "127.0.0.1",
            "secure-port": self.url.rpartition(":")[2],
            "cert-dir": self.folder,
            "tls-cert-file": self.folder / "server.crt",
            "tls-private-key-file": self.folder / "server.key",
            "client-ca-file": self.folder / "ca.crt",
            "authorization-mode": "RBAC",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": self.folder / "tokens.key",
            "service-account-signing-key-file": self.folder / "tokens.key",
            "service-cluster-ip-range": "10.0.0.0/16",
            "allow-privileged": "true",
            # Webhooks by Service: nothing here would forward its cluster address, so call its endpoints.
            "enable-aggregator-routing": "true",
            # Loopback is no valid endpoint of the `kubernetes` Service, and nobody looks for it there.
            "endpoint-reconciler-type": "none",
            "audit-policy-file": self.folder / "audit-policy.yaml",
            "audit-log-path": self.folder / "audit.log",
            # Written when the request ends, so that a test that saw the answer finds the line.
            "audit-log-mode": "blocking",
        }

    def _write_kubeconfig(self, name: str, user: Mapping[str, str], namespace: str = "default") -> Path:
        """Write a kubeconfig that carries all it needs, so that it can be copied anywhere."""
        cluster = {"server": self.url, "certificate-authority-data": _base64(self._authority.certificate)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": name, "user": dict(user)}],
            "contexts": [
                {"name": name, "context": {"cluster": "test", "user": name, "namespace": namespace}}
            ],
        }
        path = self.folder / f"{name.replace(':', '-').replace('/', '-')}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(config))
        return path

    def _wait_until_ready(self, child: Child, ready: Callable[[], object]) -> None:
        """Wait until `ready` raises no more; tell apart a program that ended from one that hangs."""
        end = time.monotonic() + START_DEADLINE
        while True:
            try:
                ready()
            except (OSError, http.client.HTTPException, ApiError) as error:
                problem = error
            else:
                return
            if child.exit_code is not None:
                raise StartError(f"{child.name}: ended with exit code {child.exit_code}\n{child.log_tail()}")
            if time.monotonic() > end:
                raise StartError(
                    f"{child.name}: not ready after {START_DEADLINE:g} s: {problem}\n{child.log_tail()}"
                )
            time.sleep(POLL)


def free_port() -> int:
    """Return a free port on loopback below the usual ephemeral range.

    A port inside that range could become some connection's own while a server is restarted.
    """
    for _ in range(100):
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise OSError("no free port on 127.0.0.1 in 20000..31999 after 100 tries")


def _command(program: Path, flags: Mapping[str, object]) -> list[str]:
    return [str(program), *(f"--{name}={value}" for name, value in flags.items() if value is not None)]


def _answers(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(path))


def _certificate_user(identity: Identity) -> dict[str, str]:
    return {
        "client-certificate-data": _base64(identity.certificate),
        "client-key-data": _base64(identity.key),
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
