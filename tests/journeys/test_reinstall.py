"""The story of the uninstalled messenger (p2pe_sim/stories/reinstall.py): four ways to come back, both casts.

In each, first the one who is away uninstalls and returns, then the other. The stories wait a lot, for their nodes
to look for each other again: they run beside each other, and each test takes its own one's outcome.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from p2pe_sim.stories.reinstall import Return, play_quietly

pytestmark = pytest.mark.journey

CASTS = (("alice", "bob"), ("bob", "alice"))
AT_ONCE = 4  # of the eight: they wait more than they work
Told = dict[tuple[Return, tuple[str, str]], Future[tuple[str, Exception | None]]]


@pytest.fixture(scope="module")
def told() -> Iterator[Told]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {(variant, cast): pool.submit(play_quietly, variant, cast) for cast in CASTS for variant in Return}


@pytest.mark.parametrize("cast", CASTS, ids="-".join)
@pytest.mark.parametrize("variant", list(Return))
def test_the_story_ends_as_it_must(told: Told, variant: Return, cast: tuple[str, str]) -> None:
    narration, problem = told[variant, cast].result()
    if problem is not None:
        pytest.fail(f"{narration}\n{type(problem).__name__}: {problem}", pytrace=False)
    assert narration.count("✓") >= 25
