"""The real outside: the machine's clock, randomness, network and threads. Simulations make another World."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

import trio

from p2pe.model import Millis
from p2pe.overlay.net import RealNet
from p2pe.ports import World

T = TypeVar("T")


class RealClock:
    def now(self) -> Millis:
        return Millis(time.time_ns() // 1_000_000)


async def in_thread(work: Callable[[], T], /) -> T:
    """Runs `work` in a worker thread. Never abandoned: a caller that is cancelled waits for its end."""
    return await trio.to_thread.run_sync(work)


def real_world() -> World:
    """Production's World. There is no other way to get one outside p2pe_sim."""
    return World(clock=RealClock(), entropy=os.urandom, net=RealNet(), threads=in_thread, lan=True)
