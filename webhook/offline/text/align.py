"""Which items of a sequence are kept, which come and which go."""

from collections.abc import Callable
from typing import Any

from webhook.offline.text.node import Node, reads_as


def align(items: list[Node], new: list[Any]) -> list[tuple[int | None, int | None]]:
    """Return pairs of an item's index and that of what it becomes, in order.

    Without a partner an item goes, or comes. Equal ones are partners; where all that is left on both
    sides differs, the order decides, so that what is added is taken to be added at the end.
    """
    head = 0
    while head < min(len(items), len(new)) and reads_as(items[head], new[head]):
        head += 1
    tail = 0
    while tail < min(len(items), len(new)) - head and reads_as(items[-1 - tail], new[-1 - tail]):
        tail += 1
    ours, theirs = range(head, len(items) - tail), range(head, len(new) - tail)
    pairs: list[tuple[int | None, int | None]] = [(index, index) for index in range(head)]
    if len(ours) > len(theirs):
        chosen = _embed(theirs, ours, lambda other, index: reads_as(items[index], new[other]))
        pairs += [(index, chosen.get(index)) for index in ours]
    else:
        chosen = _embed(ours, theirs, lambda index, other: reads_as(items[index], new[other]))
        pairs += [(chosen.get(other), other) for other in theirs]
    return pairs + [(ours.stop + offset, theirs.stop + offset) for offset in range(tail)]


def _embed(few: range, many: range, fits: Callable[[int, int], bool]) -> dict[int, int]:
    """Map each of the many that has a partner among the few to it: by equality, or else in order."""
    found: dict[int, int] = {}
    waiting = list(few)
    for candidate in many:
        if waiting and fits(waiting[0], candidate):
            found[candidate] = waiting.pop(0)
    return dict(zip(many, few, strict=False)) if waiting else found
