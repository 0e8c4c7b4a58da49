"""Two people whose only path is a stranger's js-libp2p relay, with its default limits: 128 KiB or 2 minutes a circuit.

Whole sessions on real databases: every circuit is cut in the middle of a batch, and nothing is lost, doubled or out
of order.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from js_kit import JsPeer, js_peer, unwrapped
from p2pe.connectivity.service import Connectivity, open_links
from p2pe.core.paths import RelayPolicy
from p2pe.identity.keys import Identity
from p2pe.messaging.courier import Couriers
from p2pe.messaging.inbox import Inbox
from p2pe.messaging.outbox import Outbox, SendRequest
from p2pe.messaging.receiver import Receiver
from p2pe.messaging.signals import Signals
from p2pe.model import ContactId, MessageState, PathKind
from p2pe.overlay.connections import Connected
from p2pe.overlay.host import OverlayHost, open_host
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.relay.client import open_relay_client
from p2pe.overlay.world import real_world
from p2pe.storage import contacts
from p2pe.storage.database import Database, open_database
from p2pe.storage.migrations import Tx
from people_kit import MemoryDirectory, make_identity
from streams_kit import LOOPBACK

pytestmark = pytest.mark.interop
CIRCUIT_BYTES = 128 * 1024  # js-libp2p's default, both directions together


@dataclass
class Someone:
    """A running node without control and directory of its own."""

    identity: Identity
    database: Database
    host: OverlayHost
    connectivity: Connectivity
    outbox: Outbox
    inbox: Inbox

    async def meet(self, name: str, other: Someone, secret: bytes) -> None:
        key = other.identity.identity_key

        def add(tx: Tx) -> ContactId:
            return contacts.add(tx, name=name, identity_key=key, pair_secret=secret, paired_at=1, list_version=0)  # type: ignore[arg-type]

        await self.connectivity.roster.reload(await self.database.write(add))

    async def texts(self) -> list[str]:
        found: list[str] = []
        after = 0
        while page := await self.inbox.list(after=after):
            found += [message.content.text for message in page]
            after = page[-1].row
        return found


@asynccontextmanager
async def someone(path: Path, relay: JsPeer, directory: MemoryDirectory) -> AsyncIterator[Someone]:
    """Reachable through `relay` alone: no other address is published."""
    world = real_world()
    identity = make_identity(world.clock)  # type: ignore[arg-type]
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(path, identity.database_key, world))
        key = HostKey.generate(os.urandom)
        host = await stack.enter_async_context(open_host(world, key=key, listen=(LOOPBACK,)))
        reserving = await stack.enter_async_context(open_relay_client(host))
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(reserving.keep, lambda: (relay.info,), 1)
        signals = Signals()
        couriers = Couriers(database, world, signals)
        receiver = Receiver(database, world, signals, couriers)
        connectivity = await stack.enter_async_context(
            open_links(
                world, host, directory, database, identity, on_link=receiver.serve, relay_policy=RelayPolicy.ONLY
            )
        )
        await nursery.start(couriers.run, connectivity.links)
        outbox = Outbox(database, world, signals, couriers, identity.k_msgid)
        yield Someone(identity, database, host, connectivity, outbox, Inbox(database, world, signals, couriers))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("messages", "text_bytes"),
    [
        pytest.param(32, 12_000, id="six circuits' worth"),
        pytest.param(3, 32_768, id="one of the longest each way is more than a circuit carries"),
    ],
)
async def test_messages_survive_every_cut_of_a_js_relay(tmp_path: Path, messages: int, text_bytes: int) -> None:
    with unwrapped():
        async with AsyncExitStack() as stack:
            relay = await stack.enter_async_context(js_peer(relay={}))
            directory = MemoryDirectory(real_world().clock)  # type: ignore[arg-type]
            alice = await stack.enter_async_context(someone(tmp_path / "alice.db", relay, directory))
            bob = await stack.enter_async_context(someone(tmp_path / "bob.db", relay, directory))
            circuits: list[PathKind] = []

            async def watch(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
                async with alice.host.events() as events:
                    task_status.started()
                    async for event in events:
                        if isinstance(event, Connected) and event.connection.remote_peer == bob.host.peer_id:
                            circuits.append(event.connection.path)

            nursery = await stack.enter_async_context(trio.open_nursery())
            await nursery.start(watch)
            secret = os.urandom(32)
            await alice.meet("bob", bob, secret)
            await bob.meet("alice", alice, secret)

            said = {
                who: [f"{who} {number} ".ljust(text_bytes, "x") for number in range(messages)] for who in ("a", "b")
            }
            sent = await alice.outbox.send_many([SendRequest("bob", text) for text in said["a"]])
            back = await bob.outbox.send_many([SendRequest("alice", text) for text in said["b"]])
            with trio.fail_after(120):
                for message in sent:
                    assert (await alice.outbox.wait(message.id, MessageState.DELIVERED)).state is MessageState.DELIVERED
                for message in back:
                    assert (await bob.outbox.wait(message.id, MessageState.DELIVERED)).state is MessageState.DELIVERED
            assert await bob.texts() == said["a"]
            assert await alice.texts() == said["b"]
            assert set(circuits) == {PathKind.RELAYED}
            assert len(circuits) >= 2 * messages * text_bytes // CIRCUIT_BYTES
            nursery.cancel_scope.cancel()
