"""What each kind of router does, as nftables rules. Terms are RFC 4787's.

EIM / APDM: endpoint-independent / address-and-port-dependent mapping. EIF / ADF / APDF: endpoint-independent /
address-dependent / address-and-port-dependent filtering. Every rule set expects interfaces named `wan0` and `lan0`.
"""

from __future__ import annotations

from enum import StrEnum

REMAP_OFFSET = 10_000  # a remapping router moves a port by this much
REMAPPED_PORTS = range(4_000, 4_032)  # the listen ports that the remapping router knows; others are masqueraded
LEARNED_SECONDS = 300  # how long a full-cone or address-restricted router remembers a mapping


class NatType(StrEnum):
    """A home router, a phone network, a firewall. The value is the name on the command line and in reports."""

    NONE = "none"  # a public address, no filter
    PORT = "port"  # port-restricted cone: EIM / APDF, silent towards strangers
    PORT_RST = "port-rst"  # EIM / APDF, answers strangers with RST
    SYMMETRIC = "sym"  # APDM / APDF
    FULL_CONE = "full"  # EIM / EIF
    ADDRESS = "addr"  # EIM / ADF
    REMAP = "remap"  # EIM / APDF, port not preserved
    V6_FIREWALL = "v6fw"  # IPv6, stateful, no translation
    ONLY_443 = "443"  # port-restricted, and nothing leaves but TCP to port 443
    CARRIER = "cgn"  # a port-restricted home router behind a port-restricted carrier router


NATS = (
    NatType.PORT,
    NatType.PORT_RST,
    NatType.SYMMETRIC,
    NatType.FULL_CONE,
    NatType.ADDRESS,
    NatType.REMAP,
    NatType.CARRIER,
    NatType.NONE,
)


def punchable(one: NatType, other: NatType) -> bool:
    """Whether a direct TCP connection between two such networks is possible at all, by simultaneous open or otherwise.

    Measured with raw sockets at 20 ms each way. Symmetric with anything that filters by port can't be: the port
    that the symmetric router will use towards the other side is unknown, and the other side's filter wants it exactly.
    """
    if NatType.ONLY_443 in (one, other):
        return False  # people's nodes don't listen on 443
    if NatType.SYMMETRIC in (one, other):
        partner = other if one is NatType.SYMMETRIC else one
        return partner in (NatType.FULL_CONE, NatType.ADDRESS, NatType.NONE)
    return True  # RST with RST only when both SYNs cross on the wire


def why_not(one: NatType, other: NatType) -> str:
    """For the pairs that can't be punched: the reason, for people. Empty for the others."""
    if punchable(one, other):
        return ""
    if NatType.ONLY_443 in (one, other):
        return "nothing but TCP to port 443 leaves that network, and people's nodes don't listen there"
    return (
        "a symmetric router picks a new port for each destination, so the other side's router, "
        "which filters by port, can't be told which one to let in"
    )


def _filters(*, answers_rst: bool, allowed: str = "") -> str:
    silent = """
  chain input {
    type filter hook input priority 0; policy accept;
    ct state established,related accept
    iifname "wan0" meta l4proto { tcp, udp } drop
  }
"""
    return f"""
table ip filter {{{"" if answers_rst else silent}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    ct state established,related accept
    ct status dnat accept
    iifname "wan0" drop
{allowed}
  }}
}}
"""


def _learning(wan: str, *, by_address: bool) -> str:
    """Full cone and address-restricted: mappings are learnt from outgoing packets, and let strangers in."""
    outgoing = 'oifname "wan0" ct direction original meta l4proto'
    of_the = "flags dynamic,timeout; timeout"
    maps = "".join(
        f"""
  map mapped_{proto} {{ type inet_service : ipv4_addr . inet_service; {of_the} {LEARNED_SECONDS}s; }}
  set met_{proto} {{ type inet_service . ipv4_addr; {of_the} {LEARNED_SECONDS}s; }}"""
        for proto in ("tcp", "udp")
    )
    learn = "".join(
        f"""
    {outgoing} {p} update @mapped_{p} {{ {p} sport : ct original ip saddr . ct original proto-src }}
    {outgoing} {p} update @met_{p} {{ {p} sport . ip daddr }}"""
        for p in ("tcp", "udp")
    )
    guard = {p: f"{p} dport . ip saddr @met_{p} " if by_address else "" for p in ("tcp", "udp")}
    admit = "".join(
        f"""
    iifname "wan0" ip daddr {wan} {guard[p]}dnat ip addr . port to {p} dport map @mapped_{p}"""
        for p in ("tcp", "udp")
    )
    return f"""
table ip nat {{{maps}
  chain learn {{
    type filter hook postrouting priority 110; policy accept;{learn}
  }}
  chain pre {{
    type nat hook prerouting priority -100; policy accept;{admit}
  }}
  chain post {{
    type nat hook postrouting priority 100; policy accept;
    oifname "wan0" masquerade
  }}
}}
"""


def _translate(statement: str) -> str:
    return f"""
table ip nat {{
  chain post {{
    type nat hook postrouting priority 100; policy accept;
{statement}
  }}
}}
"""


def ruleset(kind: NatType, wan: str) -> str:
    """The text for `nft -f` of one router with the outside IPv4 address `wan`."""
    masquerade = '    oifname "wan0" masquerade'
    match kind:
        case NatType.PORT | NatType.CARRIER:
            return _translate(masquerade) + _filters(answers_rst=False)
        case NatType.PORT_RST:
            return _translate(masquerade) + _filters(answers_rst=True)
        case NatType.SYMMETRIC:
            return _translate(masquerade + " random,fully-random") + _filters(answers_rst=False)
        case NatType.FULL_CONE | NatType.ADDRESS:
            return _learning(wan, by_address=kind is NatType.ADDRESS) + _filters(answers_rst=False)
        case NatType.REMAP:
            moved = "\n".join(
                f'    oifname "wan0" {proto} sport {port} snat ip to {wan}:{port + REMAP_OFFSET}'
                for port in REMAPPED_PORTS
                for proto in ("tcp", "udp")
            )
            return _translate(moved + "\n" + masquerade) + _filters(answers_rst=False)
        case NatType.ONLY_443:
            allowed = '    iifname "lan0" tcp dport 443 accept\n    iifname "lan0" drop'
            return _translate(masquerade) + _filters(answers_rst=False, allowed=allowed)
        case NatType.V6_FIREWALL:
            return """
table ip6 filter {
  chain forward {
    type filter hook forward priority 0; policy accept;
    ct state established,related accept
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, packet-too-big } accept
    iifname "wan0" drop
  }
}
"""
        case NatType.NONE:
            return ""
