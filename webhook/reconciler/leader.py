"""The connection by which the reconciler acts: it writes only while the Lease is ours, and counts."""

from collections.abc import Callable, Mapping
from typing import Any

from kubernetes.aio.client import Configuration

from webhook.cluster import Cluster, ClusterError
from webhook.shape import Json


class NotLeadingError(ClusterError):
    """The Lease is no longer ours, so nothing was sent."""


class LeaderCluster(Cluster):
    """A Cluster that refuses to write without the Lease.

    Args:
        configuration: how to connect.
        held: whether the Lease is ours, now.
        wrote: is told of each write that the API server accepted: the resource's plural, and the HTTP method.
    """

    def __init__(
        self, configuration: Configuration, held: Callable[[], bool], wrote: Callable[[str, str], None]
    ) -> None:
        super().__init__(configuration)
        self._held = held
        self._wrote = wrote

    async def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,  # noqa: ANN401 (any JSON)
        **options: Any,  # noqa: ANN401 (those of Cluster)
    ) -> Json:
        """Send a request, if it changes nothing or the Lease is ours."""
        writes = method != "GET"
        if writes and not self._held():
            raise NotLeadingError(f"{method} {path}: not sent; expected to hold the Lease")
        answer = await super().request(method, path, query, body, **options)
        if writes:
            self._wrote(_plural(path), method)
        return answer


def _plural(path: str) -> str:
    """Return the resource in a path of the API server."""
    parts = path.strip("/").split("/")
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    return rest[2] if rest[:1] == ["namespaces"] and len(rest) > 2 else rest[0]
