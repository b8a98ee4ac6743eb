"""What was found, as text for people and as JSON for machines. Pure."""

import json
import textwrap
from collections.abc import Sequence
from typing import Final

from webhook import names
from webhook.check import mending
from webhook.check.findings import Finding, Severity
from webhook.check.snapshot import Area, Snapshot
from webhook.check.workloads import Fleet

WIDTH: Final = 100
_INDENT: Final = 10
_BOLD: Final = "1"
_DIM: Final = "2"
_COLOURS: Final = {Severity.PROBLEM: "1;31", Severity.WARNING: "1;33"}


def as_json(findings: Sequence[Finding], seen: Snapshot) -> str:
    """Return the report for machines."""
    content = {
        "version": names.VERSION,
        "healthy": not is_broken(findings),
        "findings": [finding.to_json() for finding in findings],
        "notChecked": [{"what": area.value, "why": why} for area, why in _unchecked(seen)],
    }
    return json.dumps(content, indent=2)


def as_text(findings: Sequence[Finding], seen: Snapshot, *, colour: bool = False, width: int = WIDTH) -> str:
    """Return the report for people; one line if all is well.

    Args:
        findings: in the order in which they are to be read.
        seen: what was looked at.
        colour: mark it up for a terminal.
        width: of the terminal; commands are never broken, so that they can be copied.
    """
    paint = _Paint(colour)
    blocks = [_finding(finding, paint, width) for finding in findings]
    unchecked = [
        textwrap.fill(f"not checked: {area.value} ({why})", width, subsequent_indent="  ")
        for area, why in _unchecked(seen)
    ]
    if unchecked:
        blocks.append("\n".join(unchecked))
    blocks.append(_sum(findings, seen, paint))
    return "\n\n".join(blocks) if len(blocks) > 1 else blocks[0]


def is_broken(findings: Sequence[Finding]) -> bool:
    """Return whether something does not work; warnings are not that."""
    return any(finding.severity is Severity.PROBLEM for finding in findings)


class _Paint:
    def __init__(self, colour: bool) -> None:
        self._colour = colour

    def __call__(self, text: str, style: str) -> str:
        return f"\033[{style}m{text}\033[0m" if self._colour else text


def _finding(finding: Finding, paint: _Paint, width: int) -> str:
    severity = finding.severity
    head = f"{severity.value.upper():<{_INDENT}}"
    margin = " " * _INDENT
    subject = mending.target(finding.obj).replace(" -n ", " in ")
    lines = [
        paint(head, _COLOURS[severity]) + paint(subject, _BOLD),
        *textwrap.wrap(finding.fault.sentence, width, initial_indent=margin, subsequent_indent=margin),
    ]
    for fact in finding.evidence:
        lines += textwrap.wrap(
            fact, width, initial_indent=f"{margin}- ", subsequent_indent=f"{margin}  ", break_on_hyphens=False
        )
    lines.append(f"{margin}{paint('$', _DIM)} {finding.command}")
    return "\n".join(lines)


def _sum(findings: Sequence[Finding], seen: Snapshot, paint: _Paint) -> str:
    counts = [(severity, sum(item.severity is severity for item in findings)) for severity in Severity]
    said = [f"{number} {severity}{'s' if number > 1 else ''}" for severity, number in counts if number]
    if said:
        return paint(", ".join(said), _BOLD)
    if seen.unchecked:
        return "no fault found in what could be looked at"
    injected = [len(item.injected) for item in Fleet(seen).workloads if item.injected]
    pods, workloads = sum(injected), len(injected)
    return f"healthy: {_number(pods, 'pod')} of {_number(workloads, 'workload')} with the exporter"


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _unchecked(seen: Snapshot) -> list[tuple[Area, str]]:
    return [(area, seen.unchecked[area]) for area in Area if area in seen.unchecked]
