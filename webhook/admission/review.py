"""Admission reviews as they arrive and as they are answered (admission.k8s.io/v1). Pure."""

import base64
import dataclasses
import json
from typing import Final

from webhook import names, shape
from webhook.admission.answer import Answer
from webhook.patch import diff
from webhook.shape import Json

# kopf is told one resource for pods and one for all that has a pod template: the path of the request says
# which handler is meant, and so custom resources need not be known beforehand.
PODS: Final = ("", "v1", "pods")
WORKLOADS: Final = (names.PREFIX, "v1", "workloads")
RESOURCES: Final = {
    names.POD_HANDLER: PODS,
    names.NAMESPACE_HANDLER: PODS,
    names.WORKLOAD_HANDLER: WORKLOADS,
}


class NotAReviewError(ValueError):
    """What was sent is no admission review; there is nothing that could be allowed."""


@dataclasses.dataclass(slots=True)
class Review:
    """One request of the API server, and what the handler answers."""

    uid: str
    version: str
    request: Json
    answer: Answer | None = None

    @classmethod
    def parse(cls, raw: bytes) -> "Review":
        """Return the review that the bytes hold.

        Raises:
            NotAReviewError: they hold none.
        """
        try:
            content = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise NotAReviewError(f"review: {type(error).__name__}; expected JSON") from error
        request = shape.mapping(content).get("request")
        if not isinstance(request, dict):
            raise NotAReviewError("review: no request in it; expected an AdmissionReview")
        uid = request.get("uid")
        if not isinstance(uid, str) or not uid:
            raise NotAReviewError("review: request.uid; expected a string")
        return cls(uid, shape.text(content.get("apiVersion")) or "admission.k8s.io/v1", request)

    @property
    def obj(self) -> Json:
        """The object under review, empty if there is none."""
        return shape.mapping(self.request.get("object"))

    @property
    def old(self) -> Json | None:
        """The object before an update, None when it is created."""
        return shape.mapping(self.request.get("oldObject")) or None

    @property
    def namespace(self) -> str:
        """The namespace of the object, which the object itself may yet lack."""
        return shape.text(self.request.get("namespace"))

    @property
    def operation(self) -> str:
        """What happens to the object, empty if it happens to a part of it such as its status."""
        return "" if self.request.get("subResource") else shape.text(self.request.get("operation"))

    def for_kopf(self, handler: str) -> Json:
        """Return what kopf needs to find the handler, and to name the object in its logs.

        Not the object itself: kopf copies what it is given, keeps a memo per uid for ever, and diffs slowly.
        """
        group, version, resource = RESOURCES[handler]
        seen = self.obj
        return {
            "apiVersion": self.version,
            "kind": "AdmissionReview",
            "request": {
                "uid": self.uid,
                "resource": {"group": group, "version": version, "resource": resource},
                "operation": "CREATE",
                "userInfo": {},
                "object": {
                    "kind": shape.text(seen.get("kind")),
                    "metadata": {"name": shape.name(seen), "namespace": self.namespace},
                },
            },
        }

    def conclude(self, verdict: Json) -> Json | None:
        """Return the answer to send: kopf's verdict with the handler's patch; None if they do not allow."""
        response = shape.mapping(verdict.get("response"))
        if response.get("allowed") is not True or self.answer is None:
            return None
        if operations := diff(self.obj, self.answer.obj):
            encoded = base64.b64encode(json.dumps(operations).encode()).decode()
            response = {**response, "patchType": "JSONPatch", "patch": encoded}
        return {**verdict, "response": response}

    def allow(self, *warnings: str) -> Json:
        """Return the answer that lets the object through as it is."""
        response: Json = {"uid": self.uid, "allowed": True}
        if warnings:
            response["warnings"] = list(warnings)
        return {"apiVersion": self.version, "kind": "AdmissionReview", "response": response}
