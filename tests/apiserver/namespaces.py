"""Namespaces for tests, which come and go whether or not the controllers that usually tend them run."""

import contextlib
import http.client
from collections.abc import Iterator

from tests.apiserver.client import ApiError, Client

# Events expire by themselves.
NOT_EMPTIED = {"Event"}


def create_namespace(api: Client, name: str, labels: dict[str, str] | None = None) -> None:
    """Create a namespace in which pods can be created at once."""
    api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or {}}})
    # A pod needs it at admission. The controller manager, if it runs, may have been faster.
    with _tolerating(http.client.CONFLICT):
        api.create(
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}}
        )


def delete_namespace(api: Client, name: str, *, by_hand: bool) -> None:
    """Delete a namespace: by the controllers in their own time, or by hand where none run."""
    with _tolerating(http.client.NOT_FOUND, http.client.CONFLICT):
        api.delete("v1", "Namespace", name)
    if by_hand:
        _empty(api, name)
        namespace = api.find("v1", "Namespace", name)
        if namespace is not None:
            namespace["spec"]["finalizers"] = []
            with _tolerating(http.client.NOT_FOUND, http.client.CONFLICT):
                api.update(namespace, subresource="finalize")


def _empty(api: Client, name: str) -> None:
    """Do what the namespace controller does: delete the collection of every kind that can be."""
    groups = api.request("GET", "/apis")["groups"]
    versions = ["v1", *(group["preferredVersion"]["groupVersion"] for group in groups)]
    for version in versions:
        path = f"/apis/{version}" if "/" in version else f"/api/{version}"
        for resource in api.request("GET", path)["resources"]:
            deletable = resource["namespaced"] and "deletecollection" in resource["verbs"]
            if deletable and resource["kind"] not in NOT_EMPTIED:
                with _tolerating(http.client.NOT_FOUND, http.client.METHOD_NOT_ALLOWED):
                    api.delete_all(version, resource["kind"], name)


@contextlib.contextmanager
def _tolerating(*codes: int) -> Iterator[None]:
    try:
        yield
    except ApiError as error:
        if error.code not in codes:
            raise
