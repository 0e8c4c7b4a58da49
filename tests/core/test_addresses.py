"""Text multiaddrs: what is read, what is refused, and how addresses are judged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from p2pe.core import addresses as ad
from p2pe.model import Address, PathKind, PeerId

PEER = PeerId(bytes([0, 36, 8, 1, 18, 32]) + bytes(range(32)))
CIRCUIT = Address(f"/ip4/203.0.113.5/tcp/4001/p2p/{PEER}/p2p-circuit")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/ip4/192.0.2.1/tcp/4001", ("192.0.2.1", 4001)),
        ("/ip6/2001:db8:0::1/tcp/65535", ("2001:db8::1", 65535)),
        (f"/ip4/192.0.2.1/tcp/1/p2p/{PEER}", ("192.0.2.1", 1)),
        ("/ip4/192.0.2.1/tcp/65536", None),
        ("/ip4/192.0.2.1/tcp/-1", None),
        ("/ip4/192.0.2.1/tcp/٣", None),
        ("/ip4/192.0.2.1/udp/4001/quic-v1", None),
        ("/ip4/192.0.2.1/tcp/4001/ws", None),
        ("/ip4/2001:db8::1/tcp/1", None),
        ("/ip6/192.0.2.1/tcp/1", None),
        ("/ip4/300.0.0.1/tcp/1", None),
        ("/dns4/p.example/tcp/1", None),
        ("ip4/192.0.2.1/tcp/1", None),
        ("", None),
        (CIRCUIT, None),
    ],
)
def test_host_port(text: str, expected: tuple[str, int] | None) -> None:
    assert ad.host_port(text) == expected


def test_names() -> None:
    assert ad.dns_port("/dns4/p.example/tcp/443") == ("dns4", "p.example", 443)
    assert ad.dns_port("/dns/p.example/tcp/443/wss") is None
    assert ad.dns_port("/ip4/192.0.2.1/tcp/443") is None
    assert ad.dns_port("/dns//tcp/443") is None


@pytest.mark.parametrize(
    ("ip", "is_private", "is_public", "path"),
    [
        ("/ip4/192.168.1.5", True, False, PathKind.LAN),
        ("/ip4/10.0.0.1", True, False, PathKind.LAN),
        ("/ip4/172.16.0.1", True, False, PathKind.LAN),
        ("/ip4/172.32.0.1", False, True, PathKind.DIRECT),
        ("/ip4/100.64.0.1", True, False, PathKind.LAN),  # a carrier's NAT
        ("/ip4/100.128.0.1", False, True, PathKind.DIRECT),
        ("/ip4/127.0.0.1", True, False, PathKind.LAN),
        ("/ip4/169.254.7.7", True, False, PathKind.LAN),
        ("/ip4/198.51.100.7", False, True, PathKind.DIRECT),  # documentation: stands for public
        ("/ip4/8.8.8.8", False, True, PathKind.DIRECT),
        ("/ip4/224.0.0.1", False, False, PathKind.DIRECT),
        ("/ip6/fe80::1", True, False, PathKind.LAN),
        ("/ip6/fd00::2", True, False, PathKind.LAN),
        ("/ip6/::1", True, False, PathKind.LAN),
        ("/ip6/2600::1", False, True, PathKind.DIRECT),
        ("/ip6/2001:db8::1", False, True, PathKind.DIRECT),
    ],
)
def test_judgements(ip: str, is_private: bool, is_public: bool, path: PathKind) -> None:
    address = f"{ip}/tcp/1"
    assert (ad.is_private(address), ad.is_public(address), ad.path_of(address)) == (is_private, is_public, path)


def test_circuits_are_neither_public_nor_private() -> None:
    assert not ad.is_public(CIRCUIT) and not ad.is_private(CIRCUIT)
    assert ad.path_of(CIRCUIT) is PathKind.RELAYED
    assert ad.relay_of(CIRCUIT) == (Address("/ip4/203.0.113.5/tcp/4001"), PEER)
    assert ad.relay_of("/ip4/203.0.113.5/tcp/4001") is None
    assert ad.relay_of("/ip4/203.0.113.5/tcp/4001/p2p-circuit") is None


def test_subnets() -> None:
    assert ad.subnet_of("/ip4/192.0.2.77/tcp/1") == ad.subnet_of("/ip4/192.0.2.1") == bytes([192, 0, 2])
    assert ad.subnet_of("/ip6/2001:db8:1:2ff::1/tcp/1") == bytes.fromhex("20010db8000102")
    assert ad.subnet_of("/ip6/2001:db8:1:300::1/tcp/1") != ad.subnet_of("/ip6/2001:db8:1:2ff::1/tcp/1")
    assert ad.subnet_of("/dns4/p.example/tcp/1") is None


def test_tcp_address_unmaps_and_drops_zones() -> None:
    assert ad.tcp_address("::ffff:192.0.2.1", 5) == "/ip4/192.0.2.1/tcp/5"
    assert ad.tcp_address("fe80::1%eth0", 5) == "/ip6/fe80::1/tcp/5"
    with pytest.raises(ValueError, match="does not appear"):
        ad.tcp_address("nonsense", 5)


def test_peers_at_the_end() -> None:
    text = ad.with_peer("/ip4/192.0.2.1/tcp/1", PEER)
    assert ad.with_peer(text, PEER) == text
    assert ad.split_peer(text) == (Address("/ip4/192.0.2.1/tcp/1"), PEER)
    assert ad.split_peer(f"{CIRCUIT}/p2p/{PEER}") == (CIRCUIT, PEER)
    for bad in ("/ip4/192.0.2.1/tcp/1", "/p2p/", f"/p2p/{PEER}", CIRCUIT, "/ip4/192.0.2.1/tcp/1/p2p/0OIl", ""):
        with pytest.raises(ValueError, match=r"peer id|base58|Invalid|doesn't end"):
            ad.split_peer(bad)


def test_wildcards_expand_to_interfaces() -> None:
    here = [Address(f"/{i}") for i in ("ip4/127.0.0.1", "ip4/192.168.1.5", "ip6/::1", "ip6/fe80::1", "ip6/fd00::2")]
    assert ad.expand(Address("/ip4/0.0.0.0/tcp/9"), here) == ("/ip4/192.168.1.5/tcp/9",)
    assert ad.expand(Address("/ip6/::/tcp/9"), here) == ("/ip6/fd00::2/tcp/9",)
    assert ad.expand(Address("/ip4/0.0.0.0/tcp/9"), here[:1]) == ("/ip4/127.0.0.1/tcp/9",)
    assert ad.expand(Address("/ip4/192.0.2.1/tcp/9"), here) == ("/ip4/192.0.2.1/tcp/9",)


@given(
    st.text(max_size=80) | st.from_regex(r"(/(ip4|ip6|dns4|tcp|p2p|p2p-circuit|[0-9.:a-f]{0,20})){0,8}", fullmatch=True)
)
def test_no_text_raises(text: str) -> None:
    """Addresses come from strangers."""
    judge = (ad.host_port, ad.dns_port, ad.ip_of, ad.is_public, ad.is_private, ad.is_loopback, ad.is_wildcard)
    for function in (*judge, ad.subnet_of, ad.path_of, ad.relay_of, ad.is_link_local):
        function(text)
