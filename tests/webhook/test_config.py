"""Settings: what is wrong is said, and never in the way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.webhook import strategies
from webhook import config, names, quantity
from webhook.config import Mode, Serving, Settings


def test_an_empty_environment_gives_the_defaults_of_the_contract():
    settings, messages = config.settings({})
    assert (settings, messages) == (Settings(), [])
    assert (settings.port, settings.cpu, settings.memory) == (9999, "50m", "50Mi")


def test_the_environment_is_read():
    settings, messages = config.settings(
        {
            "METRICS_SIDECAR_INJECTOR_IMAGE": "example.test:5000/a/metrics-sidecar:1.2@sha256:" + "a" * 64,
            "METRICS_SIDECAR_INJECTOR_PORT": " 9100 ",
            "METRICS_SIDECAR_INJECTOR_CPU": "0.1",
            "METRICS_SIDECAR_INJECTOR_MEMORY": "64M",
            "METRICS_SIDECAR_INJECTOR_MODE": "native",
            "METRICS_SIDECAR_INJECTOR_IGNORED_NAMESPACES": "kube-system, mine,",
            "METRICS_SIDECAR_INJECTOR_NATIVE_SIDECARS": "false",
            "METRICS_SIDECAR_INJECTOR_RUN_AS_USER": "none",
        }
    )
    assert messages == []
    assert settings == Settings(
        image="example.test:5000/a/metrics-sidecar:1.2@sha256:" + "a" * 64,
        port=9100,
        cpu="0.1",
        memory="64M",
        mode=Mode.NATIVE,
        ignored_namespaces=frozenset({"kube-system", "mine"}),
        native_sidecars=False,
        run_as_user=None,
    )


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("PORT", "99999", "1..65535"),
        ("PORT", "0", "1..65535"),
        ("PORT", "tcp://10.0.0.1:443", "1..65535"),
        ("PORT", "٣", "1..65535"),
        ("IMAGE", "Metrics-Sidecar:1", "the name of an image"),
        ("IMAGE", "a b", "the name of an image"),
        ("CPU", "50", None),
        ("CPU", "0", "a quantity of at least 1m"),
        ("CPU", "-1", "a quantity of at least 1m"),
        ("MEMORY", "50m", "a quantity of at least 1Mi"),
        ("MODE", "Native", "auto, container or native"),
        ("IGNORED_NAMESPACES", "a b", "names of namespaces with commas between"),
        ("NATIVE_SIDECARS", "yes", "true or false"),
        ("RUN_AS_USER", "0", "1..2147483647 or none"),
    ],
)
def test_a_bad_value_is_said_and_the_default_used(field, value, expected):
    variable = f"METRICS_SIDECAR_INJECTOR_{field}"
    settings, messages = config.settings({variable: value})
    if expected is None:
        assert messages == []
    else:
        assert messages == [f"config: {variable}={value!r}; expected {expected}"]
        assert settings == Settings()


def test_how_to_serve_is_read_likewise():
    assert config.serving({}) == (Serving(), [])
    serving, messages = config.serving(
        {"METRICS_SIDECAR_INJECTOR_SERVE_PORT": "8443", "METRICS_SIDECAR_INJECTOR_SERVE_LOG_LEVEL": "loud"}
    )
    assert serving == Serving(port=8443)
    assert messages == [
        "config: METRICS_SIDECAR_INJECTOR_SERVE_LOG_LEVEL='loud'; expected DEBUG, INFO, WARNING or ERROR"
    ]


def test_a_bad_annotation_is_ignored_with_a_warning():
    annotations = {names.PORT_ANNOTATION: "99999", names.CPU_ANNOTATION: "100m", names.MODE_ANNOTATION: 7}
    settings, warnings = config.overrides({"metadata": {"annotations": annotations}}, Settings())
    assert settings == Settings(cpu="100m")
    assert warnings == [
        "metrics-sidecar.io/port='99999' is ignored; expected 1..65535; 9999 is used",
        "metrics-sidecar.io/mode=int is ignored; expected auto, container or native; auto is used",
    ]


@given(strategies.hostile)
def test_annotations_never_raise(seen):
    config.overrides(seen, Settings())


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("50m", "0.05"), ("1", "1"), (2, "2"), (0.5, "0.5"), ("1e3", "1000"), ("1E3", "1000"), ("1E", "1e18"),
        ("50Mi", "52428800"), ("1Ki", "1024"), (".5", "0.5"), ("5.", "5"), ("100n", "1e-7"), ("-1", "-1"),
        ("", None), ("Mi", None), ("1 Mi", None), ("1mi", None), ("1e999", None), (True, None), (None, None),
        ("9" * 30, None), ([], None), ("1ki", None), ("٣", None),
    ],
)  # fmt: skip
def test_quantities(text, amount):
    assert quantity.parse(text) == (None if amount is None else quantity.Decimal(amount))


@given(st.text() | st.floats() | st.integers())
def test_quantities_never_raise(value):
    quantity.parse(value)
