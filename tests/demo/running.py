"""The demonstration as a process of its own, and what it leaves behind."""

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import uuid
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
NOBODY = 65534
_MARK = "DEMO_TEST_MARK"
_DEADLINE = 60.0


class Demo:
    """``python -m demo``, its output in a file. All it starts is known by a mark in the environment."""

    def __init__(self, tmp_path, *arguments, prefix=(), python=sys.executable, environment=None, **options):
        self._mark = uuid.uuid4().hex
        self._log = tmp_path / f"{self._mark}.log"
        self.namespaces = set()
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*prefix, python, "-W", "error", "-m", "demo", *arguments],
                **{
                    "stdout": log,
                    "stderr": subprocess.STDOUT,
                    "stdin": subprocess.DEVNULL,
                    "cwd": ROOT,
                    **options,
                },
                env={**os.environ, "TERM": "xterm", **(environment or {}), _MARK: self._mark},
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    @property
    def output(self):
        return self._log.read_text()

    def pids(self):
        """Return every process that the demonstration consists of, and note the namespaces they are in."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"{_MARK}={self._mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    self.namespaces.add(str((folder / "ns/net").readlink()))
                    found.append(int(folder.name))
        self.namespaces -= {str(Path("/proc/self/ns/net").readlink())}
        return found

    def pid_of(self, module):
        for pid in self.pids():
            with suppress(OSError):
                if module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    return pid
        raise AssertionError(f"no process runs {module}")

    def wait_for(self, pattern):
        """Return the first match in the output; fail if the demonstration ends without, or the time is up."""
        deadline = time.monotonic() + _DEADLINE
        while not (match := re.search(pattern, self.output)):
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.02)
        self.pids()
        return match

    def finish(self):
        """Return the exit status."""
        return self.process.wait(_DEADLINE)

    def assert_nothing_left(self):
        deadline = time.monotonic() + 10
        while self.pids() or self.namespaces & all_namespaces():
            assert time.monotonic() < deadline, (self.pids(), self.namespaces)
            time.sleep(0.05)


def all_namespaces():
    """Return the network namespaces that any process is in."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/ns/net"):
        with suppress(OSError):
            found.add(str(link.readlink()))
    return found


def as_nobody():
    """Return what turns root into a user without rights."""
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]


def python_for_nobody():
    """Return an interpreter that such a user can run, and the environment it needs; None if there is none."""
    environment = {
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/nonexistent",
    }
    # It must be able to start itself too: the first time setpriv's own rights help.
    again = "subprocess.run([sys.executable, '-c', 'import demo.setting, yaml'], check=True)"
    probe = f"import subprocess, sys; {again}"
    own = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, shutil.which(own, path="/usr/local/bin:/usr/bin"), "/usr/bin/python3"):
        if (
            python
            and not subprocess.run(
                [*as_nobody(), python, "-c", probe],
                env={**os.environ, **environment},
                cwd=ROOT,
                capture_output=True,
                check=False,
            ).returncode
        ):
            return python, environment
    return None


def without_namespaces():
    """Return what forbids network namespaces, even to root."""
    script = 'echo 0 > /proc/sys/user/max_net_namespaces && exec "$@"'
    return ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh"]
