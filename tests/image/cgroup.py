"""A control group of a container: its limits are set by runc, its figures are read here."""

import contextlib
import os
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")
_PARENT = "metrics-sidecar-tests"


class Cgroup:
    """The control group of one container, under either version of the interface."""

    def __init__(self, name: str) -> None:
        self.path = f"/{_PARENT}/{name}"

    def cpu_seconds(self) -> float:
        """Return the processor time of all its processes so far, of those that have ended too."""
        if _is_unified():
            lines = (_MOUNT / self.path[1:] / "cpu.stat").read_text().splitlines()
            return int(dict(line.split() for line in lines)["usage_usec"]) / 1e6
        return self._read("cpuacct", "cpuacct.usage") / 1e9

    def memory_peak(self) -> int | None:
        """Return the most bytes charged to it at any time, if this kernel tells."""
        with contextlib.suppress(FileNotFoundError):
            return self._read("memory", "memory.peak" if _is_unified() else "memory.max_usage_in_bytes")
        return None

    def out_of_memory_kills(self) -> int:
        """Return how many of its processes the kernel has killed for want of memory."""
        controller = "" if _is_unified() else "memory"
        file = "memory.events" if _is_unified() else "memory.oom_control"
        lines = (_MOUNT / controller / self.path[1:] / file).read_text().splitlines()
        return int(dict(line.split() for line in lines)["oom_kill"])

    def _read(self, controller: str, file: str) -> int:
        folder = _MOUNT if _is_unified() else _MOUNT / controller
        return int((folder / self.path[1:] / file).read_text())


def why_unusable() -> str:
    """Say why limits cannot be set here; nothing if they can."""
    for controller in ("cpu", "memory"):
        folder = _MOUNT if _is_unified() else _MOUNT / controller
        if not os.access(folder, os.W_OK):
            return f"the control groups in {folder} cannot be written"
        if _is_unified() and controller not in (folder / "cgroup.subtree_control").read_text().split():
            return f"the controller {controller} is not handed down in {folder}"
    return ""


def remove_leftovers() -> None:
    """Remove the empty groups of a run that was killed."""
    for folder in [_MOUNT] if _is_unified() else _MOUNT.iterdir():
        for group in [*(folder / _PARENT).glob("*/"), folder / _PARENT]:
            with contextlib.suppress(OSError):
                group.rmdir()


def _is_unified() -> bool:
    return (_MOUNT / "cgroup.controllers").exists()
