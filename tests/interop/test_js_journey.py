"""Real nodes whose whole infrastructure is one js-libp2p node of a stranger: directory, and relay with its limits."""

from __future__ import annotations

import pytest
import trio
from js_kit import js_peer, unwrapped
from p2pe_sim.processes import pair, processes, settled

pytestmark = [pytest.mark.interop, pytest.mark.journey]
TEXTS = 20
TEXT_BYTES = 12_000  # together more than one circuit of 128 KiB carries


def story(bootstrap: str) -> None:
    with processes() as world:
        world.bootstraps.append(bootstrap)
        alice = world.person("alice", options=("--relay", "only")).start()
        bob = world.person("bob", options=("--relay", "only")).start()
        pair(alice, bob)
        said = [f"{number} ".ljust(TEXT_BYTES, "x") for number in range(TEXTS)]
        with alice.client() as client:
            sent = client.send_many([{"to": "bob", "text": text} for text in said])
        settled(alice, sent)
        assert [message["text"] for message in bob.inbox("alice")] == said
        with alice.client() as client:
            (contact,) = client.contacts()
        assert contact["path"] == "relayed"


async def test_two_people_meet_and_write_through_one_js_node() -> None:
    with unwrapped():
        async with js_peer(kad="server", relay={}) as js:
            await trio.to_thread.run_sync(story, js.address)
