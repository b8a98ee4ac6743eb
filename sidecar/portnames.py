"""Names of well-known server ports. Container images have no ``/etc/services``."""

from __future__ import annotations

UNKNOWN = "unknown"

# The names that the original metrics-sidecar uses, which dashboards know.
PORT_NAMES = {
    7: "echo",
    20: "ftp-data",
    21: "ftp",
    22: "ssh",
    23: "telnet",
    25: "smtp",
    53: "dns",
    66: "oracle-sql-net",
    67: "dhcp",
    68: "dhcp",
    69: "tftp",
    80: "http",
    88: "kerberos",
    110: "pop3",
    143: "imap",
    443: "https",
    464: "kerberos",
    465: "smtp-ssl",
    523: "ibm-db2",
    587: "smtp",
    993: "imap-ssl",
    995: "pop3-ssl",
    1080: "socks-proxy",
    1194: "openvpn",
    1433: "sql-server-2000",
    1944: "sql-server-7",
    2483: "oracle-db",
    2484: "oracle-db",
    3128: "http-proxy",
    3306: "mysql",
    3389: "rdp",
    5432: "postgres",
    6379: "redis",
    6665: "irc",
    6669: "irc",
    6881: "bit-torrent",
    6999: "bit-torrent",
    8080: "http-proxy",
    11211: "memcached",
    26257: "cockroach-db",
    27017: "mongo-db",
    # What pods talk to besides. A port of the ephemeral range must stand here to be known as a server's.
    389: "ldap",
    636: "ldaps",
    853: "dns-over-tls",
    2049: "nfs",
    2379: "etcd",
    4222: "nats",
    4317: "otlp",
    4318: "otlp",
    5671: "amqps",
    5672: "amqp",
    6443: "kubernetes",
    9092: "kafka",
    9200: "elasticsearch",
    50051: "grpc",
}


def parse_port_names(text: str) -> dict[int, str]:
    """Read ``"50051=grpc,9042=cassandra"``.

    Raises:
        ValueError: an entry is not ``port=name``; the message names it.
    """
    names = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        port, equals, name = (part.strip() for part in entry.partition("="))
        if not (equals and name and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
            raise ValueError(f"{entry!r}; expected port=name")
        names[int(port)] = name
    return names
