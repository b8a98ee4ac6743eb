"""One scrape as a picture: a bar for each destination, and the figures of the whole pod. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from demo.scrape import Reading
    from demo.style import Style

_SHORTEST_BAR = 6


@dataclass(frozen=True)
class Bar:
    """One destination: its name, and its share of 0..1 of what is there for it."""

    remote: str
    share: float
    connections: int


def bars(reading: Reading, remotes: Sequence[str], own_ports: int = 0) -> list[Bar]:
    """Return a bar for each remote.

    Args:
        reading: a scrape.
        remotes: as the label ``remote_addr`` has them.
        own_ports: to how many ports the application keeps itself, if it does: the exporter does not know,
            and its ratio is that of the whole range. Then the bars are shares of these ports.
    """
    return [
        Bar(
            remote,
            reading.connections.get(remote, 0) / own_ports
            if own_ports
            else reading.destinations.get(remote, 0.0),
            reading.connections.get(remote, 0),
        )
        for remote in remotes
    ]


def panel(reading: Reading, remotes: Sequence[str], style: Style, own_ports: int = 0) -> list[str]:
    """Return the picture of one scrape, all lines within the width."""
    caption = f"port_used, of the application's {own_ports} ports" if own_ports else "port_destination_ratio"
    widest = max(map(len, remotes))
    length = style.width - widest - len(3 * "  " + "1.000  full")
    lines = ["", style.dim(f"  {caption}")]
    for bar in bars(reading, remotes, own_ports):
        full = bar.share >= 1
        number = f"{bar.share:.3f}" + ("  full" if full else "")
        lines.append(
            f"  {bar.remote:{widest}}  "
            + (f"{style.bar(bar.share, length)}  " if length >= _SHORTEST_BAR else "")
            + (style.bold(style.red(number)) if full else number)
        )
    return [*lines, "", *figures(reading, style)]


def figures(reading: Reading, style: Style) -> list[str]:
    """Return the figures of the whole pod, on one line if the width allows it."""
    parts = [
        ("port_exhaustion_ratio", f"{reading.ratio:.3f}", reading.ratio),
        ("port_exhaustion_free", f"{reading.free}", reading.ratio),
        ("port_usage", f"{reading.usage:.1f} %", 0.0),
    ]
    texts = [
        f"{style.dim(name)} {style.bold(style.urgent(share, text) if share else text)}"
        for name, text, share in parts
    ]
    one_line = "  " + "   ".join(f"{name} {text}" for name, text, _ in parts)
    if len(one_line) <= style.width:
        return ["  " + "   ".join(texts)]
    return [f"  {text}" for text in texts]
