"""The program behind `lab.connections.Server`: accepts everything, and closes what its client closed.

Stands alone: it is run by its path, by an interpreter that knows nothing of this package. One line of JSON on
stdin says what to do; ``ready`` on stdout says that it listens; the end of stdin ends it.
"""

import json
import resource
import select
import socket
import sys

_BACKLOG = 4096
_BURST = 256


def main() -> None:
    """Listen on the ports told, on all addresses, until stdin ends."""
    order = json.loads(sys.stdin.readline())
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    poll = select.epoll()
    poll.register(sys.stdin, select.EPOLLIN | select.EPOLLHUP)
    listeners: dict[int, socket.socket] = {}
    for port in order["ports"]:
        listener = _listen(order["address"], port)
        listeners[listener.fileno()] = listener
        poll.register(listener, select.EPOLLIN)
    accepted: dict[int, socket.socket] = {}
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        for number, _ in poll.poll():
            if number == sys.stdin.fileno():
                return
            if number in listeners:
                _accept(listeners[number], accepted, poll)
            elif not _alive(accepted[number]):
                accepted.pop(number).close()


def _listen(address: str, port: int) -> socket.socket:
    six = ":" in address
    listener = socket.socket(socket.AF_INET6 if six else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # several of us share the load
    if six:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind((address, port))
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def _accept(listener: socket.socket, accepted: dict[int, socket.socket], poll: select.epoll) -> None:
    for _ in range(_BURST):
        try:
            connection, _ = listener.accept()
        except OSError:  # none left, or one that its client has reset meanwhile
            return
        connection.setblocking(False)
        accepted[connection.fileno()] = connection
        poll.register(connection, select.EPOLLIN | select.EPOLLRDHUP)


def _alive(connection: socket.socket) -> bool:
    try:
        return bool(connection.recv(4096))
    except BlockingIOError:
        return True
    except OSError:
        return False


if __name__ == "__main__":
    main()
