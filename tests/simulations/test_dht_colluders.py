"""What docs/threat-model.md says of servers that pool what they see, held to what they see in a simulated week."""

from __future__ import annotations

import pytest
from p2pe.config import KAD_STORE_COUNT
from p2pe_sim.dht.colluders import View, view_of_colluders

NODES, COLLUDING, PAIRS, DAYS = 200, 10, 20, 7


@pytest.fixture(scope="module")
def week() -> View:
    return view_of_colluders(nodes=NODES, colluding=COLLUDING, pairs=PAIRS, days=DAYS, restarts=True, seed=5)


@pytest.fixture(scope="module")
def week_without_restarts() -> View:
    return view_of_colluders(nodes=NODES, colluding=COLLUDING, pairs=PAIRS, days=DAYS, restarts=False, seed=5)


def test_the_week_was_a_real_one(week: View) -> None:
    assert len(week.facts) == 2 * PAIRS * DAYS
    assert week.found == week.asked == 2 * PAIRS * DAYS
    assert {each.what for each in week.seen} == {"find", "put", "get"}


def test_on_the_way_a_key_is_a_hash(week: View) -> None:
    finds = {each.key for each in week.seen if each.what == "find"}
    assert not finds & set(week.facts)
    assert not any(key[6:-1] in find for find in finds for key in week.facts)  # nor a public key inside


def test_nothing_that_lasts_is_ever_seen(week: View) -> None:
    sent = b"\0".join(each.key + each.record for each in week.seen)
    for secret in week.secrets:
        assert not any(secret[at : at + 8] in sent for at in range(0, 32, 8))
    assert b"192.0.2.1" not in sent  # addresses are sealed


def test_records_can_t_be_told_apart_by_size_nor_linked_by_content(week: View) -> None:
    puts = {each.record for each in week.seen if each.what == "put"}
    assert len({len(record) for record in puts}) == 1
    payloads = [record[-512 - 66 : -66] for record in puts]
    assert len({payload[:12] for payload in payloads}) == len(puts)  # nonces


def test_no_key_is_seen_on_two_days(week: View) -> None:
    days: dict[bytes, set[int]] = {}
    for each in week.seen:
        if each.what != "find":
            days.setdefault(each.key, set()).add(int(each.at // 86_400))
    assert days
    assert all(len(each) == 1 for each in days.values())


def test_what_can_be_linked_two_transport_ids_of_one_day(week: View) -> None:
    """And not by more than arithmetic says: a storer of theirs among eight."""
    assert week.linked
    assert all((week.facts[k].writer, week.facts[k].reader) == (w, r) for k, w, r in week.linked)
    expected = 1 - (1 - COLLUDING / NODES) ** KAD_STORE_COUNT
    assert abs(week.share_of_keys_seen() - expected) < 0.12
    of_writers: dict[object, set[int]] = {}
    for key, writer, _ in week.linked:
        of_writers.setdefault(writer, set()).add(week.facts[key].day)
    assert all(len(days) == 1 for days in of_writers.values())


def test_who_never_restarts_is_followed_by_the_transport_id(week_without_restarts: View) -> None:
    """The price of one start: the threat model says so."""
    days: dict[object, set[int]] = {}
    for key, writer, _ in week_without_restarts.linked:
        days.setdefault(writer, set()).add(week_without_restarts.facts[key].day)
    assert any(len(each) > 1 for each in days.values())
