"""What js-libp2p does only between public addresses: a network namespace of its own has some on its loopback device.

The tests proper are those of public_suite.py, run inside; nothing there can reach the machine's network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from js_kit import node

pytestmark = pytest.mark.interop
SUITE = Path(__file__).with_name("public_suite.py")
ADDRESSES = [f"5.{network}.0.1/32" for network in range(1, 7)]
SETUP = " && ".join(["ip link set lo up", *(f"ip address add {each} dev lo" for each in ADDRESSES)])


def test_between_public_addresses() -> None:
    node()  # installs, or skips, before the network is gone
    namespace = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
    for tool in ("unshare", "ip"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs the program `{tool}`")
    probe = subprocess.run([*namespace, "ip", "link", "set", "lo", "up"], capture_output=True, text=True)
    if probe.returncode != 0:
        pytest.skip(f"network namespaces can't be made here: {probe.stderr.strip()}")
    inner = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--durations=5", str(SUITE)]
    done = subprocess.run(
        [*namespace, "sh", "-c", f'{SETUP} && exec "$@"', "sh", *inner],
        capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-20_000:]}{done.stderr[-5_000:]}"
    assert "passed" in done.stdout and "skipped" not in done.stdout, done.stdout[-2_000:]
