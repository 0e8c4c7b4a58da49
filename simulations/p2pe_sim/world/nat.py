"""A NAT in front of one or more machines, by RFC 4787's terms: how it maps, and what it lets in.

For TCP (RFC 5382) the same terms hold, with connection attempts in place of packets: whoever a mapping has sent an
attempt to (filtering: that address, or that address and port; or anybody) gets in through it.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple

from p2pe_sim.natlab.nat import NatType

if TYPE_CHECKING:
    from p2pe_sim.world.machine import Machine

Endpoint = tuple[str, int]
_PORTS: Final = (1_024, 65_535)


@dataclass(frozen=True, slots=True)
class NatBehaviour:
    """`mapping` and `filtering`: "independent", "address", or "port" (address and port)."""

    mapping: str = "independent"
    filtering: str = "port"
    keeps_port: bool = True  # port preservation, as most home routers have it
    answers_rst: bool = False  # strangers get a reset instead of silence
    only_port: int = 0  # nothing leaves but to this port; 0: everything
    translates: bool = True  # False: a firewall in front of a public address


BEHAVIOURS: Final[dict[NatType, NatBehaviour | None]] = {
    NatType.NONE: None,
    NatType.PORT: NatBehaviour(),
    NatType.PORT_RST: NatBehaviour(answers_rst=True),
    NatType.SYMMETRIC: NatBehaviour("port", "port", keeps_port=False),
    NatType.FULL_CONE: NatBehaviour("independent", "independent"),
    NatType.ADDRESS: NatBehaviour("independent", "address"),
    NatType.REMAP: NatBehaviour(keeps_port=False),
    NatType.V6_FIREWALL: NatBehaviour(translates=False),  # the virtual network is IPv4: what counts is the filter
    NatType.ONLY_443: NatBehaviour(only_port=443),
    NatType.CARRIER: NatBehaviour(keeps_port=False),  # two port-restricted routers in a row filter and map like one
}


class _Mapping(NamedTuple):
    machine: Machine
    inner_port: int
    contacted: set[Endpoint]


class NatBox:
    """Translates for the machines behind it. `ip` is what the world sees."""

    def __init__(self, ip: str, behaviour: NatBehaviour, rng: Random) -> None:
        self.ip = ip
        self.behaviour = behaviour
        self._rng = rng
        self._by_inner: dict[tuple[object, ...], int] = {}
        self._by_port: dict[int, _Mapping] = {}

    def outbound(self, machine: Machine, inner_port: int, remote: Endpoint) -> Endpoint:
        """The outer endpoint of an attempt from inside; makes or reuses the mapping and opens the filter."""
        key: tuple[object, ...] = (machine.name, inner_port)
        if self.behaviour.mapping == "address":
            key = (*key, remote[0])
        elif self.behaviour.mapping == "port":
            key = (*key, *remote)
        port = self._by_inner.get(key)
        if port is None:
            port = self._free_port(inner_port)
            self._by_inner[key] = port
            self._by_port[port] = _Mapping(machine, inner_port, set())
        self._by_port[port].contacted.add(remote)
        return self.ip, port

    def _free_port(self, wanted: int) -> int:
        if self.behaviour.keeps_port and wanted not in self._by_port:
            return wanted
        while True:
            port = self._rng.randint(*_PORTS)
            if port not in self._by_port:
                return port

    def inbound(self, port: int, remote: Endpoint) -> tuple[Machine, int] | None:
        """Where an attempt from outside is let through to; None when it is dropped."""
        mapping = self._by_port.get(port)
        if mapping is None:
            return None
        match self.behaviour.filtering:
            case "independent":
                allowed = True
            case "address":
                allowed = any(ip == remote[0] for ip, _ in mapping.contacted)
            case _:
                allowed = remote in mapping.contacted
        return (mapping.machine, mapping.inner_port) if allowed else None

    def forget(self) -> None:
        """A reboot of the router."""
        self._by_inner.clear()
        self._by_port.clear()
