"""Settings: each by flag and by variable; what is wrong is told in a sentence and costs only itself."""

import dataclasses

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import sidecar
from sidecar.config import _OPTIONS, Settings, read_settings
from sidecar.portnames import PORT_NAMES
from tests.sidecar.properties import examples

NAMES = {**PORT_NAMES, 9042: "cassandra"}

# field, flag, variable, text, value
GOOD = [
    ("port", "--port", "METRICS_SIDECAR_PORT", "9998", 9998),
    ("port", "--port", "METRICS_SIDECAR_PORT", "1", 1),
    ("port", "--port", "METRICS_SIDECAR_PORT", "65535", 65535),
    ("port", "--port", "METRICS_SIDECAR_PORT", " 9998\n", 9998),
    ("address", "--address", "METRICS_SIDECAR_ADDRESS", "127.0.0.1", "127.0.0.1"),
    ("address", "--address", "METRICS_SIDECAR_ADDRESS", "2001:DB8::0001", "2001:db8::1"),
    ("pod_name", "--pod-name", "POD_NAME", "web-1", "web-1"),
    ("port_names", "--port-names", "METRICS_SIDECAR_PORT_NAMES", "9042=cassandra", NAMES),
    ("max_remotes", "--max-remotes", "METRICS_SIDECAR_MAX_REMOTES", "0", 0),
    ("max_remotes", "--max-remotes", "METRICS_SIDECAR_MAX_REMOTES", "10000", 10_000),
    ("source", "--source", "METRICS_SIDECAR_SOURCE", "auto", "auto"),
    ("source", "--source", "METRICS_SIDECAR_SOURCE", "sock_diag", "sock_diag"),
    ("source", "--source", "METRICS_SIDECAR_SOURCE", "PROC", "proc"),
    ("source", "--source", "METRICS_SIDECAR_SOURCE", "psutil", "psutil"),
    ("log_level", "--log-level", "METRICS_SIDECAR_LOG_LEVEL", "debug", "DEBUG"),
    ("log_level", "--log-level", "METRICS_SIDECAR_LOG_LEVEL", "WARNING", "WARNING"),
    ("log_format", "--log-format", "METRICS_SIDECAR_LOG_FORMAT", "json", "json"),
]

# field, variable, texts, expectation
BAD = [
    (
        "port",
        "METRICS_SIDECAR_PORT",
        ["0", "65536", "99999", "-1", "+1", "9_999", "٣", "9999.0", "http", " ", "9" * 5000],
        "1..65535",
    ),
    (
        "address",
        "METRICS_SIDECAR_ADDRESS",
        ["localhost", "1.2.3", "::g", "*", "127.0.0.1:80"],
        "an IP address",
    ),
    ("port_names", "METRICS_SIDECAR_PORT_NAMES", ["grpc", "80=", "0=x", "1=a;2=b,3"], "port=name,..."),
    ("max_remotes", "METRICS_SIDECAR_MAX_REMOTES", ["-1", "10001", "all"], "0..10000"),
    ("source", "METRICS_SIDECAR_SOURCE", ["netlink", "sock-diag"], "auto, sock_diag, proc or psutil"),
    ("log_level", "METRICS_SIDECAR_LOG_LEVEL", ["loud", "10"], "debug, info, warning or error"),
    ("log_format", "METRICS_SIDECAR_LOG_FORMAT", ["yaml", "js"], "text or json"),
]
BAD = [(field, variable, text, expected) for field, variable, texts, expected in BAD for text in texts]
VARIABLES = {option.variable: option.name for option in _OPTIONS}


def flag_of(field):
    return "--" + field.replace("_", "-")


def shortened(value):
    return str(value)[:20]


def test_without_settings_the_defaults_hold():
    assert read_settings([], {}) == Settings()
    assert dataclasses.asdict(Settings()) == {
        "port": 9999,
        "address": "",
        "pod_name": "",
        "port_names": PORT_NAMES,
        "max_remotes": 500,
        "source": "auto",
        "log_level": "INFO",
        "log_format": "text",
        "once": False,
        "errors": (),
    }


