"""Child processes that never outlive the test run, however it ends."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# "When the parent dies" means to the kernel: when the *thread* that forked dies. A test may start a server
# from a thread that ends before the server should, so one thread, as long-lived as the run, forks them all.
_forker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="forker")


class Child:
    """A running program, its output in a file.

    It is ended by `stop` or `kill`; at interpreter exit if nobody did; and by the kernel (PR_SET_PDEATHSIG)
    if the interpreter itself is killed.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._process = _forker.submit(_spawn, command, log, environment).result()
        self._at_exit = weakref.finalize(self, _end, self._process, 5.0)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def stop(self, grace: float = 20.0) -> int:
        """Ask it to end, insist after `grace` seconds, and return its exit code."""
        self._at_exit.detach()
        return _end(self._process, grace)

    def kill(self) -> int:
        """End it as a crash would."""
        self._at_exit.detach()
        return _end(self._process, 0)

    def log_tail(self, lines: int = 30) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join([f"--- end of {self.log}", *text.splitlines()[-lines:]])


def _spawn(
    command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None
) -> subprocess.Popen[bytes]:
    # setpriv sets the death signal and becomes the program, keeping its pid. A preexec_fn could do the same,
    # but runs Python between fork and exec of a process with threads, which Python 3.12 and later warn about.
    setpriv = shutil.which("setpriv")
    guard = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*guard, *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if environment is None else dict(environment),
            # Ctrl-C is for the test run, which then ends its children in order.
            start_new_session=True,
        )
    # Until setpriv has become the program, the child is not yet tied to us.
    while setpriv and process.poll() is None and not _has_become_another(process.pid, setpriv):
        time.sleep(0.001)
    return process


def _has_become_another(pid: int, program: str) -> bool:
    """Tell whether the process runs something else than `program`; in mid-exec it runs nothing."""
    try:
        command_line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return command_line != b"" and not command_line.startswith(os.fsencode(program) + b"\0")


def _end(process: subprocess.Popen[bytes], grace: float) -> int:
    if process.poll() is None and grace > 0:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(grace)
    if process.poll() is None:
        # The session that it leads: grandchildren too.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.wait(10)
