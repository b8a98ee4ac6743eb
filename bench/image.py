"""The exporter as its image has it: the files, interpreter options and environment of ``Dockerfile.sidecar``.

Not the development environment: its editable install and its tools' ``.pth`` files would be charged to the
exporter, at every start and for as long as it runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).parent.parent
_DOCKERFILE = _ROOT / "Dockerfile.sidecar"
_REQUIREMENTS = _ROOT / "requirements" / "sidecar.txt"
_CACHE = _ROOT / ".cache" / "bench"
_SYSTEM_PYTHON = "/usr/bin/python3"
_APP = "/app"


@dataclass(frozen=True)
class Image:
    """What the image would run.

    Attributes:
        python: the interpreter, with its options.
        command: the exporter.
        environment: what the image sets.
        description: what this is, in words.
    """

    python: list[str]
    command: list[str]
    environment: dict[str, str]
    description: str


def prepare() -> Image:
    """Install what the image has; only the first time takes long.

    The interpreter is ``BENCH_PYTHON``, or the system's if it is new enough (a distribution's build, as
    distroless images have it), or ours. How it was compiled makes a third of the CPU time.
    """
    python, origin = _interpreter()
    version = _version(python)
    known = hashlib.sha256(_REQUIREMENTS.read_bytes()).hexdigest()[:12]
    app = _CACHE / f"{known}-python{version[0]}.{version[1]}"
    lib = app / "lib"
    if not lib.exists():
        _install(version, lib)
    # Ours is always of now, and so is the bytecode, which depends on the interpreter too.
    for outdated in (lib / "sidecar", app / "bytecode"):
        shutil.rmtree(outdated, ignore_errors=True)
    shutil.copytree(_ROOT / "sidecar", lib / "sidecar", ignore=shutil.ignore_patterns("__pycache__"))

    environment, (_, *options) = _last_stage(app)
    compiling = {name: value for name, value in environment.items() if name != "PYTHONDONTWRITEBYTECODE"}
    _run(
        *(python, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(lib)), env=compiling
    )
    command = [python, *options]
    _run(*command, "--once", env=compiling)
    return Image(
        [python, *options[: options.index("-m")]],
        command,
        environment,
        f"CPython {'.'.join(map(str, version))} ({origin}); files, options and environment as"
        f" {_DOCKERFILE.name} has them, without capabilities",
    )


def _interpreter() -> tuple[str, str]:
    if given := os.environ.get("BENCH_PYTHON"):
        return given, "BENCH_PYTHON"
    if _version(_SYSTEM_PYTHON) >= (3, 11):
        return _SYSTEM_PYTHON, "the distribution's"
    return sys.executable, "of the development environment"


def _version(python: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, _run(python, "-c", "import sys; print(*sys.version_info[:3])").split()))
    except OSError:
        return (0,)


def _install(version: tuple[int, ...], target: Path) -> None:
    unfinished = target.with_name("unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    _run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"),
        *("--no-deps", "--require-hashes", "--only-binary", ":all:"),
        *("--python-version", f"{version[0]}.{version[1]}"),
        *("--target", str(unfinished), "--requirement", str(_REQUIREMENTS)),
    )
    unfinished.rename(target)


def _last_stage(app: Path) -> tuple[dict[str, str], list[str]]:
    """Return ENV and ENTRYPOINT of the image, with its files in ``app``."""
    stages: dict[str, dict[str, str]] = {}
    environment: dict[str, str] = {}
    entrypoint: list[str] = []
    text = _DOCKERFILE.read_text().replace("\\\n", " ").replace(f"{_APP}/", f"{app}/")
    for line in text.splitlines():
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            environment = stages[name] = dict(stages.get(base, {}))
        elif instruction == "ENV":
            for pair in shlex.split(rest):
                key, _, value = pair.partition("=")
                environment[key] = value
        elif instruction == "ENTRYPOINT":
            entrypoint = json.loads(rest)
    return environment, entrypoint


def _run(*command: str, env: dict[str, str] | None = None) -> str:
    environment = None if env is None else {"PATH": os.defpath, **env}
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)  # noqa: S603 - ours
    return result.stdout
