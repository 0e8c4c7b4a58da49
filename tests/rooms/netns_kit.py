"""Tests in a network namespace of their own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from p2pe_sim.namespace import in_namespace, ip
from p2pe_sim.natlab.lab import LabUnavailable

__all__ = ["ip", "run_in_namespace"]


def run_in_namespace(work: Callable[[], Awaitable[None]]) -> None:
    """`trio.run(work)` in a thread with its own network; skips the test where that can't be."""
    try:
        in_namespace(lambda: trio.run(work))
    except LabUnavailable as reason:
        pytest.skip(str(reason))
