"""Scenario files: mistakes are named by line and key; a seed gives one world, everywhere and always."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from itertools import pairwise, permutations
from pathlib import Path

import pytest
from p2pe.errors import UsageError
from p2pe_sim.explain import explained, plan_lines
from p2pe_sim.plan import FaultKind, Plan
from p2pe_sim.planning import CUTTING, DAY, DOWN, SETTLED, plan_of
from p2pe_sim.scenario import load_scenario, read_scenario, shipped
from sim_kit import PEOPLE, people

ROOT = Path(__file__).parents[2]
NAMES = {
    "home-users", "mobile-flapping", "relay-partition", "bootstrap-outage", "mass-restart", "reinstall-story",
    "slow-links", "clock-skew", "hostile-relay", "hostile-dht", "invite-storm", "ten-thousand",
    "satellite", "bad-days", "quiet-hours",
}  # fmt: skip
_TWO = '[[nodes]]\nname="b"\nrole="bootstrap"\n[[nodes]]\nname="p"\ncount=2\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('about = "x"\nduration = "5 weeks"\n', "x.toml:2: duration: not a duration: '5 weeks'"),
        ('about = "x"\n[[nodes]]\nname = "p"\nnat = "foam"\n', "x.toml:4: nodes[0].nat: "),
        (f'about = "x"\n{_TWO}[[nodes]]\nname = "q"\ncolour = "red"\n', "x.toml:10: nodes[2].colour: no such key"),
        ('about = "x"\n[links]\nlatency = [5, 1]\n', "x.toml:3: links.latency: the range begins at 5 above"),
        ('about = "x"\n\n[churn]\naway = 3\n', "x.toml:3: churn.session: this key is missing"),
        ('about = "x"\n[[faults]]\nkind="loss"\nat=1\nlasts=2\nparams={rat=1}', "has no parameter 'rat'; it has rate"),
        (
            'about = "x"\n[[faults]]\nkind = "stop"\nat = 1\n',
            "x.toml:2: faults[0]: the fault kind 'stop' needs",
        ),
        (f'about = "x"\n{_TWO}[[faults]]\nkind="reset"\nat=1\nwho="q"\n', "who = 'q' is no group or node"),
        ('about = "x"\n[[nodes]]\nname = "p"\ncount = 2\n', "no bootstrap node"),
        ('about = "x"\ntier = 0\n', "tier 0 has a [directory] table"),
        ('about = "x"\nduration = 5 5\n', "x.toml:2: "),
        ("duration = 5\n", "about: this key is missing"),
        ('about = "x"\nname = "y"\n', "x.toml:2: name: the scenario is named by its file"),
    ],
)
def test_mistakes_are_named_by_line_and_key(text: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_scenario(text, "x", "x.toml")
    assert said in str(refused.value)


def test_all_mistakes_of_a_file_are_listed() -> None:
    with pytest.raises(UsageError) as refused:
        read_scenario('about = "x"\ntier = 7\n[links]\nloss = "much"\n', "x", "x.toml")
    lines = str(refused.value).splitlines()
    assert [line.split(" ")[0] for line in lines] == ["x.toml:2:", "x.toml:4:"]


def test_the_shipped_ones_are_there_and_say_what_they_are() -> None:
    assert set(shipped()) >= NAMES
    for name in shipped():
        scenario = load_scenario(name)
        plan = plan_of(scenario, 3)
        assert Plan.from_json(plan.to_json()) == plan
        assert scenario.check.floors, f"{name} would pass without having tested anything"
        assert explained(scenario)
        assert plan_lines(plan)
    with pytest.raises(UsageError, match="no scenario 'nowhere'; there are"):
        load_scenario("nowhere")


def test_a_seed_is_one_world_whatever_the_hash_seed() -> None:
    program = (
        "from p2pe_sim.scenario import load_scenario\nfrom p2pe_sim.planning import plan_of\n"
        "import hashlib\nprint(hashlib.sha256(plan_of(load_scenario('home-users'), 5).to_json().encode()).hexdigest())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1
    assert plan_of(people(), 1) != plan_of(people(), 2)


def test_one_part_more_leaves_the_others_as_they_were() -> None:
    """Streams are independent: what a change of a scenario doesn't concern stays comparable."""
    before = plan_of(people(), 4)
    more_people = plan_of(people(PEOPLE.replace("count = 3", "count = 4")), 4)
    assert more_people.nodes[: len(before.nodes)] == before.nodes
    no_loss = plan_of(people(PEOPLE[: PEOPLE.index('[[faults]]\nkind = "loss"')]), 4)
    rest = [(f.kind, f.at, f.targets) for f in before.faults if f.kind is not FaultKind.LOSS]
    assert [(f.kind, f.at, f.targets) for f in no_loss.faults] == rest
    assert no_loss.messages == before.messages


