"""The fuzzers run, and find nothing in a few thousand inputs; `make fuzz` and longer runs are for more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[2] / "fuzz"


@pytest.mark.parametrize("program", ["decoders.py", "overlay.py"])
def test_a_short_run_finds_nothing(program: str) -> None:
    argv = [sys.executable, str(FUZZ / program), "--count", "4000", "--seed", "2026"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-3_000:]
    assert "4000 inputs, none but RemoteError" in done.stdout
