"""Sees to the other side of a test before an event loop runs: a skip from inside one would lose its reason."""

from __future__ import annotations

import go_kit
import js_kit
import pytest


@pytest.fixture(autouse=True)
def other_side(request: pytest.FixtureRequest) -> None:
    name = request.path.name
    if name.startswith(("test_js", "public_suite")):
        js_kit.node()
    elif name.startswith("test_go"):
        go_kit.program()