@pytest.mark.parametrize("seed", range(1, 30))
def test_worlds_are_sound(seed: int) -> None:
    """No node is taken down twice at once, the end is quiet, and everybody has somebody to write to."""
    for name in sorted(NAMES - {"ten-thousand"}):
        scenario = load_scenario(name)
        plan = plan_of(scenario, seed)
        for node in plan.people():
            down = sorted((f.at, f.until) for f in plan.faults if f.kind in DOWN and node.name in f.targets)
            assert all(end < begin for (_, end), (begin, _) in pairwise(down)), (name, node.name)
            assert any(node.name in (each.one, each.other) for each in plan.friendships)
        quiet = scenario.duration - scenario.settle
        assert all(message.at <= quiet for message in plan.messages)
        assert all(fault.until <= quiet for fault in plan.faults), (name, plan.faults)


def test_faults_of_the_network_strike_nodes_that_are_up() -> None:
    """One that struck a node that is down would do nothing, and the run be vacuous."""
    struck = 0
    for seed in range(60):
        plan = plan_of(load_scenario("home-users"), seed)
        falls = [(f.at, f.until, f.targets[0]) for f in plan.faults if f.kind in DOWN]
        for fault in plan.faults:
            if fault.kind not in DOWN:
                down = {name for at, until, name in falls if at - 5 < fault.at < until + 5}
                if len(down) < len(plan.people()):
                    assert not down & set(fault.targets), (seed, fault)
                    struck += 1
    assert struck > 100


def test_faults_of_the_network_strike_nodes_that_have_paired() -> None:
    """Before its first contact a node that anybody can reach has no connection that could be struck."""
    struck = 0
    for seed in range(60):
        plan = plan_of(load_scenario("invite-storm"), seed)
        for fault in plan.faults:
            for name in fault.targets:
                paired = min(each.at or 0.0 for each in plan.friendships if name in (each.one, each.other))
                struck += fault.at > paired + SETTLED
                assert fault.at > paired + SETTLED or fault.at < 60, (seed, fault)  # early ones may find nobody
    assert struck > 200


def test_a_node_that_was_cut_off_has_connections_again_before_the_next_cut() -> None:
    """A reset that finds nothing to reset makes a run vacuous."""
    seen = 0
    for name in ("invite-storm", "home-users", "bad-days"):
        for seed in range(100):
            cuts = [fault for fault in plan_of(load_scenario(name), seed).faults if fault.kind in CUTTING]
            seen += len(cuts)
            for one, other in permutations(cuts, 2):
                if set(one.targets) & set(other.targets):
                    assert not one.at <= other.at <= one.until + SETTLED, (name, seed, one, other)
    assert seen > 1_000


def test_who_is_cut_off_has_somebody_to_be_cut_off_from() -> None:
    """A node that needs no relay and whose contacts are all away has no connections; hardly any world asks for that."""
    lonely = 0
    for seed in range(200):
        plan = plan_of(load_scenario("home-users"), seed)
        for cut in (fault for fault in plan.faults if fault.kind in CUTTING):
            away = {name for f in plan.faults if f is not cut and f.at <= cut.at <= f.until for name in f.targets}
            for name in cut.targets:
                pairs = [{each.one, each.other} for each in plan.friendships]
                lonely += {other for pair in pairs if name in pair for other in pair - {name}} <= away
    assert lonely <= 2


def test_worlds_begin_at_any_hour() -> None:
    """The hour is part of the plan: a case of the corpus is played at its own."""
    plans = [plan_of(people(), seed) for seed in range(300)]
    hours = {plan.begins_at % DAY // 3600 for plan in plans}
    assert len(hours) == 24
    over_midnight = sum(plan.begins_at % DAY + plan.duration >= DAY for plan in plans)
    assert 0.1 < over_midnight / len(plans) < 0.3
    assert Plan.from_json(plans[0].to_json()).begins_at == plans[0].begins_at
    old = plans[0].as_dict()
    del old["begins_at"]
    assert Plan.of(old).begins_at == 1_800_000_000


def test_the_wheel_brings_the_scenarios(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"p2pe_sim/scenarios/{name}.toml" for name in NAMES} <= set(names)
    assert "p2pe_sim/report/style.css" in names
