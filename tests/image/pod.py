"""A pod without a cluster: a network of its own, and containers that runc holds to what a pod may do."""

import contextlib
import json
import os
import random
import secrets
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from tests.apiserver.processes import Child
from tests.apiserver.waiting import eventually
from tests.image import cgroup, seccomp
from tests.image.building import Image

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What `resources.limits` of a container says."""

    cpu: float
    memory: int


class Pod:
    """A network with one address, and a process namespace that takes all its processes along when it ends.

    Attributes:
        name: the host name inside.
        address: where this machine reaches it.
    """

    def __init__(self, folder: Path) -> None:
        self.name = f"pod-{secrets.token_hex(4)}"
        self._folder = folder / self.name
        self._folder.mkdir()
        self.containers: list[Container] = []
        # Killed with the test run, as the children of this are then by the kernel.
        self._sandbox = Child(
            self.name,
            ["unshare", "--fork", "--kill-child", "--pid", "--mount-proc", "--net", "sleep", "infinity"],
            self._folder / "sandbox.log",
        )
        self._pause = eventually("the sandbox", self._child_of_sandbox)
        self.address = self._connect()

    def start(
        self,
        image: Image,
        *arguments: str,
        command: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        mounts: Mapping[Path, str] | None = None,
    ) -> "Container":
        """Run an image as Pod Security "restricted" wants it, with a root file system that cannot be written.

        Args:
            image: what to run.
            arguments: `args` of a container: in place of the image's CMD.
            command: `command` of a container: in place of the image's ENTRYPOINT.
            environment: variables besides those of the image.
            limits: of CPU and memory, if they can be set here.
            mounts: paths in the container of files and folders of this machine, as a mounted Secret.
        """
        config = image.config
        entrypoint = list(command) or config["Entrypoint"]
        container = Container(
            self,
            self._folder,
            _specification(
                root=image.root,
                hostname=self.name,
                user=config["User"],
                process=[*entrypoint, *(arguments or ([] if command else config.get("Cmd") or []))],
                environment=[*config["Env"], *(f"{k}={v}" for k, v in (environment or {}).items())],
                limits=limits,
                mounts=mounts or {},
            ),
        )
        self.containers.append(container)
        return container

    def spawn(self, name: str, command: Sequence[str]) -> Child:
        """Run a program of this machine in the pod's network."""
        return Child(name, [*self.enter("--net"), *command], self._folder / f"{name}.log")

    def get(self, path: str, *, port: int, deadline: float = 30.0) -> tuple[int, str]:
        """Return the status and the body of what a port of the pod answers."""
        with contextlib.closing(HTTPConnection(self.address, port, timeout=deadline)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def enter(self, *namespaces: str) -> list[str]:
        """Return the beginning of a command that runs in namespaces of the pod."""
        return ["nsenter", f"--target={self._pause}", *namespaces, "--"]

    def processes(self) -> list[int]:
        """Return the ids, as seen from here, of all processes in the pod."""
        inside = _namespace(self._pause, "net")
        if not inside:
            return []
        numbers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        return [number for number in numbers if _namespace(number, "net") == inside]

    def close(self) -> None:
        """End the containers, then the sandbox, and with that everything."""
        for container in self.containers:
            container.close()
        self._sandbox.kill()

    def _child_of_sandbox(self) -> int | None:
        pid = self._sandbox.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        # In between, unshare is still what it forked.
        ready = children and Path(f"/proc/{children[0]}/comm").read_text().strip() == "sleep"
        return int(children[0]) if ready else None

    def _connect(self) -> str:
        """Lay a cable into the network namespace, and return the address at its other end."""
        # 198.18.0.0/15 is for benchmarks (RFC 2544): nobody routes it.
        number = random.randrange(1 << 16) * 2
        here, there = (f"198.{18 + (n >> 16)}.{n >> 8 & 255}.{n & 255}" for n in (number, number + 1))
        link = f"pod{number:x}"
        for command in (
            ["ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(self._pause)],
            ["ip", "address", "add", f"{here}/31", "dev", link],
            ["ip", "link", "set", link, "up"],
            [*self.enter("--net"), "ip", "address", "add", f"{there}/31", "dev", "eth0"],
            [*self.enter("--net"), "ip", "link", "set", "eth0", "up"],
            [*self.enter("--net"), "ip", "link", "set", "lo", "up"],
        ):
            subprocess.run(command, check=True, capture_output=True)
        return there


class Container:
    """A container of a pod, run by runc in the foreground."""

    def __init__(self, pod: Pod, folder: Path, specification: dict[str, Any]) -> None:
        name = f"{pod.name}-{secrets.token_hex(4)}"
        self._pod = pod
        self._bundle = folder / name
        self._bundle.mkdir()
        self.log = self._bundle / "log"
        self.cgroup = cgroup.Cgroup(name)
        self.why_unlimited = cgroup.why_unusable()
        if self.why_unlimited:
            del specification["linux"]["resources"]
        else:
            specification["linux"]["cgroupsPath"] = self.cgroup.path
        (self._bundle / "config.json").write_text(json.dumps(specification))
        self._before = set(pod.processes())
        self._runc = Child(
            name,
            [
                *pod.enter("--pid", "--net", "--mount"),
                "runc",
                f"--root={folder / 'runc'}",
                # Here "rootless" means: go on without a control group.
                f"--rootless={'true' if self.why_unlimited else 'false'}",
                "run",
                f"--bundle={self._bundle}",
                name,
            ],
            self.log,
        )

    def process(self, deadline: float = 30.0) -> int:
        """Return the id, as seen from here, of the container's process 1, once it is the image's program."""
        return eventually("the container to run", self._find_process, deadline=deadline)

    def wait(self, deadline: float = 60.0) -> int:
        """Return the exit status, negative for a signal, when the container has ended."""

        def ended() -> bool:
            assert self.has_ended, self._runc.log_tail()
            return True

        eventually("the container to end", ended, deadline=deadline)
        assert self._runc.exit_code is not None
        return self._runc.exit_code

    @property
    def has_ended(self) -> bool:
        return self._runc.exit_code is not None

    def output(self) -> str:
        """Return what it has printed so far, to either stream."""
        return self.log.read_text(errors="replace")

    def close(self) -> None:
        """Kill it, if it still runs."""
        for number in set(self._pod.processes()) - self._before:
            if _is_process_1(number):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
        # runc then removes its control group, if it is given the time.
        with contextlib.suppress(AssertionError):
            self.wait(5)
        self._runc.kill()

    def cpu_seconds(self) -> float:
        """Return the processor time that it has used so far."""
        if not self.why_unlimited:
            return self.cgroup.cpu_seconds()
        fields = Path(f"/proc/{self.process()}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> str:
        """Say how much memory it has."""
        status = self.status()
        rss, peak = (int(status[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM"))
        charged = None if self.why_unlimited else self.cgroup.memory_peak()
        said = f"; its control group at most {charged / MEBIBYTE:.1f} MiB" if charged else ""
        return f"{rss:.1f} MiB, at most {peak:.1f} MiB{said}"

    def status(self) -> dict[str, str]:
        """Return what the kernel says of its process 1: /proc/<pid>/status."""
        lines = Path(f"/proc/{self.process()}/status").read_text().splitlines()
        return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}

    def catches(self, number: signal.Signals) -> bool:
        """Tell whether process 1 handles a signal; one that it does not, the kernel drops."""
        return bool(int(self.status()["SigCgt"], 16) >> (number - 1) & 1)

    def ends_within(self, seconds: float, number: signal.Signals) -> bool:
        """Send process 1 a signal; tell whether that ends it in time."""
        descriptor = os.pidfd_open(self.process())
        try:
            signal.pidfd_send_signal(descriptor, number)
            return bool(select.select([descriptor], [], [], seconds)[0])
        finally:
            os.close(descriptor)

    def _find_process(self) -> int | None:
        assert not self.has_ended, self._runc.log_tail()
        for number in set(self._pod.processes()) - self._before:
            with contextlib.suppress(OSError):
                # Until it executes the image's program, it is runc.
                if _is_process_1(number) and not _comm(number).startswith("runc"):
                    return number
        return None


def _specification(
    *,
    root: Path,
    hostname: str,
    user: str,
    process: list[str],
    environment: list[str],
    limits: Limits | None,
    mounts: Mapping[Path, str],
) -> dict[str, Any]:
    """Return runc's config.json: what the kubelet asks of containerd for a pod of the "restricted" kind."""
    uid, gid = (int(part) for part in user.split(":"))
    none: list[str] = []
    kinds = ("bounding", "effective", "inheritable", "permitted", "ambient")
    resources: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}]}
    if limits:
        resources["cpu"] = {"quota": int(limits.cpu * 100_000), "period": 100_000}
        resources["memory"] = {"limit": limits.memory}
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": uid, "gid": gid},
            "args": process,
            "env": environment,
            "cwd": "/",
            "capabilities": dict.fromkeys(kinds, none),
            "noNewPrivileges": True,
        },
        "root": {"path": str(root), "readonly": True},
        "hostname": hostname,
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            _tmpfs("/dev", "nosuid", "strictatime", "mode=755", "size=65536k"),
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
            },
            _tmpfs("/dev/shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
            {
                "destination": "/sys",
                "type": "sysfs",
                "source": "sysfs",
                "options": ["nosuid", "noexec", "nodev", "ro"],
            },
            *(
                {
                    "destination": target,
                    "type": "bind",
                    "source": str(source),
                    "options": ["rbind", "rprivate", "ro"],
                }
                for source, target in mounts.items()
            ),
        ],
        "linux": {
            # The network is the pod's: no namespace for it here.
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")],
            "resources": resources,
            "seccomp": seccomp.profile_without_capabilities(),
            "maskedPaths": [
                "/proc/acpi",
                "/proc/asound",
                "/proc/kcore",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/proc/sched_debug",
                "/proc/scsi",
                "/sys/firmware",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


def _tmpfs(target: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": "tmpfs", "source": "tmpfs", "options": list(options)}


def is_running(number: int) -> bool:
    """Tell whether a process is there, and not only its exit status."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def _namespace(number: int, kind: str) -> str:
    """Return the identity of a process's namespace; nothing if the process is gone."""
    with contextlib.suppress(OSError):
        return str(Path(f"/proc/{number}/ns/{kind}").readlink())
    return ""


def _is_process_1(number: int) -> bool:
    """Tell whether a process is the first of a process namespace inside the sandbox's."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{number}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return len(line.split()) > 3 and line.split()[-1] == "1"
    return False


def _comm(number: int) -> str:
    return Path(f"/proc/{number}/comm").read_text().strip()
