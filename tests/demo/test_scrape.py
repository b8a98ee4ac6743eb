"""A scrape is read as what it is, or not at all."""

import socket

import pytest

from demo.scrape import ScrapeError, Scraper, read

TEXT = """\
port_used{pod_name="a",remote_addr="10.0.0.5 [5432:postgres]",state="ESTABLISHED"} 3.0
port_used{pod_name="a",remote_addr="10.0.0.5 [5432:postgres]",state="TIME_WAIT"} 4.0
port_total{pod_name="a"} 10.0
port_usage{pod_name="a"} 70.0
port_destination_ratio{pod_name="a",remote_addr="10.0.0.5 [5432:postgres]"} 0.7
port_exhaustion_ratio{pod_name="a",protocol="tcp"} 0.7
port_exhaustion_ratio{pod_name="a",protocol="udp"} 0.1
port_exhaustion_free{pod_name="a",protocol="tcp"} 3.0
port_exhaustion_free{pod_name="a",protocol="udp"} 9.0
"""


def test_read():
    reading = read(TEXT, "a")
    assert (reading.total, reading.usage, reading.ratio, reading.free) == (10, 70.0, 0.7, 3)
    assert reading.destinations == {"10.0.0.5 [5432:postgres]": 0.7}
    assert reading.connections == {"10.0.0.5 [5432:postgres]": 7}
    assert reading.lines("port_exhaustion_free{", '"tcp"') == [
        'port_exhaustion_free{pod_name="a",protocol="tcp"} 3.0'
    ]


def test_another_pods_metrics_are_refused():
    with pytest.raises(ScrapeError, match="no 'port_total' of pod b"):
        read(TEXT, "b")


def test_no_answer_is_an_error():
    def refuse():
        raise ConnectionRefusedError("refused")

    with pytest.raises(ScrapeError, match="refused"):
        Scraper(refuse, "a").scrape()


def test_another_status_is_an_error():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"HTTP/1.1 503 no\r\nContent-Length: 0\r\n\r\n")
        scraper = Scraper(lambda: ours, "a")
        with pytest.raises(ScrapeError, match="HTTP 503"):
            scraper.scrape()
        scraper.close()
