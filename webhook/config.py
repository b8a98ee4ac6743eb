"""Settings of the injector: for the cluster from the environment, for a workload from its annotations."""

import dataclasses
import enum
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from webhook import names, quantity, shape

# Not METRICS_SIDECAR_WEBHOOK_: for a Service of that name every pod beside it gets a variable ..._PORT that
# holds an URL, from the kubelet.
PREFIX: Final = "METRICS_SIDECAR_INJECTOR_"


class Mode(enum.StrEnum):
    """How the exporter is put into a pod."""

    AUTO = "auto"
    CONTAINER = "container"
    NATIVE = "native"


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """What is injected, and where it is not."""

    image: str = f"metrics-sidecar:{names.VERSION}"
    port: int = 9999
    cpu: str = "50m"
    memory: str = "50Mi"
    mode: Mode = Mode.AUTO
    ignored_namespaces: frozenset[str] = frozenset(
        {"kube-system", "kube-node-lease", "kube-public", names.OWN_NAMESPACE}
    )
    native_sidecars: bool = True
    """Whether the cluster runs init containers with `restartPolicy: Always` as sidecars (since 1.29)."""
    run_as_user: int | None = 65532
    """None leaves the choice to the platform: OpenShift rejects a pod whose user it did not choose."""


@dataclasses.dataclass(frozen=True, slots=True)
class Serving:
    """How the admission process listens."""

    address: str | None = None
    """None is every interface, IPv4 and IPv6."""
    port: int = 10250
    """0 is any that is free; the log says which."""
    probe_port: int = 8080
    """Plain HTTP for /livez, /readyz and /metrics, which need no certificate."""
    certificate: str = "/etc/metrics-sidecar/tls/tls.crt"
    key: str = "/etc/metrics-sidecar/tls/tls.key"
    log_level: str = "INFO"
    drain_seconds: float = 5.0
    max_bytes: int = 8 * 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Reconciling:
    """How the reconciler works."""

    namespace: str = names.OWN_NAMESPACE
    """Where its Lease and the certificates are, and where the API server finds the webhook's Service."""
    address: str | None = None
    """None is every interface, IPv4 and IPv6."""
    probe_port: int = 8080
    """Plain HTTP for /livez, /readyz and /metrics."""
    log_level: str = "INFO"
    services: bool = True
    """False where a PodMonitor or PodMonitoring finds pods: a Service as well would scrape them twice."""
    certificates: bool = True
    """False where cert-manager, or somebody else, keeps the certificate and the CA bundle."""
    resync_seconds: float = 300.0
    """How often everything is listed and compared, whatever the watches say."""
    ca_days: int = 3650
    certificate_days: int = 90
    settle_seconds: float = 120.0
    """How long a change of a mounted Secret, or of the CA bundle, may take to reach everyone."""


# The reference grammar of distribution: domain and path in lower case, then a tag, a digest, or both. A name
# that the kubelet refuses would keep the whole pod from starting.
_IMAGE = re.compile(
    r"(?=.{1,512}$)"
    r"(?:(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::\d{1,5})?/)?"
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
    r"(?::[\w][\w.-]{0,127})?"
    r"(?:@[a-z0-9]+:[0-9a-f]{32,128})?",
    re.ASCII,
)
_NAMESPACE = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_TINIEST_MEMORY = 1024 * 1024


def _integer(raw: str, low: int, high: int) -> int:
    if not re.fullmatch(r"\d{1,10}", raw, re.ASCII) or not low <= int(raw) <= high:
        raise ValueError
    return int(raw)


def _image(raw: str) -> str:
    if not _IMAGE.fullmatch(raw):
        raise ValueError
    return raw


def _cpu(raw: str) -> str:
    amount = quantity.parse(raw)
    if amount is None or amount * 1000 < 1:
        raise ValueError
    return raw


def _memory(raw: str) -> str:
    # `50m` of memory is a twentieth of a byte, and what people write who mean 50Mi.
    amount = quantity.parse(raw)
    if amount is None or amount < _TINIEST_MEMORY:
        raise ValueError
    return raw


def _namespaces(raw: str) -> frozenset[str]:
    found = {part.strip() for part in raw.split(",") if part.strip()}
    if not all(_NAMESPACE.fullmatch(name) for name in found):
        raise ValueError
    return frozenset(found)


def _namespace(raw: str) -> str:
    if not _NAMESPACE.fullmatch(raw):
        raise ValueError
    return raw


def _boolean(raw: str) -> bool:
    return {names.TRUE: True, names.FALSE: False}[raw]


def _user(raw: str) -> int | None:
    return None if raw == "none" else _integer(raw, 1, 2**31 - 1)


def _log_level(raw: str) -> str:
    if raw not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
        raise ValueError
    return raw


