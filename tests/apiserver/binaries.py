"""The Kubernetes programs that this tier runs: taken from KUBEBUILDER_ASSETS, else built once and cached.

Kubernetes publishes no wheel, and its download hosts are out of reach in many build environments. Its source
is a Go module like any other, so Go and the module proxy are all that it takes. One module builds everything,
etcd too: Kubernetes' own go.mod says which etcd it is tested with.

`python -m tests.apiserver.binaries` builds what is missing ahead of the tests; names of programs as arguments
restrict it to those.
"""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

KUBERNETES = "v1.34.4"

PACKAGES = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
}

ASSETS = "KUBEBUILDER_ASSETS"
DOWNLOAD_DEADLINE = 300.0
BUILD_DEADLINE = 3600.0

# A go.work or a GOFLAGS of the caller would change what is built; cgo would tie it to this machine's libc.
BUILD_ENVIRONMENT = {"CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "-buildvcs=false"}

Say = Callable[[str], None]


class UnavailableError(Exception):
    """A program is neither here nor can it be built here; the message names what is missing."""


class BuildError(Exception):
    """Everything needed is here, and the build failed all the same."""


def find(*names: str, say: Say = lambda _: None) -> dict[str, Path]:
    """Return the path of each named program, building those that are nowhere to be found.

    Raises:
        UnavailableError: there is no Go, or no way to the Go modules.
        BuildError: the compiler gave up.
    """
    found = {name: path for name in names if (path := _asset(name))}
    missing = [name for name in names if name not in found]
    if missing:
        found |= _cached(missing, say)
    return found


def _asset(name: str) -> Path | None:
    """Return the program from KUBEBUILDER_ASSETS; envtest's archives lack the controller manager."""
    folder = os.environ.get(ASSETS)
    if not folder:
        return None
    path = Path(folder, name)
    return path if os.access(path, os.X_OK) else None


def _cached(names: list[str], say: Say) -> dict[str, Path]:
    go = shutil.which("go")
    folder = _cache_folder(go)
    paths = {name: folder / name for name in names}
    if all(path.exists() for path in paths.values()):
        return paths
    if go is None:
        missing = ", ".join(name for name, path in paths.items() if not path.exists())
        raise UnavailableError(
            f"no {missing}: set {ASSETS} to a folder with these, or install Go to build them into {folder}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with _only_one(folder / ".lock", say):
        # What another run built while this one waited for the lock is there now.
        absent = [name for name, path in paths.items() if not path.exists()]
        if absent:
            with _module(go, folder / "module") as module:
                for name in absent:
                    _build(go, name, module, paths[name], say)
    return paths


def _cache_folder(go: str | None) -> Path:
    """Return where built programs are kept: outside the repository, out of reach of `make clean`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    if go is None:
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
        platform = f"{os.uname().sysname.lower()}-{machine}"
    else:
        # Not GOOS and GOARCH, which somebody may have set for cross-compiling: these programs run here.
        platform = "-".join(_go_value(go, key) for key in ("GOHOSTOS", "GOHOSTARCH"))
    return Path(base, "metrics-sidecar", f"kubernetes-{KUBERNETES}-{platform}")


def _go_value(go: str, key: str) -> str:
    return subprocess.check_output([go, "env", key], text=True, timeout=30).strip()


@contextlib.contextmanager
def _only_one(lock: Path, say: Say) -> Iterator[None]:
    """Hold an exclusive lock: two builds at once would each take twice as long. It dies with the process."""
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another run is building; waiting for {lock}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _module(go: str, folder: Path) -> Iterator[Path]:
    """Make a Go module that requires Kubernetes and says where its staging modules are published.

    Kubernetes' go.mod replaces them by folders of its own tree, and a replacement holds in the main module
    only. Its go.sum comes along, so that every dependency is the one that Kubernetes was released with.
    """
    # A build that was killed may have left it; the lock says that nobody else is in it now.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        source = _download(go, folder)
        kubernetes = json.loads(_run([go, "mod", "edit", "-json", str(source / "go.mod")], folder).stdout)
        version = KUBERNETES.replace("v1.", "v0.", 1)
        staging = [
            replacement["Old"]["Path"]
            for replacement in kubernetes["Replace"]
            if replacement["New"]["Path"].startswith("./staging/")
        ]
        lines = [
            "module metrics-sidecar.io/tests/kubernetes",
            f"go {kubernetes['Go']}",
            # The defaults that Kubernetes runs with, whatever newer Go compiles it.
            *(f"godebug {setting['Key']}={setting['Value']}" for setting in kubernetes.get("GoDebug") or []),
            f"require k8s.io/kubernetes {KUBERNETES}",
            *(f"replace {path} => {path} {version}" for path in staging),
        ]
        (folder / "go.mod").write_text("\n".join(lines) + "\n")
        (folder / "go.sum").write_bytes((source / "go.sum").read_bytes())
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _download(go: str, folder: Path) -> Path:
    """Return the folder of Kubernetes' source, which is the first thing to need a network."""
    command = [go, "mod", "download", "-json", f"k8s.io/kubernetes@{KUBERNETES}"]
    answer = _run(command, folder, DOWNLOAD_DEADLINE)
    if answer.returncode:
        raise UnavailableError(
            f"no {ASSETS}, and the Go modules to build Kubernetes {KUBERNETES} from are out of reach:"
            f" {_tail(answer.stdout + answer.stderr)}"
        )
    return Path(json.loads(answer.stdout)["Dir"])


def _build(go: str, name: str, module: Path, target: Path, say: Say) -> None:
    say(f"building {name} of Kubernetes {KUBERNETES}, once; takes minutes while Go's own cache is cold")
    began = time.monotonic()
    # Built beside the target and renamed: whoever finds the name finds a whole program.
    built = module / name
    flags = ["-mod=mod", "-trimpath", f"-ldflags={_linker_flags()}", "-o", str(built)]
    result = _run([go, "build", *flags, PACKAGES[name]], module, BUILD_DEADLINE)
    if result.returncode:
        raise BuildError(f"{name}: go build {PACKAGES[name]} failed: {_tail(result.stderr)}")
    built.replace(target)
    say(f"built {target} in {time.monotonic() - began:.0f} s")


def _linker_flags() -> str:
    """Stamp the version: an API server that calls itself v0.0.0 makes clients and feature gates go wrong."""
    major, minor, _ = KUBERNETES.removeprefix("v").split(".")
    stamps = {"gitVersion": KUBERNETES, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    flags = ["-s", "-w"]
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
        flags += [f"-X {package}.{key}={value}" for key, value in stamps.items()]
    return " ".join(flags)


def _run(command: list[str], folder: Path, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run a go command; one that takes too long has failed like any other."""
    environment = os.environ | BUILD_ENVIRONMENT
    try:
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"not finished after {timeout:g} s")


def _tail(output: str, lines: int = 20) -> str:
    return "\n".join(output.strip().splitlines()[-lines:])


def main(arguments: list[str]) -> int:
    """Find or build the named programs, all of them by default; print where each is."""
    unknown = sorted(set(arguments) - set(PACKAGES))
    if unknown:
        print(f"binaries: {' '.join(unknown)}; expected any of {' '.join(PACKAGES)}", file=sys.stderr)
        return 2
    try:
        found = find(*(arguments or PACKAGES), say=lambda line: print(line, file=sys.stderr, flush=True))
    except (UnavailableError, BuildError) as error:
        print(f"binaries: {error}", file=sys.stderr)
        return 1
    for name, path in found.items():
        print(f"{name}\t{path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
