"""Builds and removes a laboratory: public hosts, and hosts behind routers, on one delayed public segment.

Everything lives in network namespaces with a common prefix; nothing of it can reach the machine's own network.
Public IPv4 addresses are 5.N.0.1/8 and IPv6 2a05:N::1/16, one /24 and one /48 a router, as on the real Internet.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from p2pe_sim.natlab.nat import NatType, ruleset

WIRE_DELAY = 0.01  # seconds each way: a ping between two hosts reads about 20 ms
_NETNS = Path("/var/run/netns")


class LabUnavailable(Exception):
    """This machine can't host a laboratory. `str()` says what is missing."""


def require_lab() -> None:
    """Raises LabUnavailable unless namespaces, nft, ip and TAP devices can be used here."""
    if os.geteuid() != 0:
        raise LabUnavailable("needs root (or run it inside: unshare -Urnm)")
    for tool in ("ip", "nft"):
        if shutil.which(tool) is None:
            raise LabUnavailable(f"needs the program `{tool}` (Debian: apt install iproute2 nftables)")
    if not Path("/dev/net/tun").exists():
        raise LabUnavailable("needs /dev/net/tun")
    probe = f"p2pe-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    if made.returncode != 0:
        raise LabUnavailable(f"network namespaces can't be made here: {made.stderr.strip()}")
    subprocess.run(["ip", "netns", "delete", probe], check=True)


def _batch(commands: Sequence[str], namespace: str | None = None) -> None:
    where = ["-n", namespace] if namespace else []
    done = subprocess.run(["ip", *where, "-batch", "-"], input="\n".join(commands), text=True, capture_output=True)
    if done.returncode != 0:
        raise LabUnavailable(f"ip failed in {namespace or 'the main namespace'}: {done.stderr.strip()}")


@dataclass
class Node:
    """One host of the laboratory and the namespace it lives in."""

    name: str
    namespace: str
    address: str  # IPv4 as the host itself sees it
    address6: str | None = None

    def command(self, argv: Sequence[str]) -> list[str]:
        """`argv` wrapped so that it runs inside this host."""
        return ["ip", "netns", "exec", self.namespace, *argv]

    def run(self, argv: Sequence[str], **options: object) -> subprocess.CompletedProcess[str]:
        """Runs `argv` inside this host and returns when it has ended."""
        return subprocess.run(self.command(argv), text=True, capture_output=True, **options)  # type: ignore[call-overload, no-any-return]


