"""All faults that a snapshot shows. Pure."""

from webhook import shape
from webhook.check import installation, labels, pods, refusals, services, trust
from webhook.check.findings import Finding, ordered
from webhook.check.snapshot import Snapshot
from webhook.check.workloads import Fleet
from webhook.names import Fault


def examine(seen: Snapshot) -> list[Finding]:
    """Return what is wrong, what is worst first; empty for a healthy cluster."""
    found = list(installation.faults(seen))
    if any(item.fault is Fault.NOT_INSTALLED for item in found):
        return found
    fleet = Fleet(seen)
    found += trust.faults(seen)
    found += installation.probed(seen, found)
    for look in (labels.faults, pods.faults, refusals.faults, services.faults):
        found += look(seen, fleet)
    ending = {shape.name(item) for item in seen.namespaces if "deletionTimestamp" in shape.metadata(item)}
    return ordered(item for item in found if item.obj.namespace not in ending)