def test_every_field_but_what_is_read_of_it_has_an_option():
    fields = {field.name for field in dataclasses.fields(Settings)} - {"once", "errors"}
    assert {option.name for option in _OPTIONS} == fields == {field for field, *_ in GOOD}


@pytest.mark.parametrize(("field", "flag", "variable", "text", "value"), GOOD, ids=shortened)
def test_each_setting_is_a_flag_and_a_variable(field, flag, variable, text, value):
    expected = dataclasses.replace(Settings(), **{field: value})
    assert read_settings([flag, text], {}) == expected
    assert read_settings([f"{flag}={text}"], {}) == expected
    assert read_settings([], {variable: text}) == expected


@pytest.mark.parametrize(("field", "variable", "text", "expected"), BAD, ids=shortened)
def test_a_bad_variable_is_told_and_its_default_stays(field, variable, text, expected):
    result = read_settings([], {variable: text})
    (error,) = result.errors
    assert error.startswith(f"config: {variable}={text!r}")
    assert error.endswith(f"; expected {expected}")
    assert dataclasses.replace(result, errors=()) == Settings()


@pytest.mark.parametrize(("field", "variable", "text", "expected"), BAD, ids=shortened)
def test_a_bad_flag_is_told_and_the_variable_holds_instead(field, variable, text, expected):
    _, _, _, good, value = next(row for row in GOOD if row[0] == field)
    result = read_settings([f"{flag_of(field)}={text}"], {variable: good})
    (error,) = result.errors
    assert error.startswith(f"config: {flag_of(field)}={text!r}")
    assert error.endswith(f"; expected {expected}")
    assert getattr(result, field) == value


def test_a_sentence_names_where_what_and_what_was_expected():
    assert read_settings(["--max-remotes=all"], {"METRICS_SIDECAR_PORT": "99999"}).errors == (
        "config: METRICS_SIDECAR_PORT='99999'; expected 1..65535",
        "config: --max-remotes='all'; expected 0..10000",
    )
    (error,) = read_settings([], {"METRICS_SIDECAR_PORT_NAMES": "80=x,9042"}).errors
    assert error == (
        "config: METRICS_SIDECAR_PORT_NAMES='80=x,9042' ('9042'; expected port=name); expected port=name,..."
    )


def test_a_bad_flag_and_a_bad_variable_are_both_told():
    result = read_settings(["--port=0"], {"METRICS_SIDECAR_PORT": "x"})
    assert result.port == 9999
    assert [error.partition(";")[0] for error in result.errors] == [
        "config: --port='0'",
        "config: METRICS_SIDECAR_PORT='x'",
    ]


def test_bad_settings_cost_only_themselves():
    result = read_settings(["--port=0", "--log-format=json"], {"POD_NAME": "web-1"})
    assert (result.port, result.log_format, result.pod_name) == (9999, "json", "web-1")
    assert len(result.errors) == 1


@pytest.mark.parametrize(("field", "flag", "variable", "text", "value"), GOOD, ids=shortened)
def test_a_flag_beats_its_variable(field, flag, variable, text, value):
    others = {
        "port": "9000",
        "address": "192.0.2.1",
        "pod_name": "x",
        "port_names": "1=x",
        "max_remotes": "7",
    }
    others |= {"source": "auto", "log_level": "error", "log_format": "text"}
    result = read_settings([flag, text], {variable: others[field]})
    assert getattr(result, field) == value
    assert result.errors == ()


def test_a_good_flag_hides_a_bad_variable():
    assert read_settings(["--port=9998"], {"METRICS_SIDECAR_PORT": "x"}) == Settings(port=9998)


