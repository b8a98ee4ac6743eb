"""kopf's handlers for admission reviews. They only unpack; `webhook.admission.answer` decides."""

import asyncio
import logging
from contextvars import ContextVar
from typing import Final

import kopf
from kopf._cogs.structs.references import Insights  # not exported, yet what `kopf.operator(insights=…)` takes

from webhook import names, shape
from webhook.admission.answer import Answer, answer_pod, answer_workload
from webhook.admission.review import PODS, RESOURCES, WORKLOADS, Review
from webhook.admission.telemetry import Telemetry
from webhook.config import Settings
from webhook.decision import labelled
from webhook.names import Action

logger = logging.getLogger(__name__)

# What the handler that is running looks at, and answers in. kopf could hand it over, and take a patch back,
# but would copy and compare whole objects on the way: 7 ms for a pod of 36 KB.
under_review: ContextVar[Review] = ContextVar("under_review")

_DONE: Final = {Action.INJECT: "injected", Action.STAMP: "stamped", Action.UNSTAMP: "unstamped"}


def registry(settings: Settings, telemetry: Telemetry) -> kopf.OperatorRegistry:
    """Return the handlers of the admission process, one for each path of the webhook configuration."""
    handlers = kopf.OperatorRegistry()
    kopf.on.login(registry=handlers)(_never)

    @kopf.on.mutate(*PODS, id=names.POD_HANDLER, operations=["CREATE"], registry=handlers)
    async def pod(*, warnings: list[str], **_: object) -> None:
        review = under_review.get()
        namespace = {"metadata": {"name": review.namespace}}
        conclude(review, answer_pod(review.obj, namespace, review.operation, settings, review.uid), warnings)

    @kopf.on.mutate(*PODS, id=names.NAMESPACE_HANDLER, operations=["CREATE"], registry=handlers)
    async def pod_of_labelled_namespace(*, warnings: list[str], **_: object) -> None:
        review = under_review.get()
        namespace = labelled(review.namespace)
        conclude(review, answer_pod(review.obj, namespace, review.operation, settings, review.uid), warnings)

    @kopf.on.mutate(*WORKLOADS, id=names.WORKLOAD_HANDLER, operations=["CREATE", "UPDATE"], registry=handlers)
    async def workload(*, warnings: list[str], **_: object) -> None:
        review = under_review.get()
        namespace = {"metadata": {"name": review.namespace}}
        answer = answer_workload(review.obj, review.old, namespace, review.operation, settings)
        conclude(review, answer, warnings)

    def conclude(review: Review, answer: Answer, warnings: list[str]) -> None:
        review.answer = answer
        warnings.extend(answer.warnings)
        telemetry.decided(answer.decision)
        _log(review, answer)

    return handlers


def insights() -> Insights:
    """Return what kopf is to know of the cluster, so that it need not ask.

    It reads from the API server which resources exist, and ends if it cannot. The resources that it is shown
    here are always the same (see `review.RESOURCES`), so the process needs no access to the cluster at all.
    """
    known = Insights()
    known.webhook_resources.update(
        kopf.Resource(*resource, namespaced=True) for resource in RESOURCES.values()
    )
    known.ready_resources.set()
    return known


async def _never(**_: object) -> kopf.ConnectionInfo:
    """Log in at the cluster: never. Whatever in kopf would make a request waits for this."""
    await asyncio.Event().wait()
    raise AssertionError


def _log(review: Review, answer: Answer) -> None:
    """Write a line for what was done, or for what was asked for and not done; others only when debugging."""
    decision = answer.decision
    level = logging.INFO if decision.action is not Action.SKIP or answer.warnings else logging.DEBUG
    if not logger.isEnabledFor(level):
        return
    metadata = shape.metadata(review.obj)
    logger.log(
        level,
        "%s: %s",
        _DONE.get(decision.action, "left alone"),
        decision.reason.sentence,
        extra={
            "action": decision.action.value,
            "reason": decision.reason.value,
            "kind": shape.text(review.obj.get("kind")),
            "namespace": review.namespace,
            "object": shape.text(metadata.get("name")) or shape.text(metadata.get("generateName")),
            "warnings": " | ".join(answer.warnings),
        },
    )
