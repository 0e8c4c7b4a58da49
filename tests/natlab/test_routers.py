"""Each router of the laboratory behaves as its RFC 4787 name says: otherwise no result from it means anything."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from p2pe_sim.natlab.lab import Lab, LabUnavailable, Node, laboratory
from p2pe_sim.natlab.nat import REMAP_OFFSET, NatType

pytestmark = pytest.mark.natlab

LISTEN = 7000
LOCAL = 4001  # one of the ports that the remapping router knows

#            mapping endpoint-independent, port kept, admits: same address other port, a stranger
EXPECTED = {
    NatType.PORT: (True, True, False, False),
    NatType.PORT_RST: (True, True, False, False),
    NatType.SYMMETRIC: (False, False, False, False),
    NatType.FULL_CONE: (True, True, True, True),
    NatType.ADDRESS: (True, True, True, False),
    NatType.REMAP: (True, False, False, False),
    NatType.CARRIER: (True, True, False, False),
}


@pytest.fixture(scope="module")
def lab() -> Iterator[tuple[Lab, list[Node], dict[NatType, Node]]]:
    try:
        with laboratory(delay=0.002) as made:
            public = [made.public(f"pub{number}") for number in range(3)]
            hosts = {kind: made.behind(kind.value, kind) for kind in EXPECTED}
            made.start()
            servers = [
                subprocess.Popen(
                    node.command([sys.executable, "-m", "p2pe_sim.natlab.probe", "listen", str(LISTEN)]),
                    stdout=subprocess.PIPE,
                    text=True,
                )
                for node in public
            ]
            for server in servers:
                assert server.stdout is not None
                assert server.stdout.readline().strip() == "ready"
            yield made, public, hosts
            for server in servers:
                server.kill()
                server.communicate()
    except LabUnavailable as reason:
        pytest.skip(f"no NAT laboratory here: {reason}")


@pytest.mark.parametrize("kind", EXPECTED, ids=lambda kind: kind.value)
def test_router_maps_and_filters_as_its_name_says(
    lab: tuple[Lab, list[Node], dict[NatType, Node]], kind: NatType
) -> None:
    _, public, hosts = lab
    where = [f"{node.address}:{LISTEN}" for node in public]
    done = hosts[kind].run([sys.executable, "-m", "p2pe_sim.natlab.probe", "ask", str(LOCAL), *where])
    assert done.returncode == 0, done.stderr
    heard = json.loads(done.stdout)["heard"]
    same = {line.split()[0]: line.split()[2] for line in heard if " same " in line}
    assert set(same) == {public[0].address, public[1].address}, heard
    independent, kept, other_port, stranger = EXPECTED[kind]
    ports = {int(seen.rsplit(":", 1)[1]) for seen in same.values()}
    assert (len(ports) == 1) is independent
    assert (ports == {LOCAL}) is kept
    if kind is NatType.REMAP:
        assert ports == {LOCAL + REMAP_OFFSET}
    assert any("other-port" in line for line in heard) is other_port
    assert any(line.startswith(public[2].address) for line in heard) is stranger


def test_the_wire_delays_and_loses(lab: tuple[Lab, list[Node], dict[NatType, Node]]) -> None:
    made, public, hosts = lab
    ask = [sys.executable, "-m", "p2pe_sim.natlab.probe", "ask", "4002", *[f"{n.address}:{LISTEN}" for n in public]]
    made.set_wire(loss=1.0)
    assert json.loads(hosts[NatType.PORT].run(ask).stdout)["heard"] == []
    made.set_wire(loss=0.0)
    assert json.loads(hosts[NatType.PORT].run(ask).stdout)["heard"] != []
