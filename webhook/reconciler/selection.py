"""Choose by which labels a workload's Service selects: all of its injected pods, and nobody else's. Pure."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from webhook import names
from webhook.reconciler.inventory import Inventory, Pod, WorkloadKey, matches

_INJECTED = {names.INJECTED_LABEL: names.TRUE}


def choose(
    workload: WorkloadKey, own: Mapping[str, str], pods: Sequence[Pod], inventory: Inventory
) -> tuple[dict[str, str], bool]:
    """Return the selector, and whether it is exact: selects these pods and no others.

    Args:
        workload: whose Service it is.
        own: the labels by which the workload itself selects, empty if it does not say.
        pods: its injected pods, at least one.
        inventory: all others.
    """
    candidates = list(_candidates(own, pods))
    for selector in candidates:
        if _covers(selector, pods) and not _selects_others(selector, workload, inventory):
            return selector, True
    # A target too many is scraped twice, a pod too few not at all.
    return next(selector for selector in candidates if _covers(selector, pods)), False


def port_of(pods: Sequence[Pod]) -> int:
    """Return the port that most of the pods serve on; while a workload changes it, there are two."""
    return max(Counter(pod.port for pod in pods).items(), key=lambda item: (item[1], item[0]))[0]


def _candidates(own: Mapping[str, str], pods: Sequence[Pod]) -> Iterator[dict[str, str]]:
    # The label that the injector wrote tells canaries from their stable twins, from the first moment on.
    whose = {pod.labels.get(names.WORKLOAD_LABEL) for pod in pods}
    only = next(iter(whose)) if len(whose) == 1 else None
    if only:
        named = {names.WORKLOAD_LABEL: only}
        yield {**own, **named, **_INJECTED}
        yield {**named, **_INJECTED}
    if own:
        yield {**own, **_INJECTED}
    # All that they have in common. At the least they are injected.
    first, *others = pods
    yield {
        key: value
        for key, value in sorted(first.labels.items())
        if all(pod.labels.get(key) == value for pod in others)
    }


def _covers(selector: Mapping[str, str], pods: Sequence[Pod]) -> bool:
    return all(matches(selector, pod.labels) for pod in pods)


def _selects_others(selector: Mapping[str, str], workload: WorkloadKey, inventory: Inventory) -> bool:
    # Pods whose workload is not known yet are looked at again once it is.
    return any(
        inventory.workload_of(pod) not in (workload, None)
        for pod in inventory.selected(workload.namespace, selector)
    )
