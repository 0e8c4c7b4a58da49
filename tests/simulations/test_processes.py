"""Real processes of a story end with it, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from p2pe_sim.processes import eventually

_STORY = """
import signal
from p2pe_sim.processes import processes
with processes() as story:
    story.bootstrap()
    print(story.running[0].process.pid, story.folder, flush=True)
    signal.pause()
"""


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_story_that_is_terminated_leaves_nothing_behind() -> None:
    with subprocess.Popen([sys.executable, "-c", _STORY], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as story:
        assert story.stdout is not None
        pid, folder = story.stdout.readline().decode().split()
        assert is_running(int(pid)) and Path(folder).is_dir()
        story.send_signal(signal.SIGTERM)
        story.communicate()
        assert story.returncode == 128 + signal.SIGTERM
    eventually("the node to be gone", lambda: not is_running(int(pid)))
    assert not Path(folder).exists()
