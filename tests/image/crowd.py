"""Run in a pod's network: open connections, each to another address, say so, and hold them.

    python crowd.py COUNT

A program of its own, because it runs in another network namespace than the test.
"""

import resource
import signal
import socket
import sys

PORT = 443


def main(count: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, [resource.getrlimit(resource.RLIMIT_NOFILE)[1]] * 2)
    listener = socket.create_server(("", PORT), backlog=1024)
    sockets = []
    for number in range(count):
        remote = f"127.1.{number >> 8}.{number & 255}"
        sockets += [socket.create_connection((remote, PORT)), listener.accept()[0]]
    print("ready", flush=True)
    signal.pause()


if __name__ == "__main__":
    main(int(sys.argv[1]))
