"""Stories told with real processes, a real bootstrap node and real files."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from p2pe_sim.processes import Person, Processes, pair, processes


@pytest.fixture
def story() -> Iterator[Processes]:
    """A running bootstrap node and nobody else."""
    with processes() as made:
        made.bootstrap()
        yield made


@pytest.fixture
def couple(story: Processes) -> tuple[Person, Person]:
    """Alice and Bob: running and paired."""
    people = story.person("alice"), story.person("bob")
    for person in people:
        person.launch()
    for person in people:
        person.ready()
    pair(*people)
    return people
