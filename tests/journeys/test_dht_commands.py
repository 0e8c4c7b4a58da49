"""What operators see of the directory: `p2pe dht` and `p2pe-bootstrap status`, on real processes."""

from __future__ import annotations

import hashlib
import json

import pytest
from p2pe_sim.processes import Processes, eventually

pytestmark = pytest.mark.journey
HASH = hashlib.sha256(b"hello").hexdigest()


def test_table_health_and_lookups_by_hash(story: Processes) -> None:
    alice = story.person("alice").start()
    home = ("--home", str(alice.home))

    def health() -> dict[str, object]:
        found: dict[str, object] = json.loads(alice.command("dht", "status", *home, "--json").stdout)
        return found

    eventually("the node joins", lambda: health()["joined"])
    found = health()
    assert found["mode"] == "client"
    assert found["servers_live"] == found["servers_known"] == 1
    assert 3600 <= found["republish_after"] <= 8 * 3600  # type: ignore[operator]
    shown = alice.command("dht", "status", *home).stdout
    assert "1 answer, of 1 known" in shown
    assert "BITS SHARED" in shown
    by_hash = json.loads(alice.command("dht", "lookup", HASH, *home, "--json").stdout)
    assert by_hash["hash"] == HASH
    (server,) = by_hash["servers"]
    assert server["stores"]
    assert server["address"].startswith("/ip4/127.0.0.1/tcp/")
    as_multihash = json.loads(alice.command("dht", "lookup", "1220" + HASH, *home, "--json").stdout)
    assert as_multihash["hash"] == HASH
    assert "SERVER" in alice.command("dht", "lookup", HASH, *home).stdout


def test_what_isnt_a_hash_is_refused(story: Processes) -> None:
    alice = story.person("alice").start()
    for bad in ("hello", HASH[:-1], HASH + "00", "zz" * 32, "1221" + HASH):
        failed = alice.command("dht", "lookup", bad, "--home", str(alice.home), check=False)
        assert failed.returncode == 2
        assert "isn't a hash" in failed.stderr
