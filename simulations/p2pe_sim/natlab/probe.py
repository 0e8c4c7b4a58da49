"""Raw-socket probes that run inside the laboratory's hosts, to hold each router to its RFC 4787 name.

`python -m p2pe_sim.natlab.probe listen PORT` prints the source of each datagram and answers it from two ports.
`... ask LOCAL_PORT HOST:PORT ...` sends one datagram to each and prints, as JSON,
what each saw and which ports answered.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time

ANSWER_SECONDS = 1.0


def listen(port: int) -> None:
    """Answers every datagram from `port` and, unasked, from `port`+1; the answer says which source was seen."""
    first = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    first.bind(("0.0.0.0", port))
    second = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    second.bind(("0.0.0.0", port + 1))
    third = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    third.bind(("0.0.0.0", port + 2))
    print("ready", flush=True)
    while True:
        ready, source = first.recvfrom(2048)
        if ready.startswith(b"relay "):  # "relay HOST PORT": knock there from here, a stranger's address
            _, host, target = ready.decode().split()
            third.sendto(b"stranger", (host, int(target)))
            continue
        seen = f"{source[0]}:{source[1]}".encode()
        first.sendto(b"same " + seen, source)
        second.sendto(b"other-port " + seen, source)


def ask(local_port: int, servers: list[tuple[str, int]]) -> dict[str, list[str]]:
    """Sends from one local port to each of `servers`, and has the last one's neighbour knock as a stranger."""
    own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    own.bind(("0.0.0.0", local_port))
    own.setblocking(False)
    *known, stranger = servers
    for server in known:
        own.sendto(b"hello", server)
    heard: list[str] = []
    knocked = False
    selector = selectors.DefaultSelector()
    selector.register(own, selectors.EVENT_READ)
    end = time.monotonic() + ANSWER_SECONDS
    while (left := end - time.monotonic()) > 0:
        if not selector.select(left):
            break
        data, source = own.recvfrom(2048)
        heard.append(f"{source[0]} {data.decode()}")
        if not knocked and data.startswith(b"same"):
            knocked = True
            host, port = data.decode().split()[1].rsplit(":", 1)
            helper = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            helper.sendto(f"relay {host} {port}".encode(), stranger)
            helper.close()
            end = time.monotonic() + ANSWER_SECONDS
    return {"heard": heard}


def _endpoint(text: str) -> tuple[str, int]:
    host, port = text.rsplit(":", 1)
    return host, int(port)


if __name__ == "__main__":
    if sys.argv[1] == "listen":
        listen(int(sys.argv[2]))
    else:
        print(json.dumps(ask(int(sys.argv[2]), [_endpoint(text) for text in sys.argv[3:]])))
