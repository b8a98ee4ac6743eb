"""The manifests in a real cluster: applied as operators would, and gone afterwards."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.apiserver.client import Client
from tests.apiserver.controlplane import ControlPlane
from tests.apiserver.waiting import eventually
from tests.manifests.kustomize import Object
from webhook import names

DEFINITION = "apiextensions.k8s.io/v1", "CustomResourceDefinition"
OURS = "metrics-sidecar"


class KubectlError(Exception):
    """Kubectl failed; the message is what it said."""


def kubectl(control_plane: ControlPlane, *arguments: str) -> list[str]:
    """Run kubectl as administrator and return its lines; a warning is a failure too."""
    result = control_plane.kubectl(*arguments, timeout=180)
    if result.returncode or result.stderr:
        raise KubectlError(f"kubectl {' '.join(arguments)}: {result.stderr or result.stdout}")
    return result.stdout.splitlines()


@contextlib.contextmanager
def defined(api: Client, definitions: list[Object]) -> Iterator[None]:
    """Have custom resources inside, and none of them afterwards."""
    for definition in definitions:
        api.create(definition)
    try:
        for definition in definitions:
            spec = definition["spec"]
            version, kind = f"{spec['group']}/{spec['versions'][0]['name']}", spec["names"]["kind"]
            eventually(f"{kind} to be served", lambda v=version, k=kind: _served(api, v, k))
        yield
    finally:
        for definition in definitions:
            api.delete(*DEFINITION, definition["metadata"]["name"])
        for definition in definitions:
            name = definition["metadata"]["name"]
            eventually(f"{name} to go", lambda n=name: api.find(*DEFINITION, n) is None)


def _served(api: Client, version: str, kind: str) -> bool:
    try:
        api.items(version, kind)
    except Exception:  # noqa: BLE001 (not yet: no such group, no such kind, or not found)
        return False
    return True


@contextlib.contextmanager
def applied(control_plane: ControlPlane, folder: Path, *flags: str) -> Iterator[None]:
    """Apply a kustomization, and delete it; nothing of it may be left."""
    kubectl(control_plane, "apply", *flags, "--kustomize", str(folder))
    try:
        yield
    finally:
        # The namespace comes first, and takes what is in it along: not found later, which is well.
        kubectl(control_plane, "delete", "--ignore-not-found", "--timeout=120s", "--kustomize", str(folder))


def left_over(api: Client) -> list[str]:
    """Return every object in the cluster, of whatever kind, that is called like one of ours."""
    found = []
    groups = api.request("GET", "/apis")["groups"]
    for version in ["v1", *(group["preferredVersion"]["groupVersion"] for group in groups)]:
        path = f"/apis/{version}" if "/" in version else f"/api/{version}"
        for resource in api.request("GET", path)["resources"]:
            if "list" not in resource["verbs"] or "/" in resource["name"] or resource["kind"] == "Event":
                continue
            for item in api.items(version, resource["kind"]):
                if (
                    OURS in item["metadata"]["name"]
                    or item["metadata"].get("namespace") == names.OWN_NAMESPACE
                ):
                    found.append(f"{resource['kind']} {item['metadata']['name']}")
    return found
