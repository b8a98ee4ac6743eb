"""Settings: each a flag and an environment variable. A bad one is reported and replaced by its default.

Reports and not exceptions, because the exporter sits in front of nobody's console: in a pod a wrong setting
must cost a log line and a metric, never the pod.
"""

from __future__ import annotations

import argparse
import ipaddress
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NoReturn

from sidecar import __version__
from sidecar.portnames import PORT_NAMES, parse_port_names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True)
class Settings:
    """What can be set.

    Attributes:
        port: where ``/metrics`` is served.
        address: the local address to serve on; all, IPv4 and IPv6, if empty.
        pod_name: the label ``pod_name``; the host name, if empty.
        port_names: names of remote ports, the shipped ones and those that were added.
        max_remotes: how many remotes get a series.
        source: the only source of sockets to use, or ``auto``.
        log_level: the least severe level that is logged.
        log_format: ``text`` or ``json``.
        once: print the metrics once instead of serving them.
        errors: what was wrong with the settings given, a sentence each.
    """

    port: int = 9999
    address: str = ""
    pod_name: str = ""
    port_names: Mapping[int, str] = field(default_factory=lambda: PORT_NAMES)
    max_remotes: int = 500
    source: str = "auto"
    log_level: str = "INFO"
    log_format: str = "text"
    once: bool = False
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Option:
    name: str
    variable: str
    parse: Callable[[str], Any]
    expected: str
    help: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


def _number(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise ValueError
        return int(text)

    return parse


def _choice(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        return choices[[choice.lower() for choice in choices].index(text.lower())]

    return parse


_OPTIONS = (
    _Option("port", "METRICS_SIDECAR_PORT", _number(1, 65535), "1..65535", "TCP port of /metrics"),
    _Option(
        "address",
        "METRICS_SIDECAR_ADDRESS",
        lambda text: str(ipaddress.ip_address(text)),
        "an IP address",
        "local address to serve on; default: all, IPv4 and IPv6",
    ),
    _Option("pod_name", "POD_NAME", str, "a name", "label pod_name; default: the host name"),
    _Option(
        "port_names",
        "METRICS_SIDECAR_PORT_NAMES",
        lambda text: {**PORT_NAMES, **parse_port_names(text)},
        "port=name,...",
        "more names of remote ports, as 50051=grpc,9042=cassandra",
    ),
    _Option(
        "max_remotes",
        "METRICS_SIDECAR_MAX_REMOTES",
        _number(0, 10_000),
        "0..10000",
        "how many remotes get a series of their own, the largest; the others are counted as OTHER",
    ),
    _Option(
        "source",
        "METRICS_SIDECAR_SOURCE",
        _choice("auto", "sock_diag", "proc", "psutil"),
        "auto, sock_diag, proc or psutil",
        "where sockets are read; auto takes the first of the others that works",
    ),
    _Option(
        "log_level",
        "METRICS_SIDECAR_LOG_LEVEL",
        _choice("DEBUG", "INFO", "WARNING", "ERROR"),
        "debug, info, warning or error",
        "least severe level that is logged",
    ),
    _Option(
        "log_format", "METRICS_SIDECAR_LOG_FORMAT", _choice("text", "json"), "text or json", "text or json"
    ),
)


def read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Read the settings; a flag beats its environment variable. An empty value counts as not given.

    Raises:
        SystemExit: ``--help`` or ``--version`` was asked for, and has been printed.
    """
    errors: list[str] = []
    try:
        given, unknown = _parser().parse_known_args(arguments)
        errors += [f"config: {argument!r}; expected a flag that --help lists" for argument in unknown]
    except _UsageError as error:
        errors.append(f"config: {error}; expected what --help tells, no flag is used")
        given = argparse.Namespace(once="--once" in arguments)
    values: dict[str, Any] = {"once": given.once}
    for option in _OPTIONS:
        for where, text in (
            (option.flag, getattr(given, option.name, None)),
            (option.variable, environment.get(option.variable)),
        ):
            if not text:
                continue
            try:
                text.encode()  # what is not UTF-8 could neither be a label nor be served
                values[option.name] = option.parse(text.strip())
                break
            except ValueError as error:
                detail = f" ({error})" if option.name == "port_names" else ""
                errors.append(f"config: {where}={text!r}{detail}; expected {option.expected}")
    return Settings(**values, errors=tuple(errors))


class _UsageError(Exception):
    pass


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="metrics-sidecar",
        description="Serves how many local ports this network namespace uses, and how near it is to running"
        " out of them, to Prometheus.",
        epilog="A setting that cannot be used is logged and replaced by its default.",
        allow_abbrev=False,
    )
    defaults = {item.name: item.default for item in fields(Settings)}
    for option in _OPTIONS:
        default = defaults[option.name]
        shown = f"; default: {default}" if isinstance(default, int | str) and default else ""
        parser.add_argument(
            option.flag,
            metavar=option.expected if len(option.expected) < 12 else "VALUE",
            help=f"{option.help}{shown} [{option.variable}]",
        )
    parser.add_argument(
        "--once",
        action="store_true",
        help="print the metrics once and exit: 0, or 1 if the sockets could not be counted",
    )
    parser.add_argument("--version", action="version", version=f"metrics-sidecar {__version__}")
    return parser
