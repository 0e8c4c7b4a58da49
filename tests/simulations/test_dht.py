"""The directory on an event heap, at sizes that take seconds: the same assertions as `p2pe-sim dht` at 10,000."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from p2pe.config import KAD_BUCKET_ENOUGH, KAD_K
from p2pe.errors import UsageError
from p2pe_sim.dht.command import judge, write_results
from p2pe_sim.dht.network import Network, record_of
from p2pe_sim.dht.scenario import PLACEMENTS, World, churning_world, client_of, grow, under_sybils
from p2pe_sim.main import make_app
from p2pe_sim.result import SimExit
from typer.testing import CliRunner


def small(seed: int = 1, **changed: float) -> tuple[World, dict[str, object]]:
    given = {"nodes": 400, "hours": 1.0, "churn_per_hour": 0.3, "records": 150, "lookups": 400, **changed}
    return churning_world(seed=seed, **given)  # type: ignore[arg-type]


def test_records_are_found_while_a_third_of_the_servers_is_replaced() -> None:
    world, result = small()
    assert result["replaced"] > 80  # type: ignore[operator]
    assert judge(result) == (SimExit.PASSED, "")
    assert result["longest_seconds"] <= 5.0  # type: ignore[operator]
    at_random, few_networks = (under_sybils(world, share=0.2, placement=each, victims=15) for each in PLACEMENTS[:2])
    assert at_random[0]["share_found"] >= 0.95
    assert few_networks[0]["share_found"] >= 0.95  # aimed at keys known beforehand, from four networks
    own_networks = under_sybils(world, share=0.2, placement=PLACEMENTS[2], victims=15)
    assert own_networks[0]["share_found"] == 0.0  # said in docs/threat-model.md: nothing helps there


def test_the_same_seed_gives_the_same_run() -> None:
    _, one = small(nodes=80, records=20, lookups=40)
    _, same = small(nodes=80, records=20, lookups=40)
    _, other = small(nodes=80, records=20, lookups=40, seed=2)
    assert one["seconds"] == same["seconds"] != other["seconds"]


def test_a_lookup_ends_at_exactly_the_closest_servers() -> None:
    network = Network(3)
    seeds = grow(network, 600)
    reader = client_of(network, seeds)
    network.heap.run(network.heap.now + 30.0)
    for _ in range(40):
        _, wire_key, target = record_of(network.random)
        ends: list[object] = []
        network.lookup(reader, wire_key, target, lambda lookup, ends=ends: ends.extend(lookup.closest(8)))  # type: ignore[misc]
        network.heap.run(network.heap.now + 6.0)
        true = sorted((member.node for member in network.servers), key=lambda node: node.location ^ target)
        assert [node.peer_id for node in ends] == [node.peer_id for node in true[:8]]  # type: ignore[attr-defined]


def test_who_joins_looks_into_buckets_that_are_thin_then() -> None:
    network = Network(5)
    seeds = grow(network, 600)
    looked: list[int] = []
    key_in = network._key_in

    def watched(local: int, bucket: int) -> bytes:
        looked.append(bucket)
        assert bucket in members[-1].table.thin_buckets(KAD_BUCKET_ENOUGH)
        return key_in(local, bucket)

    network._key_in = watched  # type: ignore[method-assign]
    members = []
    for _ in range(20):
        members.append(network.add())
        looked.clear()
        network.join(members[-1], seeds[:2])
        network.heap.run(network.heap.now + 30.0)
        assert 0 < len(looked) == len(set(looked))
        assert all(bucket > 5 for bucket in members[-1].table.thin_buckets(2))  # where the network has few


def test_a_sybil_names_its_fellows_nearest_to_what_is_sought() -> None:
    network = Network(4)
    aimed = network.random.getrandbits(256)
    for number in range(200):
        near = aimed ^ network.random.getrandbits(200)
        network.add(sybil=True, location=near if number % 2 else None)
        for target in (aimed, network.random.getrandbits(256), network.random.choice(network.sybils).location):
            true = sorted(network.sybils, key=lambda node: node.location ^ target)
            assert network.closest_of(network.servers[0], target, true[0]) == true[:KAD_K]


def test_goals_are_held_to() -> None:
    fine = {"lookups": 1000, "replaced": 5, "churn_per_hour": 0.3, "share_found": 0.999, "median_rounds": 4}
    assert judge(fine)[0] is SimExit.PASSED
    assert judge({**fine, "share_found": 0.9985})[0] is SimExit.BROKEN
    assert judge({**fine, "median_rounds": 5})[0] is SimExit.BROKEN
    assert judge({**fine, "replaced": 0})[0] is SimExit.VACUOUS
    assert judge({**fine, "lookups": 0})[0] is SimExit.VACUOUS


def test_the_command_writes_its_results_and_says_where(tmp_path: Path) -> None:
    small_run = ["--nodes", "60", "--hours", "0.5", "--records", "20", "--lookups", "40", "--victims", "4"]
    ran = CliRunner().invoke(make_app(), ["dht", *small_run, "--output", str(tmp_path / "out")])
    assert ran.exit_code == 0, ran.output
    assert "records found" in ran.stdout
    written = json.loads((tmp_path / "out" / "dht.json").read_text())
    assert written["verdict"] == "passed"
    assert {row["paths"] for row in written["sybils"]} == {1, 3}
    page = (tmp_path / "out" / "dht.html").read_text()
    assert "Records found among Sybils" in page
    assert "<script src=" not in page  # it needs nothing from elsewhere
    as_json = CliRunner().invoke(make_app(), ["dht", *small_run, "--sybils", "0", "--json", "--output", str(tmp_path)])
    assert json.loads(as_json.stdout)["churn"]["found"] == written["churn"]["found"]


def test_a_folder_that_can_t_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="choose another --output"):
        write_results({}, tmp_path / "file")
