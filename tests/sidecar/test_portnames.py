"""Remote ports have names: those that dashboards know, and those that are added."""

import contextlib
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.portnames import PORT_NAMES, UNKNOWN, parse_port_names
from tests.sidecar.properties import examples

# Of the original metrics-sidecar, as it shows them.
ORIGINAL = """
7 echo, 20 ftp-data, 21 ftp, 22 ssh, 23 telnet, 25 smtp, 53 dns, 66 oracle-sql-net, 67 dhcp, 68 dhcp, 69 tftp,
80 http, 88 kerberos, 110 pop3, 143 imap, 443 https, 464 kerberos, 465 smtp-ssl, 523 ibm-db2, 587 smtp,
993 imap-ssl, 995 pop3-ssl, 1080 socks-proxy, 1194 openvpn, 1433 sql-server-2000, 1944 sql-server-7,
2483 oracle-db, 2484 oracle-db, 3128 http-proxy, 3306 mysql, 3389 rdp, 5432 postgres, 6379 redis, 6665 irc,
6669 irc, 6881 bit-torrent, 6999 bit-torrent, 8080 http-proxy, 11211 memcached, 26257 cockroach-db,
27017 mongo-db
"""


def test_the_41_names_of_the_original_are_all_there():
    original = {int(port): name for port, name in (entry.split() for entry in ORIGINAL.split(","))}
    assert len(original) == 41
    assert {port: PORT_NAMES.get(port) for port in original} == original


def test_names_are_fit_for_a_label_and_none_is_the_one_for_unknown_ports():
    allowed = set(string.ascii_lowercase + string.digits + "-")
    for port, name in PORT_NAMES.items():
        assert 0 < port < 1 << 16
        assert name
        assert set(name) <= allowed
        assert name != UNKNOWN == "unknown"


def test_a_server_inside_the_default_range_is_known():
    assert {port: name for port, name in PORT_NAMES.items() if 32768 <= port <= 60999} == {50051: "grpc"}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", {}),
        (" , ,", {}),
        ("50051=grpc", {50051: "grpc"}),
        ("50051=grpc,9042=cassandra", {50051: "grpc", 9042: "cassandra"}),
        (" 50051 = grpc ,\n9042=cassandra,", {50051: "grpc", 9042: "cassandra"}),
        ("1=a,65535=b", {1: "a", 65535: "b"}),
        ("80=web,80=http", {80: "http"}),
        ("80=a=b", {80: "a=b"}),
        ("80=größe", {80: "größe"}),
    ],
)
def test_names_are_read(text, names):
    assert parse_port_names(text) == names


@pytest.mark.parametrize(
    "entry",
    ["80", "80=", "=http", "http=80", "0=x", "65536=x", "-1=x", "+1=x", "1.5=x", "٣=x", "1_0=x", "80:http"],
)
def test_an_entry_that_is_no_name_is_an_error_that_quotes_it(entry):
    with pytest.raises(ValueError, match="expected port=name") as caught:
        parse_port_names(f"443=https,{entry}")
    assert repr(entry) in str(caught.value)


@examples(100)
@given(st.text() | st.text(string.digits + "=,ab "))
@example("9" * 5000 + "=x")
def test_any_text_is_names_or_a_value_error(text):
    with contextlib.suppress(ValueError):
        for port, name in parse_port_names(text).items():
            assert 0 < port < 1 << 16
            assert name == name.strip() != ""
