"""Importing does nothing, and what is not needed is not loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

IMPORTS = """
import pkgutil, sys, threading
import argparse, concurrent.futures, ctypes, ipaddress, json, socket  # what may be loaded, is
import prometheus_client, psutil, waitress.server
from prometheus_client import REGISTRY

known, modules, begun = set(REGISTRY._collector_to_names), set(sys.modules), []

def watch(event, arguments):
    if event == "open" and not str(arguments[0]).endswith((".py", ".pyc")):
        begun.append((event, arguments))
    elif event.startswith(("socket.", "subprocess.", "os.", "_thread.", "signal.")) and event != "os.listdir":
        begun.append((event, arguments))

sys.addaudithook(watch)
import sidecar
names = [name for _, name, _ in pkgutil.iter_modules(sidecar.__path__)]
for name in names:
    __import__(f"sidecar.{name}")
watched, begun = begun, []
assert watched == [], watched
assert len(names) >= 15, names
assert set(REGISTRY._collector_to_names) == known
assert threading.active_count() == 1
"""

ONCE = """
import sys
from sidecar.__main__ import run
from sidecar.config import Settings
assert run(Settings(once=True, source=SOURCE)) == 0
for name in ABSENT:
    assert name not in sys.modules, name
"""


def python(program):
    process = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=False,
        cwd=ROOT,
        encoding="utf-8",
        timeout=30,
    )
    assert process.returncode == 0, process.stderr
    return process


def test_importing_reads_nothing_starts_nothing_and_registers_nothing():
    assert python(IMPORTS).stdout == ""


def test_importing_the_command_loads_nothing_that_takes_time():
    # Until its handlers are there, process 1 of a container ignores SIGTERM.
    python(
        "import sys, sidecar.__main__\n"
        "slow = {'prometheus_client', 'waitress', 'psutil', 'socket', 'logging', 'argparse'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="sock_diag is Linux's")
@pytest.mark.parametrize("source", ["sock_diag", "proc"])
def test_psutil_is_not_loaded_where_a_better_source_works(source):
    absent = ["psutil", "kopf", "kubernetes", "aiohttp", "webhook"]
    python(ONCE.replace("SOURCE", repr(source)).replace("ABSENT", repr(absent)))


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "sidecar" / "py.typed").is_file()
