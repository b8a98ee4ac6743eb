"""A control group with the limits of the injected container, version 1 or 2, where one may be made."""

import os
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tests.kernel.waiting import eventually

ROOT = Path("/sys/fs/cgroup")
PERIOD_US = 100_000


class UnavailableError(Exception):
    """This machine does not let us limit a process; the message says why."""


class Limited:
    """A group with limits on memory and CPU.

    `prefix` makes a program one of the group before it starts.
    """

    def __init__(self, memory, cpu, is_v2):
        self._memory, self._cpu, self._is_v2 = memory, cpu, is_v2
        procs = [str(folder / "cgroup.procs") for folder in dict.fromkeys((memory, cpu))]
        enter = "".join(f'echo $$ > "{file}" && ' for file in procs)
        self.prefix = ["sh", "-c", f'{enter}exec "$@"', "sh"]

    def memory_peak(self):
        """Return the most bytes that the group ever had, caches of files and the kernel's own included."""
        return int(
            (self._memory / ("memory.peak" if self._is_v2 else "memory.max_usage_in_bytes")).read_text()
        )

    def out_of_memory_kills(self):
        """Return how many processes of the group the kernel has killed for want of memory."""
        text = (self._memory / ("memory.events" if self._is_v2 else "memory.oom_control")).read_text()
        return int(dict(line.split() for line in text.splitlines())["oom_kill"])

    def cpu_throttled(self):
        """Return in how many periods the group had to wait."""
        return int(
            dict(line.split() for line in (self._cpu / "cpu.stat").read_text().splitlines())["nr_throttled"]
        )


@contextmanager
def limited(memory_bytes, cpu):
    """Make a group; its processes must have ended when the `with` block does.

    Raises:
        UnavailableError: none may be made here.
    """
    name = f"metrics-sidecar-test-{os.getpid()}"
    is_v2 = (ROOT / "cgroup.controllers").exists()
    quota = int(cpu * PERIOD_US)
    with ExitStack() as stack:
        try:
            if is_v2:
                memory = processor = _folder(stack, ROOT / name)
                (memory / "memory.max").write_text(str(memory_bytes))
                with suppress(FileNotFoundError):  # no swap in this kernel
                    (memory / "memory.swap.max").write_text("0")
                (memory / "cpu.max").write_text(f"{quota} {PERIOD_US}")
            else:
                memory = _folder(stack, ROOT / "memory" / name)
                processor = _folder(stack, ROOT / "cpu" / name)
                (memory / "memory.limit_in_bytes").write_text(str(memory_bytes))
                (processor / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (processor / "cpu.cfs_quota_us").write_text(str(quota))
        except OSError as error:
            raise UnavailableError(f"control group: {error}; expected to be allowed to make one") from error
        yield Limited(memory, processor, is_v2)


def _folder(stack, folder):
    folder.mkdir()
    stack.callback(eventually, f"{folder} to be empty", lambda: folder.rmdir() is None, tolerate=(OSError,))
    return folder
