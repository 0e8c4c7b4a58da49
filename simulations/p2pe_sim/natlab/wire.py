"""A learning Ethernet switch in userspace with delay and loss: the lab's public segment.

netem isn't in every kernel, and with no delay at all races turn out differently from the real world. Runs as a
process of its own (`python -m p2pe_sim.natlab.wire`): opens one TAP device in each namespace it is told of, prints
`ready`, and forwards until its standard input closes. Lines on standard input change it while it runs:
`delay SECONDS`, `loss FRACTION`.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import random
import selectors
import struct
import sys
import time

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_MAX_FRAME = 65_536
_BROADCAST = b"\xff" * 6
_QUEUE_FRAMES = 20_000  # a real wire's buffer is bounded too; beyond it frames are lost


def enter_namespace(path: str) -> None:
    """Moves the calling thread into the network namespace bound at `path`. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {path}")
    finally:
        os.close(descriptor)


def open_tap(name: str) -> int:
    """Makes the TAP device `name` in the current namespace; it lives as long as the descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return descriptor


class Switch:
    """Forwards frames between TAP descriptors by learnt address, each after `delay` seconds, losing `loss` of them."""

    def __init__(self, ports: list[int], *, delay: float, loss: float, seed: int) -> None:
        self.ports = ports
        self.delay = delay
        self.loss = loss
        self._random = random.Random(seed)
        self._learnt: dict[bytes, int] = {}
        self._waiting: list[tuple[float, int, int, bytes]] = []  # (due, tie-break, port, frame)
        self._count = 0

    def receive(self, port: int) -> None:
        """Takes all frames that wait at `port`."""
        while True:
            try:
                frame = os.read(port, _MAX_FRAME)
            except BlockingIOError:
                return
            destination, source = frame[:6], frame[6:12]
            self._learnt[source] = port
            if self.loss and self._random.random() < self.loss:
                continue
            known = None if destination[0] & 1 else self._learnt.get(destination)
            targets = [known] if known is not None else [other for other in self.ports if other != port]
            due = time.monotonic() + self.delay
            for target in targets:
                if len(self._waiting) < _QUEUE_FRAMES:
                    self._count += 1
                    heapq.heappush(self._waiting, (due, self._count, target, frame))

    def deliver(self) -> float | None:
        """Writes the frames that are due. Returns seconds until the next one, None when nothing waits."""
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            _, _, port, frame = heapq.heappop(self._waiting)
            try:
                os.write(port, frame)
            except OSError:
                continue  # the interface is down or full: a wire loses frames
        return max(0.0, self._waiting[0][0] - now) if self._waiting else None


def main() -> None:
    """Arguments: DELAY_SECONDS LOSS SEED NAMESPACE_PATH..."""
    delay, loss, seed = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    ports = []
    for path in sys.argv[4:]:
        enter_namespace(path)
        ports.append(open_tap("wan0"))
    switch = Switch(ports, delay=delay, loss=loss, seed=seed)
    selector = selectors.DefaultSelector()
    for port in ports:
        selector.register(port, selectors.EVENT_READ)
    selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
    print("ready", flush=True)
    wait: float | None = None
    while True:
        for key, _ in selector.select(wait):
            if key.fd == sys.stdin.fileno():
                line = sys.stdin.readline()
                if not line:
                    return
                what, value = line.split()
                setattr(switch, what, float(value))
            else:
                switch.receive(key.fd)
        wait = switch.deliver()


if __name__ == "__main__":
    main()