_Parser = tuple[Callable[[str], Any], str]
_PORT: Final[_Parser] = (lambda raw: _integer(raw, 1, 65535), "1..65535")
_LISTEN_PORT: Final[_Parser] = (lambda raw: _integer(raw, 0, 65535), "0..65535")
_MODE: Final[_Parser] = (Mode, "auto, container or native")
_CPU: Final[_Parser] = (_cpu, "a quantity of at least 1m")
_MEMORY: Final[_Parser] = (_memory, "a quantity of at least 1Mi")
_IMAGE_NAME: Final[_Parser] = (_image, "the name of an image")
_BOOLEAN: Final[_Parser] = (_boolean, "true or false")

_SETTINGS: Final[dict[str, _Parser]] = {
    "image": _IMAGE_NAME,
    "port": _PORT,
    "cpu": _CPU,
    "memory": _MEMORY,
    "mode": _MODE,
    "ignored_namespaces": (_namespaces, "names of namespaces with commas between"),
    "native_sidecars": _BOOLEAN,
    "run_as_user": (_user, "1..2147483647 or none"),
}
_SERVING: Final[dict[str, _Parser]] = {
    "address": (str, "an address"),
    "port": _LISTEN_PORT,
    "probe_port": _LISTEN_PORT,
    "certificate": (str, "a file"),
    "key": (str, "a file"),
    "log_level": (_log_level, "DEBUG, INFO, WARNING or ERROR"),
    "drain_seconds": (lambda raw: float(_integer(raw, 0, 600)), "0..600"),
    "max_bytes": (lambda raw: _integer(raw, 1024, 2**30), "1024..1073741824"),
}
_RECONCILING: Final[dict[str, _Parser]] = {
    "namespace": (_namespace, "the name of a namespace"),
    "address": (str, "an address"),
    "probe_port": _LISTEN_PORT,
    "log_level": (_log_level, "DEBUG, INFO, WARNING or ERROR"),
    "services": _BOOLEAN,
    "certificates": _BOOLEAN,
    "resync_seconds": (lambda raw: float(_integer(raw, 1, 86400)), "1..86400"),
    "ca_days": (lambda raw: _integer(raw, 1, 36500), "1..36500"),
    "certificate_days": (lambda raw: _integer(raw, 1, 3650), "1..3650"),
    "settle_seconds": (lambda raw: float(_integer(raw, 0, 86400)), "0..86400"),
}
_OVERRIDES: Final[dict[str, tuple[str, _Parser]]] = {
    names.PORT_ANNOTATION: ("port", _PORT),
    names.IMAGE_ANNOTATION: ("image", _IMAGE_NAME),
    names.CPU_ANNOTATION: ("cpu", _CPU),
    names.MEMORY_ANNOTATION: ("memory", _MEMORY),
    names.MODE_ANNOTATION: ("mode", _MODE),
}


def _read(
    environment: Mapping[str, str], prefix: str, parsers: dict[str, _Parser]
) -> tuple[dict[str, Any], list[str]]:
    values: dict[str, Any] = {}
    messages: list[str] = []
    for field, (parse, expected) in parsers.items():
        variable = prefix + field.upper()
        raw = environment.get(variable, "").strip()
        if not raw:
            continue
        try:
            values[field] = parse(raw)
        except (ValueError, KeyError):
            messages.append(f"config: {variable}={raw!r}; expected {expected}")
    return values, messages


def settings(environment: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """Return the cluster's settings, and a sentence for each bad value, whose default is used instead.

    Variables: METRICS_SIDECAR_INJECTOR_ and a field's name in capitals. Empty is unset.
    """
    values, messages = _read(environment, PREFIX, _SETTINGS)
    return Settings(**values), messages


def serving(environment: Mapping[str, str]) -> tuple[Serving, list[str]]:
    """Return how to listen, likewise, from METRICS_SIDECAR_INJECTOR_SERVE_ and a field's name."""
    values, messages = _read(environment, PREFIX + "SERVE_", _SERVING)
    return Serving(**values), messages


def reconciling(environment: Mapping[str, str]) -> tuple[Reconciling, list[str]]:
    """Return how to reconcile, likewise, from METRICS_SIDECAR_INJECTOR_RECONCILE_ and a field's name."""
    values, messages = _read(environment, PREFIX + "RECONCILE_", _RECONCILING)
    return Reconciling(**values), messages


def overrides(pod: object, cluster: Settings) -> tuple[Settings, list[str]]:
    """Return the settings for one pod or pod template, and a warning for each annotation that is ignored.

    Never raises: a typing error in an annotation must not keep an application from starting.
    """
    annotations = shape.mapping(shape.metadata(pod).get("annotations"))
    values: dict[str, Any] = {}
    warnings: list[str] = []
    for annotation, (field, (parse, expected)) in _OVERRIDES.items():
        if annotation not in annotations:
            continue
        raw = annotations[annotation]
        try:
            values[field] = parse(raw.strip())
        except (ValueError, KeyError, AttributeError):
            shown = repr(raw[:64]) if isinstance(raw, str) else type(raw).__name__
            used = getattr(cluster, field)
            warnings.append(f"{annotation}={shown} is ignored; expected {expected}; {used} is used")
    return (dataclasses.replace(cluster, **values) if values else cluster), warnings
