"""What is served where, and a listening socket that waits for its port."""

import errno
import gzip
import io
import logging
import socket
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

import sidecar
from sidecar import server


class Answer(Collector):
    """Collects one gauge, and counts how often."""

    def __init__(self):
        self.collections = 0

    def collect(self):
        self.collections += 1
        yield GaugeMetricFamily("answer", "The answer.", 42)


TEXT = b"# HELP answer The answer.\n# TYPE answer gauge\nanswer 42.0\n"


@pytest.fixture
def collector():
    return Answer()


@pytest.fixture
def ask(collector):
    """Ask the application, which is held to PEP 3333 meanwhile; return status, headers and body."""
    registry = CollectorRegistry()
    registry.register(collector)
    app = validator(server.make_app(registry, "web-<1>"))

    def ask(path, method="GET", **headers):
        environ = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": headers.pop("query", ""),
        }
        setup_testing_defaults(environ)
        environ |= {"wsgi.input": io.BytesIO(), "wsgi.errors": io.StringIO()}
        environ |= {f"HTTP_{name.upper()}": value for name, value in headers.items()}
        answered = []

        def start_response(status, headers, exc_info=None):
            answered.append((status, headers))
            return lambda _: None

        parts = app(environ, start_response)
        body = b"".join(parts)
        parts.close()
        ((status, given),) = answered
        assert len(dict(given)) == len(given)  # no header twice
        return status, dict(given), body

    return ask


def test_metrics_are_text_unless_asked_for_otherwise(ask):
    status, headers, body = ask("/metrics")
    assert (status, body) == ("200 OK", TEXT)
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert headers["Content-Length"] == str(len(TEXT))


PROMETHEUS_ACCEPT = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    "accept",
    ["application/openmetrics-text", "application/openmetrics-text; version=1.0.0", PROMETHEUS_ACCEPT],
)
def test_openmetrics_is_given_to_who_asks_for_it(ask, accept):
    status, headers, body = ask("/metrics", accept=accept)
    assert (status, body) == ("200 OK", TEXT + b"# EOF\n")
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")


@pytest.mark.parametrize("accept", ["*/*", "text/html", "text/plain;version=0.0.4", "", "nonsense;;,", ",;="])
def test_who_asks_for_anything_else_gets_text(ask, accept):
    assert ask("/metrics", accept=accept)[::2] == ("200 OK", TEXT)


@pytest.mark.parametrize("version", ["x", "1.x.0"])
def test_who_asks_for_a_version_that_is_none_gets_text(ask, version):
    status, _, body = ask("/metrics", accept=f"application/openmetrics-text;version={version}")
    assert (status, body) == ("200 OK", TEXT)


def test_metrics_are_compressed_for_who_can_read_it(ask):
    status, headers, body = ask("/metrics", accept_encoding="deflate, gzip;q=1.0")
    assert status == "200 OK"
    assert headers["Content-Encoding"] == "gzip"
    assert headers["Content-Length"] == str(len(body))
    assert gzip.decompress(body) == TEXT


def test_metrics_are_not_compressed_for_others(ask):
    for encoding in ("identity", "br", ""):
        _, headers, body = ask("/metrics", accept_encoding=encoding)
        assert "Content-Encoding" not in headers
        assert body == TEXT


def test_a_filter_by_name_is_ignored_because_names_are_only_known_after_a_scrape(ask):
    assert ask("/metrics", query="name[]=nothing")[::2] == ("200 OK", TEXT)


def test_the_page_tells_whose_it_is_and_where_the_metrics_are(ask, collector):
    status, headers, body = ask("/")
    assert status == "200 OK"
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    page = body.decode()
    assert '<a href="metrics">' in page
    assert "<strong>web-&lt;1&gt;</strong>" in page
    assert sidecar.__version__ in page
    assert "{" not in page.replace("{ font", "").partition("</style>")[2]
    assert collector.collections == 0


@pytest.mark.parametrize("path", ["/metrics", "/", "/nothing"])
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_head_is_answered_with_the_headers_of_get_and_no_body(ask, path, encoding):
    status, headers, body = ask(path, accept_encoding=encoding)
    head_status, head_headers, head_body = ask(path, "HEAD", accept_encoding=encoding)
    assert (head_status, head_body) == (status, b"")
    assert headers.keys() == head_headers.keys()
    assert abs(int(head_headers["Content-Length"]) - len(body)) <= 8  # gzip stamps the time into it
    assert headers["Content-Type"] == head_headers["Content-Type"]


