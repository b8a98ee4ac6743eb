"""Build the manifests, and combinations of them, with kubectl's own kustomize.

`python -m tests.manifests.kustomize` writes manifests/install.yaml: `make manifests`.
"""

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.apiserver import binaries

Object = dict[str, Any]

MANIFESTS = Path(__file__).parents[2] / "manifests"
BASE = MANIFESTS / "base"
COMPONENTS = {path.name: path for path in sorted((MANIFESTS / "components").iterdir())}
INSTALL = MANIFESTS / "install.yaml"

HEADER = """\
# All of manifests/base in one file, for `kubectl apply --filename`. Made by `make manifests`; edit the base.
# Two images are to be yours: metrics-sidecar-webhook, and metrics-sidecar, which the ConfigMap
# metrics-sidecar-settings names as well. manifests/base/settings.yaml says what the settings mean.
"""


class BuildError(Exception):
    """Kustomize refused; the message is what it said."""


def build(folder: Path) -> str:
    """Return what `kubectl kustomize` makes of a folder, as text."""
    kubectl = binaries.find("kubectl")["kubectl"]
    command = [str(kubectl), "kustomize", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if result.returncode or result.stderr:
        raise BuildError(result.stderr)
    return result.stdout


def objects(text: str) -> list[Object]:
    """Return the objects of a built kustomization, in order."""
    return [document for document in yaml.safe_load_all(text) if document]


def overlay(folder: Path, resources: Iterable[Path], components: Iterable[str] = (), **more: object) -> Path:
    """Write a kustomization as an operator would, with components by name; return its folder."""
    folder.mkdir(parents=True, exist_ok=True)

    def relative(paths: Iterable[Path]) -> list[str]:
        # Kustomize takes no absolute paths.
        return [os.path.relpath(path, folder.resolve()) for path in paths]

    content: Mapping[str, object] = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": relative(resources),
        "components": relative(COMPONENTS[name] for name in components),
        **more,
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
    return folder


def flat() -> str:
    """Return what manifests/install.yaml shall hold."""
    return HEADER + build(BASE)


def main() -> int:
    try:
        INSTALL.write_text(flat())
    except (binaries.UnavailableError, BuildError) as error:
        print(f"manifests: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
