"""The least that a kopf operator does with the same pods: one handler, which does nothing.

`python -m bench.watcher <pods> [tuned]` prints a line once the handler has been called for so many pods.
Tuned, kopf has the reconciler's settings; else its own, but for the selector and for lists in pages of 500.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import kopf

from bench.report import say
from webhook.reconciler.watch import INJECTED, PODS, operator_settings

PAGE = 500
ALL_SEEN = "all seen"


def _plain_settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.watching.label_selectors[PODS] = INJECTED
    settings.watching.chunk_size = PAGE
    settings.scanning.disabled = True
    settings.posting.enabled = False
    return settings


def _registry(pods: int) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()
    seen = 0

    @kopf.on.login(registry=registry)
    async def login(**given: Any) -> kopf.ConnectionInfo | None:  # noqa: ANN401 (kopf's)
        return kopf.login_with_kubeconfig(**given)

    @kopf.on.event(*PODS, registry=registry)
    async def pod(**_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == pods:
            say(ALL_SEEN)

    return registry


async def _watch(pods: int, *, tuned: bool) -> None:
    settings = operator_settings() if tuned else _plain_settings()
    await kopf.operator(registry=_registry(pods), settings=settings, standalone=True, clusterwide=True)


if __name__ == "__main__":
    asyncio.run(_watch(int(sys.argv[1]), tuned="tuned" in sys.argv[2:]))
