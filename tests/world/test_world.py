"""The production node on a virtual network, clock and disk: that it works there, and that a run is its plan's alone."""

from __future__ import annotations

from dataclasses import replace

from p2pe_sim.plan import Fault, FaultKind, Liveness
from p2pe_sim.result import Verdict
from world_kit import Worker, rough, two, worker


def test_two_people_write_to_each_other(world: Worker) -> None:
    result = world.run(two(), keep_events=True)
    assert result.verdict is Verdict.PASSED, (result.problem, result.broken)
    assert result.counts["delivered"] == 8
    assert [e["message"] for e in result.events if e["what"] == "received"] == [f"m{n}" for n in range(8)]


def test_equal_plans_give_equal_digests_in_any_process(world: Worker) -> None:
    digests = {world.run(two(7)).digest for _ in range(2)}
    with worker() as another:
        another.run(two(8))
        digests.add(another.run(two(7)).digest)
    assert len(digests) == 1
    assert world.run(two(8)).digest not in digests


def test_every_kind_of_fault_is_felt_and_survived(world: Worker) -> None:
    """One after the other; each has an effect, or the run would be vacuous."""
    who = {FaultKind.CRASH: ("hub",), FaultKind.STOP: ("ben",)}
    kinds = [kind for kind in FaultKind if kind is not FaultKind.REINSTALL]
    faults = [
        Fault(f"f{n}", kind, 10.0 + 12.0 * n, 15.0 + 12.0 * n, who.get(kind, ("ada",)), {"rate": 0.6})
        for n, kind in enumerate(kinds)
    ]
    result = world.run(two(3, messages=60, duration=230.0, faults=faults))
    assert result.verdict is Verdict.PASSED, (result.problem, result.broken)
    assert all(result.effects[each.id] > 0 for each in faults), result.effects


def test_a_fault_without_effect_makes_a_run_vacuous(world: Worker) -> None:
    fault = Fault("f1", FaultKind.DISK_FULL, 40.0, 50.0, ("ada",))
    result = world.run(two(messages=2, faults=[fault]))
    assert result.verdict is Verdict.VACUOUS
    assert "f1 (disk_full of ada) had no effect" in result.problem


def test_too_little_work_makes_a_run_vacuous(world: Worker) -> None:
    result = world.run(two(messages=8, duration=12.0))
    assert result.verdict is Verdict.VACUOUS
    assert "delivered" in result.problem


def test_a_rough_world_is_as_rough_as_it_says(world: Worker) -> None:
    result = world.run(rough(2))
    assert result.verdict is Verdict.PASSED, (result.problem, result.broken)
    assert result.counts["starts"] >= 5
    assert result.counts["resets"] >= 6
    assert result.counts["refused"] > 0


def test_what_one_node_less_changes_stays_with_its_neighbours(world: Worker) -> None:
    """Chance comes from streams of each node's and link's own: shrinking a plan doesn't make another world of it."""
    from p2pe_sim.world.randomness import Randomness

    plan = two(5)
    assert Randomness(5).stream("link", "ada", "ben").random() == Randomness(5).stream("link", "ada", "ben").random()
    assert Randomness(5).stream("link", "ada", "ben").random() != Randomness(5).stream("link", "ben", "ada").random()
    fewer = replace(plan, messages=plan.messages[:4], checks=replace(plan.checks, floors={}))
    whole, part = (world.run(each, keep_events=True) for each in (plan, fewer))
    until = plan.messages[4].at - 0.1
    assert [e for e in whole.events if e["at"] < until] == [e for e in part.events if e["at"] < until]


def test_a_link_that_breaks_is_made_anew_though_nothing_waits(world: Worker) -> None:
    reset = Fault("f1", FaultKind.RESET, 30.0, 30.0, ("ada",))
    result = world.run(two(messages=4, faults=[reset]), keep_events=True)
    assert result.verdict is Verdict.PASSED, result.problem
    links = [(event["at"], event["what"]) for event in result.events if event["what"].startswith("link_")]
    assert [what for at, what in links if at == 30.0] == ["link_down"] * 2
    after = [what for at, what in links if 30.0 < at < 35.0]
    assert after.count("link_up") - after.count("link_down") == 2, after


def test_nodes_on_lines_of_five_seconds_join_and_deliver(world: Worker) -> None:
    """Round trips of 5 s to everybody else and of 10 s between the two: nothing is given up that is on its way."""
    plan = two(messages=6, duration=300.0)
    slow = tuple(node if node.name == "hub" else replace(node, latency=2.48) for node in plan.nodes)
    checks = replace(plan.checks, liveness=(Liveness("delivered", 200.0),))
    result = world.run(replace(plan, nodes=slow, checks=checks))
    assert result.verdict is Verdict.PASSED, (result.problem, result.broken)
    assert result.counts["delivered"] == 6


def test_who_was_away_for_long_is_reached_as_soon_as_both_are_there(world: Worker) -> None:
    """By then the sender tries every ten minutes: it is the other one's greeting that brings the two together."""
    plan = two(messages=1, duration=2_150.0)
    late = tuple(replace(node, starts_at=2_100.0) if node.name == "ben" else node for node in plan.nodes)
    checks = replace(plan.checks, liveness=(Liveness("delivered", 10.0),))
    result = world.run(replace(plan, nodes=late, checks=checks), keep_events=True)
    assert result.verdict is Verdict.PASSED, (result.problem, result.broken)
    assert result.counts["delivered"] == 1


def test_whoever_starts_before_its_line_is_up_greets_again(world: Worker) -> None:
    outage = Fault("f1", FaultKind.PARTITION, 2_090.0, 2_130.0, ("ben",))
    plan = two(messages=1, duration=2_200.0, faults=[outage])
    late = tuple(replace(node, starts_at=2_100.0) if node.name == "ben" else node for node in plan.nodes)
    checks = replace(plan.checks, liveness=(Liveness("delivered", 30.0),))
    result = world.run(replace(plan, nodes=late, checks=checks))
    assert result.verdict is Verdict.PASSED, (result.problem, result.broken)
    assert result.counts["delivered"] == 1
