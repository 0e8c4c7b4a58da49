from collections.abc import Iterator

import pytest
from world_kit import Worker, worker


@pytest.fixture(scope="session")
def world() -> Iterator[Worker]:
    with worker() as process:
        yield process
