"""What would help to reach a contact, or to reach it directly: the advice of `p2pe why`. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from p2pe.core.observed import NatKind
from p2pe.core.paths import RelayPolicy
from p2pe.core.reachability import Reachable
from p2pe.model import ContactReachability, PathAttempt, PathKind


@dataclass(frozen=True, slots=True)
class Own:
    """This node's own part in the matter."""

    policy: RelayPolicy
    reachable: Reachable
    nat: NatKind
    relays: int  # reservations held
    directory_peers: int
    records_refused: bool = False  # by all directory servers that answer


def advise(reach: ContactReachability, own: Own, *, blocked: bool = False) -> tuple[str, ...]:
    """Sentences, most useful first; none where there is nothing to better."""
    if blocked:
        return ("`p2pe unblock` lets messages through again.",)
    if reach.connected:
        return _off_the_relay(reach, own) if reach.path is PathKind.RELAYED else ()
    return _unreached(reach.attempts, own)


def _off_the_relay(reach: ContactReachability, own: Own) -> tuple[str, ...]:
    if own.policy is RelayPolicy.ONLY:
        return ("This node is set to relay = only: contacts don't learn its address, and nothing goes directly.",)
    punched = [each for each in reach.attempts if each.step == "punch"]
    said = []
    if own.nat is NatKind.DEPENDENT:
        said.append(
            "Your router gives each destination another port (symmetric NAT), so hole punching works only with people "
            "whose router lets anybody in. IPv6, UPnP, or forwarding the listen port in the router would help."
        )
    elif punched and punched[-1].outcome != "ok":
        said.append(
            "Hole punching failed so far; it is tried again from time to time. IPv6, UPnP, or forwarding the listen "
            "port in either side's router would help."
        )
    elif not punched:
        said.append(
            "No direct path was tried yet. The side that was called looks for one, unless it is set to relay = only."
        )
    return tuple(said)


def _unreached(attempts: Sequence[PathAttempt], own: Own) -> tuple[str, ...]:
    if not own.directory_peers:
        return (
            "No directory server answers: check this machine's network, and the --bootstrap addresses it was given.",
        )
    said = []
    if own.records_refused:
        said.append(
            "Directory servers refuse this node's records, so nobody finds it, and it may find nobody. Is this "
            "machine's clock right? `p2pe status` shows it."
        )
    last = {each.step: each.outcome for each in attempts}
    if last.get("lookup", "ok").startswith("not online"):
        said.append("They look offline. What you write waits here, and goes out by itself when they are back.")
    elif not last.get("handshake", "ok").startswith("ok"):
        said.append(
            "Somebody answers there who can't prove to be them: they may have restored an older backup, or removed "
            "you. Ask them, and compare the safety numbers (`p2pe contacts show`)."
        )
    elif own.policy is RelayPolicy.NEVER:
        said.append("This node is set to relay = never: people behind routers are out of reach. See `p2pe run --help`.")
    elif own.policy is RelayPolicy.ONLY and "relay" not in last:
        said.append("They hold no relay, and this node is set to relay = only: it dials nobody directly.")
    elif "relay" in last:
        said.append("They were online lately. If they are now, their relay or yours is down; it is tried again.")
    if own.policy is not RelayPolicy.NEVER and not own.relays and own.reachable is not Reachable.PUBLIC:
        said.append("No relay holds a place for this node, so they can't come to you either: add a bootstrap node.")
    return tuple(said)
