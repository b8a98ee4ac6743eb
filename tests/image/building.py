"""Our Dockerfiles, built with buildah on bases of our own, in a store of our own."""

import ast
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.image.debian import BASES

REPOSITORY = Path(__file__).parents[2]
BUILD_DEADLINE = 900.0

# What pip may have to be told to reach packages from here. Of the host's settings these, and no others, hold
# inside a build too.
_PIP_SETTINGS = frozenset(
    [
        "cert",
        "client-cert",
        "default-timeout",
        "extra-index-url",
        "find-links",
        "index-url",
        "no-index",
        "proxy",
        "retries",
        "timeout",
        "trusted-host",
    ]
)
_CERTIFICATE_VARIABLES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")

Say = Callable[[str], None]


class BuildError(Exception):
    """A build failed; the message ends with what it printed last."""


@dataclass(frozen=True)
class Image:
    """A built image.

    Attributes:
        name: its name in the store.
        config: its OCI configuration: User, Env, Entrypoint, Labels and so on.
        root: its files; not to be changed.
        build_seconds: how long the build took.
    """

    name: str
    config: dict[str, Any]
    root: Path
    build_seconds: float

    def size(self, below: str = "") -> int:
        """Return the bytes of its files, or of those below a folder."""
        return int(_run(["du", "--summarize", "--bytes", str(self.root / below)]).split()[0])


class Store:
    """Images, in the folder in which the bases are kept from run to run."""

    def __init__(self, folder: Path, scratch: Path, say: Say) -> None:
        self._scratch = scratch
        self._say = say
        self._options = ["--root", str(folder / "storage"), "--runroot", str(folder / "run")]
        self._options += ["--storage-driver", self._driver()]
        # What a run left behind that was killed.
        self._discard()
        present = {name for image in self._images() for name in image["names"] or []}
        for base in BASES:
            if _base_name(base) not in present:
                self._make_base(base)

    def build(self, dockerfile: str) -> Image:
        """Build a Dockerfile of the repository, as anybody would, and mount the image.

        Raises:
            BuildError: it cannot be built.
        """
        name = f"localhost/{dockerfile.lower().replace('.', '-')}"
        began = time.monotonic()
        self._buildah(
            "bud",
            "--isolation=chroot",
            "--network=host",
            "--pull-never",
            *_pip_volumes(self._scratch),
            f"--build-arg=BUILD_IMAGE={_base_name('build')}",
            f"--build-arg=RUNTIME_IMAGE={_base_name('runtime')}",
            f"--file={dockerfile}",
            f"--tag={name}",
            ".",
        )
        build_seconds = time.monotonic() - began
        config = json.loads(self._buildah("inspect", "--type=image", name))["OCIv1"]["config"]
        return Image(name, config, self._mount(name), build_seconds)

    def close(self) -> None:
        """Remove everything but the bases."""
        self._discard()

    def _driver(self) -> str:
        """Return the driver that was asked for, or overlay, or what works anywhere."""
        if chosen := os.environ.get("STORAGE_DRIVER"):
            return chosen
        probe = subprocess.run(
            ["buildah", *self._options, "--storage-driver=overlay", "info"], capture_output=True, check=False
        )
        return "vfs" if probe.returncode else "overlay"

    def _make_base(self, base: str) -> None:
        self._say(f"making {_base_name(base)} from Debian packages, once; takes about a minute")
        archive = self._scratch / f"{base}.tar"
        _run([*BASES[base], str(archive)])
        container = self._buildah("from", "scratch")
        self._buildah("add", "--quiet", container, str(archive), "/")
        self._buildah("commit", "--quiet", "--rm", container, _base_name(base))
        archive.unlink()

    def _mount(self, name: str) -> Path:
        return Path(self._buildah("mount", self._buildah("from", "--pull-never", name)))

    def _images(self) -> list[dict[str, Any]]:
        return json.loads(self._buildah("images", "--json") or "null") or []

    def _discard(self) -> None:
        bases = {_base_name(base) for base in BASES}
        self._buildah("rm", "--all")
        for image in self._images():
            if not bases.intersection(image["names"] or []):
                self._buildah("rmi", "--force", image["id"])

    def _buildah(self, *arguments: str) -> str:
        return _run(["buildah", *self._options, *arguments])


@contextlib.contextmanager
def open_store(say: Say) -> Iterator[Store]:
    """Open the store, and wait for whoever else has it open."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "metrics-sidecar" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another run builds images; waiting for {lock.name}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        scratch = folder / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        store = Store(folder, scratch, say)
        try:
            yield store
        finally:
            store.close()
            shutil.rmtree(scratch, ignore_errors=True)


def _base_name(base: str) -> str:
    """Return a base's name in the store. It tells the recipe too: a changed recipe makes a new base."""
    recipe = hashlib.sha256(json.dumps(BASES[base]).encode()).hexdigest()
    return f"localhost/base-{base}:{recipe[:12]}"


def _pip_volumes(folder: Path) -> list[str]:
    """Return what brings this machine's way to packages into a build, without a trace of it in the image."""
    settings = {}
    for line in _run([sys.executable, "-m", "pip", "config", "list"]).splitlines():
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2].lower().replace("_", "-")
        if name in _PIP_SETTINGS:
            settings[name] = str(ast.literal_eval(value))
    bundle = next((os.environ[key] for key in _CERTIFICATE_VARIABLES if os.environ.get(key)), "")
    if bundle:
        settings.setdefault("cert", bundle)
    configuration = folder / "pip.conf"
    lines = [f"{name} = {' '.join(value.split())}\n" for name, value in settings.items()]
    configuration.write_text("".join(["[global]\n", *lines]))
    words = {Path(word) for value in settings.values() for word in value.split()}
    files = {word for word in words if word.is_absolute() and word.exists()}
    return [
        f"--volume={configuration}:/etc/pip.conf:ro",
        *(f"--volume={file.resolve()}:{file}:ro" for file in sorted(files)),
    ]


def _run(command: list[str]) -> str:
    """Return what a program printed, without the last line end."""
    with tempfile.TemporaryFile("w+") as errors:
        result = subprocess.run(
            command,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            check=False,
            timeout=BUILD_DEADLINE,
        )
        errors.seek(0)
        output = [*result.stdout.splitlines(), *errors.read().splitlines()]
    if result.returncode:
        raise BuildError("\n".join([f"{' '.join(command)}: exit status {result.returncode}", *output[-40:]]))
    return result.stdout.rstrip("\n")