@dataclass
class Lab:
    """A laboratory under construction, then running. Add hosts first, then `start`."""

    prefix: str
    delay: float = WIRE_DELAY
    loss: float = 0.0
    seed: int = 1
    _namespaces: list[str] = field(default_factory=list)
    _wan: list[tuple[str, int]] = field(default_factory=list)  # namespace and number of each TAP owner
    _rules: list[tuple[str, str]] = field(default_factory=list)
    _wire: subprocess.Popen[str] | None = None

    def public(self, name: str) -> Node:
        """A host with a public address and no filter."""
        namespace, number = self._attach(name)
        return Node(name, namespace, f"5.{number}.0.1", f"2a05:{number:x}::1")

    def behind(self, name: str, kind: NatType) -> Node:
        """A host behind a router of `kind` (NONE: a public host)."""
        if kind is NatType.NONE:
            return self.public(name)
        router, number = self._attach(f"{name}-r")
        self._rules.append((router, ruleset(kind, f"5.{number}.0.1")))
        if kind is NatType.CARRIER:
            middle = self._namespace(f"{name}-m")
            self._join(router, "lan0", f"100.64.{number}.1/24", middle, "wan0", f"100.64.{number}.2/24")
            _batch([f"route add default via 100.64.{number}.1"], middle)
            self._rules.append((middle, ruleset(NatType.PORT, f"100.64.{number}.2")))
            router = middle
        host = self._namespace(name)
        self._join(router, "lan0", f"192.168.{number}.1/24", host, "lan0", f"192.168.{number}.2/24")
        _batch([f"route add default via 192.168.{number}.1"], host)
        address6 = None
        if kind is NatType.V6_FIREWALL:
            address6 = f"2a05:{number:x}:0:1::2"
            _batch([f"addr add 2a05:{number:x}:0:1::1/64 dev lan0 nodad"], router)
            _batch([f"addr add {address6}/64 dev lan0 nodad", f"route add default via 2a05:{number:x}:0:1::1"], host)
        return Node(name, host, f"192.168.{number}.2", address6)

    def start(self) -> None:
        """Plugs every router and public host into the wire and loads the rules. Raises LabUnavailable."""
        paths = [str(_NETNS / namespace) for namespace, _ in self._wan]
        self._wire = subprocess.Popen(
            [sys.executable, "-m", "p2pe_sim.natlab.wire", str(self.delay), str(self.loss), str(self.seed), *paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._wire.stdout is not None
        if self._wire.stdout.readline().strip() != "ready":
            raise LabUnavailable("the wire didn't start: TAP devices can't be made here")
        for namespace, number in self._wan:
            routes = [
                f"route add 2a05:{other:x}:0:1::/64 via 2a05:{other:x}::1 dev wan0 onlink"
                for _, other in self._wan
                if other != number
            ]
            _batch(
                [
                    f"addr add 5.{number}.0.1/8 dev wan0",
                    f"addr add 2a05:{number:x}::1/16 dev wan0 nodad",
                    "link set wan0 up",
                    *routes,
                ],
                namespace,
            )
        for namespace, rules in self._rules:
            if rules:
                self._nft(namespace, rules)

    def set_wire(self, *, delay: float | None = None, loss: float | None = None) -> None:
        """Changes the wire while it runs: seconds each way, fraction of frames lost."""
        assert self._wire is not None and self._wire.stdin is not None
        if delay is not None:
            self._wire.stdin.write(f"delay {delay}\n")
        if loss is not None:
            self._wire.stdin.write(f"loss {loss}\n")
        self._wire.stdin.flush()

    def renumber(self, node: Node, last: int) -> None:
        """Gives a host behind a router another inside address (192.168.N.`last`): a change of network."""
        network = node.address.rsplit(".", 1)[0]
        fresh = f"{network}.{last}"
        _batch(
            [
                f"addr del {node.address}/24 dev lan0",
                f"addr add {fresh}/24 dev lan0",
                f"route replace default via {network}.1",
            ],
            node.namespace,
        )
        node.address = fresh

    def sever(self, one: Node, other: Node) -> None:
        """From now on nothing passes directly between the networks of two hosts behind routers, silently."""
        number = other.address.split(".")[2]
        rules = f"""
table ip severed {{
  chain between {{
    type filter hook forward priority -20; policy accept;
    ip saddr 5.{number}.0.0/24 drop
    ip daddr 5.{number}.0.0/24 drop
  }}
}}
"""
        self._nft(f"{self.prefix}-{one.name}-r", rules)

    def close(self) -> None:
        """Removes everything; whatever still runs inside is killed first."""
        for namespace in self._namespaces:
            pids = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True).stdout.split()
            for pid in pids:
                subprocess.run(["kill", "-9", pid], capture_output=True)
        if self._wire is not None:
            assert self._wire.stdin is not None and self._wire.stdout is not None
            self._wire.stdin.close()
            self._wire.wait()
            self._wire.stdout.close()
        for namespace in self._namespaces:
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True)

    def _namespace(self, name: str) -> str:
        namespace = f"{self.prefix}-{name}"
        self._namespaces.append(namespace)
        _batch([f"netns add {namespace}"])
        sysctls = (
            "net.ipv4.ip_forward=1",
            "net.ipv6.conf.all.forwarding=1",
            "net.ipv6.conf.default.accept_dad=0",
            "net.ipv6.conf.all.accept_dad=0",
        )
        subprocess.run(["ip", "netns", "exec", namespace, "sysctl", "-qw", *sysctls], check=True)
        _batch(["link set lo up"], namespace)
        return namespace

    def _attach(self, name: str) -> tuple[str, int]:
        namespace = self._namespace(name)
        number = len(self._wan) + 1
        self._wan.append((namespace, number))
        return namespace, number

    def _join(self, one: str, one_if: str, one_addr: str, other: str, other_if: str, other_addr: str) -> None:
        _batch([f"link add {one_if} netns {one} type veth peer name {other_if} netns {other}"])
        _batch([f"addr add {one_addr} dev {one_if}", f"link set {one_if} up"], one)
        _batch([f"addr add {other_addr} dev {other_if}", f"link set {other_if} up"], other)

    @staticmethod
    def _nft(namespace: str, rules: str) -> None:
        done = subprocess.run(
            ["ip", "netns", "exec", namespace, "nft", "-f", "-"], input=rules, text=True, capture_output=True
        )
        if done.returncode != 0:
            raise LabUnavailable(f"nft refused the rules of {namespace}: {done.stderr.strip()}")


_count = iter(range(1_000_000))


@contextmanager
def laboratory(*, delay: float = WIRE_DELAY, loss: float = 0.0, seed: int = 1) -> Iterator[Lab]:
    """An empty Lab, removed at the end whatever happens. Raises LabUnavailable with the reason."""
    require_lab()
    lab = Lab(f"p2pe-{os.getpid()}-{next(_count)}", delay=delay, loss=loss, seed=seed)
    try:
        yield lab
    finally:
        lab.close()
