"""What a process has used so far, read from outside, while it lives."""

from __future__ import annotations

import time
from pathlib import Path

_CPUCLOCK_SCHED = 2  # include/linux/posix-timers.h


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process with all its threads, also those that ended, in user and kernel mode.

    To the nanosecond, where ``/proc/<pid>/stat`` counts in steps of 10 ms. It is what
    ``clock_getcpuclockid()`` is for, which Python does not have.
    """
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)


def rss(pid: int) -> int:
    """Return the resident memory of a process, in bytes."""
    return _status(pid, "VmRSS")


def peak_rss(pid: int) -> int:
    """Return the highest that the resident memory of a process has been since its exec, in bytes."""
    return _status(pid, "VmHWM")


def tcp_sockets(pid: int) -> int:
    """Return how many TCP sockets the network namespace of a process has, by the kernel's own count."""
    found = 0
    for name in ("sockstat", "sockstat6"):
        path = Path(f"/proc/{pid}/net/{name}")
        for line in path.read_text().splitlines() if path.exists() else ():
            kind, *fields = line.split()
            if kind in ("TCP:", "TCP6:"):
                counts = dict(zip(fields[::2], map(int, fields[1::2]), strict=True))
                found += counts["inuse"] + counts.get("tw", 0)
    return found


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise ProcessLookupError(f"process {pid}: no {name}; expected one that lives")
