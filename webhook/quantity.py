"""Amounts of a resource, as Kubernetes writes them: `50m`, `0.05`, `50Mi`, `1e3`.

Source: the serialization format of resource.Quantity in k8s.io/apimachinery.
"""

import re
from decimal import Decimal

# Longer numbers than this exist in no manifest, and a huge exponent would cost memory, not carry meaning.
_FORM = re.compile(
    r"([+-]?(?:\d{1,20}(?:\.\d{0,20})?|\.\d{1,20}))(?:([KMGTPE]i|[numkMGTPE])|[eE]([+-]?\d{1,2}))?", re.ASCII
)

_SUFFIX = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}


def parse(value: object) -> Decimal | None:
    """Return the amount in cores or bytes, None for what is no quantity."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    match = _FORM.fullmatch(str(value))
    if match is None:
        return None
    number, suffix, exponent = match.groups()
    amount = Decimal(number)
    if suffix:
        return amount * _SUFFIX[suffix]
    return amount.scaleb(int(exponent)) if exponent else amount