@pytest.mark.parametrize(
    "path",
    [
        "/..",
        "/metric",
        "/metrics/",
        "/Metrics",
        "//",
        "/index.html",
        "/favicon.ico",
        "/healthz",
        "/%6d",
        "/mé",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_everything_else_is_404_and_collects_nothing(ask, collector, path, method):
    status, headers, body = ask(path, method)
    assert status == "404 Not Found"
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert b"/metrics" in body
    assert collector.collections == 0


@pytest.mark.parametrize("path", ["/", "/metrics"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_what_would_change_something_is_405(ask, collector, path, method):
    status, headers, body = ask(path, method)
    assert status == "405 Method Not Allowed"
    assert headers["Allow"] == "GET, HEAD"
    assert headers["Content-Length"] == str(len(body))
    assert collector.collections == 0


# Listening.


def connects(host, port):
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


def port_of(listener):
    return listener.getsockname()[1]


def has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return socket.has_dualstack_ipv6()


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="needs IPv6 on the loopback interface")


@needs_ipv6
def test_without_an_address_both_families_are_served():
    with server.listen("", 0) as listener:
        assert listener.family == socket.AF_INET6
        assert connects("127.0.0.1", port_of(listener))
        assert connects("::1", port_of(listener))


def test_where_there_is_no_ipv6_ipv4_is_served(monkeypatch):
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with server.listen("", 0) as listener:
        assert listener.family == socket.AF_INET
        assert connects("127.0.0.1", port_of(listener))


@pytest.mark.parametrize("code", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_where_ipv6_is_compiled_in_and_off_ipv4_is_served(monkeypatch, code):
    create_server = socket.create_server

    def without_ipv6(address, *, family=socket.AF_INET, **options):
        if family == socket.AF_INET6:
            raise OSError(code, "no IPv6")
        return create_server(address, family=family, **options)

    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: True)
    monkeypatch.setattr(socket, "create_server", without_ipv6)
    with server.listen("", 0) as listener:
        assert listener.family == socket.AF_INET


def test_an_ipv4_address_is_the_only_one_served():
    with server.listen("127.0.0.1", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


@needs_ipv6
def test_an_ipv6_address_is_the_only_one_served():
    with server.listen("::1", 0) as listener:
        assert connects("::1", port_of(listener))
        assert not connects("127.0.0.1", port_of(listener))


@pytest.mark.parametrize("address", ["", "127.0.0.1"])
def test_a_taken_port_is_an_error_of_its_own(address):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use") as caught:
        server.listen(address, port_of(taken))
    assert caught.value.errno == errno.EADDRINUSE


@needs_ipv6
def test_a_port_taken_on_ipv6_only_is_taken():
    with (
        socket.create_server(("::", 0), family=socket.AF_INET6) as taken,
        pytest.raises(OSError, match="in use"),
    ):
        server.listen("", port_of(taken))


def test_an_address_of_another_host_is_an_error():
    with pytest.raises(OSError, match=r"."):
        server.listen("192.0.2.1", 0)


def test_a_taken_port_is_awaited_and_then_served(caplog):
    caplog.set_level(logging.INFO)
    taken = socket.create_server(("127.0.0.1", 0))
    port = port_of(taken)
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            taken.close()

    with server._listen_patiently("127.0.0.1", port, sleep) as listener:
        assert port_of(listener) == port
    assert slept == [1, 2, 4]
    *errors, last = caplog.records
    assert [record.levelno for record in errors] == [logging.ERROR] * 3
    assert [record.getMessage().rpartition("; ")[2] for record in errors] == [
        "next try in 1 s",
        "next try in 2 s",
        "next try in 4 s",
    ]
    assert all(f"cannot listen on port {port}: " in record.getMessage() for record in errors)
    assert last.getMessage() == f"serving on 127.0.0.1 port {port}"


def test_a_port_is_awaited_for_ever_and_at_most_15_seconds_at_a_time():
    class TestIsOver(Exception):  # noqa: N818
        pass

    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 50:
            raise TestIsOver

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(TestIsOver):
        server._listen_patiently("127.0.0.1", port_of(taken), sleep)
    assert slept == [1, 2, 4, 8] + [15] * 46


def test_the_limits_are_there():
    # What they do is proved on sockets, in the kernel tier.
    assert 200 < server._MAX_CONNECTIONS <= 1024
    assert server._LIMITS["channel_timeout"] <= 30
    assert server._LIMITS["max_request_body_size"] < server._LIMITS["inbuf_overflow"]  # never a file
