"""A real router daemon (miniupnpd, as in most home routers) maps the port of a real node; a stranger then comes in
through it. Both are behind routers that let nothing in, and neither may use a relay: only the mapping can do it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from p2pe_sim.natlab.lab import Lab, LabUnavailable, Node
from p2pe_sim.natlab.nat import NatType
from p2pe_sim.natlab.pairs import PairedHomes, stage
from p2pe_sim.processes import eventually

pytestmark = [pytest.mark.natlab, pytest.mark.slow]

TABLE = """
table inet mapped {
    chain forward { type filter hook forward priority 10; policy accept; jump chosen; }
    chain chosen { }
    chain prerouting { type nat hook prerouting priority -110; policy accept; jump before; }
    chain before { }
    chain postrouting { type nat hook postrouting priority 90; policy accept; jump after; }
    chain after { }
}
"""


@contextmanager
def mapping_router(lab: Lab, host: Node, folder: Path, *, pcp: bool) -> Iterator[None]:
    """miniupnpd on the router in front of `host`."""
    namespace = f"{host.namespace}-r"
    inside = ["ip", "netns", "exec", namespace]
    subprocess.run([*inside, "nft", "-f", "-"], input=TABLE.replace("; ", "\n"), text=True, check=True)
    network = host.address.rsplit(".", 1)[0]
    settings = folder / "miniupnpd.conf"
    settings.write_text(
        "ext_ifname=wan0\nlistening_ip=lan0\nsecure_mode=yes\nenable_upnp=yes\n"
        f"enable_natpmp={'yes' if pcp else 'no'}\nallow 1024-65535 {network}.0/24 1024-65535\n"
        "upnp_table_name=mapped\nupnp_nat_table_name=mapped\nupnp_forward_chain=chosen\n"
        "upnp_nat_chain=before\nupnp_nat_postrouting_chain=after\nuuid=00000000-0000-0000-0000-000000000001\n"
    )
    with (folder / "miniupnpd.log").open("wb") as log:
        daemon = subprocess.Popen(
            [*inside, "miniupnpd", "-d", "-f", str(settings), "-P", str(folder / "pid")], stdout=log, stderr=log
        )
        try:
            yield
        finally:
            daemon.kill()
            daemon.wait()


@pytest.mark.parametrize("pcp", [True, False], ids=["pcp", "upnp"])
def test_a_stranger_comes_in_through_a_mapped_port(tmp_path: Path, pcp: bool) -> None:
    if shutil.which("miniupnpd") is None:
        pytest.skip("needs the program `miniupnpd` (Debian: apt install miniupnpd)")
    try:
        homes = PairedHomes(tmp_path)
        with stage(homes, NatType.PORT, NatType.PORT, options=("--relay", "never")) as scene:
            place = scene.places[0]
            with mapping_router(scene.lab, place, tmp_path, pcp=pcp):
                scene.start()
                outside = f"/ip4/5.{place.address.split('.')[2]}.0.1/tcp/"

                def mapped() -> bool:
                    with scene.alice.client() as client:
                        return any(each.startswith(outside) for each in client.status()["overlay"]["listen"])

                eventually("the router to map a port", mapped)
                with scene.bob.client() as client:
                    sent = client.send("alice", "through the router")["id"]
                scene.bob.wait_delivered(sent)
                assert scene.path() == "direct"
                scene.alice.stop()
                namespace = f"{place.namespace}-r"
                show = ["ip", "netns", "exec", namespace, "nft", "list", "table", "inet", "mapped"]
                listed = subprocess.run(show, capture_output=True, text=True, check=True).stdout
                assert "dnat" not in listed, "the mapping outlives the node"
    except LabUnavailable as reason:
        pytest.skip(f"no NAT laboratory here: {reason}")
