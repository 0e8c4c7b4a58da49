"""A person's node whose clock is wrong by hours: directory servers take none of its records, and it is told so."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
from dht_kit import HOUR, SettableClock, signed, start
from overlay_kit import until
from p2pe.app import run_node
from p2pe.app_home import Settings
from p2pe.config import KAD_REFUSALS_TELL
from p2pe.control.services import Services
from p2pe.errors import Unreachable
from p2pe.identity.home import Home
from p2pe.identity.keyring import create_identity
from p2pe.model import Address
from p2pe.overlay.world import real_world


async def said(home: Path, *command: str) -> str:
    argv = [sys.executable, "-m", "p2pe.cli.main", *command, "--home", str(home)]
    return (await trio.run_process(argv, capture_stdout=True)).stdout.decode()


@pytest.mark.parametrize("hours", [5, -30])
async def test_the_person_is_told_and_told_no_more(hours: int, tmp_path: Path, nursery: trio.Nursery) -> None:
    server = await start(nursery)
    clock = SettableClock()
    clock.ahead = hours * HOUR
    world = replace(real_world(), clock=clock)
    home = Home(tmp_path / "h")
    identity, _ = create_identity(home, None, os.urandom, clock.now())
    settings = Settings(home, listen=(Address("/ip4/127.0.0.1/tcp/0"),), bootstrap=(server.address,), lan=False)
    services: Services = await nursery.start(partial(run_node, settings, world, identity))
    await until(lambda: services.overlay()["directory_peers"] == 1)
    assert "clock" not in await said(home.path, "status")
    for _ in range(KAD_REFUSALS_TELL):
        with pytest.raises(Unreachable, match="this machine's clock"):
            await services.pairing.create_invite("link")
    status = await said(home.path, "status")
    assert "clock      wrong? It is 20" in status and "refuse this node's records" in status
    assert "clock right?" in await said(home.path, "dht", "status")
    assert json.loads(await said(home.path, "status", "--json"))["overlay"]["records_refused"] is True
    assert services.own_reach().records_refused

    clock.ahead = 0
    await services.pairing.create_invite("link")
    assert "clock" not in await said(home.path, "status")
    assert "clock" not in await said(home.path, "dht", "status")


async def test_who_refuses_has_not_left(nursery: trio.Nursery) -> None:
    server = await start(nursery)
    clock = SettableClock()
    client = await start(nursery, "client", (server.address,), clock=clock)
    for _ in range(5):
        key, record = signed(1, now=clock.now())
        await client.dht.publish(key, record)
        clock.ahead += 5 * HOUR
    assert client.dht.records_refused
    assert client.dht.stats().leaving_per_hour <= 0.31  # the first guess


async def test_servers_that_do_not_answer_say_nothing_about_the_clock(nursery: trio.Nursery) -> None:
    server = await start(nursery)
    client = await start(nursery, "client", (server.address,))
    key, record = signed(1)
    assert await client.dht.publish(key, record) == 1
    await server.kill()
    for _ in range(KAD_REFUSALS_TELL + 1):
        with pytest.raises(Unreachable):
            await client.dht.publish(key, record)
    assert not client.dht.records_refused