@pytest.mark.parametrize("option", _OPTIONS, ids=lambda option: option.name)
def test_an_empty_value_counts_as_not_given(option):
    assert read_settings([], {option.variable: ""}) == Settings()
    assert read_settings([f"{option.flag}="], {}) == Settings()
    value = next(row for row in GOOD if row[0] == option.name)
    assert getattr(read_settings([f"{option.flag}="], {option.variable: value[3]}), option.name) == value[4]


def test_names_of_ports_are_added_to_the_shipped_ones():
    names = read_settings([], {"METRICS_SIDECAR_PORT_NAMES": "9042=cassandra,443=web"}).port_names
    assert (names[9042], names[443], names[22]) == ("cassandra", "web", "ssh")
    assert 9042 not in PORT_NAMES


def test_once_is_a_flag_only():
    assert read_settings(["--once"], {}) == Settings(once=True)


@pytest.mark.parametrize("argument", ["--prot=1", "--por=1", "-p", "serve", "--", "-"])
def test_what_is_no_flag_is_told_and_the_flags_are_used(argument):
    result = read_settings(["--max-remotes=7", argument], {})
    assert result.max_remotes == 7
    assert len(result.errors) <= 1
    if argument != "--":
        assert result.errors == (f"config: {argument!r}; expected a flag that --help lists",)


@pytest.mark.parametrize("option", _OPTIONS, ids=lambda option: option.name)
def test_a_flag_without_its_argument_is_told_and_the_variables_hold(option):
    for arguments in ([option.flag], [option.flag, "--once"]):
        result = read_settings(arguments, {"POD_NAME": "web-1"})
        (error,) = result.errors
        assert option.flag in error
        assert error.endswith("expected what --help tells, no flag is used")
        assert result == Settings(pod_name="web-1", once="--once" in arguments, errors=(error,))


def test_once_with_an_argument_is_told():
    result = read_settings(["--once=yes"], {})
    assert not result.once
    assert len(result.errors) == 1


texts = st.text(max_size=8) | st.sampled_from([text for _, _, _, text, _ in GOOD])
arguments = st.lists(
    texts
    | st.sampled_from([option.flag for option in _OPTIONS] + ["--once", "--", "-", "--x"])
    | st.tuples(st.sampled_from([option.flag for option in _OPTIONS]), texts).map("=".join),
    max_size=4,
).filter(lambda given: not {"-h", "--help", "--version"} & set(given))
environments = st.dictionaries(st.sampled_from(sorted(VARIABLES)), texts, max_size=4)


@examples(150)
@given(arguments, environments)
@example(["--port", "\x00"], {})
@example(["--port=\ud800"], {"POD_NAME": "\ud800"})
def test_any_text_gives_settings_that_can_be_used_and_tells_what_was_wrong(arguments, environment):
    try:
        result = read_settings(arguments, environment)
    except SystemExit:  # an argument such as -hx, which asks for help
        assert any(argument.startswith("-h") for argument in arguments)
        return
    assert 1 <= result.port <= 65535
    assert 0 <= result.max_remotes <= 10_000
    assert result.source in ("auto", "sock_diag", "proc", "psutil")
    assert result.log_level in ("DEBUG", "INFO", "WARNING", "ERROR")
    assert result.log_format in ("text", "json")
    assert set(PORT_NAMES) <= set(result.port_names)
    assert all(error.startswith("config: ") and "; expected " in error for error in result.errors)


def test_help_lists_every_flag_with_its_variable_and_default(capsys):
    with pytest.raises(SystemExit) as caught:
        read_settings(["--help"], {})
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for option in _OPTIONS:
        start = text.rindex(f" {option.flag} ")
        assert 0 < text.index(f"[{option.variable}]", start) - start < 200
    assert "TCP port of /metrics; default: 9999 [METRICS_SIDECAR_PORT]" in text
    assert "default: 500 [METRICS_SIDECAR_MAX_REMOTES]" in text
    assert "--once" in text
    assert "--version" in text


def test_version_is_printed(capsys):
    with pytest.raises(SystemExit) as caught:
        read_settings(["--version"], {})
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"metrics-sidecar {sidecar.__version__}\n"
