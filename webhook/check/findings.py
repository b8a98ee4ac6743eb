"""What `check` reports: a fault, where it is, how it shows, and the command that mends it. Pure."""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from webhook.identity import Reference
from webhook.names import Fault
from webhook.shape import Json

_SHOWN: Final = 3


class Severity(enum.StrEnum):
    """Whether something does not work, or will not, or is only not as it should be."""

    PROBLEM = "problem"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault of one object."""

    fault: Fault
    obj: Reference
    evidence: tuple[str, ...]
    """Facts that were seen, each a phrase."""
    command: str
    """For a shell, with kubectl."""
    severity: Severity = Severity.PROBLEM

    def to_json(self) -> Json:
        """Return it for machines."""
        return {
            "code": self.fault.value,
            "severity": self.severity.value,
            "object": {
                "apiVersion": self.obj.api_version,
                "kind": self.obj.kind,
                "namespace": self.obj.namespace,
                "name": self.obj.name,
            },
            "symptom": self.fault.sentence,
            "evidence": list(self.evidence),
            "command": self.command,
        }


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings as they are reported: what is worst, and what others may follow from, first."""
    rank = {fault: number for number, fault in enumerate(Fault)}
    severities = list(Severity)
    return sorted(
        findings,
        key=lambda found: (
            severities.index(found.severity),
            rank[found.fault],
            found.obj.namespace,
            found.obj.kind,
            found.obj.name,
        ),
    )


def examples(what: Sequence[str], shown: int = _SHOWN) -> str:
    """Return the first few names, and how many more there are: `a, b, c and 7 more`."""
    rest = len(what) - shown
    named = ", ".join(sorted(what)[:shown])
    return f"{named} and {rest} more" if rest > 0 else named
