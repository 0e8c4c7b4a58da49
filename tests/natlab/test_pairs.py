"""Two people behind real routers reach each other: directly where physics allows, through a blind relay otherwise.

One named test a pair, saying for the impossible ones why. The whole matrix is `make natlab`.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from p2pe_sim.natlab.lab import LabUnavailable, require_lab
from p2pe_sim.natlab.nat import NatType, punchable, why_not
from p2pe_sim.natlab.pairs import PairedHomes, stage
from p2pe_sim.processes import eventually

pytestmark = [pytest.mark.natlab, pytest.mark.slow]

PUNCH_PATIENCE = 30.0  # seconds: several rounds on a busy machine
STAYS_RELAYED = 8.0  # seconds to watch that no direct path appears where there can't be one


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> PairedHomes:
    try:
        require_lab()
    except LabUnavailable as reason:
        pytest.skip(f"no NAT laboratory here: {reason}")
    folder: Path = tmp_path_factory.mktemp("homes")
    return PairedHomes(folder)


def delivered_directly(homes: PairedHomes, one: NatType, other: NatType, **wire: float) -> None:
    assert punchable(one, other)
    with stage(homes, one, other, **wire) as scene:  # type: ignore[arg-type]
        scene.start()
        scene.say("first")
        scene.until_heard("first")
        assert scene.until_straight(PUNCH_PATIENCE) is not None, f"stayed on {scene.path()}"
        scene.say("second")
        scene.until_heard("second")
        assert scene.heard() == ["first", "second"]


def delivered_by_relay(homes: PairedHomes, one: NatType, other: NatType) -> None:
    assert not punchable(one, other)
    assert why_not(one, other)
    with stage(homes, one, other) as scene:
        scene.start()
        scene.say("first")
        scene.until_heard("first")
        assert scene.until_straight(STAYS_RELAYED) is None
        assert scene.path() == "relayed"
        scene.say("second")
        scene.until_heard("second")
        assert scene.heard() == ["first", "second"]


def test_port_restricted_with_port_restricted_goes_direct(homes: PairedHomes) -> None:
    delivered_directly(homes, NatType.PORT, NatType.PORT)


def test_remapping_with_remapping_goes_direct(homes: PairedHomes) -> None:
    delivered_directly(homes, NatType.REMAP, NatType.REMAP)


def test_symmetric_with_full_cone_goes_direct(homes: PairedHomes) -> None:
    delivered_directly(homes, NatType.SYMMETRIC, NatType.FULL_CONE)


def test_address_restricted_with_symmetric_goes_direct(homes: PairedHomes) -> None:
    delivered_directly(homes, NatType.ADDRESS, NatType.SYMMETRIC)


def test_symmetric_with_symmetric_is_relayed_for_neither_port_can_be_foretold(homes: PairedHomes) -> None:
    delivered_by_relay(homes, NatType.SYMMETRIC, NatType.SYMMETRIC)


def test_only_443_out_is_relayed_for_nothing_else_leaves(homes: PairedHomes) -> None:
    delivered_by_relay(homes, NatType.ONLY_443, NatType.PORT)


def test_ipv6_behind_stateful_firewalls_goes_direct(homes: PairedHomes) -> None:
    delivered_directly(homes, NatType.V6_FIREWALL, NatType.V6_FIREWALL)


def test_five_percent_loss_still_delivers_and_goes_direct(homes: PairedHomes) -> None:
    delivered_directly(homes, NatType.PORT, NatType.PORT, loss=0.05)


def test_a_conversation_moves_to_the_direct_path_and_back_to_the_relay_when_that_dies(homes: PairedHomes) -> None:
    """Somebody writes all the time, meanwhile the path changes twice: everything arrives once and in order."""
    with stage(homes, NatType.PORT, NatType.PORT) as scene:
        scene.start()
        texts: list[str] = []
        is_over = threading.Event()

        def write() -> None:
            with scene.alice.client() as client:
                while not is_over.is_set():
                    text = f"line {len(texts)}"
                    client.send("bob", text)
                    texts.append(text)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            assert scene.until_straight(PUNCH_PATIENCE) is not None
            on_the_direct_path = len(texts)
            scene.until_heard(texts[-1])
            scene.lab.sever(*scene.places)
            eventually("the relay to carry it again", lambda: scene.path() == "relayed")
        finally:
            is_over.set()
            writer.join()
        assert 0 < on_the_direct_path < len(texts)
        scene.until_heard(texts[-1])
        assert scene.heard() == texts


def test_relay_killed_in_mid_conversation(homes: PairedHomes) -> None:
    """Two relays; the one that carries the conversation dies; everything arrives once and in order over the other."""
    with stage(homes, NatType.SYMMETRIC, NatType.SYMMETRIC, bootstraps=2) as scene:
        scene.start()
        texts = [f"before {number}" for number in range(5)]
        for text in texts:
            scene.say(text)
        scene.until_heard(texts[-1])
        scene.story.running[0].process.kill()
        more = [f"after {number}" for number in range(5)]
        for text in more:
            scene.say(text)
        scene.until_heard(more[-1])
        assert scene.heard() == texts + more


def test_network_address_changes_in_mid_conversation(homes: PairedHomes) -> None:
    with stage(homes, NatType.PORT, NatType.PORT) as scene:
        scene.start()
        scene.say("before")
        scene.until_heard("before")
        scene.lab.renumber(scene.places[1], 77)
        scene.say("after")
        scene.until_heard("after")
        assert scene.heard() == ["before", "after"]
        eventually("a connection to be shown", scene.path)
