"""Bootstrap addresses as people write them: `<address>/p2p/PEER`, or `/dnsaddr/NAME[/p2p/PEER]`.

/dnsaddr: TXT records `dnsaddr=<address>` at `_dnsaddr.NAME` (libp2p addressing specification), followed at most
_MAX_DEPTH deep, at most _MAX_FOUND addresses in all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from p2pe.core.addresses import dns_port, host_port, split_peer
from p2pe.errors import UsageError
from p2pe.model import Address, PeerId, PeerInfo

Txt = Callable[[str], Awaitable[tuple[str, ...]]]  # the TXT records of a name; raises OSError
_MAX_DEPTH: Final = 3
_MAX_FOUND: Final = 32
_DNS_SECONDS: Final = 5.0
_PREFIX: Final = "/dnsaddr/"
_RECORD: Final = "dnsaddr="


def check_bootstrap(text: str) -> None:
    """Raises UsageError unless `text` is a bootstrap address."""
    plain = text
    if text.startswith(_PREFIX):
        name, mark, peer = text[len(_PREFIX) :].partition("/p2p/")
        if name and "/" not in name and not mark:
            return
        plain = f"/dns/{name}/tcp/1/p2p/{peer}"
    try:
        address, _ = split_peer(plain)
    except ValueError:
        address = Address("")
    if not (host_port(address) or dns_port(address)):
        raise UsageError(
            f"{text!r} isn't a bootstrap address; one looks like /ip4/192.0.2.1/tcp/4001/p2p/12D3KooW... or "
            "/dnsaddr/bootstrap.example.org"
        )


async def resolve_bootstrap(text: str, txt: Txt | None = None) -> tuple[PeerInfo, ...]:
    """The peers behind one bootstrap address; several addresses of one peer are joined. Empty when the name has
    none. Raises OSError when DNS doesn't answer, UsageError for a malformed address."""
    check_bootstrap(text)
    if not text.startswith(_PREFIX):
        address, peer_id = split_peer(text)
        return (PeerInfo(peer_id, (address,)),)
    found: dict[PeerId, list[Address]] = {}
    with trio.move_on_after(_DNS_SECONDS):
        await _follow(text, txt or dns_txt, found, _MAX_DEPTH)
    return tuple(PeerInfo(peer_id, tuple(addresses)) for peer_id, addresses in found.items())


async def _follow(text: str, txt: Txt, found: dict[PeerId, list[Address]], depth: int) -> None:
    name, _, wanted = text[len(_PREFIX) :].partition("/p2p/")
    for record in (await txt(f"_dnsaddr.{name}"))[:_MAX_FOUND]:
        target = record.removeprefix(_RECORD)
        if target == record or (wanted and not target.endswith(f"/p2p/{wanted}")):
            continue
        if target.startswith(_PREFIX):
            if depth > 1:
                await _follow(target, txt, found, depth - 1)
            continue
        try:
            address, peer_id = split_peer(target)
        except ValueError:
            continue  # somebody else's idea of an address: the others may do
        if sum(map(len, found.values())) < _MAX_FOUND:
            found.setdefault(peer_id, []).append(address)


async def dns_txt(name: str) -> tuple[str, ...]:
    """TXT records by the system's resolver. Raises OSError."""
    import dns.asyncresolver  # here: 60 ms that only /dnsaddr needs
    import dns.exception

    try:
        answer = await dns.asyncresolver.resolve(name, "TXT", lifetime=_DNS_SECONDS)
    except dns.exception.DNSException as error:
        raise OSError(f"no TXT records of {name}: {error}") from None
    return tuple(b"".join(record.strings).decode("utf-8", "replace") for record in answer)


def distinct(peers: Sequence[PeerInfo]) -> tuple[PeerInfo, ...]:
    """One entry a peer, addresses joined, order kept."""
    merged: dict[PeerId, dict[Address, None]] = {}
    for peer in peers:
        merged.setdefault(peer.peer_id, {}).update(dict.fromkeys(peer.addresses))
    return tuple(PeerInfo(peer_id, tuple(addresses)) for peer_id, addresses in merged.items())
