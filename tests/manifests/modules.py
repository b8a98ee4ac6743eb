"""What the manifests rest on: definitions of custom resources, and a Prometheus that knows Kubernetes.

All of it comes as Go modules, into Go's own cache. Debian's Prometheus is built without the discovery of
Kubernetes, so one is built here, once.

`python -m tests.manifests.modules` fetches and builds ahead of the tests.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from tests.apiserver import binaries
from tests.apiserver.binaries import UnavailableError
from tests.apiserver.client import Object


class Module(NamedTuple):
    """A Go module, and where in it the definitions are that our manifests use."""

    path: str
    version: str
    files: tuple[str, ...]


MODULES = {
    "podmonitor": Module(
        "github.com/prometheus-operator/prometheus-operator",
        "v0.85.0",
        ("example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",),
    ),
    "cert-manager": Module(
        "github.com/cert-manager/cert-manager",
        "v1.21.2",
        ("deploy/crds/cert-manager.io_certificates.yaml", "deploy/crds/cert-manager.io_issuers.yaml"),
    ),
}
PROMETHEUS = "github.com/prometheus/prometheus", "v0.316.0"
PROGRAMS = ("prometheus", "promtool")

Say = Callable[[str], None]


def definitions(component: str) -> list[Object]:
    """Return the CustomResourceDefinitions that a component needs; none for most.

    Raises:
        UnavailableError: there is no Go, or no way to the module.
    """
    if component == "gke-managed-prometheus":
        return [_google("ClusterPodMonitoring", "Cluster"), _google("PodMonitoring", "Namespaced")]
    if component not in MODULES:
        return []
    module = MODULES[component]
    folder = _download(module.path, module.version)
    return [yaml.safe_load((folder / file).read_text()) for file in module.files]


def prometheus(say: Say = lambda _: None) -> dict[str, Path]:
    """Return the paths of `prometheus` and `promtool`, with discovery of Kubernetes and of nothing else.

    Raises:
        UnavailableError: there is no Go, or no way to the modules.
    """
    path, version = PROMETHEUS
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "metrics-sidecar")
    folder = folder / f"prometheus-{version}"
    found = {name: folder / name for name in PROGRAMS}
    if all(program.exists() for program in found.values()):
        return found
    go = _go()
    folder.mkdir(parents=True, exist_ok=True)
    with binaries._only_one(folder / ".lock", say), tempfile.TemporaryDirectory(dir=folder) as target:
        missing = [name for name in PROGRAMS if not found[name].exists()]
        if missing:
            say(f"building {' and '.join(missing)} {version}, once; takes minutes while Go's cache is cold")
            flags = ["-trimpath", "-ldflags=-s -w", "-tags=remove_all_sd,enable_kubernetes_sd"]
            packages = [f"{path}/cmd/{name}@{version}" for name in missing]
            _run([go, "install", *flags, *packages], binaries.BUILD_DEADLINE, GOBIN=target)
        for name in missing:
            # Renamed: whoever finds the name finds a whole program.
            Path(target, name).replace(found[name])
    return found


def _download(path: str, version: str) -> Path:
    """Return the folder of a module's source."""
    command = [_go(), "mod", "download", "-json", f"{path}@{version}"]
    answer = _run(command, binaries.DOWNLOAD_DEADLINE)
    return Path(json.loads(answer)["Dir"])


def _go() -> str:
    go = shutil.which("go")
    if go is None:
        raise UnavailableError("no go in PATH; expected it, to fetch what other projects publish")
    return go


def _run(command: Sequence[str], timeout: float, **environment: str) -> str:
    # Outside of any module, so that no go.mod of somebody's has a say.
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = subprocess.run(
                command,
                cwd=folder,
                env=os.environ | binaries.BUILD_ENVIRONMENT | environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"{' '.join(command)}: not finished after {timeout:g} s") from None
    if result.returncode:
        raise UnavailableError(f"{' '.join(command)}: {binaries._tail(result.stdout + result.stderr)}")
    return result.stdout


def _google(kind: str, scope: str) -> Object:
    """Return as much of a definition of Google's as our manifests use, strictly: written here, not theirs.

    Theirs come with GKE, and in no module that could be fetched here.
    """
    text = {"type": "string"}
    texts = {"type": "object", "additionalProperties": text}
    port = {"x-kubernetes-int-or-string": True}
    endpoint = _mapping({"port": port, "path": text, "interval": text}, ["port", "interval"])
    spec = _mapping(
        {"selector": _mapping({"matchLabels": texts}), "endpoints": {"type": "array", "items": endpoint}},
        ["selector", "endpoints"],
    )
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.lower()}s.monitoring.googleapis.com"},
        "spec": {
            "group": "monitoring.googleapis.com",
            "names": {"kind": kind, "plural": f"{kind.lower()}s", "listKind": f"{kind}List"},
            "scope": scope,
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": _mapping({"spec": spec}, ["spec"])},
                }
            ],
        },
    }


def _mapping(properties: Object, required: Sequence[str] = ()) -> Object:
    schema: Object = {"type": "object", "properties": properties}
    return {**schema, "required": list(required)} if required else schema


def main() -> int:
    try:
        for component in MODULES:
            print(f"{component}\t{len(definitions(component))} definitions")
        for name, path in prometheus(lambda line: print(line, file=sys.stderr, flush=True)).items():
            print(f"{name}\t{path}")
    except UnavailableError as error:
        print(f"modules: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
