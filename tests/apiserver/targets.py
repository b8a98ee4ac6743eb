"""Which pods Prometheus would scrape, and through what: by EndpointSlices, and by the selectors themselves.

There is no kubelet: `Kubelet` gives pods the address and the state without which they are nobody's endpoints.
"""

import contextlib
import http.client
import itertools
import threading
from collections import Counter
from collections.abc import Iterable
from typing import Self

from tests.apiserver.client import ApiError, Client, Object
from tests.apiserver.waiting import eventually
from webhook import names, status
from webhook.config import Settings

OURS = f"{names.MANAGED_BY_LABEL}={names.MANAGED_BY}"
INJECTED = f"{names.INJECTED_LABEL}={names.TRUE}"
PERIOD = 0.1


class Kubelet:
    """Gives each pod an address and has it run and be ready; use as a context manager."""

    def __init__(self, api: Client) -> None:
        self._api = api
        self._numbers = itertools.count(1)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kubelet")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(PERIOD):
            # The API server may be away, and a pod may be gone by now.
            with contextlib.suppress(OSError, http.client.HTTPException, ApiError):
                for pod in self._api.items("v1", "Pod", fields="status.phase=Pending"):
                    self._start(pod)

    def _start(self, pod: Object) -> None:
        number = next(self._numbers)
        address = f"10.{200 + (number >> 16) % 50}.{number >> 8 & 255}.{number & 255}"
        state = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        with contextlib.suppress(ApiError):
            self._api.patch("v1", "Pod", name, {"status": state}, namespace, subresource="status")


def services(api: Client, namespace: str | None = None) -> list[Object]:
    """Return the Services that the reconciler looks after."""
    return api.items("v1", "Service", namespace, labels=OURS)


def injected_pods(api: Client, namespace: str | None = None) -> list[Object]:
    """Return the pods with the exporter that are there to stay."""
    return [
        pod
        for pod in api.items("v1", "Pod", namespace, labels=INJECTED)
        if "deletionTimestamp" not in pod["metadata"]
        and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
    ]


def selected(pod: Object, among: Iterable[Object]) -> list[str]:
    """Return the names of the Services whose selectors have this pod."""
    labels = pod["metadata"].get("labels", {}).items()
    return [
        service["metadata"]["name"]
        for service in among
        if service["metadata"]["namespace"] == pod["metadata"]["namespace"]
        and (chosen := service["spec"].get("selector"))
        and chosen.items() <= labels
    ]


def endpoints(api: Client, namespace: str | None = None) -> Counter[tuple[str, ...]]:
    """Return (namespace, pod, Service, port) for each endpoint of our Services, and how often it is there."""
    ours = {(item["metadata"]["namespace"], item["metadata"]["name"]) for item in services(api, namespace)}
    return Counter(
        (where, endpoint["targetRef"]["name"], name, str(port["port"]))
        for piece in api.items("discovery.k8s.io/v1", "EndpointSlice", namespace)
        for where, name in [
            (piece["metadata"]["namespace"], piece["metadata"]["labels"]["kubernetes.io/service-name"])
        ]
        if (where, name) in ours
        for endpoint in piece["endpoints"] or []
        for port in piece["ports"] or []
    )


def never_double(api: Client, namespace: str) -> None:
    """Check, at this instant, that two of our Services select no pod, nor any one without the exporter."""
    # In this order: a Service that is there only after the pods were read is not to be blamed.
    pods, ours = api.items("v1", "Pod", namespace), services(api, namespace)
    for pod in pods:
        chosen = selected(pod, ours)
        assert len(chosen) <= 1, f"{pod['metadata']['name']} is selected by {chosen}"
        marked = pod["metadata"].get("labels", {}).get(names.INJECTED_LABEL) == names.TRUE
        assert marked or not chosen, f"{pod['metadata']['name']} has no exporter; selected by {chosen}"


def one_each(
    api: Client, namespace: str | None = None, count: int | None = None, *, deadline: float = 30.0
) -> dict[str, str]:
    """Wait until each injected pod is an endpoint of exactly one of our Services; return which, by pod.

    In all namespaces that are not about to go and that the reconciler looks after, if none is named; else
    there has to be one pod at least, or as many as `count` says. Pods that are about to go may be endpoints
    a little longer.
    """

    def condition() -> list[dict[str, str]]:
        here = {namespace} if namespace else _living(api)
        ours = [item for item in services(api, namespace) if item["metadata"]["namespace"] in here]
        pods = [pod for pod in injected_pods(api, namespace) if pod["metadata"]["namespace"] in here]
        enough = len(pods) == count if count is not None else bool(pods) or namespace is None
        assert enough, f"injected pods: {[_key(pod) for pod in pods]}"
        chosen = {_key(pod): selected(pod, ours) for pod in pods}
        wrong = {pod: found for pod, found in chosen.items() if len(found) != 1}
        assert not wrong, f"selected by other than one Service: {wrong}"
        expected = Counter((*_key(pod), *chosen[_key(pod)], _port(pod)) for pod in pods)
        leaving = {_key(pod) for pod in api.items("v1", "Pod", namespace)} - set(chosen)
        got = endpoints(api, namespace)
        for endpoint in list(got):
            if endpoint[:2] in leaving or endpoint[0] not in here:
                del got[endpoint]
        assert got == expected, f"endpoints: {got - expected} too many, {expected - got} missing"
        return [{pod: name for (_, pod), [name] in chosen.items()}]

    [found] = eventually("each injected pod to be one endpoint", condition, deadline=deadline)
    return found


def _living(api: Client) -> set[str]:
    return {
        item["metadata"]["name"]
        for item in api.items("v1", "Namespace")
        if "deletionTimestamp" not in item["metadata"]
    } - Settings().ignored_namespaces


def _key(pod: Object) -> tuple[str, str]:
    return pod["metadata"]["namespace"], pod["metadata"]["name"]


def _port(pod: Object) -> str:
    done = status.read(pod)
    assert done is not None, f"{_key(pod)} is labelled and has no status"
    return str(done.port)
